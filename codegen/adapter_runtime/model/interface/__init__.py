"""Adapters in models without generated classes: the user names the modules, which get adapters by forward hooks.

Where do I find ...
  the names that a user gives?                 declaration.py
  how they are checked against a model?        checking.py
  what a generated mixin would have stated?    layers.py, models.py: roles and stacks, made from the names
  how bottlenecks run without edited code?     methods/bottleneck/hooks.py
  ``adapter_interface.json``?                  files/formats/interface.py, comparing.py
  `load_model`?                                loading.py

Everything else (methods, blocks, files) is the code that generated models run through.
"""
