"""Webhooks: what becomes of jobs is posted to the operator's URLs (CONTRACT §17)."""
