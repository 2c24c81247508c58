"""Numbers that a head multiplies by, and limits that it bends its logits to, as far as they follow from the config.

    logits / self.config.logits_scaling              a factor: (("logits_scaling", -1.0),)
    logits * self.logit_scale                        the same, where __init__ says ``self.logit_scale = config.logit_scale``
    x * (self.model_dim**-0.5)                       (("d_model", -0.5),)
    torch.tanh(logits / cap) * cap                   a limit, by the field of `cap`
    self.config.get_text_config().cap                a field of the config that upstream's method gives
    self.limit, in the forward of ``Cap``            the field of ``Cap(config.limit)``, if that is what it keeps

Anything else is nothing that this file knows, and its questions say None.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts
from adapter_codegen.parse.syntax import assignment, dotted_name, self_attribute, statements
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.values import Op, Value, argument_behind, same_tensor
from adapter_codegen.plan.heads.logits.configs.given import kept_as

OF_TEXT, OF_DECODER = "get_text_config", "get_decoder"  # methods of upstream's: of a config, and of a model
ConfigMethods = Mapping[str, str | None]
NO_METHODS: ConfigMethods = MappingProxyType({})
Terms = tuple[tuple[str | float, float], ...]  # (field of the config, or a number; to which power), multiplied
_CASTS = frozenset({"float", "to", "type_as"})


@dataclass(frozen=True)
class Scaled:
    """A tensor times numbers of the config."""

    tensor: Value
    terms: Terms


@dataclass(frozen=True)
class Capped:
    """``tanh(tensor / cap) * cap``"""

    tensor: Value
    key: str


class Factors:
    """Answers about the class with a head `head`.

    Args:
        methods: the methods of upstream's that give a config, or a model that has one -> path of that config in the one of the class;
            None where that is not known.
    """

    def __init__(self, facts: ModuleFacts, head: ClassFacts, methods: ConfigMethods) -> None:
        self.facts = facts
        self.head = head
        self.methods = methods

    def capped(self, value: Value) -> Capped | None:
        """`value`, if it is something bent to a limit."""
        if value.op is not Op.BINARY or value.operator != "*":
            return None
        bent, limit = _uncast(value.inputs[0]), self.key(value.inputs[1])
        name = bent.name.rpartition(".")[2] if bent.op in {Op.FUNCTION, Op.METHOD} else ""
        inner = _uncast(bent.inputs[0]) if name == "tanh" and bent.inputs else None
        if not limit or inner is None or inner.op is not Op.BINARY or inner.operator != "/":
            return None
        return Capped(_uncast(inner.inputs[0]), limit) if self.key(inner.inputs[1]) == limit else None

    def scaled(self, value: Value) -> Scaled | None:
        """`value`, if it is a tensor times, or over, numbers of the config."""
        if value.op is not Op.BINARY or value.operator not in {"*", "/"}:
            return None
        tensor, number = value.inputs[0], self.terms(value.inputs[1])
        if number is None and value.operator == "*":
            tensor, number = value.inputs[1], self.terms(value.inputs[0])
        if number is None or self.terms(tensor) is not None:
            return None
        return Scaled(tensor, number if value.operator == "*" else _raised(number, -1.0))

    def terms(self, value: Value) -> Terms | None:
        """A number as a product of fields of the config; None where it is something else."""
        value = argument_behind(value)
        number = _number(value)
        if number is not None:
            return ((number, 1.0),)
        if value.op is Op.BINARY and value.operator in {"*", "/", "**"}:
            left, right = self.terms(value.inputs[0]), self.terms(value.inputs[1])
            if left is None or right is None:
                return None
            if value.operator == "**":
                power = _number(argument_behind(value.inputs[1]))
                return None if power is None else _raised(left, power)
            return (*left, *(right if value.operator == "*" else _raised(right, -1.0)))
        key = self.key(value)
        return ((key, 1.0),) if key else None

    def key(self, value: Value) -> str:
        """The field of the config, with dots, that a value is; "" where it is none."""
        value = argument_behind(value)
        if value.op is Op.FUNCTION and value.name == "getattr" and len(value.inputs) == 3 and value.inputs[2].is_none:
            owner, field = argument_behind(value.inputs[0]), value.inputs[1].literal.strip("\"'")
            config = self._config(owner)
            return "" if config is None or not field.isidentifier() else _joined(config, field)
        if value.op is not Op.ATTRIBUTE:
            return ""
        owner = argument_behind(value.inputs[0])
        config = self._config(owner)
        if config is not None:
            return _joined(config, value.name)
        if owner.op is Op.ATTRIBUTE:
            outer = self.key(owner)
            return f"{outer}.{value.name}" if outer else ""
        if owner.op is Op.SELF:
            path = owner.frame.path
            return self._kept_in(path, value.name) if path else self._assigned(value.name)
        if owner.op is Op.MODULE and owner.path.isidentifier():
            return self._of_submodule(owner.path, value.name)
        return ""

    def _config(self, value: Value) -> str | None:
        """Where a config lies in that of the model, "" = it is that one; None where `value` is something else."""
        if value.op is Op.ATTRIBUTE and value.name == "config":
            owner = argument_behind(value.inputs[0])
            if owner.op is Op.SELF:
                return None if owner.frame.path else ""
            return self._asked(owner, OF_DECODER) if _is_self(owner) else None
        is_of_config = value.op is Op.METHOD and self._config(argument_behind(value.inputs[0])) == ""
        return self._asked(value, OF_TEXT) if is_of_config else None

    def _asked(self, call: Value, name: str) -> str | None:
        """The config behind a method of upstream's that is called with nothing."""
        given = call.inputs[1:] if call.op is Op.METHOD else call.inputs
        return self.methods.get(name) if call.name == name and not given and not call.keywords else None

    def key_of_code(self, node: cst.BaseExpression) -> str:
        """The same for an expression of the head's forward, where it names the field without local variables."""
        name = dotted_name(node)
        if name.startswith("self.config."):
            return name.removeprefix("self.config.")
        owner, _, attribute = name.rpartition(".")
        return self._assigned(attribute) if owner == "self" else ""

    def _assigned(self, attribute: str) -> str:
        return _assigned(self.head, attribute, self.methods.get(OF_TEXT))

    def _kept_in(self, path: str, attribute: str) -> str:
        """An attribute that a module of the class keeps of what it is made with: ``Cap(config.limit)``."""
        submodule = self.head.submodules.get(path)
        value = kept_as(self.facts, submodule, attribute) if submodule is not None else None
        return config_field(dotted_name(value)) if value is not None else ""

    def _of_submodule(self, path: str, attribute: str) -> str:
        """An attribute of a submodule that is built from the whole config."""
        submodule = self.head.submodules.get(path)
        if submodule is None or [dotted_name(argument.value) for argument in submodule.arguments][:1] != ["config"]:
            return ""
        owners = [
            self.facts.classes[name] for name in map(local_class, submodule.classes) if name in self.facts.classes
        ]
        return _assigned(owners[0], attribute) if len(owners) == 1 else ""


def _joined(config: str, field: str) -> str:
    return f"{config}.{field}" if config else field


def _is_self(call: Value) -> bool:
    """Whether a method is called of the class itself."""
    if call.op is Op.HELPER:
        return not call.frame.path
    return call.op is Op.METHOD and call.inputs[0].op is Op.SELF and not call.inputs[0].frame.path


def _assigned(known: ClassFacts, attribute: str, text_config: str | None = None) -> str:
    """The field that ``__init__`` keeps as `attribute`, where it does so once: ``self.legacy = config.legacy``."""
    init = known.functions.get("__init__")
    values = [
        pair[1]
        for node in (statements(init.node.body) if init is not None else ())
        if (pair := assignment(node)) and attribute in map(self_attribute, pair[0])
    ]
    if len(values) != 1 or values[0] is None:
        return ""
    return config_field(dotted_name(values[0])) or _of_text(values[0], text_config)


def _of_text(value: cst.BaseExpression, text_config: str | None) -> str:
    """``config.get_text_config().field``; "" where it is something else."""
    call = value.value if isinstance(value, cst.Attribute) else None
    if not isinstance(value, cst.Attribute) or not isinstance(call, cst.Call) or call.args or text_config is None:
        return ""
    is_asked = dotted_name(call.func) in (f"config.{OF_TEXT}", f"self.config.{OF_TEXT}")
    return _joined(text_config, value.attr.value) if is_asked else ""


def config_field(name: str) -> str:
    """The field of the config that a dotted name in ``__init__`` stands for; "" where it is something else."""
    return next((name.removeprefix(owner) for owner in ("self.config.", "config.") if name.startswith(owner)), "")


def _number(value: Value) -> float | None:
    if value.op is Op.UNARY and value.operator == "-":
        inner = _number(value.inputs[0])
        return None if inner is None else -inner
    if value.op is not Op.CONSTANT:
        return None
    try:
        return float(value.literal)
    except ValueError:
        return None


def _raised(terms: Terms, power: float) -> Terms:
    return tuple((base, own * power) for base, own in terms)


def _uncast(value: Value) -> Value:
    """`value` before its type was changed."""
    return before_methods(value, _CASTS)


def before_methods(value: Value, names: Collection[str]) -> Value:
    """What the methods `names` were called on, one after the other, to give `value`."""
    value = same_tensor(value)
    while value.op is Op.METHOD and value.name in names:
        value = same_tensor(value.inputs[0])
    return value
