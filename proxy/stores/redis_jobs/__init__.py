"""Job records in Redis or Valkey, shared by replicas (CONTRACT §18)."""
