"""How good generated pictures are: embedders turn images (or text) into vectors, metrics compare them."""
