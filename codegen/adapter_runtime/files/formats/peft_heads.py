"""What PEFT trained as a whole ("modules_to_save"): modules of the base model, heads, and the kinds of tasks by which it knows heads."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

from transformers.models.auto import modeling_auto

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.files import heads as head_files
from adapter_runtime.files.documents import Document
from adapter_runtime.files.formats.saved import SavedHead
from adapter_runtime.files.tensors import Tensors
from adapter_runtime.heads.protocol import head_named, is_flexible
from adapter_runtime.heads.static import is_static
from adapter_runtime.methods.common.along.copies import CONTAINER as TRAINED_ALONG
from adapter_runtime.methods.common.along.copies import TrainedAlong

logger = logging.getLogger(__name__)

# PEFT's task -> upstream's class for each model type, and the type of our flexible heads.
_CLASSES: Mapping[str, Mapping[str, str]] = {
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


def task_type_of(model: AdaptedModel) -> str | None:
    """PEFT's name for what the head of `model` does; None where it has no name for it."""
    if head_files.is_bare(model):
        return "FEATURE_EXTRACTION"
    if is_flexible(model):
        active = model.active_head
        return _HEAD_TYPES.get(head_named(model, active).config["head_type"]) if isinstance(active, str) else None
    own = head_files.upstream_class_name(model)
    return next((task for task, names in _CLASSES.items() if own in names.values()), None)


def saved_head(model: AdaptedModel, folder: Path, document: Document, tensors: Tensors) -> SavedHead | None:
    """What was trained outside of the base model, as the head that it is; None for a model without any.

    Args:
        tensors: named as in upstream's class with that head.

    Raises:
        UnsupportedMethodError: the head has no flexible counterpart.
    """
    own = head_files.upstream_class_name(model)
    if head_files.is_bare(model):
        logger.warning("The head in PEFT's file was not loaded: a %s has none.", own)
        return None
    described = _described(model, document, tensors) if is_flexible(model) else {"model_class": own}
    return SavedHead(
        folder,
        described,
        tensors,
        title="The head in PEFT's file",
        is_partial=not is_flexible(model),  # only modules of upstream's head that were trained are in the file
        may_be_tied=False,
    )


def of_base_model(model: AdaptedModel, tensors: Tensors) -> Tensors:
    """The tensors that are those of modules of the base model, by their names in it."""
    own = model.adapters_base.state_dict().keys()
    prefix = f"{model.base_model_prefix}."
    return {
        key.removeprefix(prefix): tensor
        for key, tensor in tensors.items()
        if key.removeprefix(prefix) in own and not model.is_of_head(key)
    }


def copied_modules(model: AdaptedModel, name: str) -> tuple[list[str], Tensors]:
    """The paths, from the base model, of modules that are trained along with an adapter, and its copies under their names in `model`.

    Raises:
        UnsupportedMethodError: PEFT, which takes all modules whose paths end so, would take others too.
    """
    paths = {id(module): path for path, module in model.named_modules()}
    modules, tensors = [], {}
    for path, module in model.adapters_base.named_modules():
        held = module._modules.get(TRAINED_ALONG)
        if not isinstance(held, TrainedAlong) or name not in held:
            continue
        others = [other for known, other in paths.items() if known != id(module) and other.endswith(path)]
        if others:
            raise UnsupportedMethodError(
                f"Adapter {name!r} trains {path!r} along. PEFT would take {others[0]!r} too, whose name ends so."
            )
        modules.append(path)
        tensors.update({f"{paths[id(module)]}.{key}": tensor for key, tensor in held[name].state_dict().items()})
    return modules, tensors


def _described(model: AdaptedModel, document: Document, tensors: Tensors) -> Document:
    """What this library would write about the head: of which of upstream's classes it is, and how many labels it has."""
    mapping = document.get("auto_mapping")
    stated = mapping.get("base_model_class") if isinstance(mapping, Mapping) else None
    names = _CLASSES.get(str(document.get("task_type")), {})
    class_name = stated or names.get(model.config.model_type)
    if not isinstance(class_name, str) or not is_static(class_name):
        raise UnsupportedMethodError(
            f"PEFT's file has a head of the task {document.get('task_type')!r} ({', '.join(sorted(tensors))}), which has"
            " no flexible counterpart. Load without it: with_head=False."
        )
    last = next(path for path in reversed(registered().static_heads[class_name]["layers"]) if path)
    labels = len(tensors[f"{last}.weight"]) if f"{last}.weight" in tensors else None
    return {"model_class": class_name, "config": None, "num_labels": labels}


def head_modules(model: AdaptedModel) -> tuple[list[str], Tensors]:
    """The names of the modules of a static head, and its tensors.

    Raises:
        UnsupportedMethodError: there is no static head, or it shares weights with the embeddings.
    """
    own = head_files.upstream_class_name(model)
    if head_files.is_bare(model) or is_flexible(model):
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
