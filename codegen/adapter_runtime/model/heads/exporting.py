"""A base model and one of its flexible heads, written back as upstream's class with such a head."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
import transformers
from transformers import PreTrainedConfig, PreTrainedModel

from adapter_runtime.files.keys import fusion_owner, owner
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.errors import UnknownHeadError, UnsupportedHeadError
from adapter_runtime.heads.protocol import FlexibleHeadsModel, head_named
from adapter_runtime.heads.static import MULTI_LABEL, classes_for, differences, static_keys


@dataclass(frozen=True)
class StaticExport:
    """A model of one of upstream's classes, as data.

    Attributes:
        class_name: of upstream's class.
        config: for its constructor.
        state_dict: base model and head, under the names of that class; without adapters.
    """

    class_name: str
    config: PreTrainedConfig
    state_dict: dict[str, torch.Tensor]


class ExportHeadsMixin:
    """From flexible heads to upstream's classes, each with one head of its own."""

    def export_static_head(
        self: FlexibleHeadsModel, head_name: str | None = None, class_name: str | None = None
    ) -> StaticExport:
        """The base model and one head, as upstream's class with such a head keeps them.

        Adapters are left out; `merge_adapter` puts one into the weights first.

        Args:
            head_name: the head; None = the active one.
            class_name: upstream's class ("BertForMaskedLM"); None = the first one that fits.

        Raises:
            UnknownHeadError: there is no such head.
            UnsupportedHeadError: upstream has no class for such a head, or `class_name` is none for it.
        """
        return export_static_head(self, head_name, class_name)

    def to_static(
        self: FlexibleHeadsModel, head_name: str | None = None, class_name: str | None = None
    ) -> PreTrainedModel:
        """A new model of upstream's class with copies of the weights of the base model and of one head.

        It is saved and loaded without this library: ``model.to_static("head").save_pretrained(folder)``. Arguments and
        errors are those of `export_static_head`.
        """
        exported = export_static_head(self, head_name, class_name)
        model: PreTrainedModel = getattr(transformers, exported.class_name)(exported.config)
        model.to(device=self.device, dtype=self.dtype)
        model.load_state_dict({**dict(model.named_buffers()), **exported.state_dict}, strict=False)
        model.tie_weights()
        return model.train(self.training)


def export_static_head(model: FlexibleHeadsModel, head_name: str | None, class_name: str | None) -> StaticExport:
    """See `ExportHeadsMixin.export_static_head`, also for what it raises."""
    active = model.active_head
    if head_name is None and not isinstance(active, str):
        raise UnknownHeadError(f"Say which head to export: {active!r} is active.")
    head = head_named(model, head_name if head_name is not None else str(active))
    name = _fitting_class(model, head, class_name)
    config = _static_config(model.config, head)
    with torch.device("meta"):
        skeleton = getattr(transformers, name)(config)
    return StaticExport(name, config, _static_state(model, head, skeleton))


def _fitting_class(model: FlexibleHeadsModel, head: PredictionHead, wanted: str | None) -> str:
    candidates = classes_for(model.config)
    if wanted is not None and wanted not in candidates:
        raise UnsupportedHeadError(
            f"{wanted} is no class of upstream's that a flexible head of a {type(model).__name__} can be written back to."
            f" Such are: {', '.join(sorted(candidates)) or 'none'}."
        )
    reasons = {name: differences(name, head.config, model.config) for name in candidates if wanted in (None, name)}
    fitting = next((name for name, reason in reasons.items() if not reason), None)
    if fitting is None:
        listed = "".join(f"\n  {name}: {', '.join(reason)}" for name, reason in reasons.items())
        raise UnsupportedHeadError(
            f"Upstream has no class with a head like the {head.head_type} head {head.name!r}.{listed or ' There is none.'}"
        )
    return fitting


def _static_config(config: PreTrainedConfig, head: PredictionHead) -> PreTrainedConfig:
    result = copy.deepcopy(config)
    for own in ("prediction_heads", "adapters"):
        result.__dict__.pop(own, None)
    label2id = head.config.get("label2id")
    if label2id is not None and head.head_type != "question_answering":
        result.id2label = {int(index): label for label, index in label2id.items()}
        result.label2id = {label: index for index, label in result.id2label.items()}
    if head.head_type == "multilabel_classification" or head.config.get("multilabel"):
        result.problem_type = MULTI_LABEL
    if head.config.get("dropout_prob") is not None and hasattr(result, "classifier_dropout"):
        result.classifier_dropout = head.config["dropout_prob"]
    return result


def _static_state(model: FlexibleHeadsModel, head: PredictionHead, static: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The tensors that `static`, which may lie on the meta device, has room for.

    Raises:
        UnsupportedHeadError: it has parameters that do not come from here, or of other shapes.
    """
    name, own_prefix = type(static).__name__, static.base_model_prefix
    if not hasattr(static, own_prefix):
        own_prefix = ""  # T5's classes hold encoder and decoder themselves
    kept = dict(_kept(model.state_dict(), head.name))
    given = static_keys(name, head.name, kept, model.base_model_prefix, own_prefix)
    expected = dict(static.named_parameters(remove_duplicate=False))
    missing = sorted(key for key in expected if key not in given and key not in static.all_tied_weights_keys)
    others = sorted(key for key in expected.keys() & given.keys() if expected[key].shape != given[key].shape)
    if missing or others:
        raise UnsupportedHeadError(
            f"Head {head.name!r} does not fit into a {name}: {', '.join(missing) or 'nothing'} is missing,"
            f" {', '.join(others) or 'nothing'} has another shape."
        )
    room = static.state_dict().keys()  # the base model may have a pooler here that the class leaves out
    return {key: tensor.clone() for key, tensor in given.items() if key in room}


def _kept(state: Mapping[str, torch.Tensor], head_name: str) -> Iterator[tuple[str, torch.Tensor]]:
    for key, tensor in state.items():
        if key.startswith("heads.") and not key.startswith(f"heads.{head_name}."):
            continue
        if owner(key) is None and fusion_owner(key) is None:
            yield key, tensor
