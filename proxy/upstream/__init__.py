"""VB365's side: connections, the proxy's own requests, and who may see what."""
