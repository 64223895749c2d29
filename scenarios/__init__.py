"""What is run: the versioned scenario model, its composition from YAML, and the shipped files."""
