"""A catalogue of lies: each known way to a wrong number, planted, and the check that catches it."""
