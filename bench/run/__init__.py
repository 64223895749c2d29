"""How it is run: planning cases, starting launches, judging how they ended, writing records."""
