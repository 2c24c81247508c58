"""Base of generated mixins of base models: it owns the adapters, knows the layers, and spans a context per forward."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from torch import nn
from typing_extensions import Never

from adapter_runtime.call.arguments import ModelForward
from adapter_runtime.call.checkpoint import CheckpointFunction, ContextualCheckpoint
from adapter_runtime.call.context import AdapterSetup, ComputedOnce, thread
from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.registry import registered
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import UnsupportedMethodError, UnsupportedModelError
from adapter_runtime.methods.table import METHODS, check_places, computed_once, methods_of
from adapter_runtime.model.api import ModelAdaptersMixin
from adapter_runtime.model.calls import with_call_context
from adapter_runtime.model.interface.comparing import check_interface, described
from adapter_runtime.model.interface.declaration import Interface
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.programs.call_plan import IDLE, CallPlan, plan_call
from adapter_runtime.programs.layer import AdapterLayerBase
from adapter_runtime.roles import LayerStack, StackForm


class ModelBaseAdaptersMixin(ModelAdaptersMixin):
    """Base of generated mixins of base models, which state where the layers are.

    Nothing here costs anything in a forward unless an active adapter needs it: what layers run is decided beforehand.
    """

    layer_stacks: tuple[LayerStack, ...] = ()  # stated by generated classes; worked out where there is an interface
    token_embeddings: str = ""
    token_scale: str = ""
    embedding_output: str = ""
    final_norm_path: ClassVar[str] = ""
    lacks: ClassVar[Mapping[str, str]] = {}  # methods that models of the type have, but not of this class -> why not
    own_methods: ClassVar[Mapping[str, str]] = (
        {}
    )  # method -> "" or why not, in place of what the type says: of a tower
    adapter_interface: Interface | None = None  # by which `init` found the modules; None in generated classes

    _adapters_config: ModelAdaptersConfig
    call_plan: CallPlan

    def init_base_adapters(self) -> None:
        """Give all layers room for adapters.

        Raises:
            UnsupportedModelError: a layer is of a class that no mixin was generated for.
        """
        self.adapters_config = ModelAdaptersConfig()
        self.call_plan = IDLE
        self.call_plans: dict[str, CallPlan] = {}  # by the key of an `AdapterSetup`
        for spec in METHODS.values():
            spec.prepare_model(self)
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

    @property
    def base_model(self) -> ModelBaseAdaptersMixin:
        """See transformers, which takes an attribute with the name of a base model (DINOv3's ``model``) for one."""
        return self

    @property
    def adapters_config(self) -> ModelAdaptersConfig:
        return self._adapters_config

    @adapters_config.setter
    def adapters_config(self, config: ModelAdaptersConfig) -> None:
        self._adapters_config = config

    def base_parameters(self) -> Iterator[nn.Parameter]:
        """The parameters that are frozen while adapters are trained."""
        yield from self.parameters()

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """All layers, counted over all stacks in the order in which the hidden states run through them."""
        layers = (layer for stack in self.layer_stacks for layer in _elements(self, stack.path.split(".*.")))
        yield from enumerate(layers)

    def adapted_layers(self) -> Iterator[tuple[int, LayerAdaptersMixin]]:
        """`iter_layers`, in which every layer has the mixin of its class after `init`."""
        for index, layer in self.iter_layers():
            assert isinstance(layer, LayerAdaptersMixin)
            yield index, layer

    def layers_of_form(self, *forms: StackForm) -> frozenset[int]:
        """The indices of the layers in lists of these forms."""
        if not any(stack.form in forms for stack in self.layer_stacks):  # nearly always: no need to count layers
            return frozenset()
        found = (stack.form for stack in self.layer_stacks for _ in _elements(self, stack.path.split(".*.")))
        return frozenset(index for index, form in enumerate(found) if form in forms)

    def adapter_layers(self) -> Iterator[AdapterLayerBase]:
        """All modules that hold adapters."""
        for module in self.modules():
            if isinstance(module, AdapterLayerBase):
                yield module

    def _told_their_form(self) -> list[AdapterLayerBase]:
        """`adapter_layers`, where each knows whether the tensors that it is called with have the batch in front."""
        layers, length_first = list(self.adapter_layers()), self.layers_of_form("length first")
        for layer in layers:
            if (layer.layer_index in length_first) != layer.is_turned:
                layer.is_length_first = True
        return layers

    def check_placeable(self, config: AdapterConfig) -> None:
        """Raise for methods that this model has no place for, by its plan, and for places that cannot hold an adapter.

        Raises:
            UnsupportedMethodError: it has none.
            InvalidConfigError: no layer would get anything.
        """
        model_type = registered().type_of(type(self), self.config.model_type)
        planned = {} if self.own_methods else registered().methods.get(model_type, {})
        lacking = self.own_methods or self.lacks
        for method in sorted(methods_of(config)):
            if reason := planned.get(method, ""):
                raise UnsupportedMethodError(f"Models of type {model_type!r} do not support {method}: {reason}")
            if reason := lacking.get(method, ""):
                raise UnsupportedMethodError(f"A {type(self).__name__} does not support {method}: {reason}")
        check_places(self, config)

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

    # Running

    def activate(self, block: AdapterCompositionBlock | None, skip_layers: frozenset[int]) -> None:
        """Decide, in every layer, what runs from now on."""
        layers = self._told_their_form()
        for layer in layers:
            layer.activate(block, skip_layers)
        self.call_plans = {}
        self.call_plan = plan_call(block, [(layer, layer.program) for layer in layers], self._computed_once(block))

    def current_call_plan(self) -> CallPlan:
        """What a call of this thread must prepare now."""
        return self.call_plan if thread.setup is None else self.call_plan_under(thread.setup)

    def call_plan_under(self, setup: AdapterSetup) -> CallPlan:
        """What a call within the context of `setup` must prepare.

        Raises:
            UnknownAdapterError: the setup names an adapter that the model does not have.
        """
        if setup.key not in self.call_plans:
            block = setup.adapter_setup
            if block is not None:
                self.adapters_config.require_block(block)
            layers = [(layer, layer.program_under(setup)) for layer in self._told_their_form()]
            self.call_plans[setup.key] = plan_call(block, layers, self._computed_once(block))
        return self.call_plans[setup.key]

    def _computed_once(self, block: AdapterCompositionBlock | None) -> Iterator[ComputedOnce]:
        """What a call computes once for all layers: prefixes, weights that layers share."""
        return computed_once(self, block.names() if block is not None else ())

    @classmethod
    def prepare_subclass(cls, upstream: type[nn.Module]) -> dict[str, ModelForward[Never]]:
        """The forward of the class made of this mixin and `upstream`, with the signature of upstream's."""
        return {"forward": with_call_context(upstream.forward, is_base=True)}

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


def _elements(module: nn.Module, lists: Sequence[str]) -> Iterator[nn.Module]:
    """The elements of a list of modules, or of the lists that stand in its elements, as `LayerStack.path` says.

    None where upstream's config leaves the list, or what holds it, out. A list of lists (Funnel's blocks) holds their layers.
    """
    for element in _present(module, lists[0]):
        if len(lists) == 1:
            yield from element.children() if isinstance(element, nn.ModuleList) else (element,)
        else:
            yield from _elements(element, lists[1:])


def _present(module: nn.Module, path: str) -> Iterator[nn.Module]:
    """The elements of the list at `path`; none where upstream set a part of the path to None.

    Raises:
        UnsupportedModelError: there is nothing at the path.
    """
    found = module
    for name in path.split("."):
        child: object = getattr(found, name, "")  # None is what upstream sets; "" = it sets nothing
        if child is None:
            return
        if not isinstance(child, nn.Module):
            raise UnsupportedModelError(
                f"{type(module).__name__} has no layers at {path!r}, where its adapter classes say."
            )
        found = child
    yield from found.children()
