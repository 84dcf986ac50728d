"""The hypernetwork, from reference photo to theta: a face encoder, a weight decoder, and HyperNet that joins them.

`options` builds a new network, `trained` finds and loads trained ones.
"""
