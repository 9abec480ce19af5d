"""The rules of the proxy as pure functions and values: no clock, no I/O, no randomness."""
