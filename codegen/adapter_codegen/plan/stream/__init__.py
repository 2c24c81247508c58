"""The stream of hidden states: the layers that it runs through, and the model around them.

candidates    which classes are layers
layers        one layer class: its roles and its sites
residuals     residual additions on the stream of a layer; `work` the submodule that a branch came out of, `norms` what
              the sum goes into
roles         which sublayer a residual addition belongs to
parallel      attention and feed-forward in one sum
placing       which adapters a residual addition gets, and where they are held
feed_forward  the projections of a feed-forward block
optional      modules that only some instances of a layer have, and statements that only some reach
base          the base model class; `entrance` what gives the input of its first layer
lists         where it keeps its layers, and what the hidden states are that run through them
"""
