"""Artifacts in a bucket of S3, Azure Blob Storage or Google Cloud Storage (CONTRACT §18)."""
