"""The stream of hidden states: the layers that it runs through, and the model around them.

layers        one layer class: its roles and its sites
additions     residual additions on the stream of a layer, in all the forms that upstream writes them in
roles         which sublayer a residual addition belongs to
placing       which adapters a residual addition gets, and where they are held
completeness  whether a layer has all of its sites
blocks        the projections of sublayers that do not attend: feed-forward blocks, mixers
optional      modules that only some instances of a layer have, and statements that only some reach
base          the base model class
entrance      what gives the input of its first layer, and where tokens come into that
lists         where it keeps its layers, which list is the main one, and what the hidden states are that run through them
"""
