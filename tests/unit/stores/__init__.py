"""One suite over every store: what proxy/ports.py promises, sentence by sentence."""
