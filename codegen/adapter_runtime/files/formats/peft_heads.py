"""Heads in PEFT's files ("modules_to_save"), and the kinds of tasks by which PEFT knows heads."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from transformers.models.auto import modeling_auto

from adapter_runtime.contract.head_config import HeadConfig
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import AdapterMismatchError, UnsupportedMethodError, listing
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.formats.static_heads import as_flexible
from adapter_runtime.files.loading.adapter import add_head
from adapter_runtime.files.loading.commit import Transaction
from adapter_runtime.files.loading.fit import compare
from adapter_runtime.files.tensors import Tensors
from adapter_runtime.heads.static import is_static
from adapter_runtime.methods.peft_format import Document

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

logger = logging.getLogger(__name__)

# PEFT's task -> upstream's class for each model type, and the type of our flexible heads.
_CLASSES = {
    "CAUSAL_LM": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    "QUESTION_ANS": modeling_auto.MODEL_FOR_QUESTION_ANSWERING_MAPPING_NAMES,
    "SEQ_2_SEQ_LM": modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    "SEQ_CLS": modeling_auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    "TOKEN_CLS": modeling_auto.MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING_NAMES,
}
_HEAD_TYPES = {
    "causal_lm": "CAUSAL_LM",
    "classification": "SEQ_CLS",
    "multilabel_classification": "SEQ_CLS",
    "question_answering": "QUESTION_ANS",
    "seq2seq_lm": "SEQ_2_SEQ_LM",
    "tagging": "TOKEN_CLS",
}


def task_type_of(model: ModelAdaptersMixin) -> str | None:
    """PEFT's name for what the head of `model` does; None where it has no name for it."""
    if head_files.is_bare(model):
        return "FEATURE_EXTRACTION"
    if head_files.is_flexible(model):
        active = model.active_head
        return _HEAD_TYPES.get(model.heads[active].config["head_type"]) if isinstance(active, str) else None
    own = head_files.upstream_class_name(model)
    return next((task for task, names in _CLASSES.items() if own in names.values()), None)


def read_heads(
    model: ModelAdaptersMixin, document: Document, tensors: Tensors, name: str, transaction: Transaction
) -> None:
    """Load what was trained outside of the base model into the head of `model`, or into a flexible head `name`.

    Args:
        tensors: named as in upstream's class with that head.

    Raises:
        UnsupportedMethodError: modules of the base model were trained, or the head has no counterpart.
        AdapterMismatchError: the head does not fit.
    """
    if head_files.is_bare(model):
        logger.warning("The head in PEFT's file was not loaded: a %s has none.", head_files.upstream_class_name(model))
        return
    _refuse_base_modules(model, tensors)
    if head_files.is_flexible(model):
        name, config, tensors = _as_flexible(model, document, tensors, name)
        add_head(model, name, config)
        expected = head_files.flexible_tensors(model, name)
        missing = compare(tensors, expected).missing
    else:
        expected, missing = head_files.static_tensors(model), frozenset()
    mismatch = compare(tensors, expected)
    if mismatch.unexpected or mismatch.shapes or missing:
        raise AdapterMismatchError(f"The head in PEFT's file does not fit.\n{mismatch}\nThe model is unchanged.")
    transaction.copy(tensors, expected)


def _refuse_base_modules(model: ModelAdaptersMixin, tensors: Tensors) -> None:
    """Raise where a module of the base model was trained as a whole (embeddings, a norm)."""
    own = model.adapters_base.state_dict().keys()
    prefix = f"{model.base_model_prefix}."
    of_base = [key for key in tensors if key.removeprefix(prefix) in own]
    if of_base:
        raise UnsupportedMethodError(
            f"PEFT trained modules of the base model as a whole (modules_to_save):\n{listing(of_base)}\nAn adapter"
            " cannot hold them here. Merge them into the checkpoint of the base model."
        )


def _as_flexible(
    model: ModelAdaptersMixin, document: Document, tensors: Tensors, name: str
) -> tuple[str, HeadConfig, Tensors]:
    mapping = document.get("auto_mapping") or {}
    names = _CLASSES.get(str(document.get("task_type")), {})
    class_name = mapping.get("base_model_class") or names.get(model.config.model_type)
    if class_name is None or not is_static(class_name):
        raise UnsupportedMethodError(
            f"PEFT's file has a head of the task {document.get('task_type')!r} ({', '.join(sorted(tensors))}), which has"
            " no flexible counterpart. Load without it: with_head=False."
        )
    last = next(path for path in reversed(registered().static_heads[class_name]["layers"]) if path)
    labels = len(tensors[f"{last}.weight"]) if f"{last}.weight" in tensors else None
    static = {"model_class": class_name, "config": None, "num_labels": labels}
    return as_flexible(static, tensors, name, model.base_model_prefix)


def head_modules(model: ModelAdaptersMixin) -> tuple[list[str], Tensors]:
    """The names of the modules of a static head, and its tensors.

    Raises:
        UnsupportedMethodError: there is no static head, or it shares weights with the embeddings.
    """
    own = head_files.upstream_class_name(model)
    if head_files.is_bare(model) or head_files.is_flexible(model):
        raise UnsupportedMethodError(
            f"PEFT keeps heads as modules of upstream's classes; a {own} has none. Write without it: with_head=False."
        )
    tensors = head_files.static_tensors(model)
    if model.get_expanded_tied_weights_keys():
        raise UnsupportedMethodError(
            f"The head of a {own} shares its weights with the embeddings, so it cannot be written apart from them."
            " Write without it: with_head=False."
        )
    return sorted({key.partition(".")[0] for key in tensors}), dict(tensors)
