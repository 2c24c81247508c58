"""Defects, planted on purpose in memory and for one test, each with the check that must find it and the methods it breaks.

    planting.py    what a defect is, and ways to plant one
    generated.py   in the text of generated modules
    lifecycle.py   of adding, activating, training, saving and deleting, in every method
    sequence.py    what the tokens of a row see of each other, and what a step with a cache computes, in every method
    conversion.py  what a flexible head does with the weights of one of upstream's
    checkpoint.py  what of a whole checkpoint is read, and what is written into one
    parts.py       of models that read several things, and of those made of several models
    blocks.py      compositions
    bottleneck.py, prefix.py, lora.py, reft.py, embeddings.py    the arithmetic of one method

``test_broken_variants.py`` plants them, and asks for one per check and kind of method. Where do I add a defect?  Its entry in
one of these tables, with a sentence as its name.
"""

from __future__ import annotations

from conformance.defects.blocks import BLOCKS
from conformance.defects.bottleneck import BOTTLENECK
from conformance.defects.checkpoint import CHECKPOINT
from conformance.defects.conversion import CONVERSION
from conformance.defects.embeddings import EMBEDDINGS
from conformance.defects.generated import GENERATED
from conformance.defects.lifecycle import LIFECYCLE
from conformance.defects.lora import LORA_FAMILY
from conformance.defects.parts import PARTS
from conformance.defects.planting import Defect
from conformance.defects.prefix import PREFIX
from conformance.defects.reft import REFT
from conformance.defects.sequence import SEQUENCE

TABLES = (
    GENERATED,
    LIFECYCLE,
    CONVERSION,
    CHECKPOINT,
    SEQUENCE,
    PARTS,
    BLOCKS,
    BOTTLENECK,
    PREFIX,
    LORA_FAMILY,
    REFT,
    EMBEDDINGS,
)
DEFECTS: dict[str, Defect] = {name: defect for table in TABLES for name, defect in table.items()}
assert len(DEFECTS) == sum(map(len, TABLES)), "two defects have the same name"
