"""Job records on this machine's disk, for one process (CONTRACT §15 `storage.jobs = disk`)."""
