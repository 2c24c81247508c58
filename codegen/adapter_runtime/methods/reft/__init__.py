"""ReFT: edits of hidden states at chosen positions."""
