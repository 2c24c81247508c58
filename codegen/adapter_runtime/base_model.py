"""Base of generated mixins of base models: it owns the adapters, knows the layers, and spans a context per forward."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar, cast

from torch import nn

from adapter_runtime.adapters_config import ModelAdaptersConfig
from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.context import ContextualCheckpoint, ForwardContext, thread
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.layers.base import AdapterLayerBase
from adapter_runtime.layers.layer import LayerAdaptersMixin
from adapter_runtime.methods.prefix_tuning import PrefixTuning, PrefixTuningPool
from adapter_runtime.model_api import ModelAdaptersMixin
from adapter_runtime.roles import LayerStack


class ModelBaseAdaptersMixin(ModelAdaptersMixin):
    """Base of generated mixins of base models, which state where the layers are.

    Nothing here costs anything in a forward unless a prefix is active: what layers run is decided beforehand.
    """

    layer_stacks: ClassVar[tuple[LayerStack, ...]] = ()
    token_embeddings: ClassVar[str] = ""
    embedding_output: ClassVar[str] = ""
    final_norm: ClassVar[str] = ""

    prefix_tuning: PrefixTuningPool
    running_prefixes: tuple[PrefixTuning, ...]

    def init_base_adapters(self) -> None:
        """Give all layers room for adapters.

        Raises:
            UnsupportedModelError: a layer is of a class that no mixin was generated for.
        """
        self.adapters_config = ModelAdaptersConfig()
        self.running_prefixes = ()
        self.prefix_tuning = PrefixTuningPool()
        encoder = self._encoder()
        for index, layer in self.iter_layers():
            if not isinstance(layer, LayerAdaptersMixin):
                raise UnsupportedModelError(
                    f"Layer {index} of {type(self).__name__} is a {type(layer).__name__}, which no adapter class was "
                    "generated for."
                )
            in_encoder = encoder is not None and any(module is layer for module in encoder.modules())
            layer.init_adapters(index, "encoder" if in_encoder else "self")

    def _encoder(self) -> nn.Module | None:
        """The encoder of an encoder-decoder model; None in all others."""
        return self.get_encoder() if self.config.is_encoder_decoder else None

    @property
    def adapters_base(self) -> ModelBaseAdaptersMixin:
        return self

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """All layers, counted over all stacks in the order in which the hidden states run through them."""
        layers = (layer for stack in self.layer_stacks for layer in _elements(self, stack.path.split(".*.")))
        yield from enumerate(layers)

    def adapted_layers(self) -> Iterator[tuple[int, LayerAdaptersMixin]]:
        """`iter_layers` with the type that they have after `init`."""
        for index, layer in self.iter_layers():
            assert isinstance(layer, LayerAdaptersMixin)
            yield index, layer

    def adapter_layers(self) -> Iterator[AdapterLayerBase]:
        """All modules that hold adapters."""
        for module in self.modules():
            if isinstance(module, AdapterLayerBase):
                yield module

    # Running

    def activate(self, block: AdapterCompositionBlock | None, skip_layers: frozenset[int]) -> None:
        """Decide, in every layer, what runs from now on."""
        for layer in list(self.adapter_layers()):
            layer.activate(block, skip_layers)
        self.running_prefixes = tuple(self._prefixes_of(block))

    def _prefixes_of(self, block: AdapterCompositionBlock | None) -> Iterator[PrefixTuning]:
        held = self.prefix_tuning.prefix_tunings
        for name in block.names() if block is not None else ():
            if name in held:
                group = held[name]
                assert isinstance(group, nn.ModuleDict)
                yield from cast("Iterator[PrefixTuning]", group.values())

    @classmethod
    def prepare_subclass(cls, upstream: type) -> dict[str, Any]:
        """The forward of the class made of this mixin and `upstream`, with the signature of upstream's."""
        return {"forward": _in_context(upstream.forward)}  # type: ignore[attr-defined]

    def _set_gradient_checkpointing(self, *args: Any, **kwargs: Any) -> None:
        """Let the recomputation of a layer see the context of its forward."""
        super()._set_gradient_checkpointing(*args, **kwargs)
        wrap_checkpoints(self)


def _in_context(forward: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(forward)
    def forward_in_context(self: ModelBaseAdaptersMixin, *args: Any, **kwargs: Any) -> Any:
        setup = thread.setup
        if setup is None:
            running = self.running_prefixes
        else:
            running = tuple(self._prefixes_of(setup.adapter_setup))
        if not running:
            return forward(self, *args, **kwargs)
        outer = thread.context
        thread.context = context = ForwardContext(self, _shared_states(self, outer))
        try:
            # Here, and not in the first layer: a checkpointed layer would compute them without gradients.
            for tuning in running:
                context.states_of(tuning)
            return forward(self, *args, **kwargs)
        finally:
            thread.context = outer

    return forward_in_context


def _shared_states(model: ModelBaseAdaptersMixin, outer: ForwardContext | None) -> dict[str, Any] | None:
    """The prefix states of an enclosing `generate` of the same model."""
    return outer.prefix_states if outer is not None and outer.owner is model else None


def wrap_checkpoints(model: Any) -> None:
    """Wrap the checkpoint functions that upstream gave to the layers."""
    for module in model.modules():
        function = module.__dict__.get("_gradient_checkpointing_func")
        if function is not None:
            module._gradient_checkpointing_func = ContextualCheckpoint.wrap(function)


def _elements(module: nn.Module, lists: Sequence[str]) -> Iterator[nn.Module]:
    """The elements of a list of modules, or of the lists that stand in its elements, as `LayerStack.path` says."""
    for element in module.get_submodule(lists[0]).children():
        if len(lists) == 1:
            yield element
        else:
            yield from _elements(element, lists[1:])
