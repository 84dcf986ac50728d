"""Methods that personalize a base from photos: one file per method, and the table of all methods."""
