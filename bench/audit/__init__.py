"""Checks that catch the known ways in which a benchmark lies: each one small, with its evidence."""
