"""Which flexible heads make sense on a model, decided from the tasks that upstream has head classes for."""

from __future__ import annotations

from collections.abc import Iterable

from adapter_codegen.model import BasePlan, PartPlan
from adapter_codegen.parse.automappings import ModelEntry
from adapter_codegen.plan.heads.positions import EOS, FIRST, LAST, MEANS

# Upstream's task (MODEL_FOR_..._MAPPING_NAMES) -> type of the flexible head.
TASKS = {
    "sequence_classification": "classification",
    "image_classification": "image_classification",
    "video_classification": "video_classification",
    "audio_classification": "audio_classification",
    "audio_frame_classification": "audio_frame_classification",
    "ctc": "ctc",
    "token_classification": "tagging",
    "question_answering": "question_answering",
    "multiple_choice": "multiple_choice",
    "masked_lm": "masked_lm",
    "causal_lm": "causal_lm",
    "seq_to_seq_causal_lm": "seq2seq_lm",
    "speech_seq_2_seq": "seq2seq_lm",
}

# The same of models made of parts, that write text about what else they read.
_TASKS_OF_PARTS = {"causal_lm": "causal_lm", "image_text_to_text": "causal_lm", "multimodal_lm": "causal_lm"}

# In the order in which adapter models list them.
HEAD_TYPES = (
    "classification",
    "multilabel_classification",
    "image_classification",
    "video_classification",
    "audio_classification",
    "audio_frame_classification",
    "ctc",
    "tagging",
    "question_answering",
    "multiple_choice",
    "dependency_parsing",
    "masked_lm",
    "causal_lm",
    "seq2seq_lm",
)
_TEXT_ENCODER = frozenset({"classification", "tagging", "question_answering", "multiple_choice", "dependency_parsing"})
_TEXT_DECODER = frozenset({"classification", "tagging", "question_answering"})
_TEXT_TO_TEXT = frozenset({"classification", "question_answering", "seq2seq_lm"})
# Heads on sounds: on frames, and on what stands for all of them. How upstream's class gets from samples to frames, and from these to
# one vector, differs, so such a head is offered only where that is known.
OF_FRAMES = frozenset({"audio_classification", "audio_frame_classification", "ctc"})
SHOWN = OF_FRAMES | {"video_classification"}
_OF_WORDS = frozenset({"masked_lm", "causal_lm", "seq2seq_lm"})


def tasks(base: BasePlan) -> dict[str, str]:
    """Upstream's task -> type of the flexible head that a class for it may be turned into."""
    return _TASKS_OF_PARTS if base.is_of_parts else TASKS


def feeding_part(base: BasePlan) -> PartPlan | None:
    """The part whose hidden states a model made of parts returns, where that is one decoder which the root feeds by itself."""
    main = [part for part in base.parts if part.is_main]
    reads_text = any(parameter.name == "input_ids" for parameter in base.parameters)
    is_one = len(main) == 1 and main[0].config_path is not None
    return main[0] if is_one and reads_text and not base.is_encoder_decoder and base.head is None else None


def plan_flexible_heads(
    entry: ModelEntry, base: BasePlan, states_width: bool = True, has_words: bool = True
) -> tuple[str, ...]:
    """Types of the heads that can be added to the model.

    A head needs the hidden states that it works on: of every token, of an image, of a decoder. Upstream's head classes tell
    which a model has. A model that fills in masked words gets every head of text encoders, one that continues text every head of
    decoders, whether or not upstream has written that class for it. A model made of parts can have a head only if one of upstream's
    classes turns into it, which `plan_static_heads` says.

    Args:
        states_width: whether the config tells how wide the hidden states are; that of a part is known when a model is built.
        has_words: whether the model names a table of words, from which a head that predicts words starts.
    """
    if base.is_of_parts:
        return ("causal_lm",) if feeding_part(base) and tasks(base).keys() & entry.heads.keys() else ()
    if not states_width or base.submodels or not base.stacks:
        return ()  # which of the models inside a head would stand on is not known
    if base.head is not None or any(parameter.name == "labels" for parameter in base.parameters):
        return ()  # the base model ends in a head of its own
    heads = {head for task, head in TASKS.items() if task in entry.heads}
    if not base.is_encoder_decoder:
        heads.discard("seq2seq_lm")  # its labels are not shifted, and those of a decoder alone are
    reads_text = any(parameter.name == "input_ids" for parameter in base.parameters)
    if base.is_encoder_decoder:
        heads &= _TEXT_TO_TEXT
        heads |= _TEXT_TO_TEXT if reads_text and "seq2seq_lm" in heads else set()
    elif reads_text and "masked_lm" in heads:
        heads |= _TEXT_ENCODER
    elif reads_text and "causal_lm" in heads:
        heads |= _TEXT_DECODER
    if "classification" in heads:
        heads.add("multilabel_classification")
    if not has_words:
        heads -= _OF_WORDS
    return tuple(head for head in HEAD_TYPES if head in heads)


def pooling(base: BasePlan, heads: tuple[str, ...], read: Iterable[str]) -> str:
    """Which token stands for a sequence: the one that upstream's own classes read, if it is one for all of them.

    Else, of a decoder the last, which has seen all others, of an encoder the first.

    Args:
        base: the base model.
        heads: types of flexible heads.
        read: positions that upstream's classes read which have such heads.
    """
    if not heads:
        return ""
    if base.is_encoder_decoder:
        return EOS
    known = {*read}
    if len(known) == 1 and known <= {FIRST, LAST, *MEANS}:
        return known.pop()
    return LAST if "causal_lm" in heads and "masked_lm" not in heads else FIRST
