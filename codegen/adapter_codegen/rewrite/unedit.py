"""The inverse of the edits, worked out from the emitted code and not from how it was made.

``verify`` takes the edits of every emitted function back and compares the rest with upstream's, token for token. So a
defect of a rule, of the driver or of black cannot get into a file unseen.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Sequence, Sized

import libcst as cst

from adapter_codegen.model import ClassPlan, Placement, PrefixSite, ResidualSite
from adapter_codegen.rewrite.shape import shape

_INSERTED = ("prepend_prefix", "extend_bias")  # methods whose calls may be statements of ours
_AROUND = ("extend_bias", "hide_prefixes")  # that may stand around an expression of upstream


class NotAnEdit(Exception):
    """The emitted function holds a call that no planned edit explains, or lacks one that a planned edit needs."""


def unedited(emitted: cst.FunctionDef, entry: ClassPlan) -> cst.FunctionDef:
    """The emitted function with every planned edit taken back.

    Raises:
        NotAnEdit: the calls of adapters in the function are not exactly those that were planned.
    """
    inverse = _Inverse(emitted.name.value, entry)
    reverted = emitted.visit(inverse)
    queues: list[Sized] = [*inverse.residuals.values(), inverse.prefixes, inverse.biases, *inverse.around.values()]
    if missing := sum(map(len, queues)):
        raise NotAnEdit(f"{missing} planned edits of {entry.name}.{emitted.name.value} are missing")
    assert isinstance(reverted, cst.FunctionDef)
    return reverted


class _Inverse(cst.CSTTransformer):
    """Takes back from the inside out; statements come in the order of the text."""

    def __init__(self, function: str, entry: ClassPlan) -> None:
        super().__init__()
        planned = sorted(entry.prefix_sites, key=lambda site: site.location)
        self.prefixes = deque(site for site in planned if site.function == function)
        self.biases = deque(bias for site in self.prefixes for bias in site.biases)
        self.around = {name: _around(name, self.prefixes) for name in _AROUND}
        self.statements: set[cst.Call] = set()  # calls that are statements of ours
        self.residuals: dict[str, deque[ResidualSite]] = defaultdict(deque)
        for site in sorted(entry.residual_sites, key=lambda site: site.location):
            if site.function == function:
                self.residuals[site.hosts[-1]].append(site)
        self.renamed: dict[str, cst.BaseExpression] = {}  # local names that an edit introduced -> what they stand for
        self.sums: set[cst.IfExp] = set()  # parallel sums that are being taken back
        self.norms: list[str] = []  # of statements that an edit took out: to stand behind the present statement

    def visit_IfExp(self, node: cst.IfExp) -> bool:
        """A parallel sum is taken back as a whole, with the calls in it: what stands behind ``else`` is upstream's."""
        name = _method(node.body) if isinstance(node.body, cst.Call) else ""
        waiting = self.residuals.get(name)
        if not waiting or waiting[0].beside is None:
            return True
        site, own = waiting.popleft(), cst.ensure_type(node.body, cst.Call).func
        assert site.beside is not None and site.residual is not None
        owner = cst.Module([]).code_for_node(own).removesuffix(f".{name}")
        beside = f"{owner}.{site.beside.host}"
        inner = f"{beside}({site.beside.branch.code}, {site.residual.code}, None)"
        _compare([node.test], (f"{beside}.runs or {owner}.{name}.runs",))
        _compare([node.body], (f"{owner}.{name}({site.branch.code}, {inner}, None)",))
        self.sums.add(node)
        return False

    def leave_IfExp(self, original_node: cst.IfExp, updated_node: cst.IfExp) -> cst.BaseExpression:
        return updated_node.orelse if original_node in self.sums else updated_node

    def leave_Call(self, original_node: cst.Call, updated_node: cst.Call) -> cst.BaseExpression:
        name = _method(updated_node)
        if name in _AROUND and original_node not in self.statements:
            return self._taken_off(name, updated_node)
        if name == "super" and len(updated_node.args) == 2:
            return updated_node.with_changes(args=[])
        if name in self.residuals:
            return self._addition(name, updated_node)
        return updated_node

    def _taken_off(self, name: str, call: cst.Call) -> cst.BaseExpression:
        """What a call of ours stands around."""
        if not self.around[name]:
            raise NotAnEdit(f"a call of {name} that was not planned")
        arguments = [argument.value for argument in call.args]
        _compare(arguments, self.around[name].popleft())
        return arguments[0]

    def _addition(self, name: str, call: cst.Call) -> cst.BaseExpression:
        if self.residuals[name] and self.residuals[name][0].placement is Placement.BRANCH:
            return self._branch(self.residuals[name].popleft(), call)
        branch_first = call.args[3:]
        if not self.residuals[name] or len(call.args) not in (3, 4) or not all(map(_says_branch_first, branch_first)):
            raise NotAnEdit(f"a call of {name} that was not planned")
        site = self.residuals[name].popleft()
        _compare_holder(site, call)
        branch, residual, norm = (argument.value for argument in call.args[:3])
        ordered = (branch, residual) if branch_first else (residual, branch)
        added = cst.BinaryOperation(ordered[0], cst.Add(), ordered[1])
        if site.placement is Placement.NORM_OF_ADDITION:
            return cst.Call(norm, [cst.Arg(added)])
        if site.placement is Placement.NORM_IN_NEXT_STATEMENT:
            self.norms.append(cst.Module([]).code_for_node(norm))
        return added

    @staticmethod
    def _branch(site: ResidualSite, call: cst.Call) -> cst.BaseExpression:
        """What goes through the adapters, where upstream's own code adds."""
        _compare_holder(site, call)
        if any(argument.keyword is not None or argument.star for argument in call.args):
            raise NotAnEdit("a call of adapters with other arguments than planned")
        given, planned = [argument.value for argument in call.args], [site.branch, site.residual]
        if len(given) != sum(part is not None for part in planned):
            raise NotAnEdit("a call of adapters with more or fewer arguments than planned")
        _compare(given[1:], [part.code for part in planned[1:] if part is not None])
        return given[0]

    def leave_Name(self, original_node: cst.Name, updated_node: cst.Name) -> cst.BaseExpression:
        return self.renamed.get(updated_node.value, updated_node)

    def visit_SimpleStatementLine(self, node: cst.SimpleStatementLine) -> None:
        statement = node.body[0] if node.body else None
        if isinstance(statement, cst.Assign) and isinstance(statement.value, cst.Call):
            if _method(statement.value) in _INSERTED:
                self.statements.add(statement.value)

    def leave_SimpleStatementLine(
        self, original_node: cst.SimpleStatementLine, updated_node: cst.SimpleStatementLine
    ) -> cst.BaseStatement | cst.FlattenSentinel[cst.BaseStatement] | cst.RemovalSentinel:
        statement = updated_node.body[0] if updated_node.body else None
        if not isinstance(statement, cst.Assign):
            return updated_node
        original, call = original_node.body[0], statement.value
        if isinstance(original, cst.Assign) and isinstance(call, cst.Call) and original.value in self.statements:
            self._take_out(original, call)
            return cst.RemoveFromParent()
        if self.norms:
            target = cst.Module([]).code_for_node(statement.targets[0].target)
            return cst.FlattenSentinel([updated_node, cst.parse_statement(f"{target} = {self.norms.pop()}({target})")])
        return updated_node

    def _take_out(self, original: cst.Assign, call: cst.Call) -> None:
        """Forget the inserted statement, but remember what the names that it binds stand for."""
        target = original.targets[0].target
        arguments = [argument.value for argument in call.args if argument.keyword is None and argument.star == ""]
        if _method(call) == "prepend_prefix" and self.prefixes and isinstance(target, cst.Tuple):
            site = self.prefixes.popleft()
            mask = site.mask.code if site.mask else "None"
            _compare(arguments, (site.query.code, site.key.code, site.value.code, mask, site.gate_input.code))
            bound = zip((element.value for element in target.elements), arguments[1:4], strict=True)
        elif _method(call) == "extend_bias" and self.biases:
            _compare(arguments[:1], (self.biases.popleft().code,))
            bound = zip([target], arguments[:1], strict=True)
        else:
            raise NotAnEdit(f"a call of {_method(call)} that was not planned")
        for name, value in bound:
            if isinstance(name, cst.Name) and name.value != "_":
                self.renamed[name.value] = value


def _around(name: str, sites: Iterable[PrefixSite]) -> deque[tuple[str, ...]]:
    """The arguments of the calls of one method that stand around expressions, in the order of the text."""
    if name == "extend_bias":
        found = [(term.location, (term.code, site.key.code)) for site in sites for term in site.late]
        return deque(arguments for _, arguments in sorted(found))
    return deque((site.scores.code, site.key.code, site.gate_input.code) for site in sites if site.scores is not None)


def _compare(arguments: Sequence[cst.BaseExpression], planned: Sequence[str]) -> None:
    found = [shape(argument) for argument in arguments]
    if found != [shape(cst.parse_expression(f"({code})")) for code in planned]:
        raise NotAnEdit(f"what an edit works on is not what was planned: {', '.join(planned)}")


def _compare_holder(site: ResidualSite, call: cst.Call) -> None:
    """The adapters are those of the layer that was planned; else of the class itself, which may call itself as it likes."""
    owner = cst.ensure_type(call.func, cst.Attribute).value
    if site.holder:
        _compare([owner], (site.holder,))
    elif not isinstance(owner, cst.Name):
        raise NotAnEdit(f"adapters of `{cst.Module([]).code_for_node(owner)}`, and not of the class itself")


def _says_branch_first(argument: cst.Arg) -> bool:
    keyword, value = argument.keyword, argument.value
    return keyword is not None and keyword.value == "branch_first" and shape(value) == shape(cst.Name("True"))


def _method(call: cst.Call) -> str:
    """``f`` of ``self.f(...)``, ``self.layers[i].f(...)`` and of ``f(...)``."""
    if isinstance(call.func, cst.Attribute) and isinstance(call.func.value, cst.Name | cst.Subscript):
        return call.func.attr.value
    return call.func.value if isinstance(call.func, cst.Name) else ""
