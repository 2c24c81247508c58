"""Attention in a layer: where keys and values meet queries, and what adapters can take hold of there.

cores        every attention core in a flow
prefix       whether prefix keys and values can be put in front of a core, and how; for cores that are written out
             (`eager`) with `lift`, which finds the call of the function that holds the products
projections  the linear modules that give queries, keys and values, and the one after the core; `fused` where one
             module gives all three
unusable     attention whose projections are known, and still not enough for a method
"""
