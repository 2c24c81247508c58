"""Saving and loading as methods of models. What the methods do is in ``loading``, ``saving`` and ``hub``.

adapters  adapters and heads
setups    fusions and compositions
hub       uploads
"""
