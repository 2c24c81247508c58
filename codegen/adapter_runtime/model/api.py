"""What every model with adapters can do: add, train, run, merge, delete, save and load them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from adapter_runtime.composition import AdapterCompositionBlock, Setup, Stack, parse_composition
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.names import check_name
from adapter_runtime.contract.protocol import AdaptedBaseModel
from adapter_runtime.contract.snapshot import outside_of, unchanged_on_error
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterError, UnsupportedMethodError
from adapter_runtime.files.api.adapters import AdapterFilesMixin
from adapter_runtime.files.keys import fusion_owner, owner
from adapter_runtime.files.names import Folder
from adapter_runtime.files.saving.model import computes_anew, stored_with
from adapter_runtime.methods.common.along.copies import give_back
from adapter_runtime.methods.common.along.naming import add_also_trained, check_also_trained
from adapter_runtime.methods.configs.strings import resolve_adapter_config
from adapter_runtime.methods.fusion.api import AdapterFusionMixin, refuse_if_fused
from adapter_runtime.methods.lora.modules.sharing import SharingMixin, forget
from adapter_runtime.methods.placing import check_layers
from adapter_runtime.methods.prefix_tuning.api import PrefixTuningMixin
from adapter_runtime.methods.prompt_tuning.api import PromptTuningMixin
from adapter_runtime.methods.table import check_built, remove_empty_places
from adapter_runtime.model.averaging import AveragingMixin
from adapter_runtime.model.inspection import InspectionMixin
from adapter_runtime.programs.dynamic import DynamicMixin
from adapter_runtime.programs.layer import frozen_keys, has_own_type
from adapter_runtime.programs.merging import MergeableLayer
from adapter_runtime.programs.showing import ShowsOccupiedRoom


class ModelAdaptersMixin(
    InspectionMixin,
    AdapterFilesMixin,
    AdapterFusionMixin,
    PrefixTuningMixin,
    PromptTuningMixin,
    AveragingMixin,
    SharingMixin,
    ShowsOccupiedRoom,
    DynamicMixin,
):
    """The methods of models with adapters. Any error leaves the model as it was."""

    is_adapter_model: ClassVar[bool] = False  # whether the class is a generated ``<Model>AdapterModel``
    model_frozen: bool = False  # whether `freeze_model` was called last with True
    models_beside: tuple[str, ...] = ()  # paths of whole models in this one into which adapters do not go

    @property
    def adapters_base(self) -> AdaptedBaseModel:
        """The base model, which owns the adapters."""
        raise NotImplementedError

    @property
    def adapters_config(self) -> ModelAdaptersConfig:
        """The configs of all adapters and the active setup."""
        return self.adapters_base.adapters_config

    @adapters_config.setter
    def adapters_config(self, config: ModelAdaptersConfig) -> None:
        self.adapters_base.adapters_config = config

    @property
    def unrepeated_arguments(self) -> frozenset[str]:
        """Arguments of a call that `Parallel` does not copy for each child."""
        return frozenset()

    def runs_head(self, head: Setup = None) -> bool:
        """Whether a forward, called with this argument ``head``, ends in a head."""
        return False

    def is_of_head(self, key: str) -> bool:
        """Whether the tensor of this name in the state dict belongs to the head of an upstream class."""
        return False

    def supports_adapter(self, type_or_config: str | Mapping[str, Json] | AdapterConfig) -> bool:
        """Whether `add_adapter` with this config can succeed, by the plan of this model and the modules of its layers."""
        try:
            self._check_supported(resolve_adapter_config(type_or_config))
        except AdapterError:
            return False
        return True

    def _check_supported(self, config: AdapterConfig) -> None:
        check_built(config)
        self.adapters_base.check_placeable(config)
        check_also_trained(self, config)

    # Adding and deleting

    def add_adapter(
        self,
        adapter_name: str,
        config: str | Mapping[str, Json] | AdapterConfig | None = None,
        overwrite_ok: bool = False,
        set_active: bool = False,
    ) -> None:
        """Add a new adapter with random weights.

        Args:
            adapter_name: its name; a part of names of parameters, so without dots.
            config: a config, its name or config string, a dict or the path of a JSON file. None = "seq_bn".
            overwrite_ok: replace an adapter of this name.
            set_active: run it from now on.

        Raises:
            InvalidConfigError: the config makes no sense.
            InvalidNameError: the name cannot be the name of a module.
            ValueError: there is an adapter of this name, and `overwrite_ok` is false.
            UnsupportedMethodError: this model cannot have such an adapter.
        """
        resolved = resolve_adapter_config(config)
        check_name(adapter_name)
        self._check_supported(resolved)
        base, state = self.adapters_base, self.adapters_config
        if adapter_name in state and not overwrite_ok:
            raise ValueError(f"The model has an adapter {adapter_name!r}. Delete it first, or pass overwrite_ok=True.")
        with unchanged_on_error(self, state):
            if adapter_name in state:
                self._remove(adapter_name)
            known = {id(parameter) for parameter in base.parameters()}
            base.place_adapter(adapter_name, resolved)
            add_also_trained(self, adapter_name, resolved)
            state.adapters[adapter_name] = resolved
            self._finish_new_modules(adapter_name, known)
            self._activate(state.active_setup, state.skip_layers)
            if set_active:
                self.set_active_adapters(adapter_name)

    def _finish_new_modules(self, name: str, known: set[int]) -> None:
        """Give new modules the device and type of the model, and check that layers declare all new parameters."""
        base = self.adapters_base
        for part in base.adapter_parts().values():
            for layer in part.adapter_layers():
                for _, module in layer.modules_of(name):
                    module.train(base.training)
                    if not has_own_type(module):
                        # What has no data yet, while a checkpoint is read, gets it from there; the model may have some already (WavLM).
                        is_empty = any(parameter.is_meta for parameter in module.parameters())
                        module.to(device=None if is_empty else part.device, dtype=part.dtype)
        declared = {id(parameter) for _, parameter in self.adapter_parameters(name)}
        new = {key for key, parameter in base.named_parameters() if id(parameter) not in known | declared}
        if new:
            raise AssertionError(f"Parameters of adapter {name!r} that no layer declares: {sorted(new)}.")

    def delete_adapter(self, adapter_name: str) -> None:
        """Remove an adapter. An active stack goes on without it; any other active block that names it is deactivated.

        Raises:
            UnknownAdapterError: there is no such adapter.
            AdapterError: a fusion mixes it.
        """
        self.adapters_config.get(adapter_name)
        refuse_if_fused(self.adapters_config, adapter_name)
        with unchanged_on_error(self, self.adapters_config):
            self._remove(adapter_name)
            self._activate(self.adapters_config.active_setup, self.adapters_config.skip_layers)

    def _remove(self, name: str) -> None:
        state = self.adapters_config
        for layer in list(self.adapters_base.adapter_layers()):
            layer.delete_adapter(name)
        for part in self.adapters_base.adapter_parts().values():
            remove_empty_places(part)
        give_back(self.adapters_base)
        del state.adapters[name]
        forget(state, name)
        state.active_setup = _without(state.active_setup, name)

    # Activating and training

    @property
    def active_adapters(self) -> AdapterCompositionBlock | None:
        """The setup that forwards run. None = no adapters."""
        return self.adapters_config.active_setup

    @active_adapters.setter
    def active_adapters(self, adapter_setup: Setup) -> None:
        self.set_active_adapters(adapter_setup)

    def set_active_adapters(self, adapter_setup: Setup, skip_layers: Iterable[int] | None = None) -> None:
        """Decide what forwards run from now on. Merged adapters are taken out of the weights first.

        Args:
            adapter_setup: a name, a block, or None for no adapters.
            skip_layers: indices of layers that run none (AdapterDrop, https://arxiv.org/abs/2010.11918).

        Raises:
            UnknownAdapterError: the setup names an adapter that was not added.
            UnsupportedMethodError: a layer cannot run the setup.
            InvalidConfigError: `skip_layers` names a layer that is not there.
        """
        block = parse_composition(adapter_setup)
        if block is not None:
            self.adapters_config.require_block(block)
        skipped = frozenset(skip_layers or ())
        check_layers(self.adapters_base, skipped, "skip_layers")
        with unchanged_on_error(self, self.adapters_config):
            for layer in self._mergeable_layers():
                layer.merged_adapter = None  # checked as it will run; the weights follow
            self._activate(block, skipped)
            self.reset_adapter()

    def _activate(self, block: AdapterCompositionBlock | None, skip_layers: frozenset[int]) -> None:
        self.adapters_config.active_setup, self.adapters_config.skip_layers = block, skip_layers
        self.adapters_base.activate(block, skip_layers)

    def train_adapter(self, adapter_setup: Setup, train_embeddings: bool = False) -> None:
        """Go into training mode, freeze the base model, and let the adapters of the setup, now active, be trained.

        Heads go on being trained, but for projections to the vocabulary: they are often the embeddings, or as large.

        Args:
            adapter_setup: a name or a block.
            train_embeddings: train the token embeddings and the projections to the vocabulary that run, too.

        Raises:
            UnknownAdapterError: the setup names an adapter that was not added.
        """
        with unchanged_on_error(self, self.adapters_config):
            self.set_active_adapters(adapter_setup)
            block = self.active_adapters
            self.train()
            self.freeze_model(True)
            for name in sorted(block.flatten()) if block is not None else ():
                for parameter in self.trained_parameters(name):
                    parameter.requires_grad_(True)
            if train_embeddings:
                self.get_input_embeddings().requires_grad_(True)
            self.train_vocabulary(train_embeddings)

    def trained_parameters(self, adapter_name: str) -> Iterator[nn.Parameter]:
        """The parameters of an adapter that training changes, as its layers declare them."""
        for layer in self.adapters_base.adapter_layers():
            yield from layer.trained_parameters(adapter_name)

    def freeze_model(self, freeze: bool = True) -> None:
        """Stop (or, with False, resume) the training of all parameters of the base model. Heads are left alone.

        Whole models beside it, into which adapters do not go, are no heads.
        """
        base = self.adapters_base
        beside = [*outside_of(base).values(), *map(self.get_submodule, self.models_beside)]
        for parameter in chain(base.base_parameters(), *(module.parameters() for module in beside)):
            if parameter.dtype.is_floating_point:
                parameter.requires_grad_(not freeze)
        for module in base.modules():
            for key in frozen_keys(module):
                module.get_parameter(key).requires_grad_(False)
        self.model_frozen = freeze

    def train_vocabulary(self, train: bool) -> None:
        """Resume, or with False stop, the training of the projections to the vocabulary that run."""
        projection = self.get_output_embeddings()
        if projection is not None:
            projection.requires_grad_(train)

    def freeze_embeddings(self, freeze: bool = True) -> None:
        """Stop (or, with False, resume) the training of the token embeddings that run."""
        self.get_input_embeddings().requires_grad_(not freeze)

    # Merging

    def merge_adapter(self, adapter_name: str) -> None:
        """Put a LoRA adapter into the weights: the same outputs at the cost of the bare model.

        The original weights are kept. `reset_adapter`, or activating other adapters, restores them bit by bit.

        Raises:
            UnsupportedMethodError: the adapter has parts that are not linear in the weights, or two of its places have one
                weight, which cannot hold both.
        """
        self.adapters_config.get(adapter_name)
        layers = [layer for layer in self.adapters_base.adapter_layers() if adapter_name in layer.adapter_names()]
        rest = {
            layer.location_key
            for layer in layers
            if not isinstance(layer, MergeableLayer) and not layer.only_holds_parameters
        }
        if rest:
            raise UnsupportedMethodError(
                f"Adapter {adapter_name!r} cannot be merged: only LoRA can, and it also has {', '.join(sorted(rest))}."
            )
        others = self.merged_adapters() - {adapter_name}
        if others:
            raise UnsupportedMethodError(
                f"Adapter {', '.join(map(repr, sorted(others)))} is in the weights already. Take it out first: reset_adapter()."
            )
        projections = [layer for layer in layers if isinstance(layer, MergeableLayer)]
        tensors = [id(parameter) for layer in projections for parameter in layer.parameters(recurse=False)]
        if len(set(tensors)) < len(tensors):
            raise UnsupportedMethodError(
                f"Adapter {adapter_name!r} cannot be merged: layers of {type(self).__name__} share one weight, in which it has "
                "more than one place."
            )
        with unchanged_on_error(self, self.adapters_config):
            try:
                for projection in projections:
                    projection.merge(adapter_name)
                self._activate(self.adapters_config.active_setup, self.adapters_config.skip_layers)
            except BaseException:
                for projection in projections:
                    projection.unmerge()
                raise

    def reset_adapter(self) -> None:
        """Take merged adapters out of the weights."""
        merged = [layer for layer in self._mergeable_layers() if layer.unmerged is not None]
        for layer in merged:
            layer.unmerge()
        if merged:
            self._activate(self.adapters_config.active_setup, self.adapters_config.skip_layers)

    def merged_adapters(self) -> set[str]:
        """The adapters that are in the weights now."""
        return {layer.merged_adapter for layer in self._mergeable_layers() if layer.merged_adapter is not None}

    def _mergeable_layers(self) -> Iterator[MergeableLayer]:
        return (layer for layer in self.adapters_base.adapter_layers() if isinstance(layer, MergeableLayer))

    # Saving

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """See transformers. Where upstream ties whole modules by their names (Zamba's layers), adapters within them stay their own."""
        expanded: dict[str, str] = super().get_expanded_tied_weights_keys(all_submodels)
        return {key: source for key, source in expanded.items() if owner(key) is None and fusion_owner(key) is None}

    def save_pretrained(self, save_directory: Folder, *args: Any, **kwargs: Any) -> None:
        """See transformers. The adapters are written with the model, and their configs into its ``config.json``.

        A merged adapter is part of the weights then; it is not written again. Where upstream would compute the tensors of old
        checkpoints of adapters too, all is written in the form of the model as it is, which upstream reads as well.
        """
        if computes_anew(self):
            kwargs.setdefault("save_original_format", False)
        with stored_with(self, Path(save_directory), kwargs.pop("state_dict", None)) as state:
            super().save_pretrained(save_directory, *args, state_dict=state, **kwargs)


def _without(setup: AdapterCompositionBlock | None, name: str) -> AdapterCompositionBlock | None:
    if setup is None or name not in setup.flatten():
        return setup
    rest = [child for child in setup if child != name] if isinstance(setup, Stack) else []
    nested = any(isinstance(child, AdapterCompositionBlock) and name in child.flatten() for child in rest)
    return Stack(*rest) if rest and not nested else None
