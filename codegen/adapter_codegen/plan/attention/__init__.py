"""Attention in a layer: where keys and values meet queries, and what adapters can take hold of there.

core         what an attention core is, and what each kind of core has to say about itself
table        the kinds of cores; a file each in ``kinds/``. A new kind is one file there and its line here
attentions   all attention of one layer
prefix       whether prefix keys and values can be put in front of a core, and how; with `gate` (the hidden states),
             `lift` (a core in a helper, seen from its call), `eager` (what the eager function of a file adds to the
             scores) and `text` (what stands around a core)
projections  the linear modules that give queries, keys and values, and the one after the core; `fused` where one
             module gives all three
unusable     attention whose projections are known, and still not enough for a method
"""
