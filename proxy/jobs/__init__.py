"""Running exports: queue, transfer, outcome, and what restarts and time do to them."""
