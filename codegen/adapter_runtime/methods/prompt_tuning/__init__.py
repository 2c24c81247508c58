"""Prompt tuning: learned embeddings in front of those of the tokens."""
