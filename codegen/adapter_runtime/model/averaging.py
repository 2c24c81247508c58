"""`average_adapter`: a new adapter out of the parameters of others.

Everything is computed and checked before the model is touched. A module of an adapter that cannot be averaged parameter by
parameter averages itself (`AveragesItself`; ReFT, whose projections stay orthonormal).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.common.averaging import Averaging, weighted_sum
from adapter_runtime.methods.common.initialisation import weights_follow
from adapter_runtime.methods.configs.union import members
from adapter_runtime.methods.table import METHODS, specs_of
from adapter_runtime.programs.layer import AdapterLayerBase

LINEAR = "linear"
Places = dict[str, nn.Module]  # path below the base model -> module of one adapter

# Options that say how an adapter began or is trained, not what it computes
_BEGINNINGS = frozenset({"dropout", "init_weights", "init_weights_seed", "stochastic_depth"})


@runtime_checkable
class AveragesItself(Protocol):
    """A module of an adapter that cannot be averaged parameter by parameter."""

    def average(self, others: Sequence[nn.Module], weights: Sequence[float]) -> None:
        """Become the weighted sum of `others`, which have the same options."""


class AveragingMixin:
    """Averages of adapters."""

    def average_adapter(
        self: AdaptedModel,
        adapter_name: str,
        adapter_list: Sequence[str] | Mapping[str, float],
        weights: Sequence[float] | None = None,
        combine_strategy: str = LINEAR,
        normalize_weights: bool = True,
        overwrite_ok: bool = False,
        set_active: bool = False,
        svd_rank: int | None = None,
    ) -> None:
        """Add an adapter whose parameters are the weighted average of those of others.

        Args:
            adapter_name: of the new adapter.
            adapter_list: names of adapters with the same options, or a dict from names to weights.
            weights: one per name; None = equal ones, or those of the dict.
            combine_strategy: "linear" averages each parameter (https://arxiv.org/abs/2203.05482).
                "lora_linear_only_negate_b" lets the sign of a weight act on LoRA's B alone, so that a negative one subtracts
                the update (https://arxiv.org/abs/2306.14870). "lora_delta_w_svd" averages the updates ``alpha / r * B A``,
                and keeps their `svd_rank` largest singular values; r and alpha may differ there.
            normalize_weights: divide the weights by their sum.
            overwrite_ok: replace an adapter of this name, which may be one of those in `adapter_list`.
            set_active: run it from now on.
            svd_rank: rank of the new adapter, with "lora_delta_w_svd".

        Raises:
            UnknownAdapterError: a name that no adapter has.
            InvalidConfigError: weights, options or strategies that do not go together. The model is unchanged.
            UnsupportedMethodError: the strategy cannot be used with the method of the adapters.
        """
        check_name(adapter_name)
        shares = weights_of(adapter_list, weights, normalize_weights)
        state = self.adapters_config
        strategy = _strategy(combine_strategy, svd_rank)
        config = _common_config(state, list(shares), strategy, svd_rank)
        given = [_places(self.adapters_base, name) for name in shares]
        values = list(shares.values())
        tensors = _combined(given, values, strategy, config)
        with unchanged_on_error(self, state), torch.no_grad(), weights_follow():
            self.add_adapter(adapter_name, config, overwrite_ok=overwrite_ok, set_active=set_active)
            for path, module in _places(self.adapters_base, adapter_name).items():
                if isinstance(module, AveragesItself):
                    module.average([places[path] for places in given], values)
                else:
                    _fill(module, tensors[path])


def weights_of(
    names: Sequence[str] | Mapping[str, float], weights: Sequence[float] | None, normalize: bool
) -> dict[str, float]:
    """The weight of each adapter.

    Raises:
        InvalidConfigError: they are not one per name, or sum up to 0 and shall be normalised.
    """
    if isinstance(names, str):
        raise InvalidConfigError(f"average_adapter takes a list of names or a dict, not {names!r}. Write [{names!r}].")
    if isinstance(names, Mapping) and weights is not None:
        raise InvalidConfigError(
            "A dict of adapters holds their weights already. Leave out weights=..., or give a list."
        )
    if not names:
        raise InvalidConfigError("There are no adapters to average.")
    if len(set(names)) != len(names):
        raise InvalidConfigError(f"{list(names)} names an adapter twice. Name it once, with the sum of the weights.")
    if isinstance(names, Mapping):
        weights = list(names.values())
    given = [1.0] * len(names) if weights is None else list(weights)
    if len(given) != len(names):
        raise InvalidConfigError(f"There are {len(names)} adapters but {len(given)} weights.")
    if not all(math.isfinite(weight) for weight in given):
        raise InvalidConfigError(f"The weights {given} are not all finite numbers.")
    total = sum(given)
    if normalize and total == 0:
        raise InvalidConfigError(
            f"The weights {given} sum up to 0 and cannot be normalised. Give others, or normalize_weights=False."
        )
    return {name: weight / total if normalize else float(weight) for name, weight in zip(names, given, strict=True)}


def _strategy(name: str, svd_rank: int | None) -> Averaging[Any] | None:
    """The strategy of this name; None for "linear", which all methods have.

    Raises:
        InvalidConfigError: there is none, or it needs a rank and gets none.
    """
    known = {averaging.name: averaging for spec in METHODS.values() for averaging in spec.averages}
    if name != LINEAR and name not in known:
        shown = ", ".join(map(repr, (LINEAR, *known)))
        raise InvalidConfigError(f"combine_strategy is {name!r}, but must be one of {shown}.")
    found = known.get(name)
    needs_rank = found is not None and found.needs_rank
    if needs_rank != (svd_rank is not None) or (svd_rank is not None and svd_rank < 1):
        ranked = " and ".join(f'"{averaging.name}"' for averaging in known.values() if averaging.needs_rank)
        raise InvalidConfigError(
            f"svd_rank is {svd_rank!r}. {ranked} needs one of at least 1, and only this strategy has one."
        )
    return found


def _common_config(
    state: ModelAdaptersConfig, names: Sequence[str], strategy: Averaging[Any] | None, svd_rank: int | None
) -> AdapterConfig:
    """The options of the average: those of the first, where the others agree in all that matters."""
    ignored = _BEGINNINGS if strategy is None else _BEGINNINGS | strategy.may_differ
    first = state.get(names[0])
    for name in names[1:]:
        differing = _differences(first.to_dict(), state.get(name).to_dict(), ignored)
        if differing:
            raise InvalidConfigError(
                f"Adapters {names[0]!r} and {name!r} cannot be averaged: they differ in {', '.join(differing)}."
            )
    if strategy is None:
        return first
    own = [averaging for member in members(first) for spec in specs_of(member) for averaging in spec.averages]
    if len(members(first)) > 1 or strategy not in own or not strategy.applies(first):
        raise UnsupportedMethodError(
            f"{strategy.name!r} averages {strategy.averages}, but {names[0]!r} is a {type(first).__name__}. "
            'Use "linear".'
        )
    config: AdapterConfig = strategy.config(first, svd_rank)
    return config


def _differences(first: Mapping[str, Json], other: Mapping[str, Json], ignored: frozenset[str]) -> list[str]:
    """The options in which two configs differ."""
    one, two = dict(_options(first, ignored)), dict(_options(other, ignored))
    return [key for key in sorted(one.keys() | two.keys()) if (key in one, one.get(key)) != (key in two, two.get(key))]


def _options(config: Mapping[str, Json], ignored: frozenset[str], path: str = "") -> Iterator[tuple[str, Json]]:
    """All options that matter, those of the members of a union too."""
    for key, value in config.items():
        if key == "configs" and isinstance(value, Sequence):
            for index, member in enumerate(value):
                if isinstance(member, Mapping):
                    yield from _options(member, ignored, f"{path}{key}[{index}].")
        elif key not in ignored:
            yield path + key, value


def _places(base: AdaptedBaseModel, name: str) -> Places:
    """The modules of an adapter by their paths, in which the name is left out."""
    return {
        f"{path}.{key[: -len(name)]}": module
        for path, layer in base.named_modules()
        if isinstance(layer, AdapterLayerBase)
        for key, module in layer.modules_of(name)
    }


def _combined(
    given: Sequence[Places], weights: Sequence[float], strategy: Averaging[Any] | None, config: AdapterConfig
) -> dict[str, dict[str, torch.Tensor]]:
    """The tensors of the new adapter, by place and by name; none for modules that average themselves."""
    combined = {}
    for path in given[0]:
        modules = [places[path] for places in given]
        if isinstance(modules[0], AveragesItself):
            continue
        combined[path] = (
            dict(_linear(modules, weights)) if strategy is None else strategy.combined(modules, weights, config)
        )
    return combined


def _linear(modules: Sequence[nn.Module], weights: Sequence[float]) -> Iterator[tuple[str, torch.Tensor]]:
    """Each parameter and buffer as the weighted sum."""
    states = [module.state_dict() for module in modules]
    for key, first in states[0].items():
        yield key, weighted_sum([state[key] for state in states], weights) if first.dtype.is_floating_point else first


def _fill(module: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give the parameters and buffers of a module the values of `tensors`, which are of their names and shapes."""
    own = module.state_dict()
    assert own.keys() == tensors.keys(), f"{sorted(own)} != {sorted(tensors)}"
    for key, tensor in tensors.items():
        own[key].copy_(tensor)
