"""One suite over every store: what proxy/ports promises, sentence by sentence."""
