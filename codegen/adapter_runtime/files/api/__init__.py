"""Saving and loading as methods of models: arguments, and what they mean. The work is done in ``loading``, ``saving``, ``hub``."""
