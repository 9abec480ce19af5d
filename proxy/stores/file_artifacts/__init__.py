"""Artifacts as files in a directory of this machine or of a shared volume (CONTRACT §15)."""
