"""Models made of several models: LLaVA of a vision tower and a language model, an encoder-decoder of any two.

The *root* is the whole; its *parts* are the models in it whose classes have adapters of their own, and the root itself where it has
layers beside theirs. A part keeps what belongs to its type: layers, prefixes, what is done at the entry of its forward, and which
methods it supports. What there is once for an adapter lives at the root: its config, what is active, files, what is frozen.

Layers are counted over all parts, in the order in which upstream registers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar, NamedTuple

from torch import nn
from transformers import PreTrainedModel

from adapter_runtime.call.arguments import Argument
from adapter_runtime.call.context import AdapterSetup
from adapter_runtime.composition import AdapterCompositionBlock
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.paths import found
from adapter_runtime.contract.state import ModelAdaptersConfig
from adapter_runtime.errors import AdapterError, InvalidConfigError, UnsupportedMethodError
from adapter_runtime.methods.configs.union import meet, members
from adapter_runtime.methods.invertible.api import InvertibleAdaptersMixin, InvertibleAdaptersWrapperMixin
from adapter_runtime.methods.spec import Spec, every_method
from adapter_runtime.methods.table import check_granted, specs_of, warn_of_gaps
from adapter_runtime.model.base import ModelBaseAdaptersMixin
from adapter_runtime.model.embeddings.api import EmbeddingAdaptersMixin
from adapter_runtime.model.heads.own import OwnHeadAdaptersMixin
from adapter_runtime.model.parts.halves import watch_halves, watch_run
from adapter_runtime.model.parts.naming import named_parts
from adapter_runtime.model.parts.part import AdapterPart
from adapter_runtime.programs.call_plan import IDLE, CallPlan, joined
from adapter_runtime.programs.layer import AdapterLayerBase


class OwnLayers(AdapterPart):
    """The layers of a model that belong to none of the models inside of it, as a part of that model.

    Args:
        model: which holds them. Whatever else is asked of the part is asked of it.
        others: the parts beside this one.
    """

    def __init__(self, model: ModelUsingSubmodelsAdaptersMixin, others: Sequence[nn.Module]) -> None:
        self.model, self.layer_stacks = model, model.layer_stacks
        self.others = tuple(others)

    def __getattr__(self, name: str) -> object:
        if "model" not in self.__dict__:  # a copy, which is asked before it is filled
            raise AttributeError(name)
        return getattr(self.__dict__["model"], name)

    def adapter_layers(self) -> Iterator[AdapterLayerBase]:
        """All modules that hold adapters, but for those of other parts, which may have got some since `init`: prompts act at their entry."""
        foreign = {module for other in self.others for module in other.modules()}
        return (layer for layer in super().adapter_layers() if layer not in foreign)


class _Fitting(NamedTuple):
    """What of an adapter goes into which part."""

    path: str  # of the part
    config: AdapterConfig  # of one method, or of a bottleneck with its invertible adapter
    part: AdapterPart
    applies: Callable[[Spec], bool]  # which of its methods go there


class ModelUsingSubmodelsAdaptersMixin(
    EmbeddingAdaptersMixin, InvertibleAdaptersWrapperMixin, InvertibleAdaptersMixin, ModelBaseAdaptersMixin
):
    """Base of models made of whole models. Its invertible adapters are those of the part that reads the tokens."""

    submodels: ClassVar[tuple[str, ...]] = ()  # paths of the models that are parts; stated by generated classes
    repeats_whole = True
    _parts: dict[str, AdapterPart]
    _own_part: AdapterPart | None = None
    _text_part: AdapterPart | None = None

    def use_parts(self, paths: Sequence[str]) -> None:
        """Take the models at these paths, which `init` has turned, for parts; "" stands for the layers of the root itself.

        A path of a model that is made of several itself stands for its own layers.
        """
        named = {path: self.get_submodule(path) for path in paths}
        parts: dict[str, AdapterPart] = {}
        for path, module in named.items():
            if path:
                module.__dict__["_root"] = self  # beside the tree of modules, in which the root is above its parts
            if isinstance(module, ModelUsingSubmodelsAdaptersMixin):
                inner = [other for other in named.values() if other is not module and other in set(module.modules())]
                module._own_part = parts[path] = OwnLayers(module, inner)
            else:
                parts[path] = module
                watch_halves(module)
        self._take(parts)
        if self.text_part is not None:
            watch_run(self.text_part)
        for path, module in self.named_modules():
            if isinstance(module, ModelUsingSubmodelsAdaptersMixin) and module is not self and path not in named:
                module.__dict__["_root"] = self
                before = f"{path}."
                module._take({key.removeprefix(before): part for key, part in parts.items() if key.startswith(before)})

    def _take(self, parts: dict[str, AdapterPart]) -> None:
        self._parts = parts
        self.__dict__["_text_part"] = self._part_of_tokens()  # each call asks for it

    def init_base_adapters(self) -> None:
        """See `ModelBaseAdaptersMixin`."""
        self.adapters_config = ModelAdaptersConfig()
        self.call_plan, self.call_plans = IDLE, {}
        count = 0
        for part in self.adapter_parts().values():
            count = part.init_part(count)

    def adapter_parts(self) -> dict[str, AdapterPart]:
        """The parts by their paths, in the order in which layers are counted; "" = the layers of the root itself."""
        return self._parts

    @property
    def own_part(self) -> AdapterPart | None:
        """See `ModelBaseAdaptersMixin`."""
        return self._own_part

    @property
    def text_part(self) -> AdapterPart | None:
        """The part that embeds the tokens which the root reads. Where no part embeds any: the root's own layers, or None."""
        return self._text_part

    def get_input_embeddings(self) -> nn.Module:
        """See transformers, which asks what a model has under the name of its base model, and takes our `base_model` for that (DPR).

        Raises:
            NotImplementedError: upstream does not know which embeddings.
        """
        try:
            found: nn.Module = super().get_input_embeddings()
        except NotImplementedError:
            if (inside := self._model_inside()) is None:
                raise
            found = inside.get_input_embeddings()
        return found

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`.

        Raises:
            NotImplementedError: upstream does not know which embeddings.
        """
        try:
            super().set_input_embeddings(value)
        except NotImplementedError:
            if (inside := self._model_inside()) is None:
                raise
            inside.set_input_embeddings(value)

    def _model_inside(self) -> PreTrainedModel | None:
        """What upstream takes for the base model of this one."""
        inside = getattr(self, self.base_model_prefix, None)
        return inside if isinstance(inside, PreTrainedModel) and inside is not self else None

    def _part_of_tokens(self) -> AdapterPart | None:
        parts = [part for part in self.adapter_parts().values() if part.token_embeddings]
        try:
            table = self.get_input_embeddings()
        except (NotImplementedError, AttributeError):  # several towers: upstream does not say which table
            table = None
        # A class that is an encoder of tokens elsewhere may be built without a table (SeamlessM4T's of units).
        holding = (part for part in parts if table is not None and found(part, part.token_embeddings) is table)
        return next(holding, parts[0] if parts else self.own_part)

    def iter_layers(self) -> Iterator[tuple[int, nn.Module]]:
        """All layers, counted over all parts in the order in which upstream registers these."""
        for part in self.adapter_parts().values():
            yield from part.iter_layers()

    # Adding

    def check_placeable(self, config: AdapterConfig) -> None:
        """See `ModelBaseAdaptersMixin`: where no part has a place for a method.

        Raises:
            UnsupportedMethodError: none has, or one that the config names has not.
            InvalidConfigError: no layer would get anything, or the config names what is no part.
        """
        self._fitting(config)

    def place_adapter(self, name: str, config: AdapterConfig) -> None:
        """Create the adapter `name` in all parts that support it. One warning names the others, and layers that get less."""
        refusals: dict[str, AdapterError] = {}
        found = self._fitting(config, refusals)
        reasons = " ".join(f"{path or type(self).__name__}: {reason}" for path, reason in refusals.items())
        warn_of_gaps(self, name, [(fitting.part, fitting.config, fitting.applies) for fitting in found], reasons)
        for fitting in found:
            fitting.part.place_here(name, fitting.config, fitting.applies)

    def _fitting(self, config: AdapterConfig, refusals: dict[str, AdapterError] | None = None) -> list[_Fitting]:
        """What of an adapter goes into which part.

        Args:
            refusals: takes the reasons of parts that a method does not fit into, while it does into others.

        Raises:
            AdapterError: a method fits into no part, or not into one that the config names, or not into the one that reads the tokens,
                on whose embeddings it acts.
            InvalidConfigError: a name means no part, or members of a union would take the same places.
        """
        # What failed on the whole is refused there, whatever each part is planned for.
        self.check_planned(config)
        fitting: list[_Fitting] = []
        for member in members(config):
            refused: dict[str, AdapterError] = {}
            found = list(self._fitting_member(member, refused))
            if not found:
                raise next(iter(refused.values()), _no_part(self, member))
            check_granted(self, member, [(one.part, one.applies) for one in found])
            if refusals is not None:
                refusals.update(refused)
            _check_apart(fitting, found)
            fitting += found
        return fitting

    def _fitting_member(self, config: AdapterConfig, refused: dict[str, AdapterError]) -> Iterator[_Fitting]:
        """What of a config, which is no union, goes into which part.

        Raises:
            AdapterError: a part that the config names, or the one that reads the tokens, does not support it.
            InvalidConfigError: it names what is no part.
        """
        text = self.text_part
        for path, part in self._asked(config).items():
            applies = every_method if part is text else _in_any_part if config.parts is None else _in_named_part
            asked = [spec for spec in specs_of(config) if applies(spec)]
            if not asked:
                continue
            try:
                part.check_supported(config, applies, whole=False)
            except AdapterError as error:
                if config.parts is not None or any(spec.acts_on_tokens for spec in asked):
                    raise
                refused[path] = error
            else:
                yield _Fitting(path, config, part, applies)

    def _asked(self, config: AdapterConfig) -> dict[str, AdapterPart]:
        """The parts that a config, which is no union, is for.

        Raises:
            InvalidConfigError: it names what is no part.
            UnsupportedMethodError: a method of it acts in the part that reads the tokens only, which the config does not name.
        """
        parts = self.adapter_parts()
        if config.parts is None:
            return parts
        named, text = named_parts(parts, config.parts, type(self).__name__), self.text_part
        if not any(part is text for part in named.values()):
            for spec in specs_of(config):
                if not _in_named_part(spec):
                    where = next((path for path, part in parts.items() if part is text), None)
                    raise UnsupportedMethodError(
                        f"parts={config.parts} leaves out {where!r}, the part of {type(self).__name__} that reads tokens, but"
                        f" {spec.name} of {type(config).__name__} acts there only. Name it too, or leave {spec.name} out."
                    )
        return named

    # Running

    def activate(self, block: AdapterCompositionBlock | None, skip_layers: frozenset[int]) -> None:
        """Decide, in every layer, what runs from now on."""
        self.call_plans = {}
        for part in self.adapter_parts().values():
            part.activate(block, skip_layers)
        for layer in self._layers_beside():
            layer.activate(block, skip_layers)
        self.call_plan = self._joined(lambda part: part.call_plan)

    def call_plan_under(self, setup: AdapterSetup) -> CallPlan:
        """See `AdapterPart`."""
        if setup.key not in self.call_plans:
            for layer in self._layers_beside():
                layer.program_under(setup)  # raises for what cannot run there
            self.call_plans[setup.key] = self._joined(lambda part: part.call_plan_under(setup))
        return self.call_plans[setup.key]

    def _layers_beside(self) -> list[AdapterLayerBase]:
        """What holds adapters beside all parts: modules that are trained along."""
        inside = {layer for part in self.adapter_parts().values() for layer in part.adapter_layers()}
        return [layer for layer in self.adapter_layers() if layer not in inside]

    def _joined(self, plan_of: Callable[[AdapterPart], CallPlan]) -> CallPlan:
        text = self.text_part
        plans = [plan_of(part) for part in self.adapter_parts().values()]
        return joined(plans, IDLE if text is None else plan_of(text))

    # Invertible adapters

    def has_running_invertible(self, projection: nn.Module | None = None) -> bool:
        """See `InvertibleAdaptersMixin`."""
        part = self.text_part
        can_invert = part is not None and isinstance(part.get_submodule(""), InvertibleAdaptersMixin)
        return can_invert and self._inverting_base.has_running_invertible(projection)

    def is_running_behind(self, given: Argument) -> bool:
        """See `InvertibleAdaptersMixin`."""
        return self.has_running_invertible() and self._inverting_base.is_running_behind(given)

    @property
    def _inverting_base(self) -> InvertibleAdaptersMixin:
        """The part that can have invertible adapters, or what answers for the root's own layers.

        Raises:
            UnsupportedMethodError: no part can.
        """
        part = self.text_part
        if isinstance(part, OwnLayers):  # not what asks the parts of that model
            own: InvertibleAdaptersMixin = super(InvertibleAdaptersWrapperMixin, part.model)  # type: ignore[assignment]
            return own
        if not isinstance(part, InvertibleAdaptersMixin):
            raise UnsupportedMethodError(f"No part of {type(self).__name__} can have invertible adapters.")
        return part


class CompositeWithHeadMixin(OwnHeadAdaptersMixin, ModelUsingSubmodelsAdaptersMixin):
    """What `init` adds to models made of whole models that end in a head, and for which no class was generated: EncoderDecoderModel.

    Where such a model generates, whatever stands between and behind its parts is frozen with them: projections, the heads of its
    parts. In other models, what stands beside the parts is a head.
    """

    def use_parts(self, paths: Sequence[str]) -> None:
        """See `ModelUsingSubmodelsAdaptersMixin`."""
        super().use_parts(paths)
        around = {path.partition(".")[0] for path in (*paths, *self.models_beside)}
        beside = () if self.can_generate() else (name for name, _ in self.named_children() if name not in around)
        self.__dict__["head_modules"] = tuple(beside)


def _in_any_part(spec: Spec) -> bool:
    return not spec.acts_on_tokens


def _in_named_part(spec: Spec) -> bool:
    return not spec.acts_on_tokens or spec.acts_on_other_inputs


def _check_apart(fitting: Sequence[_Fitting], more: Sequence[_Fitting]) -> None:
    """Raise where a further member of a union would take the places of another one, as the names of its parts mean the same.

    Raises:
        InvalidConfigError: it would.
    """
    for one in fitting:
        for two in more:
            if one.part is two.part and meet(one.config, two.config):
                raise InvalidConfigError(
                    f"A union cannot hold both {one.config} and {two.config}: parts={one.config.parts} and"
                    f" parts={two.config.parts} have {one.path!r} in common, where they would take the same places."
                )


def _no_part(model: ModelUsingSubmodelsAdaptersMixin, config: AdapterConfig) -> UnsupportedMethodError:
    return UnsupportedMethodError(
        f"No part of {type(model).__name__} reads tokens, on whose embeddings a {type(config).__name__} acts."
    )
