"""Synchronous exports that run as jobs (CONTRACT §14)."""
