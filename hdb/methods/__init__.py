"""How a photo becomes a person the base can draw: one file for each method of the tables, and the list of them."""
