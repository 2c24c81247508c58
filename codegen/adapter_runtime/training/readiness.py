"""What must hold before adapters are trained, and what is trained beside them."""

from __future__ import annotations

from collections.abc import Iterator

from torch import nn

from adapter_runtime.errors import AdapterError, listing
from adapter_runtime.files.heads import is_bare
from adapter_runtime.files.keys import fusion_owner, owner
from adapter_runtime.heads import protocol
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.protocol import is_flexible
from adapter_runtime.model.api import ModelAdaptersMixin

_WHOLE_MODEL = "To train a whole model use transformers.Trainer."


class TrainingSetupError(AdapterError, ValueError):
    """A model, or options, that adapters cannot be trained with."""


def check_active(model: nn.Module | None) -> None:
    """Raise where no adapter would run.

    Raises:
        TrainingSetupError: the model has no room for adapters, or none is active.
    """
    if not isinstance(model, ModelAdaptersMixin):
        raise TrainingSetupError(
            f"A {type(model).__name__} has no adapters. Call adapter_models.init(model) first, or use one of the"
            f" AdapterModel classes. {_WHOLE_MODEL}"
        )
    if model.active_adapters is None:
        known = ", ".join(map(repr, model.adapters_config)) or "none, see add_adapter"
        raise TrainingSetupError(
            f"No adapter is active. Call model.train_adapter(name), or train_adapter_fusion. Adapters: {known}."
            f" {_WHOLE_MODEL}"
        )


def check_trainable(model: ModelAdaptersMixin) -> None:
    """Raise where training would not be the training of adapters.

    Raises:
        TrainingSetupError: no adapter is active, the base model was never frozen, or nothing has gradients.
    """
    check_active(model)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise TrainingSetupError("No parameter of the model is to be trained. Call model.train_adapter(name).")
    unfrozen = [key for key, _ in trained_besides(model)]
    if unfrozen and not is_frozen(model):
        raise TrainingSetupError(
            f"The base model is not frozen: {len(unfrozen)} of its parameters would be trained:\n{listing(unfrozen)}\n"
            f"Call model.train_adapter(name) or train_adapter_fusion; parameters that shall be trained beside adapters"
            f" are given requires_grad afterwards. {_WHOLE_MODEL}"
        )


def is_frozen(model: ModelAdaptersMixin) -> bool:
    """Whether `freeze_model`, which `train_adapter` calls, was called last with True."""
    return model.model_frozen or model.adapters_base.model_frozen


def trained_besides(model: ModelAdaptersMixin) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters with gradients that belong to no adapter, fusion or head, each once, named as in the state dict."""
    seen: set[int] = set()
    for key, parameter in model.state_dict(keep_vars=True).items():
        if not parameter.requires_grad or id(parameter) in seen:
            continue
        seen.add(id(parameter))
        if owner(key) is None and fusion_owner(key) is None and not _is_of_head(model, key):
            yield key, parameter


def _is_of_head(model: ModelAdaptersMixin, key: str) -> bool:
    if is_flexible(model):
        return key.startswith("heads.")
    return not is_bare(model) and model.is_of_head(key)


def active_heads(model: ModelAdaptersMixin) -> list[PredictionHead]:
    """The flexible heads that a forward runs; none for models without such heads."""
    return protocol.active_heads(model) if is_flexible(model) else []
