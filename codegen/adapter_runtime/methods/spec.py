"""What the rest of the library must know of a method: one frozen `MethodSpec`, which ``methods/table.py`` lists.

Nothing outside of a method's folder names its configs or layers: models, files, interfaces and config strings ask the spec.
Where do I add a method?  Its folder with a ``spec.py``, and a line in ``methods/table.py``; from outside of this library, a
`MethodSpec` given to `register_method`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from torch import nn

from adapter_runtime.call.context import ComputedOnce
from adapter_runtime.contract.config import AdapterConfig, left_out_layers
from adapter_runtime.contract.described import Described
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedLayer, AdaptedModel
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.averaging import Averaging
from adapter_runtime.methods.common.peft_format import PeftFormat
from adapter_runtime.methods.placing import Wish
from adapter_runtime.roles import BottleneckRole

C = TypeVar("C", bound=AdapterConfig)


class RefusedFile(NamedTuple, Generic[C]):
    """What `adapters` does of its own with some adapters of some models, so that their files would compute something else."""

    model_types: frozenset[str]
    concerns: Callable[[C], bool]
    deed: str  # "moves ...": the rest of the sentence "`adapters` ... in models of this type"


class NotedFile(NamedTuple, Generic[C]):
    """What `adapters` does wrong with some adapters, which is right here: a model that was trained around it gives other outputs."""

    concerns: Callable[[AdaptedModel, C], bool]
    deed: str  # the rest of the sentence "`adapters` ..."


def every(config: AdapterConfig) -> bool:
    """True for every config."""
    return True


def nothing_to_check(config: AdapterConfig) -> None:
    """Accept every config."""


def nothing_to_prepare(model: AdaptedBaseModel) -> None:
    """Leave a model as it is."""


def no_place_in_layers(layer: AdaptedLayer, index: int, self_location: str) -> None:
    """Leave a layer as it is."""


def not_its_class(module: nn.Module) -> bool | None:
    """No class of modules is generated for the method."""
    return None


def no_roles(layer: AdaptedLayer, described: Described) -> Iterable[BottleneckRole]:
    """No roles: an interface describes no places for the method."""
    return ()


def no_hooks(layer: AdaptedLayer, described: Described) -> None:
    """Leave a layer as it is."""


def every_option(config: AdapterConfig, described: Described) -> None:
    """Accept every config: hooks can honour all options."""


def no_difference(described: Described) -> str | None:
    """None: generated classes would compute the same."""
    return None


def no_wishes(model: AdaptedBaseModel, config: AdapterConfig) -> Collection[Wish]:
    """No wishes: whatever the config asks for, all layers have a place for, or `MethodSpec.place` raises."""
    return ()


def nothing_computed_once(model: AdaptedBaseModel, name: str) -> Iterable[ComputedOnce]:
    """Nothing: no layers share what the method computes."""
    return ()


def leave_out_layers(config: C, layers: frozenset[int], every_layer: Sequence[int]) -> C:
    """`config`, with `layers` added to its option `leave_out`.

    Raises:
        UnsupportedMethodError: the config has no such option.
    """
    if "leave_out" not in config:
        raise UnsupportedMethodError(
            f"leave_out cannot be honoured for a {type(config).__name__}: its parameters are those of the whole model,"
            " not of single layers."
        )
    return config.replace(leave_out=sorted({*left_out_layers(config), *layers}))


def not_of_single_layers(config: C, layers: frozenset[int], every_layer: Sequence[int]) -> C:
    """Refuse to leave out layers: what the method learns belongs to the whole model.

    Raises:
        UnsupportedMethodError: always.
    """
    raise UnsupportedMethodError(
        f"leave_out cannot be honoured for a {type(config).__name__}: its parameters are those of the whole model,"
        " not of single layers."
    )


@dataclass(frozen=True)
class MethodSpec(Generic[C]):
    """A method, or a part of one that a model can lack while it has the rest (invertible adapters).

    Functions get the base model, the name of an adapter and its config, as far as they need them.
    """

    name: str  # unique: as errors and tables call it
    configs: tuple[type[C], ...]  # whose adapters are of this method; subclasses too, unless another spec has them
    # Creates the modules of a new adapter, on any device and in any type. Returns how many places got one: with none, the
    # adapter is refused. May raise UnsupportedMethodError (no such places) and InvalidConfigError; the model is then restored.
    place: Callable[[AdaptedBaseModel, str, C], int]
    # How many places an adapter would get, without touching the model: with none, it is refused. Raises UnsupportedMethodError
    # where one of them cannot hold it. None = as many as the model's plan promises.
    count_places: Callable[[AdaptedBaseModel, C], int] | None = None
    # What a config asks for in layers, one by one: for each that no layer has a place for `add_adapter` raises or warns
    wishes: Callable[[AdaptedBaseModel, C], Collection[Wish]] = no_wishes
    named: Mapping[str, C] = field(default_factory=dict)  # configs that can be written as a string: "lora"
    # The method of a model's plan that says whether there are such places: "bottleneck", "lora", "prefix_tuning", "reft",
    # "prompt_tuning" or "invertible". "" = `name`.
    places: str = ""
    is_asked_for: Callable[[C], bool] = (
        every  # whether a config of these classes wants it; False leaves it to other specs
    )
    check: Callable[[C], None] = (
        nothing_to_check  # raises for options that no model can have, before a model is touched
    )
    # The module dicts that hold its modules by the names of adapters: in keys of files these names follow them.
    containers: frozenset[str] = frozenset()
    prepare_model: Callable[[AdaptedBaseModel], None] = (
        nothing_to_prepare  # `init` calls it: what the base model holds
    )
    # `init` calls it for each layer, with its index and "self" or "encoder": what the layer holds
    prepare_layer: Callable[[AdaptedLayer, int, str], None] = no_place_in_layers
    # Whether a layer has claimed a module of a generated class; None = the class has nothing to do with the method
    is_claimed: Callable[[nn.Module], bool | None] = not_its_class
    remove_empty: Callable[[AdaptedBaseModel], None] = (
        nothing_to_prepare  # takes away what held adapters and holds none now
    )
    computed_once: Callable[[AdaptedBaseModel, str], Iterable[ComputedOnce]] = (
        nothing_computed_once  # per call of a model
    )
    # The config of the same adapter without some layers (`load_adapter(leave_out=...)`), given the indices of all layers
    without_layers: Callable[[C, frozenset[int], Sequence[int]], C] = leave_out_layers
    peft: tuple[PeftFormat[C], ...] = ()  # the formats of PEFT that its adapters can have
    refused_files: tuple[RefusedFile[C], ...] = ()  # files of `adapters` that would compute something else here
    noted_files: tuple[NotedFile[C], ...] = ()  # files of `adapters` whose adapters may act otherwise here
    averages: tuple[Averaging[C], ...] = ()  # strategies of `average_adapter` beside "linear"
    recorded: tuple[str, ...] = ()  # arguments of calls that ask for values which its modules compute
    # Models that an interface describes: the roles that their layers have for the method; the hooks that run it; raises for
    # options that hooks cannot honour; what generated classes would do otherwise with an adapter of such a model
    described_roles: Callable[[AdaptedLayer, Described], Iterable[BottleneckRole]] = no_roles
    hook_layer: Callable[[AdaptedLayer, Described], None] = no_hooks
    check_described: Callable[[C, Described], None] = every_option
    generated_differs: Callable[[Described], str | None] = no_difference
    # Whether it acts on the embeddings of tokens: in a model made of several, in the one that reads the tokens
    acts_on_tokens: bool = False
    acts_on_other_inputs: bool = False  # and in others of its parts, where a config names them
    interface_refusal: str = ""  # why models with an interface cannot have it; "" = they can

    @property
    def planned_as(self) -> str:
        """The method of a model's plan that gives its places."""
        return self.places or self.name


Spec = MethodSpec[Any]  # of some class of configs, which the spec itself says


def every_method(spec: Spec) -> bool:
    """True for every method."""
    return True
