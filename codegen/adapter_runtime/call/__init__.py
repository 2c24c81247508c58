"""What a call of a model knows: the setup of a thread, what is computed once for many layers, rows and spans of tokens."""
