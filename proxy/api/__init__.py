"""The proxy's own resources: kick-off, status, result, cancel, delete, list (CONTRACT §2 to §8)."""
