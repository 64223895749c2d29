"""What `bench run` returns, on every node and in every rank."""

EXIT_OK = 0
"""All cases are ok, or unsupported by the device."""
EXIT_USAGE = 2
EXIT_CASE = 4
"""A case has failed, or its backend is unavailable."""
EXIT_INTERRUPTED = 130
