"""All layers of one modeling file together: the classes to copy, and what each method can rely on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import (
    ClassPlan,
    Diagnostic,
    LayerPlan,
    Level,
    Location,
    Method,
    PrefixSite,
    ResidualSite,
    StreamForm,
)
from adapter_codegen.parse.facts import ModuleFacts
from adapter_codegen.plan.findings import Finding, as_diagnostic
from adapter_codegen.plan.flow.activation import TooLarge
from adapter_codegen.plan.flow.kinds import Kinds
from adapter_codegen.plan.stream.layers import LayerFindings, plan_layer
from adapter_codegen.plan.stream.lists.candidates import Candidates

# About additions to the stream that get no adapter.
_ADDITIONS = frozenset(
    {
        Problem.ADDED_IN_PART,
        Problem.NO_EARLIER_OPERAND,
        Problem.NO_WORK_ADDED,
        Problem.ADDITION_WITHOUT_CLASS,
        Problem.MIXES_POSITIONS,
    }
)


@dataclass(frozen=True)
class LayerEntry:
    """A layer class, with the classes that are copied for it."""

    plan: LayerPlan
    classes: tuple[str, ...]
    prefix_problems: tuple[Diagnostic, ...]  # why not every core in it takes a prefix
    gaps: tuple[Diagnostic, ...] = ()  # what of its stream was not followed or has no rule: sites are missing
    second: tuple[Diagnostic, ...] = ()  # attention on a second stream, which has no sites
    has_additions: bool = True  # whether anything is added to the stream in it; a list may hold mere attentions
    form: StreamForm = StreamForm.ROWS
    shown: Location | None = None  # what shows another form than rows

    @property
    def problems(self) -> tuple[Diagnostic, ...]:
        """What is about this layer alone."""
        return (*self.prefix_problems, *self.gaps, *self.second)

    @property
    def takes_prefix(self) -> bool:
        return bool(self.plan.attentions) and not self.prefix_problems


@dataclass(frozen=True)
class ModulePlan:
    """What the recognisers find in one modeling file, whatever model types it serves. Picklable."""

    path: str
    classes: tuple[ClassPlan, ...]  # to be copied, in the order of the file
    entries: tuple[LayerEntry, ...]
    diagnostics: tuple[Diagnostic, ...]

    @property
    def layers(self) -> tuple[LayerPlan, ...]:
        return tuple(entry.plan for entry in self.entries)

    @property
    def cores(self) -> int:
        """Attention cores that take a prefix."""
        return sum(len(entry.prefix_sites) for entry in self.classes)

    @property
    def residuals(self) -> int:
        """Residual additions that take a bottleneck."""
        return sum(len(site.hosts) for entry in self.classes for site in entry.residual_sites)


def plan_module(facts: ModuleFacts) -> ModulePlan:
    """Plan the attention cores and residual additions of a modeling file."""
    kinds = Kinds(facts)
    results: list[LayerFindings] = []
    findings: list[Finding] = []
    candidates = Candidates(facts, kinds)
    for name in candidates.layers:
        try:
            result = plan_layer(facts, kinds, name)
        except TooLarge:
            findings.append(Finding(Problem.TOO_LARGE, facts.classes[name].node, tuple(Method), {"name": name}))
            continue
        if result is not None:
            results.append(result)
    if candidates.have_attention:
        results = _with_attention_beside(facts, results)
    findings += [finding for result in results for finding in result.findings]
    refused = _refused(results)
    for name in _with_a_kernel_instead(facts, results, refused):
        kernels = [finding for finding in refused.pop(name) if finding.problem is Problem.KERNEL_CALLED_DIRECTLY]
        findings += [replace(finding, methods=(), milder=Level.NOTE) for finding in kernels]
    findings += [finding for found in refused.values() for finding in found]
    classes, clashes = _classes(facts, results, set(refused))
    results = [_with_clashes(result, clashes, classes) for result in results]
    if not results:
        findings.append(Finding(Problem.NO_ATTENTION_IN_FILE, None, tuple(Method)))
    entries = tuple(_entry(result, refused, facts) for result in results)
    diagnostics = dict.fromkeys(as_diagnostic(finding, facts) for finding in (*findings, *clashes))
    return ModulePlan(facts.path, classes, entries, tuple(diagnostics))


def _with_attention_beside(facts: ModuleFacts, results: list[LayerFindings]) -> list[LayerFindings]:
    """Without those that have no attention and share no list with one that has (the other layers of a hybrid model)."""
    attending = {result.plan.class_name for result in results if result.plan.attentions}
    lists = [set(s.classes) for known in facts.classes.values() for s in known.submodules.values() if s.in_list]
    beside = {name for names in lists if names & attending for name in names}
    return [result for result in results if result.plan.class_name in attending | beside]


def _entry(result: LayerFindings, refused: dict[str, list[Finding]], facts: ModuleFacts) -> LayerEntry:
    touched = [site.class_name for site in result.prefix] + [placed.site.class_name for placed in result.residual]
    problems = [finding for name in result.core_classes for finding in refused.get(name, ())]
    warnings = [finding for finding in result.findings if finding.level is not Level.NOTE]
    problems += [finding for finding in warnings if Method.PREFIX_TUNING in finding.methods]
    diagnostics = dict.fromkeys(as_diagnostic(finding, facts) for finding in problems)
    has_additions = (result.gives_stream and bool(result.residual)) or any(
        finding.problem in _ADDITIONS for finding in result.findings
    )
    lacking = result.lacking
    gaps, second = (tuple(as_diagnostic(finding, facts) for finding in of) for of in (lacking.gaps, lacking.second))
    copied = tuple(dict.fromkeys(touched))
    entry = LayerEntry(result.plan, copied, tuple(diagnostics), gaps, second, has_additions)
    sign = result.form
    return entry if sign is None else replace(entry, form=sign.form, shown=facts.location(sign.node))


def _with_clashes(result: LayerFindings, clashes: Iterable[Finding], classes: Iterable[ClassPlan]) -> LayerFindings:
    """With the classes of its sites that have another role elsewhere as gaps, and without the hosts that they would have here."""
    ours = {placed.site.class_name for placed in result.residual}
    gaps = tuple(clash for clash in clashes if clash.details["name"] in ours)
    if not gaps:
        return result
    kept = [site for entry in classes for site in entry.residual_sites]
    lost = {role.host for placed in result.residual if placed.site not in kept for role in placed.bottlenecks}
    held = tuple(role for role in result.plan.bottlenecks if role.host not in lost)
    lacking = replace(result.lacking, gaps=(*result.lacking.gaps, *gaps))
    return replace(result, plan=replace(result.plan, bottlenecks=held), lacking=lacking)


def _refused(results: Iterable[LayerFindings]) -> dict[str, list[Finding]]:
    """Classes with a core that takes no prefix: none of their cores then gets one, so that no branch ignores it."""
    refused: dict[str, list[Finding]] = {}
    for result in results:
        for name, findings in result.refused_cores.items():
            refused.setdefault(name, []).extend(findings)
    return refused


def _with_a_kernel_instead(
    facts: ModuleFacts, results: Sequence[LayerFindings], refused: Mapping[str, Sequence[Finding]]
) -> list[str]:
    """Refused classes that do with a kernel what the class above does in a way that takes a prefix: a config chooses between them.

    They stay as upstream has them, and where a model holds one, a prefix finds no place.
    """
    taking = {site.class_name for result in results for site in result.prefix} - set(refused)
    return [
        name
        for name, findings in refused.items()
        if taking & set(facts.classes[name].lineage[1:])
        and any(finding.problem is Problem.KERNEL_CALLED_DIRECTLY for finding in findings)
    ]


def _classes(
    facts: ModuleFacts, results: Iterable[LayerFindings], without_prefix: set[str]
) -> tuple[tuple[ClassPlan, ...], list[Finding]]:
    prefix: dict[str, dict[Location, PrefixSite]] = {}
    residual: dict[str, dict[Location, ResidualSite]] = {}
    clashes: list[Finding] = []
    for result in results:
        for site in result.prefix:
            if site.class_name not in without_prefix:
                prefix.setdefault(site.class_name, {}).setdefault(site.location, site)
        for placed in result.residual:
            known = residual.setdefault(placed.site.class_name, {}).setdefault(placed.site.location, placed.site)
            if known != placed.site:
                node, name = facts.classes[known.class_name].node, known.class_name
                roles = {"name": name, "one": known.host or "own", "other": placed.site.host or "own"}
                clashes.append(Finding(Problem.TWO_ROLES, node, (Method.BOTTLENECK,), roles))
    plans = []
    for name, known_class in facts.classes.items():
        prefix_sites = tuple(sorted(prefix.get(name, {}).values(), key=lambda site: site.location))
        residual_sites = tuple(sorted(residual.get(name, {}).values(), key=lambda site: site.location))
        sites: tuple[PrefixSite | ResidualSite, ...] = (*prefix_sites, *residual_sites)
        touched = {site.function for site in sites}
        if touched:
            functions = tuple(function for function in known_class.functions if function in touched)
            plans.append(ClassPlan(name, facts.location(known_class.node), functions, prefix_sites, residual_sites))
    return tuple(plans), clashes
