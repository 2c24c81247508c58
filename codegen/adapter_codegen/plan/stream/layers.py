"""One layer class -> its roles, and the sites in it and in the classes that it calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from adapter_codegen.model import AttentionRoles, LayerPlan, Method, MLPRoles, PrefixSite
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.attention.attentions import Attentions
from adapter_codegen.plan.attention.core import AttentionCore
from adapter_codegen.plan.attention.prefix import plan_prefix
from adapter_codegen.plan.attention.unusable import unusable
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.tracer import trace
from adapter_codegen.plan.flow.values import ancestors
from adapter_codegen.plan.stream.additions.in_loop import Beside, added_beside
from adapter_codegen.plan.stream.additions.residuals import (
    Residuals,
    additions_beside,
    find_residuals,
    unclaimed_sums,
)
from adapter_codegen.plan.stream.blocks.feed_forward import Block, feed_forward, is_block, plain_blocks
from adapter_codegen.plan.stream.blocks.mixers import mixer_roles
from adapter_codegen.plan.stream.completeness import Completeness, Layer, completeness, left_over
from adapter_codegen.plan.stream.lists.in_layer import form_in_layer
from adapter_codegen.plan.stream.lists.selected import selected_projections
from adapter_codegen.plan.stream.lists.sign import Sign
from adapter_codegen.plan.stream.lists.turned import turned_projections
from adapter_codegen.plan.stream.optional import optional_paths
from adapter_codegen.plan.stream.placing import PlacedSite, Placing, bottlenecks_of
from adapter_codegen.plan.stream.roles import Roles, only_behind


@dataclass(frozen=True)
class LayerFindings:
    """What one layer class gave."""

    plan: LayerPlan
    prefix: tuple[PrefixSite, ...]
    residual: tuple[PlacedSite, ...]
    core_classes: tuple[str, ...]  # classes that hold a core of the layer
    refused_cores: Mapping[str, Sequence[Finding]]  # class -> why it takes no prefix
    findings: tuple[Finding, ...]
    lacking: Completeness
    form: Sign | None = None  # of its hidden states, where it shows that they are no rows of positions
    gives_stream: bool = True  # False: it gives what is added to the stream, beside it


def plan_layer(facts: ModuleFacts, kinds: Kinds, class_name: str) -> LayerFindings | None:
    """The layer; None where its class has no forward in this file.

    Raises:
        TooLarge: the forward cannot be followed.
    """
    flow = trace(facts, class_name)
    if flow is None:
        return None
    scene = Scene(facts, flow, kinds)
    attentions = Attentions(scene)
    residuals = find_residuals(scene)
    sublayers = Roles(scene, attentions, residuals.additions)
    findings = [*left_over(residuals, sublayers)]
    placed = Placing(scene, attentions, sublayers).sites(residuals.additions, findings)
    roles = attentions.roles(findings)
    blocks = [(found, one.residual) for one in residuals.additions for found in sublayers.fed_forward(one)]
    in_part = [part for part in residuals.in_part if not attentions.kinds_in(only_behind(part))]
    blocks += [(part.branch, part.residual) for part in in_part]
    blocks = blocks or list(_beyond(scene, attentions, residuals))
    plan = LayerPlan(
        class_name=class_name,
        location=facts.location(facts.classes[class_name].node),
        attentions=roles,
        bottlenecks=bottlenecks_of(placed),
        mlp=_feed_forward(plain_blocks(blocks, scene), roles, scene),
        mixer=mixer_roles(residuals.additions, sublayers, attentions, scene),
    )
    plan = replace(
        plan,
        optional=optional_paths(plan, facts),
        turned=turned_projections(_adaptable(plan), scene),
        selected=selected_projections(_adaptable(plan), in_part, scene),
    )
    findings += unusable(plan, attentions.cores)
    prefix, refused = _prefixes(attentions.cores, scene)
    core_classes = tuple(dict.fromkeys(core.call.frame.class_name for core in attentions.cores))
    locations = frozenset(role.location for role in plan.bottlenecks)
    beside = additions_beside(scene, residuals)
    layer = Layer(residuals.additions, locations, sublayers, beside)
    lacking = completeness(scene, attentions, layer, findings)
    plan = replace(plan, without=lacking.without)
    found = (*findings, *(finding for finding in lacking.gaps if finding not in findings), *lacking.second)
    form = form_in_layer(scene, attentions.cores, residuals.additions)
    whole = LayerFindings(plan, prefix, placed, core_classes, refused, found, lacking, form)
    if residuals.additions or (outside := added_beside(facts, kinds, class_name)) is None:
        return whole
    return _with_sites_beside(whole, outside)


def _with_sites_beside(layer: LayerFindings, outside: Beside) -> LayerFindings:
    """A layer whose sites stand in the loop that runs through its list. Its own roles are those that are told by its own forward."""
    scene, additions = outside.scene, outside.residuals.additions
    attentions = Attentions(scene)
    sublayers = Roles(scene, attentions, additions)
    findings = [finding for finding in layer.findings if Method.BOTTLENECK not in finding.methods]
    placed = Placing(scene, attentions, sublayers, outside.holders).sites(additions, findings)
    plan = replace(layer.plan, bottlenecks=bottlenecks_of(placed))
    if any(role.where or role.unless or role.sublayer for role in plan.bottlenecks) or len(placed) != len(additions):
        return layer
    locations = frozenset(role.location for role in plan.bottlenecks)
    lacking = completeness(scene, attentions, Layer(additions, locations, sublayers), findings)
    plan = replace(plan, without=lacking.without)
    found = (*findings, *lacking.gaps, *lacking.second)
    return replace(layer, plan=plan, residual=placed, findings=found, lacking=lacking, gives_stream=False)


def _prefixes(cores: Iterable[AttentionCore], scene: Scene) -> tuple[tuple[PrefixSite, ...], dict[str, list[Finding]]]:
    """The sites, and for classes with a core that has none the reasons."""
    sites: list[PrefixSite] = []
    refused: dict[str, list[Finding]] = {}
    for core in cores:
        if not core.kind.has_keys:
            continue
        site = plan_prefix(core, scene)
        if isinstance(site, PrefixSite):
            sites.append(site)
        else:
            refused.setdefault(core.call.frame.class_name, []).extend(site)
    return tuple(sites), refused


def _beyond(scene: Scene, attentions: Attentions, residuals: Residuals) -> Iterator[Block]:
    """The feed-forward block where the stream is not followed up to it: the sum behind an attention that is
    added to what this was added to."""
    attended = {id(one.result) for one in attentions.attending()}
    sums = unclaimed_sums(scene, residuals)
    sublayers = Roles(scene, attentions, sums)
    for one in sums:
        is_behind = not attended.isdisjoint(ancestors(one.residual))
        if is_behind and sublayers.feeds_forward(one) and is_block(one.branch, one.residual, scene):
            yield one.branch, one.residual


def _feed_forward(blocks: Iterable[Block], attentions: Iterable[AttentionRoles], scene: Scene) -> MLPRoles:
    """The projections of all feed-forward blocks of the layer; those of an attention are none of theirs."""
    attending = {path for roles in attentions for path in _projections(roles)}
    parts: tuple[list[str], list[str], list[str]] = ([], [], [])
    for given, residual in blocks:
        for known, found in zip(parts, feed_forward(given, residual, scene), strict=True):
            known += [path for path in found if path not in attending and path not in known]
    first, gate, last = map(tuple, parts)
    return MLPRoles(first, gate, last)


def _adaptable(plan: LayerPlan) -> Iterator[str]:
    """The paths of all projections that the roles name."""
    for roles in plan.attentions:
        yield from filter(None, _projections(roles))
    yield from (*plan.mlp.first, *plan.mlp.gate, *plan.mlp.last, *plan.mixer.first, *plan.mixer.last)


def _projections(roles: AttentionRoles) -> tuple[str, ...]:
    queries, values = (roles.query, *roles.query_alternatives), (roles.value, *roles.value_beside)
    return (*queries, roles.key, *values, roles.fused, roles.output)
