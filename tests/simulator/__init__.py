"""The stand-in keeps what docs/upstream.md §7 says of it: the other tests stand on it."""
