"""Fusions of adapters (AdapterFusion) as methods of models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from adapter_runtime.composition import AdapterCompositionBlock, Child, Fuse, Setup, parse_composition
from adapter_runtime.contract.config_values import config_value
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.contract.snapshot import unchanged_on_error
from adapter_runtime.contract.state import FusionEntry, ModelAdaptersConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterError, InvalidCompositionError, InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.bottleneck.layer import BottleneckLayer
from adapter_runtime.methods.bottleneck.places import bottleneck_layers, width_at
from adapter_runtime.methods.configs.union import members
from adapter_runtime.methods.fusion.config import AdapterFusionConfig, known_name
from adapter_runtime.methods.fusion.module import AdapterFusion
from adapter_runtime.programs.dynamic import DynamicMixin

Fusion = str | Sequence[str] | Fuse

REGULARIZATION = 0.01  # weight of the loss that keeps value matrices near the identity


class AdapterFusionMixin(DynamicMixin):
    """Adding, training and deleting fusions. A fusion is known by its name, by default "a,b" for the adapters a and b."""

    def add_adapter_fusion(
        self,
        adapter_names: Fusion,
        config: str | Path | Mapping[str, Json] | AdapterFusionConfig | None = None,
        name: str | None = None,
        overwrite_ok: bool = False,
        set_active: bool = False,
    ) -> None:
        """Add a new attention over the outputs of adapters, at each place where all of them can stand.

        Args:
            adapter_names: a `Fuse` block, names, or one string of names with commas.
            config: a config, "static", "dynamic" (as is None), a dict or the path of a JSON file.
            name: None = that of the block, or the names with commas.
            overwrite_ok: replace a fusion of this name.
            set_active: run it from now on.

        Raises:
            UnknownAdapterError: the model has no adapter of a name.
            ValueError: there is a fusion of this name, and `overwrite_ok` is false.
            UnsupportedMethodError: an adapter has no bottlenecks.
            InvalidConfigError: the config makes no sense, or the adapters have no place in common.
        """
        block = _as_block(adapter_names, name)
        resolved, state, base = AdapterFusionConfig.load(config), self.adapters_config, self.adapters_base
        names = tuple(child if isinstance(child, str) else child.last() for child in block)
        check_name(block.name, "fusion")
        state.require(block.flatten())
        if block.name in state.fusions and not overwrite_ok:
            raise ValueError(
                f"The model has a fusion {block.name!r}. Delete it first (delete_adapter_fusion), or pass overwrite_ok=True."
            )
        with unchanged_on_error(self, state):
            if block.name in state.fusions:
                self._remove_fusion(block.name)
            _place(base, block.name, names, resolved)
            state.fusions[block.name] = FusionEntry(names, resolved, known_name(resolved))
            self._activate(state.active_setup, state.skip_layers)
            if set_active:
                self.set_active_adapters(block)

    def delete_adapter_fusion(self, adapter_names: Fusion) -> None:
        """Remove a fusion, given by its block, its name or the names of its adapters. An active setup that has it is
        deactivated. The adapters stay.

        Raises:
            UnknownAdapterError: there is no such fusion.
        """
        name, state, base = fusion_name(adapter_names), self.adapters_config, self.adapters_base
        state.get_fusion(name)
        with unchanged_on_error(base, state):
            self._remove_fusion(name)
            setup = state.active_setup
            is_used = setup is not None and any(fuse.name == name for fuse in fusions_in(setup))
            self._activate(None if is_used else setup, state.skip_layers)

    def _remove_fusion(self, name: str) -> None:
        for layer in self.adapters_base.adapter_layers():
            if isinstance(layer, BottleneckLayer):
                layer.delete_fusion(name)
        del self.adapters_config.fusions[name]

    def train_adapter_fusion(self, adapter_setup: Setup, unfreeze_adapters: bool = False) -> None:
        """Go into training mode, freeze the base model and the adapters, and let the fusions of the setup, now active,
        be trained.

        Args:
            adapter_setup: a `Fuse`, a block around one, or a list in a list: [["a", "b"]].
            unfreeze_adapters: train the adapters of the setup too.

        Raises:
            UnknownAdapterError: the model has not all adapters and fusions of the setup.
            InvalidCompositionError: no fusion is in the setup.
        """
        block = parse_composition(adapter_setup)
        fusions = [] if block is None else list(fusions_in(block))
        if block is None or not fusions:
            raise InvalidCompositionError(f"{adapter_setup!r} has no fusion to train. Give one: Fuse('a', 'b').")
        with unchanged_on_error(self, self.adapters_config):
            self.set_active_adapters(block)
            self.train()
            self.freeze_model(True)
            self.train_vocabulary(False)
            for fuse in fusions:
                for module in self._fusion_modules(fuse.name):
                    module.requires_grad_(True)
            for name in sorted(block.flatten()) if unfreeze_adapters else ():
                for parameter in self.trained_parameters(name):
                    parameter.requires_grad_(True)

    def adapter_fusion_to(
        self, adapter_names: Fusion, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        """Move the modules of a fusion.

        Raises:
            UnknownAdapterError: there is no such fusion.
        """
        name = fusion_name(adapter_names)
        self.adapters_config.get_fusion(name)
        for module in self._fusion_modules(name):
            module.to(device=device, dtype=dtype)

    def get_fusion_regularization_loss(self) -> torch.Tensor | None:
        """0.01 Σ ||I - V||² over the value matrices V that are trained and whose config asks for it; None without any."""
        distances = [
            distance
            for name in self.adapters_config.fusions
            for module in self._fusion_modules(name)
            if (distance := module.distance_from_identity()) is not None
        ]
        if not distances:
            return None
        # on one device: layers may be spread over several
        return REGULARIZATION * torch.stack([distance.to(distances[0].device) for distance in distances]).sum()

    def _fusion_modules(self, name: str) -> Iterator[AdapterFusion]:
        return fusion_modules(self.adapters_base, name)


def fusion_modules(base: AdaptedBaseModel, name: str) -> Iterator[AdapterFusion]:
    """The modules of a fusion, one per place."""
    for layer in base.adapter_layers():
        if isinstance(layer, BottleneckLayer) and name in layer.adapter_fusion_layer:
            module = layer.adapter_fusion_layer[name]
            assert isinstance(module, AdapterFusion)
            yield module


def fusion_name(fusion: Fusion) -> str:
    """The name of a fusion that is given by its name, its block or the names of its adapters."""
    if isinstance(fusion, Fuse):
        return fusion.name
    return fusion if isinstance(fusion, str) else ",".join(fusion)


def fusions_in(block: AdapterCompositionBlock) -> Iterator[Fuse]:
    """All fusions in a composition."""
    if isinstance(block, Fuse):
        yield block
    for child in block:
        if isinstance(child, AdapterCompositionBlock):
            yield from fusions_in(child)


def refuse_if_fused(state: ModelAdaptersConfig, adapter_name: str) -> None:
    """Raise where a fusion mixes an adapter that is about to be deleted.

    Raises:
        AdapterError: one does.
    """
    for name, entry in state.fusions.items():
        if adapter_name in entry.adapter_names:
            raise AdapterError(
                f"The fusion {name!r} mixes the adapter {adapter_name!r}. Delete the fusion first: "
                f"model.delete_adapter_fusion({name!r})."
            )


def _as_block(adapter_names: Fusion, name: str | None) -> Fuse:
    """The block that activates the fusion."""
    if isinstance(adapter_names, Fuse):
        children: Sequence[Child] = adapter_names.children
        name = adapter_names.name if name is None else name
    elif isinstance(adapter_names, str):
        children = [part.strip() for part in adapter_names.split(",")]
    else:
        children = adapter_names
    block = Fuse(*children)
    parse_composition(block)
    return block if name in (None, block.name) else Fuse(*children, name=name)


def _place(base: AdaptedBaseModel, name: str, adapters: Sequence[str], config: AdapterFusionConfig) -> None:
    """Create the modules of a fusion of `adapters`.

    Raises:
        UnsupportedMethodError: an adapter has no bottlenecks.
        InvalidConfigError: no place is open to all adapters.
    """
    wanted = [_locations(base, adapter) for adapter in adapters]
    dropout = float(config_value(base.config, "attention_probs_dropout_prob", 0.0))
    apart = _hosts_of_parts_without(base, adapters)
    found = [
        (host, width_at(host, layer))
        for _, layer in base.adapted_layers()
        for host in bottleneck_layers(layer)
        if host not in apart and all(host.location_key in locations for locations in wanted)
    ]
    if not found:
        shown = ", ".join(f"{adapter}: {sorted(own)}" for adapter, own in zip(adapters, wanted, strict=True))
        raise InvalidConfigError(f"The adapters of the fusion {name!r} have no location in common ({shown}).")
    for host, width in found:
        host.add_fusion(name, config, width, dropout)
        host.adapter_fusion_layer[name].train(base.training).to(base.device, base.dtype)


def _hosts_of_parts_without(base: AdaptedBaseModel, adapters: Sequence[str]) -> set[BottleneckLayer]:
    """The hosts of parts, in a model made of several, in which one of the adapters is nowhere: there is nothing to fuse."""
    parts = base.adapter_parts().values()
    hosts = [[layer for layer in part.adapter_layers() if isinstance(layer, BottleneckLayer)] for part in parts]
    without = (own for own in hosts if not all(any(name in host.adapters for host in own) for name in adapters))
    return {host for own in without for host in own} if len(hosts) > 1 else set()


def _locations(base: AdaptedBaseModel, adapter: str) -> set[str]:
    """The locations at which the config of an adapter wants bottlenecks, whatever layers it leaves out."""
    config = base.adapters_config.get(adapter)
    bottlenecks = [member for member in members(config) if isinstance(member, BnConfig)]
    if not bottlenecks:
        raise UnsupportedMethodError(
            f"Only bottleneck adapters can be fused, and the adapter {adapter!r} has none: {type(config).__name__}."
        )
    keys = ("mh_adapter", "output_adapter", "cross_adapter")
    return {key for member in bottlenecks for key in keys if member[key]}
