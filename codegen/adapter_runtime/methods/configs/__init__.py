"""Configs of all methods: as strings and by name, and several of them under one name of an adapter."""
