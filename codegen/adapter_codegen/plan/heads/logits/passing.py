"""A forward that only hands on to the one that its class inherits, to name arguments that this takes among others (Gemma 3's classifier)."""

from __future__ import annotations

import libcst as cst

from adapter_codegen.parse.facts import FunctionFacts
from adapter_codegen.parse.syntax import dotted_name, is_docstring, is_inherited


def passes_on(function: FunctionFacts) -> bool:
    """Whether a method is ``return super().forward(a=a, b=b, **kwargs)``, with each of its arguments under its own name."""
    body = [node for node in function.node.body.body if not is_docstring(node)]
    line = body[0] if len(body) == 1 else None
    returned = line.body[0] if isinstance(line, cst.SimpleStatementLine) and len(line.body) == 1 else None
    called = returned.value if isinstance(returned, cst.Return) else None
    if not isinstance(called, cst.Call) or not is_inherited(called.func, function.name):
        return False
    named = {argument.keyword.value: dotted_name(argument.value) for argument in called.args if argument.keyword}
    rest = [dotted_name(argument.value) for argument in called.args if argument.star == "**"]
    given = function.node.params
    kwargs = [given.star_kwarg.name.value] if given.star_kwarg is not None else []
    own = [one.name.value for one in (*given.params, *given.kwonly_params) if one.name.value != "self"]
    is_all = len(called.args) == len(named) + len(rest) and not given.posonly_params
    return is_all and rest == kwargs and named == {name: name for name in own} and _stars(given)


def _stars(given: cst.Parameters) -> bool:
    """Whether a function takes no ``*args``."""
    return not isinstance(given.star_arg, cst.Param)
