"""From the logits of a head back to the outputs of the base model.

chain       the modules that a class with a head runs the hidden states through, and what it does with the logits
factors     numbers of the config that it multiplies by, and limits of its logits
conditions  when it does so
positions   what of a sequence it reads: one position, or a mean
losses      what it compares with labels
slices      what stands in brackets
rates       how much its dropouts drop
filled      what it makes for its base model where a call gives none
cuts        which of the logits it gives
configs     of which config its modules read
options     all of this as options of a flexible head
holding     how it makes its base model
"""
