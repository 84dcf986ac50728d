"""How good generated pictures are: embedders turn pictures and prompts into vectors, metrics compare these.

`table` is the list of metrics, `judges` computes all of them, `embedders` and `networks` are the frozen networks,
`people_mean` and `intervals` say how certain a mean over people is.
"""
