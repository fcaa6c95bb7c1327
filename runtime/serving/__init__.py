"""Where one process ends: a bundle behind a server and its client (Open Inference Protocol v2), in Triton, on Ray.

``contract`` says what goes over the wire, the same for every server; ``protocol`` how (JSON and binary tensors).
"""
