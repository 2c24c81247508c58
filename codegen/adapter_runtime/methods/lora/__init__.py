"""LoRA and the methods that share its places: what one adapter does at one projection.

base.py      what they have in common
low_rank.py  LoRA, and the base of all whose update is a product of two low matrices
vera.py      VeRA: matrices that all projections share, and a vector for each of them
mtl.py       MTL-LoRA: several up-projections and a matrix per task
dora.py      DoRA: any of these with a learned magnitude
scale.py     IA3: a factor per output
making.py    from config to module
"""

from adapter_runtime.methods.lora.base import Parts, ProjectionAdapter, Site
from adapter_runtime.methods.lora.dora import Magnitude
from adapter_runtime.methods.lora.low_rank import LoRA, LowRank
from adapter_runtime.methods.lora.making import check_lora, is_vera, make_adapter
from adapter_runtime.methods.lora.mtl import MTLLoRA
from adapter_runtime.methods.lora.scale import Scale
from adapter_runtime.methods.lora.vera import VeRA, add_shared_matrices

__all__ = [
    "LoRA",
    "LowRank",
    "MTLLoRA",
    "Magnitude",
    "Parts",
    "ProjectionAdapter",
    "Scale",
    "Site",
    "VeRA",
    "add_shared_matrices",
    "check_lora",
    "is_vera",
    "make_adapter",
]
