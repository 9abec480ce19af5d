"""Exports that run as jobs although nobody asked for it (CONTRACT §14)."""
