"""The lists of layers that a model holds, and what the hidden states are that run through them.

ReFT edits positions of a row, so it needs (batch, length, width). Upstream also has layers that get the positions of all
examples in one row, positions in front of the batch, or more dimensions. Two places show it: the layer itself, and the way of
the hidden states to its call. Where neither does, rows are taken for granted, as in almost all models.

stacks      where a base model keeps its layers
sign        what shows a form of the hidden states
in_layer    signs in the forward of a layer
on_the_way  signs on the way of the hidden states to their first layer
"""
