"""Heads of a model.

static    upstream's classes with a head, and how each maps onto a flexible one
chain     the modules that such a class runs the hidden states through
flexible  which flexible heads a model can have
"""
