"""Running cases with real child processes."""
