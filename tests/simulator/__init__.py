"""The stand-in keeps what VB365.md §7 says of it: the other tests stand on it."""
