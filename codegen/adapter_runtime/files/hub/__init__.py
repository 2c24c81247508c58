"""The Hugging Face hub: pushing adapters and setups with a card. Loading from it is in ``files.source``.

pushing   create the repository, save, render the card, upload
card      what a card says; its text is in ``card.md.jinja``
"""
