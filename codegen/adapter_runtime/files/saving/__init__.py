"""From a model to files: an ``adapter``, a ``head``, a ``fusion`` and a ``setup``, each in a file of that name.

envelope  what every file says about the model, and the interface beside adapters
model     what a whole model, saved by upstream, says of its adapters
peft      an adapter as files of PEFT
"""
