"""The command line: reads options, calls the rooms, prints. No measuring, no statistics."""
