"""Which layers an adapter of ReFT edits, and creating it there."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence

from torch import nn
from transformers import PreTrainedModel

from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedLayer
from adapter_runtime.methods.placing import Wish, check_layers, says
from adapter_runtime.methods.reft.config import ReftConfig
from adapter_runtime.methods.reft.layer import add_reft, disable_reft
from adapter_runtime.methods.reft.orthonormal import check_rows
from adapter_runtime.methods.reft.positions import Stream

# Arguments of a forward by which tokens come in, or what became of them.
_OF_TOKENS = frozenset({"input_ids", "inputs_embeds", "decoder_input_ids", "decoder_inputs_embeds", "hidden_states"})


def place(model: AdaptedBaseModel, name: str, config: ReftConfig) -> int:
    """Create an adapter. Returns how many layers it edits.

    Raises:
        InvalidConfigError: the config names layers that the model does not have.
    """
    stacks = _stacks(model)
    wanted = _wanted(model, config)
    beside, followed = model.layers_of_form("no tokens"), model.layers_of_form("followed")
    for index, layer in wanted:
        module = layer.get_submodule("")
        stack = "" if index in beside else stacks.get(module, "self")
        stream = Stream(stack, layer.output_width(), tokens_first=index in followed)
        add_reft(module, index, stream, name, config)
    return len(wanted)


def wishes(model: AdaptedBaseModel, config: ReftConfig) -> Collection[Wish]:
    """The layers that a config asks for.

    Raises:
        InvalidConfigError: the config names layers that the model does not have.
    """
    found = frozenset(index for index, _ in _wanted(model, config))
    asked = frozenset(index for index, _ in model.adapted_layers() if config.is_in(index))
    return [Wish(f"layers={config.layers!r}", says(config, "layers"), found, asked - found)] if asked else []


def count_places(model: AdaptedBaseModel, config: ReftConfig) -> int:
    """How many layers an adapter edits.

    Raises:
        InvalidConfigError: the config names layers that the model does not have, or r is greater than the width of one.
        UnsupportedMethodError: a layer does not tell how wide its hidden states are.
    """
    widths = [layer.output_width() for _, layer in _wanted(model, config)]
    if config.orthogonality:
        for width in widths:
            check_rows(width, config.r)
    return len(widths)


def _wanted(model: AdaptedBaseModel, config: ReftConfig) -> list[tuple[int, AdaptedLayer]]:
    """The layers that a config names, without those whose hidden states are no rows of positions."""
    layers = list(model.adapted_layers())
    if not isinstance(config.layers, str):
        check_layers(model, config.layers, "layers")
    without_rows = model.layers_of_form(
        "packed", "length first", "joined", "gathered", "spread", "padded", "several", "other"
    )
    return [(index, layer) for index, layer in layers if config.is_in(index) and index not in without_rows]


def _stacks(model: AdaptedBaseModel) -> dict[nn.Module, str]:
    """Whose tokens modules see: "encoder", "decoder" or "self"; "" in a tower of images or sounds, which sees none."""
    whole = model.get_submodule("")
    encoder = set(model.get_encoder().modules()) if model.config.is_encoder_decoder else None
    stacks: dict[nn.Module, str] = {}
    for tower in whole.modules():  # outer ones first
        if isinstance(tower, PreTrainedModel):
            reads = _reads_tokens(tower, around=bool(stacks.get(tower, "self")))
            for module in tower.modules():
                kind = "self" if encoder is None else "encoder" if module in encoder else "decoder"
                stacks[module] = kind if reads else ""
    return stacks


def _reads_tokens(tower: PreTrainedModel, around: bool) -> bool:
    """Whether a model looks its inputs up in a table; where it does not say in what, whether tokens are what it is called with.

    Args:
        around: whether the model around it reads tokens. A model inside of one that names no input of its own reads what that one does.
    """
    try:
        table = tower.get_input_embeddings()
    except (NotImplementedError, AttributeError):
        table = None
    if table is not None:
        return isinstance(table, nn.Embedding)
    return around and tower.main_input_name == "input_ids" and _may_be_given_tokens(type(tower))


def _may_be_given_tokens(tower: type[PreTrainedModel]) -> bool:
    """Whether a forward takes tokens, or what was embedded before, and upstream does not say that it is of images or sounds alone.

    The name of the main input is no answer: many towers keep the one that all models have by default.
    """
    if "text" not in getattr(tower, "input_modalities", "text"):
        return False
    parameters = inspect.signature(tower.forward).parameters.values()
    return any(
        parameter.name in _OF_TOKENS or parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters
    )


def remove_empty(model: AdaptedBaseModel) -> None:
    """Remove hooks and containers from layers whose last ReFT adapter was deleted."""
    for _, layer in model.iter_layers():
        disable_reft(layer)


def without_layers(config: ReftConfig, layers: frozenset[int], every_layer: Sequence[int]) -> ReftConfig:
    """`config` without edits in `layers`."""
    kept = every_layer if isinstance(config.layers, str) else config.layers
    return config.replace(layers=[index for index in kept if index not in layers])
