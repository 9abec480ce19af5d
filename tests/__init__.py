"""The tests. The name of each states the fact that it checks."""
