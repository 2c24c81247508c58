"""Saving and loading as methods of models. What the methods do is in ``loading``, ``saving`` and ``hub``.

adapters     adapters and heads
setups       fusions and compositions
checkpoints  whole models, as any class of upstream's wrote them
hub          uploads
"""
