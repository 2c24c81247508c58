"""LoRA and the methods that share its places.

Where do I find ...
  the parameters of an adapter, and its formula?  modules/
  the projection that adapters act on?            layer.py, and what a composition means there: program.py
  which projections of a model are adapted?       places.py
  files of PEFT?                                  peft/
  how a relative from outside is declared?        variant.py
"""
