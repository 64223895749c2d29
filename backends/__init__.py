"""Where it runs: the backend contract, its registry, and one file per device family."""
