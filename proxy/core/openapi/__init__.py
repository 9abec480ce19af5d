"""The OpenAPI 3.1 description of the proxy's own resources and of the exports (CONTRACT §2)."""
