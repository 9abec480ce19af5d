"""VB365: connections, the proxy's own requests, and access checks."""
