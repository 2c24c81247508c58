"""Configs in the config of a model, and of which of them a head reads.

subconfigs   of which config the modules of a head read
given        what the module that makes another one gives it
text_config  which one upstream's ``get_text_config()`` gives
decoders     of which the decoder is made that ``get_decoder()`` finds
"""
