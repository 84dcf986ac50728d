"""Reference to theta: a face encoder, a decoder of weight tokens, and the HyperNet that holds both.

`options` makes a new one, `trained` reads one that was trained.
"""
