"""The command line: `vb365-async-proxy`, also `python -m proxy` (CONTRACT §15)."""
