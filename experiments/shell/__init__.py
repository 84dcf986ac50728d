"""hdb, the command: what a shell calls instead of `python -m experiments.<name>`, from any folder."""
