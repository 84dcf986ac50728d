"""hdb, the command that a shell calls instead of `python -m experiments.<name>`, from any folder."""
