"""Where jobs and artifacts are kept: every store passes the one contract suite in
tests/contract.
"""
