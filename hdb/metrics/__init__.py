"""How good generated pictures are: embedders turn images (or text) into vectors, metrics compare them.

`networks` and `embedders` are the frozen networks, `judges` those that an experiment names and the four scores under
them, `similarity` the scores one by one, `people_mean` and `intervals` what a mean over people is worth.
"""
