"""What docs/performance.md claims, measured: `python -m benchmarks [names]`, peers side by side in one run.

The programs under test are pinned to the first core, load generators and upstreams to the second. What counts is CPU
of the server process, per request or per GB, and its ratio to a peer's, in interleaved rounds: a shared machine makes
times jump by a third.
"""
