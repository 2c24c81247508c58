"""Models with adapters: the methods that users call, `init`, calls, layers, embeddings, heads, interfaces."""
