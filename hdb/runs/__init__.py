"""What a run does to the places around it: locks, folders, files that must not be lost, and its log elsewhere."""
