"""The proxy behind real balancers, with the configuration files as shipped (CONTRACT §13)."""
