"""A bundle in NVIDIA's Triton: the model repository that `medprompt triton` writes, and the model that serves it.

``repository`` and ``config`` write; ``model`` is what Triton's Python backend loads, ``transport`` how tensors pass
between the two, ``graph`` the engine where another backend of Triton computes the graph. What goes over the wire is
``medprompt.runtime.serving.contract``.
"""
