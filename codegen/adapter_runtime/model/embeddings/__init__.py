"""Further token embeddings of a model, by name."""
