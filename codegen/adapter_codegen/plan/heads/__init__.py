"""Heads of a model.

static    upstream's classes with a head, and how each maps onto a flexible one
logits    how such a class gets from hidden states to logits
shifting  what a decoder reads where labels are given and no inputs for it
generating  what upstream's class says of the steps of its generation
flexible  which flexible heads a model can have
adapter_model  the class with flexible heads: its arguments, and what depends on the heads
annotations  types of upstream's parameters, and what must be imported for them
config_keys  under which names configs keep what heads and adapters read
holders   classes that hold the layers of a base model themselves
"""
