"""Residual additions on the stream of a layer: what is added to what, and in which form upstream writes it.

residuals  follows the stream backwards and claims the additions on it
pieces     a stream that is cut and put together again
work       the sublayer that a branch came out of
norms      the norm that a sum goes into
parallel   attention and feed-forward block in one sum
shortcuts  a projection that takes the place of the stream, where a layer gets wider
shortened  a convolution that does, where a layer has fewer positions
lifted     sums in a function or module of upstream's own, claimed at its call
gated      sums in a module that weighs both by what it is given, claimed there too
in_loop    additions beside a layer, in the loop that runs through the list
handed_on  what such a function is given is a sum of two sublayers in some models
mixed      the output of a sublayer, spread over several streams
"""
