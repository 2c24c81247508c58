"""With which probability a dropout of a head sets numbers to zero: fields of the config, the first of which that is given counts.

nn.Dropout(config.final_dropout)                                                             that field
nn.Dropout(config.a if config.a is not None else config.b)                                    `a`, else `b`
if getattr(config, "a", None) is not None: rate = config.a / else: rate = 0.1                 `a`, else 0.1

A conditional must ask for what it then takes: `b if config.a else config.c` has no rate that is known.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import libcst as cst

from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.parse.syntax import assignment, dotted_name, is_none, literal_string, statements
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.heads.logits.configs.subconfigs import config_path
from adapter_codegen.plan.heads.logits.factors import config_field

Rates = tuple[str | float, ...]  # fields of the config, with dots, and numbers, in the order in which they count
_Known = Mapping[str, Rates | None]  # local name -> what it stands for; None = something that is not known
NOTHING: Rates = (0.0,)
_TORCHS = 0.5


def dropout_rates(facts: ModuleFacts, head: ClassFacts, path: str, dropout: Submodule) -> Rates:
    """The rates of the dropout at a path below a class with a head; empty where they are not known."""
    given = next((one.value for one in dropout.arguments if _is_first(one, dropout, "p")), None)
    if given is None:
        return () if dropout.arguments else (_TORCHS,)
    outer, _, _ = path.rpartition(".")
    owner, known = head, dict[str, Rates | None]()
    if outer:
        held = head.submodules.get(outer)
        names = [local_class(name) for name in held.classes] if held is not None else []
        if held is None or len(names) != 1 or names[0] not in facts.classes:
            return ()
        owner = facts.classes[names[0]]
        known = _parameters(owner, held, _locals(head, {}))
    handed = (
        isinstance(given, cst.Name) and given.value in known
    )  # by the class with the head, in words of its own config
    inside = "" if handed else config_path(facts, head, path)
    found = _choices(given, _locals(owner, known)) or ()
    return tuple(f"{inside}.{rate}" if inside and isinstance(rate, str) else rate for rate in found)


def _is_first(argument: cst.Arg, call: Submodule, name: str) -> bool:
    keyword = argument.keyword
    return keyword.value == name if keyword is not None else argument is call.arguments[0] and not argument.star


def _init(known: ClassFacts) -> cst.FunctionDef | None:
    function = known.functions.get("__init__")
    return function.node if function is not None else None


def _parameters(owner: ClassFacts, held: Submodule, outer: _Known) -> dict[str, Rates | None]:
    """What the arguments of a construction stand for, by the parameters of the class."""
    init = _init(owner)
    names = [parameter.name.value for parameter in init.params.params][1:] if init is not None else []
    given = zip(names, (one.value for one in held.arguments if one.keyword is None), strict=False)
    named = ((one.keyword.value, one.value) for one in held.arguments if one.keyword is not None)
    return {name: _choices(value, outer) for name, value in (*given, *named)}


def _locals(owner: ClassFacts, known: _Known) -> _Known:
    """What the local names of an ``__init__`` stand for in its end."""
    init = _init(owner)
    return _after(statements(init.body), known) if init is not None else known


def _after(body: Iterable[cst.CSTNode], before: _Known) -> _Known:
    known = dict(before)
    for node in body:
        if isinstance(node, cst.If):
            known = _joined(node, known)
        for target in (assignment(node) or ((), None))[0]:
            if isinstance(target, cst.Name):
                known[target.value] = _choices((assignment(node) or ((), target))[1], known)
    return known


def _joined(node: cst.If, known: dict[str, Rates | None]) -> dict[str, Rates | None]:
    """What names stand for behind an ``if`` and its ``elif`` and ``else``."""
    first, other = _after(statements(node.body), known), dict(known)
    if isinstance(node.orelse, cst.If):
        other = _joined(node.orelse, known)
    elif node.orelse is not None:
        other = dict(_after(statements(node.orelse.body), known))
    result = dict(known)
    for name in {*first, *other}:
        one, two = first.get(name), other.get(name)
        result[name] = one if one == two else _chosen(node.test, one, two, known)
    return result


def _chosen(test: cst.BaseExpression, yes: Rates | None, no: Rates | None, known: _Known) -> Rates | None:
    """One of two rates, where the condition asks whether the first of them is given; None where it asks for anything else."""
    asked = _asked(test, known)
    if asked is None or yes is None or no is None:
        return None
    field, is_given = asked
    first, second = (yes, no) if is_given else (no, yes)
    return (*first, *second) if first == (field,) else None


def _asked(test: cst.BaseExpression, known: _Known) -> tuple[str, bool] | None:
    """The field that a condition asks for, and whether it is true if that is given."""
    if isinstance(test, cst.BooleanOperation) and isinstance(test.operator, cst.And):
        left, right = _asked(test.left, known), _asked(test.right, known)
        return left if left == right and left is not None and left[1] else None
    if isinstance(test, cst.Call) and dotted_name(test.func) == "hasattr" and len(test.args) == 2:
        name = literal_string(test.args[1].value)
        return (name, True) if _is_config(test.args[0].value) and name else None
    if (
        not isinstance(test, cst.Comparison)
        or len(test.comparisons) != 1
        or not is_none(test.comparisons[0].comparator)
    ):
        return None
    rates, operator = _choices(test.left, known), test.comparisons[0].operator
    if rates is None or len(rates) != 1 or not isinstance(rates[0], str):
        return None
    return (rates[0], isinstance(operator, cst.IsNot)) if isinstance(operator, cst.Is | cst.IsNot) else None


def _choices(node: cst.BaseExpression, known: _Known) -> Rates | None:
    if isinstance(node, cst.Float | cst.Integer):
        return (float(node.value),)
    if isinstance(node, cst.Name):
        return known.get(node.value)
    if isinstance(node, cst.IfExp):
        return _chosen(node.test, _choices(node.body, known), _choices(node.orelse, known), known)
    if isinstance(node, cst.Call) and dotted_name(node.func) == "getattr" and len(node.args) in (2, 3):
        name = literal_string(node.args[1].value)
        default = () if len(node.args) == 2 or is_none(node.args[2].value) else _choices(node.args[2].value, known)
        return (name, *default) if _is_config(node.args[0].value) and name and default is not None else None
    field = config_field(dotted_name(node))
    return (field,) if field else None


def _is_config(node: cst.BaseExpression) -> bool:
    return dotted_name(node) in ("config", "self.config")
