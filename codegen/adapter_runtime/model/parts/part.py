"""A part of a model: layers of one model type, what runs in them, and what a call of the part must prepare.

Most models are one part. Those made of several have a part for each model in them (``model/parts/composite.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from torch import nn

from adapter_runtime.call.context import AdapterSetup, ComputedOnce, thread
from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.registry import registered
from adapter_runtime.errors import UnsupportedMethodError, UnsupportedModelError
from adapter_runtime.methods.configs.union import members
from adapter_runtime.methods.spec import Spec, every_method
from adapter_runtime.methods.table import METHODS, check_places, computed_once, place, specs_of
from adapter_runtime.model.layer import LayerAdaptersMixin
from adapter_runtime.model.parts.stacks import layers_in
from adapter_runtime.programs.call_plan import IDLE, CallPlan, plan_call
from adapter_runtime.programs.dynamic import DynamicMixin
from adapter_runtime.programs.layer import AdapterLayerBase
from adapter_runtime.programs.nodes import Node
from adapter_runtime.roles import LayerStack, StackForm


class AdapterPart(DynamicMixin):
    """Base of what has layers with adapters.

    Nothing here costs anything in a forward unless an active adapter needs it: what layers run is decided beforehand.
    """

    layer_stacks: tuple[LayerStack, ...] = ()  # stated by generated classes; worked out where there is an interface
    first_layer: int = 0  # the index of the first of its layers, in the whole model

    call_plan: CallPlan

    def init_part(self, first_layer: int) -> int:
        """Give all layers room for adapters.

        Args:
            first_layer: how many layers the parts before this one have.

        Returns:
            How many they have with this one.

        Raises:
            UnsupportedModelError: a layer is of a class that no mixin was generated for.
        """
        self.first_layer = first_layer
        self.call_plan = IDLE
        self.call_plans: dict[str, CallPlan] = {}  # by the key of an `AdapterSetup`
        for spec in METHODS.values():
            spec.prepare_model(self)
        encoder = self.encoder_inside()
        end = first_layer
        for index, layer in self.iter_layers():
            if not isinstance(layer, LayerAdaptersMixin):
                raise UnsupportedModelError(
                    f"Layer {index} of {type(self).__name__} is a {type(layer).__name__}, which no adapter class was "
                    "generated for."
                )
            in_encoder = encoder is not None and any(module is layer for module in encoder.modules())
            layer.init_adapters(index, "encoder" if in_encoder else "self")
            end = index + 1
        return end

    # Layers

    def encoder_inside(self) -> nn.Module | None:
        """The encoder of an encoder-decoder; None in any other model, and in a half that has the config of the whole: upstream says that
        such a one is its own encoder.
        """
        encoder: nn.Module | None = self.get_encoder() if self.config.is_encoder_decoder else None
        return None if encoder is self.get_submodule("") else encoder

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """All layers, counted over all stacks in the order in which the hidden states run through them."""
        model = self.get_submodule("")  # layers may stand in an attribute whose name is one of ours
        layers = (layer for stack in self.layer_stacks for layer in layers_in(model, stack))
        yield from enumerate(layers, start=self.first_layer)

    def adapted_layers(self) -> Iterator[tuple[int, LayerAdaptersMixin]]:
        """`iter_layers`, in which every layer has the mixin of its class after `init`."""
        for index, layer in self.iter_layers():
            assert isinstance(layer, LayerAdaptersMixin)
            yield index, layer

    def layers_of_form(self, *forms: StackForm) -> frozenset[int]:
        """The indices of the layers in lists of these forms."""
        if not any(stack.form in forms for stack in self.layer_stacks):  # nearly always: no need to count layers
            return frozenset()
        model = self.get_submodule("")
        found = (stack.form for stack in self.layer_stacks for _ in layers_in(model, stack))
        return frozenset(index for index, form in enumerate(found, start=self.first_layer) if form in forms)

    def adapter_layers(self) -> Iterator[AdapterLayerBase]:
        """All modules that hold adapters."""
        for module in self.modules():
            if isinstance(module, AdapterLayerBase):
                yield module

    def _told_their_form(self) -> list[AdapterLayerBase]:
        """`adapter_layers`, where each knows whether the tensors that it is called with have the batch in front."""
        layers, length_first = list(self.adapter_layers()), self.layers_of_form("length first")
        packed = self.layers_of_form("packed")
        for layer in layers:
            if (layer.layer_index in length_first) != layer.is_turned:
                layer.is_length_first = True
            if layer.layer_index in packed:
                layer.is_packed = True
        return layers

    # Adding

    def check_supported(
        self, config: AdapterConfig, applies: Callable[[Spec], bool] = every_method, whole: bool = True
    ) -> None:
        """Raise for methods that this part has no place for, by its plan, and for places that cannot hold an adapter.

        Args:
            config: of an adapter.
            applies: which of its methods are asked for here.
            whole: all that the config says must have a place here, and not only in some part of the model.

        Raises:
            UnsupportedMethodError: it has none.
            InvalidConfigError: no layer would get anything.
        """
        self.check_planned(config, applies)
        lacking = self.own_methods or self.lacks
        for method in _methods_of(config, applies):
            if reason := lacking.get(method, ""):
                raise UnsupportedMethodError(
                    f"A {type(self.get_submodule('')).__name__} does not support {method}: {reason}"
                )
        check_places(self, config, applies, whole)

    def check_planned(self, config: AdapterConfig, applies: Callable[[Spec], bool] = every_method) -> None:
        """Raise for methods that the plan for models of this type does not have. Arguments as of `check_supported`.

        Raises:
            UnsupportedMethodError: it lacks one, or a check of it failed on such a model.
        """
        model_type = registered().type_of(type(self.get_submodule("")), self.config.model_type)
        planned = {} if self.own_methods else registered().methods.get(model_type, {})
        for method in _methods_of(config, applies):
            if reason := planned.get(method, ""):
                raise UnsupportedMethodError(f"Models of type {model_type!r} do not support {method}: {reason}")

    def place_here(self, name: str, config: AdapterConfig, applies: Callable[[Spec], bool] = every_method) -> None:
        """Create the adapter `name` in the layers of this part.

        Args:
            config: of the adapter, which was checked.
            applies: which of its methods are asked for here.
        """
        place(self, name, config, applies)

    # Running

    def activate(self, block: AdapterCompositionBlock | None, skip_layers: frozenset[int]) -> None:
        """Decide, in every layer, what runs from now on."""
        layers = self._told_their_form()
        for layer in layers:
            layer.activate(block, skip_layers)
        self.call_plans = {}
        self.call_plan = self._planned(block, [(layer, layer.program) for layer in layers])

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
            self.call_plans[setup.key] = self._planned(block, layers)
        return self.call_plans[setup.key]

    def _planned(
        self, block: AdapterCompositionBlock | None, layers: Sequence[tuple[AdapterLayerBase, Node | None]]
    ) -> CallPlan:
        return plan_call(block, layers, self._computed_once(block))

    def _computed_once(self, block: AdapterCompositionBlock | None) -> Iterator[ComputedOnce]:
        """What a call computes once for all layers: prefixes, weights that layers share."""
        return computed_once(self, block.names() if block is not None else ())


def _methods_of(config: AdapterConfig, applies: Callable[[Spec], bool]) -> list[str]:
    """The methods that a config is made of, as plans name them."""
    return sorted({spec.planned_as for member in members(config) for spec in specs_of(member) if applies(spec)})
