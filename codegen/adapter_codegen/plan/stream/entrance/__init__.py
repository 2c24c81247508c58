"""What enters the first layer of a base model, and where it comes from.

way    the way of the hidden states: what feeds the first layer, what stands beside the stream, what takes over from the last layer
table  where tokens are embedded on that way, for what has to stand there because no one module gives all that enters
mask   whether the forward makes a mask of what it reads, before that is embedded
"""
