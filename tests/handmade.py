"""Plans put together by hand: a test names pieces of code, and their places are looked up in the text."""

from __future__ import annotations

from dataclasses import replace

import libcst as cst

from adapter_codegen.model import (
    BasePlan,
    Beside,
    ClassPlan,
    Expression,
    Location,
    ModelPlan,
    Placement,
    PrefixSite,
    ResidualSite,
    Role,
)
from adapter_codegen.parse import ModuleFacts, parse_module

PATH = "models/mine/modeling_mine.py"


class Handmade:
    """A module in one string and the sites that a test plans in it."""

    def __init__(self, text: str, path: str = PATH) -> None:
        self.facts: ModuleFacts = parse_module(text, path)

    def expression(self, class_name: str, function: str, code: str, nth: int = 0) -> Expression:
        return Expression(code, self._find(class_name, function, code, nth, cst.BaseExpression))

    def statement(self, class_name: str, function: str, code: str, nth: int = 0) -> Location:
        return self._find(class_name, function, code, nth, (cst.BaseStatement, cst.BaseSmallStatement))

    def _find(self, class_name: str, function: str, code: str, nth: int, kinds: object) -> Location:
        nodes = _all_nodes(self.facts.classes[class_name].functions[function].node)
        found = [node for node in nodes if isinstance(node, kinds) and self.facts.code(node).rstrip("; ") == code]  # type: ignore[arg-type]
        places = list(dict.fromkeys(self.facts.location(node) for node in found))
        return places[nth]

    def residual(
        self,
        class_name: str,
        statement: str,
        replaced: str,
        branch: str,
        residual: str,
        *,
        norm: str | None = None,
        dropped: str | None = None,
        host: str = "",
        role: Role | None = None,
        function: str = "forward",
        nth: int = 0,
    ) -> ResidualSite:
        where = class_name, function
        place = self._replaced(where, replaced, nth)

        def piece(code: str) -> Expression:
            return Expression(code, self._inside(where, code, place))

        return ResidualSite(
            class_name=class_name,
            function=function,
            placement=_placement(norm, dropped),
            location=place,
            statement=self.statement(*where, statement, nth),
            branch=piece(branch),
            residual=piece(residual),
            norm=piece(norm) if norm else None,
            dropped=self.statement(*where, dropped) if dropped else None,
            host=host,
            role=role,
        )

    def parallel(
        self, class_name: str, statement: str, replaced: str, *, attention: str, feed_forward: str, residual: str
    ) -> ResidualSite:
        """A sum of attention, feed-forward block and residual stream."""
        plain = self.residual(class_name, statement, replaced, feed_forward, residual, host="output_adapters")
        added = Expression(attention, self._inside((class_name, "forward"), attention, plain.location))
        beside = Beside(added, "attention_adapters", Role.ATTENTION)
        return replace(plain, placement=Placement.PARALLEL_SUM, role=Role.OUTPUT, beside=beside)

    def branch(
        self, class_name: str, statement: str, branch: str, residual: str | None, *, nth: int = 0
    ) -> ResidualSite:
        """What upstream's own code adds: the `nth` place of `branch` in the function."""
        plain = self.residual(
            class_name, statement, branch, branch, residual or branch, host="output_adapters", role=Role.OUTPUT
        )
        place = self._find(class_name, "forward", branch, nth, cst.BaseExpression)
        added = None if residual is None else Expression(residual, place)
        return replace(
            plain, placement=Placement.BRANCH, location=place, branch=Expression(branch, place), residual=added
        )

    def _replaced(self, where: tuple[str, str], code: str, nth: int) -> Location:
        return self._find(*where, code, nth, (cst.BaseExpression, cst.AugAssign))

    def _inside(self, where: tuple[str, str], code: str, outer: Location) -> Location:
        """The place of `code` in `outer`; where it stands nowhere in there, `outer`'s own line with no width."""
        nodes = _all_nodes(self.facts.classes[where[0]].functions[where[1]].node)
        for node in nodes:
            if isinstance(node, cst.BaseExpression) and self.facts.code(node) == code:
                place = self.facts.location(node)
                if _start(outer) <= _start(place) and _end(place) <= _end(outer):
                    return place
        return Location(outer.path, outer.line, outer.column, outer.line, outer.column)

    def prefix(
        self,
        class_name: str,
        statement: str,
        core: str,
        query: str,
        key: str,
        value: str,
        mask: str | None,
        gate_input: str,
        *,
        biases: tuple[str, ...] = (),
        keywords: tuple[str, ...] = (),
        function: str = "forward",
    ) -> PrefixSite:
        where = class_name, function
        place = self._find(*where, core, 0, cst.BaseExpression)

        def piece(code: str) -> Expression:
            return Expression(code, self._inside(where, code, place))

        return PrefixSite(
            class_name=class_name,
            function=function,
            core="attention interface",
            location=place,
            statement=self.statement(*where, statement),
            query=piece(query),
            key=piece(key),
            value=piece(value),
            mask=piece(mask) if mask else None,
            gate_input=piece(gate_input),
            biases=tuple(piece(bias) for bias in biases),
            keywords=keywords,
        )

    def plan(self, *sites: PrefixSite | ResidualSite) -> ModelPlan:
        """A plan with these sites and nothing else that a rewrite could need."""
        place = Location(self.facts.path, 1, 0, 1, 0)
        names = dict.fromkeys(site.class_name for site in sites)
        classes = tuple(_class_plan(name, sites, place) for name in names)
        base = BasePlan("MineModel", place, "MinePreTrainedModel", "model", (), ())
        return ModelPlan(
            model_type="mine",
            version="5.23.0",
            path=self.facts.path,
            module="transformers.models.mine.modeling_mine",
            config_class="MineConfig",
            config_module="transformers.models.mine.configuration_mine",
            licence="",
            base=base,
            classes=classes,
            layers=(),
            static_heads=(),
            flexible_heads=(),
            config_keys=(),
            methods=(),
            diagnostics=(),
            text_digest="t" * 64,
            meaning_digest="m" * 64,
        )


def _class_plan(name: str, sites: tuple[PrefixSite | ResidualSite, ...], place: Location) -> ClassPlan:
    mine = [site for site in sites if site.class_name == name]
    return ClassPlan(
        name=name,
        location=place,
        functions=tuple(dict.fromkeys(site.function for site in mine)),
        prefix_sites=tuple(site for site in mine if isinstance(site, PrefixSite)),
        residual_sites=tuple(site for site in mine if isinstance(site, ResidualSite)),
    )


def _placement(norm: str | None, dropped: str | None) -> Placement:
    if dropped is not None:
        return Placement.NORM_IN_NEXT_STATEMENT
    return Placement.ADDITION if norm is None else Placement.NORM_OF_ADDITION


def _start(place: Location) -> tuple[int, int]:
    return place.line, place.column


def _end(place: Location) -> tuple[int, int]:
    return place.end_line, place.end_column


def _all_nodes(node: cst.CSTNode) -> list[cst.CSTNode]:
    found = [node]
    for child in node.children:
        found += _all_nodes(child)
    return found
