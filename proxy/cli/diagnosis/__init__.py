"""What prevents the proxy from working, or a client from using it: all of it at once, with fixes
(CONTRACT §15). `config check --connect` and `doctor` print the same findings.
"""
