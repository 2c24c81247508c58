"""The adapter methods: one file with the modules of each, and `placing`, which puts them into a model."""
