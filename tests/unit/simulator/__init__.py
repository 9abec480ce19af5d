"""Tests of the VB365 simulator (docs/upstream.md §7), which the other tests depend on."""
