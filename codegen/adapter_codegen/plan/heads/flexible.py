"""Which flexible heads make sense on a model, decided from the tasks that upstream has head classes for."""

from __future__ import annotations

from collections.abc import Container, Iterable

from adapter_codegen.model import BasePlan, PartPlan
from adapter_codegen.parse.automappings import ModelEntry
from adapter_codegen.plan.heads.logits.positions import EOS, FIRST, LAST, MEANS
from adapter_codegen.plan.parts.dividing import is_within

# Upstream's task (MODEL_FOR_..._MAPPING_NAMES) -> type of the flexible head.
TASKS = {
    "sequence_classification": "classification",
    "image_classification": "image_classification",
    "masked_image_modeling": "masked_image_modeling",
    "video_classification": "video_classification",
    "audio_classification": "audio_classification",
    "audio_frame_classification": "audio_frame_classification",
    "ctc": "ctc",
    "audio_xvector": "xvector",
    "token_classification": "tagging",
    "question_answering": "question_answering",
    "document_question_answering": "question_answering",
    "multiple_choice": "multiple_choice",
    "masked_lm": "masked_lm",
    "causal_lm": "causal_lm",
    "seq_to_seq_causal_lm": "seq2seq_lm",
    "speech_seq_2_seq": "seq2seq_lm",
}

# The same of models made of several, that write text about what else they read.
_TASKS_OF_PARTS = {
    "sequence_classification": "classification",
    "token_classification": "tagging",
    "masked_lm": "masked_lm",
    "causal_lm": "causal_lm",
    "image_text_to_text": "causal_lm",
    "multimodal_lm": "causal_lm",
    "seq_to_seq_causal_lm": "causal_lm",
    "speech_seq_2_seq": "causal_lm",
    "image_classification": "image_classification",
    "video_classification": "video_classification",
    "audio_classification": "audio_classification",
}

# The same of a decoder that reads what an encoder gave.
_TO_TEXT = ("image_text_to_text", "multimodal_lm", "seq_to_seq_causal_lm", "speech_seq_2_seq")
_TASKS_TO_TEXT = dict.fromkeys(_TO_TEXT, "seq2seq_lm")
# And of a decoder that reads images or sounds among its tokens, without a model for them inside (Chameleon, Kyutai's, IDEFICS). Upstream
# has only such classes also of some that read nothing but tokens (Mistral 4).
_TASKS_OF_DECODERS = dict.fromkeys(_TO_TEXT, "causal_lm")

# Heads of a model whose parts are read one by one (CLIP): upstream's class runs one of them alone.
_ON_PARTS = frozenset({"image_classification", "video_classification", "audio_classification"})

# In the order in which adapter models list them.
HEAD_TYPES = (
    "classification",
    "multilabel_classification",
    "image_classification",
    "masked_image_modeling",
    "video_classification",
    "audio_classification",
    "audio_frame_classification",
    "ctc",
    "xvector",
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
OF_FRAMES = frozenset({"audio_classification", "audio_frame_classification", "ctc", "xvector"})
SHOWN = OF_FRAMES | {"video_classification", "masked_image_modeling"}
# Heads that may stand on the encoder of a model with a decoder: Whisper's on sounds, T5's on texts.
ON_ENCODERS = frozenset({"audio_classification", "tagging"})
# Heads with which a model generates.
GENERATIVE = frozenset({"causal_lm", "seq2seq_lm"})
# The attribute for the base model where upstream names none, or a place inside of some larger model ("model.audio_tower").
_ATTRIBUTE = "model"
# The same where the model holds a text model by this name: upstream takes ``model.language_model.model`` in any file for an old layout.
_OF_OLD_FILES = "language_model"
_ATTRIBUTE_THEN = "whole"
_OF_WORDS = frozenset({"masked_lm", "causal_lm", "seq2seq_lm"})


def tasks(base: BasePlan) -> dict[str, str]:
    """Upstream's task -> type of the flexible head that a class for it may be turned into."""
    if not is_composite(base):
        return {**TASKS, **(_TASKS_TO_TEXT if base.is_encoder_decoder else _TASKS_OF_DECODERS)}
    return {**_TASKS_OF_PARTS, **(_TASKS_TO_TEXT if base.is_encoder_decoder else {})}


def to_be_shown(entry: ModelEntry, base: BasePlan) -> frozenset[str] | None:
    """Types of heads that a model has only if one of upstream's classes turns into them; None = all."""
    if is_composite(base):
        return None
    usual = {head for task, head in TASKS.items() if task in entry.heads}
    of_encoders = ON_ENCODERS if base.is_encoder_decoder else frozenset()
    return (
        SHOWN | of_encoders | {head for task, head in tasks(base).items() if task in entry.heads and head not in usual}
    )


def is_composite(base: BasePlan) -> bool:
    """Whether a model holds others, so that upstream's classes must show on what heads stand."""
    return bool(base.submodels)


def base_attribute(base: BasePlan) -> str:
    """Where an adapter model holds its base model."""
    if base.prefix.isidentifier():
        return base.prefix
    return _ATTRIBUTE_THEN if any(part.path == _OF_OLD_FILES for part in base.submodels) else _ATTRIBUTE


def feeding_config(base: BasePlan) -> str | None:
    """Path, in the config of a model that holds others, of the config of what gives the hidden states that it returns.

    None where that is not one decoder, or encoder, of tokens which the root feeds by itself.
    """
    main = [model for model in base.submodels if model.is_main]
    tokens = "decoder_input_ids" if base.is_encoder_decoder else "input_ids"
    reads_text = any(parameter.name == tokens for parameter in base.parameters)
    if not reads_text or base.head is not None or len(main) > 1:
        return None
    lists = [stack.path for stack in base.stacks if stack.is_main]
    if not main:
        return "" if lists and not any(_stands_in(path, base) for path in lists) else None
    inside = all(is_within(path, main[0].path) for path in lists)
    return main[0].config_path if inside else None


def part_at(base: BasePlan, path: str) -> PartPlan | None:
    """The model inside of the base model at a path, if its config is known."""
    found = (model for model in base.submodels if model.path == path and model.config_path)
    return next(found, None)


def _stands_in(path: str, base: BasePlan) -> bool:
    """Whether a list of layers is one of a model inside."""
    return any(is_within(path, model.path) for model in base.submodels)


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
    if is_composite(base):
        return _on_what_feeds(entry, base, states_width)
    if not states_width or not base.stacks or not base.gives_states:
        return ()
    if base.head is not None or _takes_labels(base):
        return ()  # the base model ends in a head of its own
    heads = {head for task, head in tasks(base).items() if task in entry.heads}
    usual = {head for task, head in TASKS.items() if task in entry.heads}
    reads_text = any(parameter.name == "input_ids" for parameter in base.parameters)
    if base.is_encoder_decoder:
        heads &= _TEXT_TO_TEXT | ON_ENCODERS
        heads |= _TEXT_TO_TEXT if reads_text and "seq2seq_lm" in usual else set()
    elif reads_text and "masked_lm" in heads:
        heads |= _TEXT_ENCODER
    elif reads_text and "causal_lm" in usual:
        heads |= _TEXT_DECODER
    if "classification" in heads:
        heads.add("multilabel_classification")
    if not has_words:
        heads -= _OF_WORDS
    return tuple(head for head in HEAD_TYPES if head in heads)


def _on_what_feeds(entry: ModelEntry, base: BasePlan, states_width: bool) -> tuple[str, ...]:
    """What heads may stand on a model that holds others; which do, the classes of upstream's show that turn into them."""
    feeding = feeding_config(base)
    # It may take labels that it does not use (Ovis2), and be what a table of such heads names itself (Llama 4).
    is_head = base.head is not None or any(base.class_name in entry.heads.get(task, ()) for task in tasks(base))
    if (feeding == "" and not states_width) or is_head:
        return ()
    heads = {head for task, head in tasks(base).items() if task in entry.heads}
    if base.is_encoder_decoder:
        heads &= {"seq2seq_lm"} if feeding is not None else set()
    elif feeding is None:
        heads &= _ON_PARTS
    else:
        heads -= _ON_PARTS
    heads |= {"multilabel_classification"} if "classification" in heads else set()
    return tuple(head for head in HEAD_TYPES if head in heads)


def why_not(entry: ModelEntry, base: BasePlan, head_type: str = "", states_width: bool = True) -> str:
    """Why no flexible head of a type, "" = of any, is among those of `plan_flexible_heads`, in one sentence. `states_width`: see there."""
    if base.head is not None or (not is_composite(base) and _takes_labels(base)):
        return "The base model ends in a head itself."
    heads = {head for task, head in tasks(base).items() if task in entry.heads}
    if not heads:
        return "Upstream has no class with a head that a flexible one could be."
    if is_composite(base):
        return _why_not_on_parts(entry, base, head_type)
    if not base.stacks:
        return "The base model has no layers that its states come out of."
    if not base.gives_states:
        return "What the base model returns has no last hidden states."
    if base.is_encoder_decoder and head_type and head_type not in _TEXT_TO_TEXT | ON_ENCODERS:
        if head_type == "causal_lm":
            return "It continues text by a decoder alone, and the base model runs its encoder too."
        return f"A {head_type} head does not stand on a model with an encoder and a decoder."
    if not states_width:
        return "Its config does not say how wide the hidden states are: they may be of several widths."
    return "The model names no one table of words, from which a head that predicts words starts."


def _why_not_on_parts(entry: ModelEntry, base: BasePlan, head_type: str) -> str:
    if any(base.class_name in entry.heads.get(task, ()) for task in tasks(base)):
        return "The base model is one of upstream's classes with a head itself."
    if feeding_config(base) is None:
        main = [model.path for model in base.submodels if model.is_main]
        if len(main) > 1:
            return f"Several models in it give what it returns: {', '.join(main)}."
        return "It is not known which one model, or which layers, give the hidden states that it returns."
    if base.is_encoder_decoder or head_type in _ON_PARTS:
        return f"A {head_type} head does not stand on what gives the states of its text."
    return "Its config does not say how wide the hidden states are."


def _takes_labels(base: BasePlan) -> bool:
    return any(parameter.name == "labels" for parameter in base.parameters)


def only_continues(heads: Container[str]) -> bool:
    """Whether types of heads are those of a model that continues text, and fills in no masked words."""
    return "causal_lm" in heads and "masked_lm" not in heads


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
    # What continues several books of codes has no causal_lm head (MusicGen), and is a decoder all the same.
    is_decoder = only_continues(heads) or (base.continues and not is_composite(base))
    return LAST if is_decoder else FIRST
