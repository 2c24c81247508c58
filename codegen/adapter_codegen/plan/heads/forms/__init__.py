"""Heads that are more than layers one after the other, recognised by the form of upstream's code.

xvector       the voice of who speaks, by convolutions over frames and their statistics
weighted      the sum of all layers that heads on sounds may read
masked_image  what stands behind masked patches of an image
"""
