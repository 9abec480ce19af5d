"""The operator's listener (CONTRACT §15 `admin`)."""
