"""The audit: planted lies and honest evidence."""
