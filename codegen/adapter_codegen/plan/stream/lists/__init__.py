"""The lists of layers that a model holds, and what the hidden states are that run through them.

ReFT edits positions of a row, so it needs (batch, length, width). Upstream also has layers that get the positions of all
examples in one row, positions in front of the batch, or more dimensions. Two places show it: the layer itself, and the way of
the hidden states to its call. Where neither does, rows are taken for granted, as in almost all models.

candidates  which classes are layers
stacks      where a base model keeps its layers
main        which of them the model's output comes out of
sign        what shows a form of the hidden states
in_layer    signs in the forward of a layer
on_the_way  signs on the way of the hidden states to their first layer
of_tokens   what their positions have to do with tokens, seen on that way
unclaimed   what may attend in a list in which no layer was recognised
turned      projections that see batch and positions the other way round
"""
