"""The Hugging Face hub: pushing adapters and setups with a card. Loading from it is in ``files.source``.

pushing  create the repository, save, write the card, upload
card     what a card says
"""
