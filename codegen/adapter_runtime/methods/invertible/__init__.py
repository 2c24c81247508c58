"""Invertible adapters: a change of the embeddings that is undone before the vocabulary."""
