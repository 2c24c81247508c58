"""The modules between a base model's output and a head's logits, by following the logits back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import (
    assignment,
    descendants,
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
from adapter_codegen.plan.heads.encoders import encoder_alone
from adapter_codegen.plan.heads.flexible import HEAD_TYPES
from adapter_codegen.plan.heads.logits.conditions import condition, is_given, made_by, missing, needs_labels
from adapter_codegen.plan.heads.logits.configs.subconfigs import as_given, as_of_whole
from adapter_codegen.plan.heads.logits.cuts import Cut, Cuts
from adapter_codegen.plan.heads.logits.factors import NO_METHODS, ConfigMethods, Factors, Terms, before_methods
from adapter_codegen.plan.heads.logits.filled import fills_in
from adapter_codegen.plan.heads.logits.holding import is_built_as_usual
from adapter_codegen.plan.heads.logits.losses.ends import compares_end
from adapter_codegen.plan.heads.logits.losses.labels import compares_in_place, skips_padding
from adapter_codegen.plan.heads.logits.positions import ASKED_FOR, BOTH, Averages, counted_frames, position, rule
from adapter_codegen.plan.heads.logits.rates import NOTHING, Rates, dropout_rates
from adapter_codegen.plan.heads.unclear import Unclear
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
    CUT = "cut"  # the first of them, as many as the config says
    OFFSET = "offset"  # plus a parameter of the head
    BUFFER = "buffer"  # plus a buffer of the head
    MEAN = "mean"  # of positions; no link of a whole chain, which says so by the positions that it reads


_WITHOUT_WEIGHTS = frozenset({Step.DROPOUT, Step.SCALE, Step.CAP, Step.CUT, Step.ACTIVATION})
_MADE = {"Parameter": Step.OFFSET, "Buffer": Step.BUFFER, "register_buffer": Step.BUFFER}


@dataclass(frozen=True)
class Link:
    step: Step
    path: str = ""  # of the module, from the head class; "" for a function
    submodule: Submodule | None = None
    activation: str | cst.BaseExpression = ""  # name, or the expression that chooses it: ``config.hidden_act``
    terms: Terms = ()  # of a scale
    key: str = (
        ""  # field of the config: the limit of a cap, the number of a cut, what a mean skips; the flag that a scale needs, "" = it is always there
    )
    rates: Rates = ()  # of a dropout


@dataclass(frozen=True)
class Chain:
    links: tuple[Link, ...]  # from the base model's output to the logits
    base_attribute: str  # that holds the base model; "" where the head class holds its parts instead
    pooled: bool  # it starts from the pooler's output, not from the hidden states
    reads: str = ""  # which position of each sequence: see `positions`; "" = all
    skips: str = ""  # of a mean without the first: see `Mean.skipped`
    requires: tuple[tuple[str, object], ...] = ()  # fields of the config, with the value for which this is the way
    part: str = ""  # where the class holds the model that it starts from, if that is another one than the base model
    frames: str = ""  # the method that counts the frames of so many samples; "" = the head asks for none
    is_compared_whole: bool = (
        True  # there is a loss, and it compares all logits with the labels and not a part of them
    )
    compares_end: bool = False  # the logits of the last positions with as many labels
    compares_in_place: bool = False  # with the label of the same position, not with the next one
    skips_padding: bool = False  # the loss leaves out what the attention mask does


def head_chain(
    facts: ModuleFacts, head: str, base: str, prefix: str, last: str = "", methods: ConfigMethods = NO_METHODS
) -> Chain:
    """How a head class computes its logits.

    Args:
        facts: of the module that defines the forward of the head class.
        head: the head class.
        base: the base model class.
        prefix: attribute that ``getattr(self, self.base_model_prefix)`` stands for.
        last: path of the module whose output is followed back instead of the logits; "" = these.
        methods: see `Factors`.

    Raises:
        Unclear: that is not a chain of simple modules.
    """
    try:
        flow = trace(_without_models(facts, head), head)
    except TooLarge:
        raise Unclear("Its forward is too large to be followed.") from None
    if flow is None or flow.returned is None:
        raise Unclear("Its forward returns nothing that could be followed.")
    logits = _output(flow.values, last) if last else _logits(flow.returned)
    if logits is None:
        raise Unclear("What it returns names no logits: `{}`.", flow.returned.node)
    chain = _Walk(facts, head, base, prefix, flow.values, methods).back(logits)
    if not last and all(link.step in _WITHOUT_WEIGHTS for link in chain.links):
        ends_in_logits = bool(chain.base_attribute) and not chain.pooled  # the base model itself (FSMT's decoder)
        raise Unclear(
            _no_own_head(chain.part or chain.base_attribute),
            logits.node,
            precludes=HEAD_TYPES if ends_in_logits else (),
        )
    filled = fills_in(flow.values, chain.base_attribute)
    if filled:
        raise Unclear(f"It makes arguments for its base model where a call gives none: {', '.join(filled)}.")
    skips = skips_padding(flow.values)
    if skips is None:
        raise Unclear("Its loss picks the labels that count in a way of its own.")
    compared = [value for value in flow.values if _is_loss(value)]
    takes_labels = "labels" in facts.classes[head].functions["forward"].parameters
    is_whole = takes_labels and all(
        any(_unshaped(one) is _unshaped(logits) for one in _arguments(loss)) for loss in compared
    )
    return replace(
        chain,
        frames=counted_frames(flow.values),
        is_compared_whole=is_whole,
        compares_end=bool(compared) and all(compares_end(loss, logits) for loss in compared),
        compares_in_place=compares_in_place(flow.values),
        skips_padding=skips,
    )


def _no_own_head(path: str) -> str:
    return f"It has no projection of its own: its logits are those of `{path}`, which ends in a head itself."


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
    def __init__(
        self, facts: ModuleFacts, head: str, base: str, prefix: str, values: Sequence[Value], methods: ConfigMethods
    ) -> None:
        self.facts = facts
        self.head = facts.classes[head]
        self.base = base
        self.prefix = prefix
        self.kinds = Kinds(facts)
        self.factors = Factors(facts, self.head, methods)
        self.averages = Averages(values)
        self.cuts = Cuts(values, self.factors)

    def back(self, value: Value, way: _Way | None = None) -> Chain:
        """Follow `value` to the base model. Raises `Unclear` at anything but a simple step."""
        way = way or _Way()
        while True:
            value = same_tensor(value)
            attribute = self._base_attribute(value)
            if attribute is not None:
                return self._ended(value, attribute, way, "" if attribute else value.path)
            step = self._arithmetic(value)
            if step is not None:
                way, value = way.over(step[0]), step[1]
                continue
            cut = self.cuts.cut(value)
            if cut is not None:
                way, value = way.over(_cut_link(cut)), cut.tensor
                continue
            mean = self.averages.mean(value)
            if mean is not None:
                way, value = way.over(Link(Step.MEAN, key=mean.skipped), mean.rule), mean.tensor
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

    def _ended(self, value: Value, attribute: str, way: _Way, part: str) -> Chain:
        """The chain that starts at the outputs of the base model, or of a part."""
        if way.selected in _RESULTS:
            raise Unclear(_no_own_head(attribute or part), value.node)
        if way.selected not in {"0", "1", "last_hidden_state", "pooler_output"}:
            raise Unclear(
                "Of what a model in it gives, it reads neither hidden states nor a pooled vector: `{}`.", value.node
            )
        pooled = way.selected in {"1", "pooler_output"}
        if pooled and not is_built_as_usual(self.facts, self.base, self._submodule(attribute)):
            raise Unclear("It reads a pooler that the base model may be without: `{}`.", value.node)
        links = tuple(reversed(way.links))
        skips = next((link.key for link in links if link.step is Step.MEAN), "")
        behind = _without_means(links, BOTH in way.positions)
        return Chain(behind, attribute, pooled, rule(way.positions), skips, way.requires, part)

    def _before(self, value: Value, link: Link | None) -> Value:
        if link is not None:
            before = value.inputs[1:2] if value.op is Op.CALL else tuple(filter(None, (first_argument(value),)))
        elif value.op is Op.FUNCTION:
            before = value.inputs[:1]
        elif value.op is Op.BINARY:
            raise Unclear("It computes with its states or logits as no flexible head does: `{}`.", value.node)
        else:
            before = tuple(earlier(value))
        distinct = {id(shaped): shaped for value in before for shaped in _reshaped(value)}
        if len(distinct) == 1:
            return next(iter(distinct.values()))
        joined = [value for value in map(same_tensor, before) if value.op is Op.JOIN]
        if len(before) != 1 or not joined:
            raise Unclear("Its logits do not come from the outputs of the base model alone: `{}`.", value.node)
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
        cut = self.cuts.cut(same_tensor(changed))
        if cut is not None and cut.key and self.cuts.is_idle(test, cut) and _unshaped(cut.tensor) is _unshaped(plain):
            return _cut_link(cut), cut.tensor
        step = self._arithmetic(same_tensor(changed))
        if step is None or _unshaped(step[1]) is not _unshaped(plain):
            return None
        link, before = step
        if is_given(test):
            given = _where_given(link, test, same_tensor(changed).node)
            return (given, before) if given is not None else None
        flag = self.factors.key_of_code(test)
        return (replace(link, key=flag), before) if link.step is Step.SCALE and flag else None

    def _chosen(self, join: Value, way: _Way) -> Chain:
        """Go on in one branch: where labels decide, in that without them; where the config does, in the first that is clear."""
        test = condition(join)
        distinct = {id(shaped): shaped for shaped in _reshaped(join)}
        if len(distinct) == 1:
            return self.back(next(iter(distinct.values())), way)
        if test is None or len(join.inputs) != 2:
            raise Unclear("What it computes depends on `{}`.", join.node)
        first, second = join.inputs
        if needs_labels(test) and _is_selection(first, _unshaped(second)):
            return self.back(second, way)
        if _is_asked_for(first, second):
            return self.back(second, way)
        asked = missing(test)
        if asked in self.head.functions["forward"].parameters and _is_of_caller(second, asked):
            return self.back(first, way)  # what a flexible model gives its base model, if a call has it
        wanted = self._required(test)
        if wanted is None:
            raise Unclear("What it computes depends on `{}`, which no config decides.", test)
        try:
            return self.back(first, replace(way, requires=(*way.requires, wanted)))
        except Unclear:
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
        if value.path == self.prefix and not encoder_alone(self.facts, self.base, self.head, value.path):
            # Funnel's without a decoder.
            raise Unclear(
                f"It holds another model ({', '.join(others)}) where others hold the base model.", value.node
            )
        return ""

    def _link(self, value: Value) -> Link | None:
        if value.op is Op.SUBMODULE and value.module is not None:
            return self._module_link(value, self.kinds.of(value.module.classes))
        if value.op is Op.FUNCTION and value.name.rpartition(".")[2] == "dropout":
            return Link(Step.DROPOUT)
        name = value.name.rpartition(".")[2] if value.op in {Op.FUNCTION, Op.METHOD} else ""
        if name in _ACTIVATIONS:
            return Link(Step.ACTIVATION, activation=_ACTIVATIONS[name])
        if value.op is Op.CALL:
            return self._computed_link(value.inputs[0])
        if value.op is Op.METHOD and name not in _KEEPING:
            # Also means, but those of all positions, which `Averages` knows.
            raise Unclear("It changes its states or logits as no flexible head does: `{}`.", value.node)
        if value.op is Op.FUNCTION and name not in _SELECTIONS:
            raise Unclear("It changes its states or logits as no flexible head does: `{}`.", value.node)
        return None

    def _module_link(self, value: Value, kind: Kind) -> Link | None:
        path = value.path
        submodule = self._submodule(path)
        if kind is Kind.IDENTITY:
            return Link(Step.DROPOUT, rates=NOTHING)
        if kind not in {Kind.LINEAR, Kind.NORM, Kind.DROPOUT, Kind.ACTIVATION} or submodule is None:
            raise Unclear("A module stands in it that no flexible head has: `{}`.", value.node)
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
        raise Unclear("It calls what is no module that is known: `{}`.", callee.node)

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
        if found is None:
            return None
        return as_given(self.facts, self.head, path, as_of_whole(self.facts, self.head, path, found))

    def _class_at(self, path: str) -> ClassFacts | None:
        submodule = self._submodule(path)
        names = [local_class(name) for name in submodule.classes] if submodule is not None else []
        return self.facts.classes.get(names[0]) if len(names) == 1 else None


def _cut_link(cut: Cut) -> Link:
    if not cut.key:
        raise Unclear("It takes a part of its states or logits that no config names: `{}`.", cut.node)
    return Link(Step.CUT, key=cut.key)


def _where_given(link: Link, test: cst.BaseExpression, arithmetic: cst.CSTNode) -> Link | None:
    """A limit or a scale that is there where ``x is not None``, if `x` is the field of the config that it is of."""
    assert isinstance(test, cst.Comparison)
    asked = dotted_name(test.left.target if isinstance(test.left, cst.NamedExpr) else test.left)
    if not asked or asked not in map(dotted_name, descendants(arithmetic)):
        return None
    if link.step is Step.CAP:
        return link
    fields = [base for base, _ in link.terms if isinstance(base, str)]
    return replace(link, key=fields[0]) if link.step is Step.SCALE and len(fields) == len(link.terms) == 1 else None


def _without_means(links: tuple[Link, ...], is_beside: bool) -> tuple[Link, ...]:
    """The links, as they are behind a mean: a projection of means is the mean of projections, and other links are not.

    Nor is one of a mean that stands beside another vector (`is_beside`), which has a projection of its own width behind it.
    """
    means = [index for index, link in enumerate(links) if link.step is Step.MEAN]
    before = links[: means[-1]] if means else ()
    if any(link.step not in ({Step.DROPOUT} if is_beside else {Step.LINEAR, Step.DROPOUT}) for link in before):
        raise Unclear("It takes a mean of positions behind more than projections.")
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


def _is_asked_for(value: Value, whole: Value) -> bool:
    """Whether `value` is what the caller asks for of `whole`, which a base model may have cut already (Gemma 4)."""
    value = same_tensor(value)
    if value.op is not Op.FUNCTION or value.name.rpartition(".")[2] not in _SELECTIONS or len(value.inputs) != 2:
        return False
    asked = value.inputs[1]
    is_given = asked.op is Op.PARAMETER and asked.name == ASKED_FOR and not asked.frame.depth
    return is_given and _unshaped(value.inputs[0]) is _unshaped(whole)


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
    raise Unclear("Its activation is not known: `{}`.", submodule.node)


def _index(node: cst.Subscript) -> cst.BaseExpression:
    index = node.slice[0].slice
    if not isinstance(index, cst.Index):
        raise Unclear("Its activation is not known: `{}`.", node)
    return index.value
