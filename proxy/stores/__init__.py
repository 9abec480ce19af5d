"""The stores of jobs and artifacts. Every store passes the same suite, in tests/contract."""
