"""The modules between a base model's output and a head's logits, by following the logits back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import (
    assignment,
    dotted_name,
    literal_string,
    self_attribute,
    statements,
)
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import Op, Value, alternatives, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import first_argument
from adapter_codegen.plan.heads.logits.conditions import condition, is_given, made_by, missing, needs_labels
from adapter_codegen.plan.heads.logits.factors import Factors, Terms, before_methods
from adapter_codegen.plan.heads.logits.filled import fills_in
from adapter_codegen.plan.heads.logits.holding import is_built_as_usual
from adapter_codegen.plan.heads.logits.losses import compares_in_place, skips_padding
from adapter_codegen.plan.heads.logits.positions import Averages, counted_frames, position, rule
from adapter_codegen.plan.heads.logits.rates import NOTHING, Rates, dropout_rates
from adapter_codegen.plan.heads.logits.subconfigs import as_of_whole
from adapter_codegen.plan.parts.models import is_model
from adapter_codegen.plan.stream.entrance.way import earlier

_RESULTS = ("logits", "start_logits", "prediction_logits")
_LOSS = "loss_function"
_FROM_CONFIG = "._from_config"  # how a class of the file is made from the config of a part
# Functions of upstream that pick positions out of their first argument.
_SELECTIONS = frozenset({"slice_logits_to_keep"})
_CASTS = frozenset({"to", "type_as"})
_RESHAPES = frozenset({"contiguous", "float", "reshape", "squeeze", "to", "view"})
_KEEPING = _RESHAPES | {"flatten", "split", "type_as", "unsqueeze"}  # methods that leave numbers as they are
_ACTIVATIONS = {"tanh": "tanh", "Tanh": "tanh", "relu": "relu", "ReLU": "relu", "gelu": "gelu", "GELU": "gelu"}


class Step(str, Enum):
    LINEAR = "linear"
    ACTIVATION = "activation"
    NORM = "norm"
    DROPOUT = "dropout"
    SCALE = "scale"  # times numbers of the config
    CAP = "cap"  # bent to a limit of the config
    OFFSET = "offset"  # plus a parameter of the head
    BUFFER = "buffer"  # plus a buffer of the head
    MEAN = "mean"  # of positions; no link of a whole chain, which says so by the positions that it reads


_MADE = {"Parameter": Step.OFFSET, "Buffer": Step.BUFFER, "register_buffer": Step.BUFFER}


@dataclass(frozen=True)
class Link:
    step: Step
    path: str = ""  # of the module, from the head class; "" for a function
    submodule: Submodule | None = None
    activation: str | cst.BaseExpression = ""  # name, or the expression that chooses it: ``config.hidden_act``
    terms: Terms = ()  # of a scale
    key: str = ""  # field of the config: the limit of a cap; the flag that a scale needs, "" = it is always there
    rates: Rates = ()  # of a dropout


@dataclass(frozen=True)
class Chain:
    links: tuple[Link, ...]  # from the base model's output to the logits
    base_attribute: str  # that holds the base model; "" where the head class holds its parts instead
    pooled: bool  # it starts from the pooler's output, not from the hidden states
    reads: str = ""  # which position of each sequence: see `positions`; "" = all
    requires: tuple[tuple[str, object], ...] = ()  # fields of the config, with the value for which this is the way
    part: str = ""  # where the class holds the model that it starts from, if that is another one than the base model
    frames: str = ""  # the method that counts the frames of so many samples; "" = the head asks for none
    is_compared_whole: bool = (
        True  # there is a loss, and it compares all logits with the labels and not a part of them
    )
    compares_in_place: bool = False  # with the label of the same position, not with the next one
    skips_padding: bool = False  # the loss leaves out what the attention mask does


class _Unclear(Exception):
    """The logits come from something that no flexible head does."""


def head_chain(facts: ModuleFacts, head: str, base: str, prefix: str, last: str = "") -> Chain | None:
    """How a head class computes its logits; None where that is not a chain of simple modules.

    Args:
        facts: of the module that defines the forward of the head class.
        head: the head class.
        base: the base model class.
        prefix: attribute that ``getattr(self, self.base_model_prefix)`` stands for.
        last: path of the module whose output is followed back instead of the logits; "" = these.
    """
    try:
        flow = trace(_without_models(facts, head), head)
    except TooLarge:
        return None
    if flow is None or flow.returned is None:
        return None
    logits = _output(flow.values, last) if last else _logits(flow.returned)
    try:
        chain = _Walk(facts, head, base, prefix, flow.values).back(logits) if logits is not None else None
    except _Unclear:
        return None
    if chain is None or logits is None or fills_in(flow.values, chain.base_attribute):
        return None
    skips = skips_padding(flow.values)
    if skips is None:
        return None
    compared = [value for value in flow.values if _is_loss(value)]
    takes_labels = "labels" in facts.classes[head].functions["forward"].parameters
    is_whole = takes_labels and all(
        any(_unshaped(one) is _unshaped(logits) for one in _arguments(loss)) for loss in compared
    )
    return replace(
        chain,
        frames=counted_frames(flow.values),
        is_compared_whole=is_whole,
        compares_in_place=compares_in_place(flow.values),
        skips_padding=skips,
    )


def _is_loss(value: Value) -> bool:
    """``self.loss_function(...)``, upstream's way to the loss of a task."""
    return value.op in {Op.METHOD, Op.HELPER} and value.name == _LOSS


def _arguments(call: Value) -> tuple[Value, ...]:
    return (*call.inputs, *(value for _, value in call.keywords))


def _without_models(facts: ModuleFacts, head: str) -> ModuleFacts:
    """`facts`, reduced so that only the forwards of the head and its small parts can be entered."""
    classes = {
        name: replace(known, functions={}) if name != head and is_model(facts, name) else known
        for name, known in facts.classes.items()
    }
    return replace(facts, classes=classes)


def _output(values: Iterable[Value], path: str) -> Value | None:
    """What a module gives that runs once."""
    found = [value for value in values if value.op is Op.SUBMODULE and value.path == path]
    return found[0] if len(found) == 1 else None


def _logits(returned: Value) -> Value | None:
    for output in alternatives(returned):
        found = [
            value for name in _RESULTS if output.op is Op.FUNCTION and (value := output.keyword(name)) is not None
        ]
        if found:
            return found[0]
    return None


@dataclass(frozen=True)
class _Way:
    """What was met on the way back from the logits."""

    links: tuple[Link, ...] = ()  # the last one first
    positions: tuple[str, ...] = ()
    selected: str = ""  # the element that the last step took
    requires: tuple[tuple[str, object], ...] = ()

    def over(self, link: Link | None, position: str = "", selected: str = "") -> _Way:
        links = self.links if link is None else (*self.links, link)
        return _Way(links, (*self.positions, position), selected, self.requires)


class _Walk:
    def __init__(self, facts: ModuleFacts, head: str, base: str, prefix: str, values: Sequence[Value]) -> None:
        self.facts = facts
        self.head = facts.classes[head]
        self.base = base
        self.prefix = prefix
        self.kinds = Kinds(facts)
        self.factors = Factors(facts, self.head)
        self.averages = Averages(values)

    def back(self, value: Value, way: _Way | None = None) -> Chain:
        """Follow `value` to the base model. Raises `_Unclear` at anything but a simple step."""
        way = way or _Way()
        while True:
            value = same_tensor(value)
            attribute = self._base_attribute(value)
            if attribute is not None:
                return self._ended(attribute, way, "" if attribute else value.path)
            step = self._arithmetic(value)
            if step is not None:
                way, value = way.over(step[0]), step[1]
                continue
            mean = self.averages.mean(value)
            if mean is not None:
                way, value = way.over(Link(Step.MEAN), mean.rule), mean.tensor
                continue
            if value.op is Op.JOIN:
                step = self._conditional(value)
                if step is None:
                    return self._chosen(value, way)
                way, value = way.over(step[0], selected=way.selected), step[1]
                continue
            module = self._link(value)
            selected = value.index or (value.name if value.op is Op.ATTRIBUTE else "")
            way, value = way.over(module, position(value), selected), self._before(value, module)

    def _ended(self, attribute: str, way: _Way, part: str) -> Chain:
        """The chain that starts at the outputs of the base model, or of a part."""
        if way.selected not in {"0", "1", "last_hidden_state", "pooler_output"}:
            raise _Unclear
        pooled = way.selected in {"1", "pooler_output"}
        if pooled and not is_built_as_usual(self.facts, self.base, self._submodule(attribute)):
            raise _Unclear
        links = tuple(reversed(way.links))
        return Chain(_without_means(links), attribute, pooled, rule(way.positions), way.requires, part)

    def _before(self, value: Value, link: Link | None) -> Value:
        if link is not None:
            before = value.inputs[1:2] if value.op is Op.CALL else tuple(filter(None, (first_argument(value),)))
        elif value.op is Op.FUNCTION:
            before = value.inputs[:1]
        elif value.op is Op.BINARY:
            raise _Unclear
        else:
            before = tuple(earlier(value))
        distinct = {id(shaped): shaped for value in before for shaped in _reshaped(value)}
        if len(distinct) == 1:
            return next(iter(distinct.values()))
        joined = [value for value in map(same_tensor, before) if value.op is Op.JOIN]
        if len(before) != 1 or not joined:
            raise _Unclear
        return joined[0]

    def _arithmetic(self, value: Value) -> tuple[Link, Value] | None:
        """A step that is written as arithmetic, and the tensor before it."""
        capped = self.factors.capped(value)
        if capped is not None:
            return Link(Step.CAP, key=capped.key), capped.tensor
        scaled = self.factors.scaled(value)
        if scaled is not None:
            return Link(Step.SCALE, terms=scaled.terms), scaled.tensor
        if not value.is_sum:
            return None
        added = [
            (self._added(operand), other) for operand, other in zip(value.inputs, reversed(value.inputs), strict=True)
        ]
        found = [(link, other) for link, other in added if link is not None]
        return found[0] if len(found) == 1 else None

    def _conditional(self, join: Value) -> tuple[Link, Value] | None:
        """A limit or a scale that is there where the config says so, and the tensor before it."""
        test = condition(join)
        if test is None or len(join.inputs) != 2:
            return None
        changed, plain = join.inputs
        step = self._arithmetic(same_tensor(changed))
        if step is None or _unshaped(step[1]) is not _unshaped(plain):
            return None
        link, before = step
        if link.step is Step.CAP and is_given(test):
            return link, before
        flag = self.factors.key_of_code(test)
        return (replace(link, key=flag), before) if link.step is Step.SCALE and flag else None

    def _chosen(self, join: Value, way: _Way) -> Chain:
        """Go on in one branch: where labels decide, in that without them; where the config does, in the first that is clear."""
        test = condition(join)
        distinct = {id(shaped): shaped for shaped in _reshaped(join)}
        if len(distinct) == 1:
            return self.back(next(iter(distinct.values())), way)
        if test is None or len(join.inputs) != 2:
            raise _Unclear
        first, second = join.inputs
        if needs_labels(test) and _is_selection(first, _unshaped(second)):
            return self.back(second, way)
        asked = missing(test)
        if asked in self.head.functions["forward"].parameters and _is_of_caller(second, asked):
            return self.back(first, way)  # what a flexible model gives its base model, if a call has it
        wanted = self._required(test)
        if wanted is None:
            raise _Unclear
        try:
            return self.back(first, replace(way, requires=(*way.requires, wanted)))
        except _Unclear:
            if wanted[1] is not True:
                raise
        return self.back(second, replace(way, requires=(*way.requires, (wanted[0], False))))

    def _required(self, test: cst.BaseExpression) -> tuple[str, object] | None:
        """The field of the config and its value that make a condition true."""
        if isinstance(test, cst.Comparison) and len(test.comparisons) == 1 and not is_given(test):
            target, literal = test.comparisons[0], literal_string(test.comparisons[0].comparator)
            key = self.factors.key_of_code(test.left)
            return (key, literal) if key and literal and isinstance(target.operator, cst.Equal) else None
        key = self.factors.key_of_code(test) or self._decides(test)
        return (key, True) if key else None

    def _decides(self, test: cst.BaseExpression) -> str:
        """The field of the config by which a module is there: ``self.norm is not None``; "" where it is another condition."""
        owner, _, attribute = (
            dotted_name(test.left).rpartition(".") if isinstance(test, cst.Comparison) else ("", "", "")
        )
        return made_by(self.head, attribute) if owner == "self" and is_given(test) else ""

    def _base_attribute(self, value: Value) -> str | None:
        """The attribute that was called, if `value` is what a whole model returned."""
        if value.op is Op.CALL and value.inputs[0].op is Op.FUNCTION and value.inputs[0].name == "getattr":
            return self.prefix
        if value.op is not Op.SUBMODULE or value.module is None:
            return None
        written = [name.removesuffix(_FROM_CONFIG) for name in value.module.classes]
        classes = [local_class(name) for name in written]
        others = [name for name in classes if name != self.base and is_model(self.facts, name)]
        if self.base in classes or (not others and any(name.endswith("from_config") for name in written)):
            return value.path
        if not others:
            return None
        if value.path == self.prefix:
            raise _Unclear  # another model by the name of the base model: Funnel's without a decoder
        return ""

    def _link(self, value: Value) -> Link | None:
        if value.op is Op.SUBMODULE and value.module is not None:
            return self._module_link(value.path, self.kinds.of(value.module.classes))
        if value.op is Op.FUNCTION and value.name.rpartition(".")[2] == "dropout":
            return Link(Step.DROPOUT)
        name = value.name.rpartition(".")[2] if value.op in {Op.FUNCTION, Op.METHOD} else ""
        if name in _ACTIVATIONS:
            return Link(Step.ACTIVATION, activation=_ACTIVATIONS[name])
        if value.op is Op.CALL:
            return self._computed_link(value.inputs[0])
        if value.op is Op.METHOD and name not in _KEEPING:
            raise _Unclear  # also means, but those of all positions, which `Averages` knows
        if value.op is Op.FUNCTION and name not in _SELECTIONS:
            raise _Unclear
        return None

    def _module_link(self, path: str, kind: Kind) -> Link | None:
        submodule = self._submodule(path)
        if kind is Kind.IDENTITY:
            return Link(Step.DROPOUT, rates=NOTHING)
        if kind not in {Kind.LINEAR, Kind.NORM, Kind.DROPOUT, Kind.ACTIVATION} or submodule is None:
            raise _Unclear
        activation = _activation(submodule) if kind is Kind.ACTIVATION else ""
        made = submodule_at(self.facts, self.head, path)
        rates = dropout_rates(self.facts, self.head, path, made) if kind is Kind.DROPOUT and made else ()
        return Link(Step(kind.value), path, submodule, activation, rates=rates)

    def _computed_link(self, callee: Value) -> Link:
        """``ACT2FN[name](x)`` and ``nn.ReLU()(x)``."""
        name = callee.name.rpartition(".")[2] if callee.op is Op.FUNCTION else ""
        if name in _ACTIVATIONS:
            return Link(Step.ACTIVATION, activation=_ACTIVATIONS[name])
        if isinstance(callee.node, cst.Subscript) and self.kinds.of((callee.inputs[0].name,)) is Kind.ACTIVATION:
            return Link(Step.ACTIVATION, activation=_index(callee.node))
        raise _Unclear

    def _added(self, value: Value) -> Link | None:
        """A parameter or buffer that starts as zeros: BART's ``final_logits_bias``; None where `value` is something else."""
        while value.op is Op.METHOD and value.name in _CASTS:
            value = value.inputs[0]  # .to(device)
        if value.op is not Op.ATTRIBUTE or value.inputs[0].op is not Op.SELF:
            return None
        path = value.frame.path
        known = self.head if not path else self._class_at(path)
        init = known.functions.get("__init__") if known is not None else None
        found = [step for node in (statements(init.node.body) if init else ()) if (step := _zeros(node, value.name))]
        return Link(found[0], f"{path}.{value.name}" if path else value.name) if len(found) == 1 else None

    def _submodule(self, path: str) -> Submodule | None:
        found = submodule_at(self.facts, self.head, path)
        return found and as_of_whole(self.facts, self.head, path, found)

    def _class_at(self, path: str) -> ClassFacts | None:
        submodule = self._submodule(path)
        names = [local_class(name) for name in submodule.classes] if submodule is not None else []
        return self.facts.classes.get(names[0]) if len(names) == 1 else None


def _without_means(links: tuple[Link, ...]) -> tuple[Link, ...]:
    """The links, as they are behind a mean: a projection of means is the mean of projections, and other links are not."""
    means = [index for index, link in enumerate(links) if link.step is Step.MEAN]
    before = links[: means[-1]] if means else ()
    if any(link.step not in {Step.LINEAR, Step.DROPOUT} for link in before):
        raise _Unclear
    return tuple(link for link in links if link.step is not Step.MEAN)


def _reshaped(value: Value) -> Iterator[Value]:
    """What `value` is another shape or type of: a loss may go on with ``logits.view(-1)``, in one of its branches."""
    value = same_tensor(value)
    if value.op is Op.JOIN:
        for choice in value.inputs:
            yield from _reshaped(choice)
    elif value.op is Op.METHOD and value.name in _RESHAPES:
        yield from _reshaped(value.inputs[0])
    else:
        yield value


def _unshaped(value: Value) -> Value:
    """`value` before it was reshaped or changed its type."""
    return before_methods(value, _RESHAPES)


def _is_of_caller(value: Value, parameter: str) -> bool:
    """Whether a value is made of an argument of the call alone."""
    sources = [one for one in ancestors(value).values() if one.op in {Op.PARAMETER, Op.CALL, Op.SUBMODULE}]
    return bool(sources) and all(one.op is Op.PARAMETER and one.name == parameter for one in sources)


def _is_selection(value: Value, whole: Value) -> bool:
    """Whether `value` is positions of `whole`, reshaped."""
    value = _unshaped(value)
    while value is not whole and value.op is Op.ITEM and value.through is None:
        value = _unshaped(value.inputs[0])
    return value is whole


def _zeros(node: cst.CSTNode, name: str) -> Step | None:
    """``self.name = nn.Buffer(torch.zeros(...))``, ``nn.Parameter``, or ``self.register_buffer("name", torch.zeros(...))``."""
    targets, value = assignment(node) or ((), node.value if isinstance(node, cst.Expr) else None)
    call = value if isinstance(value, cst.Call) else None
    kind = dotted_name(call.func).rpartition(".")[2] if call else ""
    if call is None or len(call.args) < 1 or kind not in _MADE:
        return None
    registers = kind == "register_buffer"
    named = literal_string(call.args[0].value) == name if registers else name in map(self_attribute, targets)
    made = call.args[1 if registers else 0].value
    is_zero = isinstance(made, cst.Call) and dotted_name(made.func) == "torch.zeros"
    return _MADE[kind] if named and is_zero else None


def submodule_at(facts: ModuleFacts, known: ClassFacts, path: str) -> Submodule | None:
    """The submodule at a path below a class, as far as the module shows it."""
    first, _, rest = path.partition(".")
    submodule = known.submodules.get(first)
    if submodule is None or not rest:
        return submodule
    inner = (facts.classes[name] for name in map(local_class, submodule.classes) if name in facts.classes)
    return next((found for owner in inner if (found := submodule_at(facts, owner, rest)) is not None), None)


def _activation(submodule: Submodule) -> str | cst.BaseExpression:
    last = local_class(submodule.classes[0])
    if last in _ACTIVATIONS:
        return _ACTIVATIONS[last]
    if isinstance(submodule.node, cst.Subscript):
        return _index(submodule.node)
    if submodule.arguments:
        return submodule.arguments[0].value
    raise _Unclear


def _index(node: cst.Subscript) -> cst.BaseExpression:
    index = node.slice[0].slice
    if not isinstance(index, cst.Index):
        raise _Unclear
    return index.value
