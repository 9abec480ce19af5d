"""The proof: every test names the fact that it shows."""
