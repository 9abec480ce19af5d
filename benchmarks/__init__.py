"""Benchmarks of the claims in docs/performance.md: `python -m benchmarks [names]`.

The proxy and its peers run one after the other in interleaved rounds, pinned to the first core;
load generators and upstreams run on the second. The main figure is the CPU time of the server
process per request or per GB, and its ratio to that of a peer, because elapsed times vary by a
third on a shared machine.
"""
