"""Heads of a model.

static    upstream's classes with a head, and how each maps onto a flexible one
chain     the modules that such a class runs the hidden states through, and what it does with the logits
factors   numbers of the config that it multiplies by, and limits of its logits
conditions  when it does so
positions  what of a sequence such a class reads: one position, or a mean
options   both as options of a flexible head
shifting  what a decoder reads where labels are given and no inputs for it
flexible  which flexible heads a model can have
adapter_model  the class with flexible heads: its arguments, and what depends on the heads
annotations  types of upstream's parameters, and what must be imported for them
"""
