"""Modules that run adapters, at the places that generated code and upstream's projections give them."""
