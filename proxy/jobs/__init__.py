"""Running exports: queue, transfer, outcome, restart and expiry."""
