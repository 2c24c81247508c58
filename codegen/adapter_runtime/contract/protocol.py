"""What a model with adapters is, for type checkers: what mixins, methods, heads and files may ask of one.

Models get these members from the mixins in ``model``, and from upstream's class. Whoever needs a model says that it needs an
`AdaptedModel`, an `AdaptedBaseModel` or an `AdaptedLayer`, and imports no class of a model.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

import torch
from torch import nn
from transformers import PreTrainedConfig
from typing_extensions import Self

from adapter_runtime.composition import AdapterCompositionBlock, Fuse, Setup
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.contract.summary import HeadSummary
from adapter_runtime.contract.values import Json
from adapter_runtime.programs.call_plan import CallPlan
from adapter_runtime.programs.layer import AdapterLayerBase
from adapter_runtime.roles import AttentionRoles, LayerRoles, StackForm


class TorchModule(Protocol):
    """The members of `torch.nn.Module` that a protocol must name, as it cannot extend a class."""

    training: bool

    def __hash__(self) -> int: ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def named_buffers(self) -> Iterator[tuple[str, torch.Tensor]]: ...

    def modules(self) -> Iterator[nn.Module]: ...

    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...

    def get_submodule(self, target: str) -> nn.Module: ...

    def add_module(self, name: str, module: nn.Module | None) -> None: ...

    def state_dict(self, *, keep_vars: bool = False) -> dict[str, torch.Tensor]: ...

    def train(self, mode: bool = True) -> Self: ...


class AdaptedModel(TorchModule, Protocol):
    """A model with adapters: a base model, or a model with a head around one."""

    config: PreTrainedConfig
    base_model_prefix: ClassVar[str]
    # Whether its class is a generated ``<Model>AdapterModel``, and none of upstream's.
    is_adapter_model: ClassVar[bool]
    models_beside: tuple[str, ...]  # paths of whole models in it into which adapters do not go
    model_frozen: bool  # whether `freeze_model` was called last with True, on this object

    @property
    def base_model(self) -> nn.Module | AdaptedModel: ...

    @property
    def device(self) -> torch.device: ...

    @property
    def dtype(self) -> torch.dtype: ...

    @property
    def adapters_base(self) -> AdaptedBaseModel: ...

    @property
    def adapters_config(self) -> ModelAdaptersConfig: ...

    @property
    def active_adapters(self) -> AdapterCompositionBlock | None: ...

    def add_adapter(
        self,
        adapter_name: str,
        config: str | Mapping[str, Json] | AdapterConfig | None = None,
        overwrite_ok: bool = False,
        set_active: bool = False,
    ) -> None: ...

    def add_adapter_fusion(
        self,
        adapter_names: Fuse | Sequence[str] | str,
        config: Mapping[str, Json] | str | None = None,
        name: str | None = None,
        overwrite_ok: bool = False,
        set_active: bool = False,
    ) -> None: ...

    def delete_adapter(self, adapter_name: str) -> None: ...

    def set_active_adapters(self, adapter_setup: Setup, skip_layers: Iterable[int] | None = None) -> None: ...

    def train_adapter(self, adapter_setup: Setup, train_embeddings: bool = False) -> None: ...

    def get_adapter(self, name: str) -> dict[int, dict[str, nn.Module]]: ...

    def adapter_parameters(self, adapter_name: str) -> Iterator[tuple[str, nn.Parameter]]: ...

    def trained_parameters(self, adapter_name: str) -> Iterator[nn.Parameter]: ...

    def summarized_heads(self) -> list[HeadSummary]: ...

    @property
    def unrepeated_arguments(self) -> frozenset[str]: ...

    def runs_head(self, head: Setup = None) -> bool: ...

    def is_of_head(self, key: str) -> bool: ...

    def merged_adapters(self) -> set[str]: ...

    def reset_adapter(self) -> None: ...

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]: ...

    def get_input_embeddings(self) -> nn.Module: ...

    def get_output_embeddings(self) -> nn.Module | None: ...

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]: ...


class AdaptedBaseModel(AdaptedModel, Protocol):
    """A base model: it owns the adapters, and knows its layers."""

    token_embeddings: str  # path of the table of token embeddings; "" = there is none
    token_scale: (
        str  # attribute, of what reads tokens, by which it multiplies their embeddings but none that it is given
    )
    embedding_output: str  # path of the module whose output enters the first layer; "" = there is no one such module
    makes_mask: bool  # that module holds the table, and the forward makes a mask of the tokens where it is given none
    token_entry: (
        str  # path of the table of tokens to whose embeddings more is added, where that gives none of them; "" = else
    )
    main_input_name: ClassVar[str]
    final_norm_path: ClassVar[str]  # of the norm behind the last layer; "" = there is none

    @property
    def adapters_config(self) -> ModelAdaptersConfig: ...

    @adapters_config.setter
    def adapters_config(self, config: ModelAdaptersConfig) -> None: ...

    def base_parameters(self) -> Iterator[nn.Parameter]: ...

    def get_encoder(self) -> nn.Module: ...

    def check_placeable(self, config: AdapterConfig) -> None: ...

    def place_adapter(self, name: str, config: AdapterConfig) -> None: ...

    def adapter_parts(self) -> Mapping[str, AdaptedBaseModel]: ...

    @property
    def own_part(self) -> AdaptedBaseModel | None: ...

    @property
    def text_part(self) -> AdaptedBaseModel | None: ...

    @property
    def repeats_whole(self) -> bool: ...

    def adapted_layers(self) -> Iterator[tuple[int, AdaptedLayer]]: ...

    def encoder_inside(self) -> nn.Module | None: ...

    def layers_of_form(self, *forms: StackForm) -> frozenset[int]: ...

    def adapter_layers(self) -> Iterator[AdapterLayerBase]: ...

    def activate(self, block: AdapterCompositionBlock | None, skip_layers: frozenset[int]) -> None: ...

    def current_call_plan(self) -> CallPlan: ...

    def described_interface(self) -> dict[str, Json] | None: ...

    def check_interface(
        self, path: Path, document: Mapping[str, Json], config: AdapterConfig, strict: bool
    ) -> None: ...


class AdaptedLayer(Protocol):
    """A layer of a base model: the roles that its class states, and the modules that play them."""

    roles: LayerRoles
    adapter_layer_index: int

    def module_at(self, path: str, required: bool = True) -> nn.Module | None: ...

    def get_submodule(self, target: str) -> nn.Module: ...

    def adapted_attentions(self) -> Iterator[tuple[AttentionRoles, nn.Module]]: ...

    def stream_width(self) -> int: ...

    def output_width(self) -> int: ...

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]: ...

    def add_module(self, name: str, module: nn.Module | None) -> None: ...
