"""Several processes and machines that behave as one proxy (CONTRACT §15 `--workers`, §18)."""
