"""``adapter-codegen explain``: a plan as a tree of words, before anybody decides how it looks.

`outline` turns a plan into `Node`s; `text` and `html` draw those, `record` is the JSON form. What is
said about a plan is decided here and only here.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from enum import Enum

from adapter_codegen.diagnostics import report
from adapter_codegen.model import (
    AttentionRoles,
    BasePlan,
    BottleneckRole,
    ClassPlan,
    Diagnostic,
    HolderPlan,
    LayerPlan,
    Level,
    Location,
    MethodSupport,
    ModelPlan,
    OutputOrder,
    PartPlan,
    PlanResult,
    PrefixSite,
    Refusal,
    ResidualSite,
    StackPlan,
    StaticHead,
    TowerPlan,
)
from adapter_codegen.rewrite import naming

Site = PrefixSite | ResidualSite
Emitted = Mapping[Site, tuple[str, ...]]  # the lines between the markers that a site became

NOTHING_EMITTED: Emitted = {}


class Mark(str, Enum):
    """What a node says at a glance. The values are the signs shown in front of it."""

    NONE = ""
    YES = "✓"
    NO = "✗"
    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


MARK_OF_LEVEL = {Level.ERROR: Mark.ERROR, Level.WARNING: Mark.WARNING, Level.NOTE: Mark.NOTE}


@dataclass(frozen=True)
class Node:
    """A line of the tree."""

    label: str  # what it is: "layer", "query", a name
    value: str = ""  # what is said about it
    location: Location | None = None  # where upstream says so
    mark: Mark = Mark.NONE
    upstream: tuple[str, ...] = ()  # upstream's lines, dedented; with `emitted`: what they became
    emitted: tuple[str, ...] = ()
    replaced: bool = False  # the emitted lines stand in upstream's place; otherwise in front of them
    children: tuple[Node, ...] = ()


def outline(
    result: PlanResult, emitted: Emitted = NOTHING_EMITTED, sources: report.Sources = report.no_sources
) -> Node:
    """The whole tree of a plan or of a refusal."""
    if isinstance(result, Refusal):
        understood = () if result.base is None else (_base(result.base, ()),)
        about = (*_diagnostics(result.diagnostics), *understood)
        return Node(result.model_type, "refused", mark=Mark.NO, children=about)
    sections = (
        Node("methods", children=tuple(map(_method, result.methods))),
        _base(result.base, result.layers),
        *map(_holder, result.holders),
        *map(_tower, result.towers),
        *(_layer(layer, naming.mixins(result)[layer.class_name]) for layer in result.layers),
        *(_class(plan, emitted, sources) for plan in result.classes),
        Node("heads", children=tuple(_heads(result))),
        Node("config keys", children=tuple(Node(ours, theirs) for ours, theirs in result.config_keys)),
        Node("overrides", children=tuple(map(Node, result.overrides))),
        Node("diagnostics", children=tuple(_diagnostics(result.diagnostics))),
    )
    headline = f"transformers {result.version}, {result.config_class}, {result.path}"
    return Node(result.model_type, headline, children=tuple(node for node in sections if node.children))


def _method(support: MethodSupport) -> Node:
    mark = Mark.YES if support.supported else Mark.NO
    return Node(support.method.value, support.reason, support.location, mark)


def _base(base: BasePlan, layers: Sequence[LayerPlan]) -> Node:
    stacks = (_stack(stack, layers) for stack in base.stacks)
    paths = (
        Node("token embeddings", base.token_embeddings),
        Node("token scale", base.token_scale),
        Node("embedding output", base.embedding_output),
        Node("mask of tokens", "made where none is given" if base.makes_mask else ""),
        Node("entry of tokens", base.token_entry),
        Node("final norm", base.final_norm),
        *map(_model, base.models),
    )
    kind = "encoder-decoder, " if base.is_encoder_decoder else ""
    value = f"{base.class_name} ({kind}{base.pretrained_class}, prefix {base.prefix!r})"
    return Node("base model", value, base.location, children=(*stacks, *_filled(paths)))


def _stack(stack: StackPlan, layers: Sequence[LayerPlan]) -> Node:
    """A stack: whether it is complete, what its layers do not have, and what was not followed."""
    without = (
        Node(f"{layer.class_name} without {role.value}", reason.value)
        for layer in layers
        if layer.class_name in stack.layer_classes
        for role, reason in layer.without
    )
    gaps = (Node("not complete", gap.message, gap.location, Mark.NO) for gap in stack.gaps)
    second = (Node("second stream", found.message, found.location, Mark.NO) for found in stack.second)
    beside = [Node("beside", f"{', '.join(stack.without)}, which hold no layers")] if stack.without else []
    value = f"{stack.path} of {', '.join(stack.layer_classes)}{_remarks(stack)}"
    mark = Mark.YES if stack.is_complete else Mark.NO
    return Node("stack", value, stack.shown, mark, children=(*gaps, *second, *without, *beside))


def _model(model: PartPlan) -> Node:
    """A model inside: how it is made and what it reads, or why it is no part."""
    kind = "own stack" if model.is_stack else "no part" if model.near_miss else "part"
    usual = f", by default that of {model.usual_type}" * bool(model.usual_type)
    class_name = model.class_name or f"of a class that is known when a model is built{usual}"
    config = "unknown" if model.config_path is None else model.config_path or "the model's own"
    made = model.making.value + (f" ({model.made_by})" if model.made_by else "")
    said = (
        Node("made", made),
        Node("config", config),
        Node("reads", ", ".join(model.reads)),
        Node("only where the config has it", "yes" * model.is_optional),
        Node("main", "what is returned comes out of it" * model.is_main),
        Node("reason", model.near_miss or model.unprepared),
    )
    mark = Mark.NO if model.near_miss or model.unprepared else Mark.YES
    return Node(kind, f"{model.path}: {class_name}", model.location, mark, children=tuple(_filled(said)))


def _holder(holder: HolderPlan) -> Node:
    """A class that holds layers of the base model itself."""
    base = holder.base
    children = (
        Node("stacks", ", ".join(stack.path for stack in base.stacks)),
        Node("beside the base model's", ", ".join(holder.head)),
        *(Node(method.value, reason, mark=Mark.NO) for method, reason in holder.lacks),
    )
    return Node("holds layers too", base.class_name, base.location, children=tuple(_filled(children)))


def _tower(tower: TowerPlan) -> Node:
    """A model inside of the base model that is one by itself."""
    base = tower.base
    paths = (
        Node("stacks", ", ".join(f"{stack.path}{_remarks(stack)}" for stack in base.stacks)),
        Node("token embeddings", base.token_embeddings),
        Node("embedding output", base.embedding_output),
        Node("entry of tokens", base.token_entry),
    )
    children = (*_filled(paths), *map(_method, tower.methods))
    return Node("tower", base.class_name, base.location, children=children)


def _remarks(stack: StackPlan) -> str:
    remarks = ["main"] * stack.is_main + ["shared"] * stack.shared + [stack.form.value] * bool(stack.form.value)
    return f" ({', '.join(remarks)})" if remarks else ""


def _host(role: BottleneckRole) -> str:
    """``attention_adapters, where mixes, not is_first``"""
    flags = [*role.where, *(f"not {name}" for name in role.unless)]
    flags += [f"{role.sublayer} is {' or '.join(role.classes)}"] if role.sublayer else []
    return (role.host or "the layer") + (f", where {', '.join(flags)}" if flags else "")


def _layer(layer: LayerPlan, mixin: str) -> Node:
    mlp = (
        Node("first projection", ", ".join(layer.mlp.first)),
        Node("gate projection", ", ".join(layer.mlp.gate)),
        Node("last projection", ", ".join(layer.mlp.last)),
    )
    mixer = (
        Node("first projection", ", ".join(layer.mixer.first)),
        Node("last projection", ", ".join(layer.mixer.last)),
    )
    children = (
        *map(_attention, layer.attentions),
        *(Node(f"bottleneck after {role.location.value}", _host(role)) for role in layer.bottlenecks),
        Node("mlp", children=tuple(_filled(mlp))),
        Node("mixer", children=tuple(_filled(mixer))),
        Node("only under a condition", ", ".join(layer.optional)),
        Node("batch and positions turned", ", ".join(layer.turned)),
    )
    value = f"{layer.class_name} → {mixin}"
    return Node("layer", value, layer.location, children=tuple(_filled(children)))


def _attention(roles: AttentionRoles) -> Node:
    named = [name for name in vars(roles) if name not in ("core", "kind")]
    children = (Node(name.replace("_", " "), _written(getattr(roles, name))) for name in named)
    return Node(f"{roles.kind.value}-attention", roles.core or "the layer", children=tuple(_filled(children)))


def _written(value: str | tuple[str, ...] | tuple[OutputOrder, ...]) -> str:
    return value if isinstance(value, str) else ", ".join(map(_entry, value))


def _entry(value: str | OutputOrder) -> str:
    """An order of outputs as ``q k v of head_dim, head_dim, head_dim in each 3 * head_dim``."""
    if isinstance(value, str):
        return value
    group = f" in each {value.group}" if value.group else ""
    flags = [*value.where, *(f"not {name}" for name in value.unless)]
    return f"{' '.join(value.parts)} of {', '.join(value.sizes)}{group}" + (
        f" where {', '.join(flags)}" if flags else ""
    )


def _class(plan: ClassPlan, emitted: Emitted, sources: report.Sources) -> Node:
    sites: list[Site] = [*plan.prefix_sites, *plan.residual_sites]
    children = tuple(_site(site, emitted, sources) for site in sorted(sites, key=lambda site: site.statement))
    return Node("class", f"{plan.name} → {naming.with_adapters(plan.name)}", plan.location, children=children)


def _site(site: Site, emitted: Emitted, sources: report.Sources) -> Node:
    lines = emitted.get(site, ())
    if isinstance(site, PrefixSite):
        upstream = _lines(site.statement, sources)[:1]
        return Node("prefix", f"{site.core} in {site.function}", site.location, upstream=upstream, emitted=lines)
    upstream = _lines(site.statement, sources)
    if site.dropped is not None:
        upstream += _lines(site.dropped, sources)
    role = f" after {site.role.value}" if site.role is not None else ""
    host = site.host or "the class itself"
    if site.beside is not None:
        host = f"{site.beside.host} and {host}"
    value = f"{site.placement.value}{role} in {site.function}, adapters in {host}"
    return Node("bottleneck", value, site.location, upstream=upstream, emitted=lines, replaced=True)


def _lines(location: Location, sources: report.Sources) -> tuple[str, ...]:
    """Upstream's lines of a statement, dedented; none where the text is not at hand."""
    source = sources(location.path)
    if source is None:
        return ()
    lines = source.split("\n")[location.line - 1 : location.end_line]
    return tuple(textwrap.dedent("\n".join(lines)).split("\n"))


def _heads(plan: ModelPlan) -> Iterator[Node]:
    if plan.flexible_heads:
        yield Node("flexible heads", ", ".join(plan.flexible_heads))
    elif plan.headless:
        yield Node("flexible heads", f"none: {plan.headless}", mark=Mark.NO)
    yield from map(_static_head, plan.static_heads)


def _static_head(head: StaticHead) -> Node:
    if not head.head_type:
        return Node(head.class_name, f"no flexible counterpart: {head.reason}", head.location, Mark.NO)
    layers = ", ".join(layer or "–" for layer in head.layers)
    config = ", ".join(f"{name}={value!r}" for name, value in head.config)
    children = _filled((Node("layers", layers), Node("options", config)))
    return Node(head.class_name, f"→ {head.head_type}", mark=Mark.YES, children=tuple(children))


def _diagnostics(diagnostics: Iterable[Diagnostic]) -> Iterator[Node]:
    for diagnostic in report.collect(diagnostics):
        mark = MARK_OF_LEVEL[diagnostic.level]
        remedy = Node("help", diagnostic.remedy)
        yield Node(diagnostic.code, diagnostic.message, diagnostic.location, mark, children=(remedy,))


def _filled(nodes: Iterable[Node]) -> Iterator[Node]:
    """Only the nodes that say something."""
    return (node for node in nodes if node.value or node.children)


def record(result: PlanResult, emitted: Emitted = NOTHING_EMITTED) -> dict[str, object]:
    """The JSON form: the fields of the plan under their names, each site with the lines it became under ``emitted``."""
    planned = _record(result, emitted)
    assert isinstance(planned, dict)
    return {"supported": isinstance(result, ModelPlan), **planned}


def _record(value: object, emitted: Emitted) -> object:
    if isinstance(value, Diagnostic):
        return report.record(value)
    if isinstance(value, Location):
        return report.location_record(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_record(item, emitted) for item in value]
    if is_dataclass(value) and not isinstance(value, type):
        listed = {entry.name: _record(getattr(value, entry.name), emitted) for entry in fields(value)}
        if isinstance(value, (PrefixSite, ResidualSite)):
            listed["emitted"] = list(emitted.get(value, ()))
        return listed
    return value
