"""Heads of a model.

static    upstream's classes with a head, and how each maps onto a flexible one
chain     the modules that such a class runs the hidden states through
flexible  which flexible heads a model can have
adapter_model  the class with flexible heads: its arguments, and what depends on the heads
annotations  types of upstream's parameters, and what must be imported for them
"""
