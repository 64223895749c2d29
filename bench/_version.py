"""The version of the tool, alone in a file: packaging reads it without importing anything else."""

__version__ = "0.1.0"
