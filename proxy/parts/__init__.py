"""The composition root: the parts of a proxy, made from its settings (see `proxy.app`)."""
