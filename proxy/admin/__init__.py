"""The admin listener (CONTRACT §15 `admin`, §16)."""
