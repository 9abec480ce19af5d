"""Webhooks: changes of jobs are posted to the operator's URLs (CONTRACT §17)."""
