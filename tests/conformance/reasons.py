"""The closed table of reasons for which a check does not apply: no other text stands in a cell of the results.

A reason is about the structure of a model or of a method, or about what upstream's own class was seen to do; never about what our code
does. Where do I add one?  A member of `Reason` with its sentence, and its name in the line of `APPLICABLE` of each check that may use it.
A check that finds out while it runs raises `DoesNotApply`; a reason that its line does not have is a failure.
"""

from __future__ import annotations

from enum import Enum


class Reason(Enum):
    """Why a check says nothing about a method on a subject."""

    # of the plan and of classes
    NOT_PLANNED = "the plan has no place for the method"
    NO_PLACE = "no layer has a module of the kind that the config asks for"
    UNKNOWN_ORDER = "one projection gives several of queries, keys and values in an order that is not known; the config asks for some"
    PARTS_REFUSE = "the plans of the models that it is made of here have no place for the method"
    NO_ADAPTER_CLASSES = "no classes were generated for what the class holds as its base model"
    NO_CROSS_ATTENTION = "it has no cross-attention"
    # of what upstream's own class does, as observed
    UPSTREAM_DOES_NOT_RUN = "upstream's own class is not made from the config, or does not run on the inputs"
    UPSTREAM_SEES_LATER_TOKENS = "upstream's own outputs depend on later tokens"
    UPSTREAM_SEES_PADDING = "upstream's own outputs at real tokens depend on what stands in padded places"
    UPSTREAM_DECODES_OTHERWISE = "upstream itself decodes otherwise than it reads"
    UPSTREAM_READS_OTHERWISE = "upstream's own class does not read from its checkpoint what it wrote there"
    UPSTREAM_MIXES_ROWS = "upstream's own outputs of a row depend on the other rows, or have no rows"
    PARTS_ON_OTHER_ROWS = (
        "upstream calls a model inside with other rows than the batch has, as with several images of one: refused"
    )
    GENERATES_PAST_FORWARD = "upstream's `generate` calls a model inside past the forward of the whole, which alone shows where tokens are: refused"
    ONE_ROW_FOR_ALL = "upstream gives a projection of the method one row that all of the batch read, as of relative positions: refused"
    SOME_POSITIONS = "upstream gives a projection of the method some positions only, those of all rows in one: refused"
    # of the subject
    NO_TOKENS = "it reads no tokens of which one could be exchanged"
    NOT_CAUSAL = "not a decoder: every token may see every other"
    NO_PADDING = "its inputs have no padding"
    NO_FEATURES = "upstream's class gives no features of a text, an image or a sound past its forward"
    ONLY_TEXT = "it reads a text alone"
    NO_EQUAL_LENGTHS = (
        "upstream takes no text as long as what layers beside it read, or all of its layers read the text"
    )
    NO_GENERATION = "its class does not generate, or in a way of its own"
    NO_CHECKPOINTING = "upstream has no gradient checkpointing for it"
    NO_CACHE = "there is no cache of tokens to fill; compared with the reference attention"
    COUNTS_FROM_CACHE = "upstream counts positions from what its cache holds, whatever it is given; compared with the reference attention"
    WINDOW = "a window of attention hides what stands in front from the last tokens"
    SHARED_WEIGHT = (
        "two places of the method have one weight of upstream's, which cannot hold both; merging is refused"
    )
    # of the reference
    BRANCH_NOT_FOLLOWED = "what a sublayer gives passes through more than is followed from outside; O1 holds its sites"
    FUSED_IN_PEFT = "all that LoRA adapts are fused projections, which peft adapts as a whole, not the parts of them; compared with the reference"
    # of the method
    NO_ZERO_START = "the method acts from the first step on, or is random at first"
    EDITS_THE_END = "the method edits the end of what it is given, which is another one in each step"
    ONLY_LORA = "only LoRA has weights to merge"
    ONLY_BOTTLENECK = "only bottlenecks have hosts"
    ONLY_PREFIX = "only a prefix stands for tokens in a cache"
    OTHER_THAN_PEFT = "compared with peft in the tests of the runtime"
    PER_PART = "checked per part of the mixture already"


class DoesNotApply(Exception):
    """Raised by a check that finds while it runs that it says nothing here."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason
