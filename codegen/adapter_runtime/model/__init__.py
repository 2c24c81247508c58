"""Models with adapters.

Where do I find ...
  what users call on any model with adapters?          api.py (`ModelAdaptersMixin`), and the mixins that it is made of
  what looks at adapters, and averages them?           inspection.py, summary.py, averaging.py
  what only base models have: layers, what runs?       base.py (`ModelBaseAdaptersMixin`)
  what models around a base model have?                head_model.py (`ModelWithHeadsAdaptersMixin`)
  what generated ``<Model>AdapterModel`` classes have? heads/
  what a layer is?                                     layer.py (`LayerAdaptersMixin`)
  how a model of upstream's becomes one of these?      init.py, auto.py
  what happens around a forward?                       calls.py
  further token embeddings?                            embeddings/
  models without generated classes?                    interface/

What the others count on, a type of models with adapters that imports none of these classes, is ``contract/protocol.py``.
"""
