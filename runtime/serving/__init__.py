"""A bundle behind a network endpoint: the Open Inference Protocol v2, and the client that speaks it.

``contract`` says what goes over the wire, the same for every server; ``protocol`` how (JSON and binary tensors).
"""
