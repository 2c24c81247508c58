"""Bottleneck adapters: options, modules, the places that run them."""
