"""What one adapter of LoRA or of a relative does at one projection.

base.py      what they have in common
low_rank.py  LoRA, and the base of all whose update is a product of two low matrices
vera.py      VeRA: matrices that all projections share, and a vector for each of them
mtl.py       MTL-LoRA: several up-projections and a matrix per task
dora.py      DoRA: any of these with a learned magnitude
scale.py     IA3: a factor per output
factory.py   from config to module
sharing.py   matrices that several adapters have in common
"""
