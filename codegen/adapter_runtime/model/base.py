"""Base of generated mixins of base models: it owns the adapters, knows the layers, and spans a context per forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar

from torch import nn
from typing_extensions import Never

from adapter_runtime.call.arguments import ModelForward
from adapter_runtime.call.checkpoint import CheckpointFunction, ContextualCheckpoint
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.configs.union import members
from adapter_runtime.methods.spec import every_method
from adapter_runtime.methods.table import warn_of_gaps
from adapter_runtime.model.api import ModelAdaptersMixin
from adapter_runtime.model.calls import calls_in_context
from adapter_runtime.model.interface.comparing import check_interface, described
from adapter_runtime.model.interface.declaration import Interface
from adapter_runtime.model.parts.part import AdapterPart


def refuse_parts(config: AdapterConfig, why: str) -> None:
    """Raise an `InvalidConfigError` where a config names parts of a model."""
    named = next((member.parts for member in members(config) if member.parts is not None), None)
    if named is not None:
        raise InvalidConfigError(
            f'parts={named} names parts of a model, but {why}. Leave it out (parts=None; on loading: config={{"parts": None}}).'
        )


class ModelBaseAdaptersMixin(AdapterPart, ModelAdaptersMixin):
    """Base of generated mixins of base models, which state where the layers are."""

    token_embeddings: str = ""
    token_scale: str = ""
    embedding_output: str = ""
    makes_mask: bool = False
    token_entry: str = ""
    final_norm_path: ClassVar[str] = ""
    lacks: ClassVar[Mapping[str, str]] = {}  # methods that models of the type have, but not of this class -> why not
    # Method -> "" or why not, in place of what the model type says: of a tower
    own_methods: ClassVar[Mapping[str, str]] = {}
    # Whether some arguments have other rows than the batch: images, of which rows have several
    repeats_whole: ClassVar[bool] = False
    adapter_interface: Interface | None = None  # by which `init` found the modules; None in generated classes

    _adapters_config: ModelAdaptersConfig

    def init_base_adapters(self) -> None:
        """Give the model its state, and all layers room for adapters.

        Raises:
            UnsupportedModelError: a layer is of a class that no mixin was generated for.
        """
        self.adapters_config = ModelAdaptersConfig()
        self.init_part(0)

    @property
    def adapters_base(self) -> ModelBaseAdaptersMixin:
        """The model itself, or the whole that it is a part of."""
        root: ModelBaseAdaptersMixin = self.__dict__.get("_root", self)
        return root

    @property
    def base_model(self) -> ModelBaseAdaptersMixin:
        """See transformers, which takes an attribute with the name of a base model (DINOv3's ``model``) for one."""
        return self

    @property
    def adapters_config(self) -> ModelAdaptersConfig:
        base = self.adapters_base
        return self._adapters_config if base is self else base.adapters_config

    @adapters_config.setter
    def adapters_config(self, config: ModelAdaptersConfig) -> None:
        self._adapters_config = config

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that are frozen while adapters are trained."""
        yield from self.parameters()

    def check_placeable(self, config: AdapterConfig) -> None:
        """Raise where `place_adapter` would: for methods and places that this model does not have.

        Raises:
            UnsupportedMethodError: it has none.
            InvalidConfigError: no layer would get anything, or the config names parts, and the model is not made of several.
        """
        refuse_parts(config, f"{type(self).__name__} is not made of several models")
        self.check_supported(config)

    def place_adapter(self, name: str, config: AdapterConfig) -> None:
        """Create the adapter `name` in all layers where `config`, which was checked, wants it. One warning says where it cannot.

        Raises:
            UnsupportedMethodError: the model has no place that the method needs.
            InvalidConfigError: no layer would get anything.
        """
        warn_of_gaps(self, name, [(self, member, every_method) for member in members(config)])
        self.place_here(name, config)

    def adapter_parts(self) -> Mapping[str, AdapterPart]:
        """What has layers, by path, in the order in which layers are counted: the model itself, if it is not made of several."""
        return {"": self}

    @property
    def own_part(self) -> AdapterPart | None:
        """What has the layers that belong to no model inside of this one; None where there are none."""
        return self

    @property
    def text_part(self) -> AdapterPart | None:
        """What embeds the tokens that the model reads."""
        return self

    def described_interface(self) -> dict[str, Json] | None:
        """What ``adapter_interface.json`` says of this model; None for generated classes."""
        return described(self.adapter_interface)

    def check_interface(self, path: Path, document: Mapping[str, Json], config: AdapterConfig, strict: bool) -> None:
        """Raise, or without `strict` warn, where an adapter was trained with modules at other places than this model has.

        Args:
            path: of the file ``adapter_interface.json`` beside the adapter.
            document: what it says.

        Raises:
            AdapterMismatchError: it was.
        """
        check_interface(self.adapter_interface, path, document, config, strict)

    @classmethod
    def prepare_subclass(cls, upstream: type[nn.Module]) -> dict[str, ModelForward[Never]]:
        """The forward and the like of the class made of this mixin and `upstream`, with the signature of upstream's."""
        return calls_in_context(upstream, is_base=True)

    def _set_gradient_checkpointing(
        self, *args: bool | CheckpointFunction, **kwargs: bool | CheckpointFunction
    ) -> None:
        """See transformers. The recomputation of a layer sees the context of its forward."""
        super()._set_gradient_checkpointing(*args, **kwargs)
        wrap_checkpoints(self)


def wrap_checkpoints(model: nn.Module) -> None:
    """Wrap the checkpoint functions that upstream gave to the layers."""
    for module in model.modules():
        function = module.__dict__.get("_gradient_checkpointing_func")
        if function is not None:
            module.__dict__["_gradient_checkpointing_func"] = ContextualCheckpoint.wrap(function)
