"""The kinds of attention cores, a file each; ``attention/table.py`` lists them.

interface  a call of what the attention registry gave
sdpa       a call of ``scaled_dot_product_attention``
flash      a call of a flash attention kernel, past the registry
softmax    a softmax between two products, written out; `scores` walks back from it
deformable  values sampled with ``grid_sample``, without keys
calls      what cores that are calls of one function share
"""
