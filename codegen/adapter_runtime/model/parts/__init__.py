"""Parts of models: what has layers of one model type, and models that are made of several."""
