"""Whether a layer has all of its sites.

The stream of a layer is followed from what it returns to what it is given. Where nothing on this way was left over, a layer that
has no site behind an attention, or none as its output, has none because of its structure, and `Absence` says which. Where something
was left over, the layer is not complete, and the findings that say so are its *gaps*.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import Absence, Level, Method, Role
from adapter_codegen.plan.attention.attentions import Attending, Attentions
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import ancestors
from adapter_codegen.plan.stream.additions.residuals import Addition, Residuals, stream_outputs
from adapter_codegen.plan.stream.roles import Roles

_ATTENDING = frozenset({Role.ATTENTION, Role.CROSS_ATTENTION})
_BOTTLENECK = (Method.BOTTLENECK,)


@dataclass(frozen=True)
class Completeness:
    """What is known of the sites that a layer lacks."""

    gaps: tuple[Finding, ...] = ()  # what was not followed, or has no rule
    second: tuple[Finding, ...] = ()  # attention on a second stream
    without: tuple[tuple[Role, Absence], ...] = ()  # what the structure does not have


def left_over(residuals: Residuals, sublayers: Roles) -> Iterator[Finding]:
    """What the way along the stream met and did not claim."""
    for refused in residuals.refused:
        if sublayers.is_extra_sum(refused.value):
            yield Finding(Problem.EXTRA_OUTPUT, refused.value.node)
        else:
            yield Finding(refused.problem, refused.value.node, _BOTTLENECK)
    for end in residuals.ends:
        yield Finding(Problem.STREAM_NOT_FOLLOWED, end.node, _BOTTLENECK)


def completeness(scene: Scene, attentions: Attentions, layer: Layer, findings: Sequence[Finding]) -> Completeness:
    """What a layer lacks, and why.

    Args:
        findings: all about the layer.
    """
    first, second = _by_stream(scene, attentions)
    attended = [Finding(Problem.SECOND_STREAM, one.node, (), {"core": one.path or "self"}) for one in second]
    added = [
        Finding(Problem.ADDED_TO_SECOND, one.value.node, (), {"work": one.work.path or one.work.frame.path})
        for one in layer.beside
    ]
    beside = tuple(attended or added)
    gaps = [
        finding for finding in findings if Method.BOTTLENECK in finding.methods and finding.level is not Level.NOTE
    ]
    if not gaps and first and not layer.attends:
        said = {"core": first[0].path or "self"}
        gaps = [Finding(Problem.ATTENTION_WITHOUT_SITE, first[0].node, _BOTTLENECK, said)]
    if gaps:
        return Completeness(tuple(gaps), beside)
    mixes = any(finding.problem is Problem.MIXES_POSITIONS for finding in findings)
    return Completeness((), beside, tuple(layer.without(mixes)))


@dataclass(frozen=True)
class Layer:
    """The sites of a layer whose whole stream is known."""

    additions: Sequence[Addition]  # the claimed ones
    locations: frozenset[Role]  # what its sites follow
    sublayers: Roles
    beside: Sequence[Addition] = ()  # those on a second stream

    @property
    def attends(self) -> bool:
        """Whether there is a site behind an attention, or behind a mixer in its place."""
        return bool(self.locations & _ATTENDING)

    def without(self, mixes: bool) -> Iterator[tuple[Role, Absence]]:
        """What the structure does not have.

        Args:
            mixes: whether something is added that takes no adapter.
        """
        if not self.attends:
            yield Role.ATTENTION, self._no_attention(mixes)
        if Role.OUTPUT not in self.locations:
            yield Role.OUTPUT, self._no_output(mixes)

    def _no_attention(self, mixes: bool) -> Absence:
        if not self.additions:
            return Absence.NOTHING_ADDED
        if mixes:
            return Absence.MIXES_POSITIONS
        alone = len(self.additions) == 1 and self.sublayers.is_mixer(self.additions[0])
        return Absence.MIXER if alone else Absence.NO_ATTENTION

    def _no_output(self, mixes: bool) -> Absence:
        if not self.additions:
            return Absence.NOTHING_ADDED
        if mixes:
            return Absence.MIXES_POSITIONS
        return Absence.ONE_SUBLAYER if len(self.additions) == 1 else Absence.NO_FEED_FORWARD


def _by_stream(scene: Scene, attentions: Attentions) -> tuple[list[Attending], list[Attending]]:
    """The attentions, one for each module, whose results reach what the layer returns first; and the others."""
    behind = {key for output in stream_outputs(scene) for key in ancestors(output)}
    reaching = _one_each(one for one in attentions.attending() if id(one.result) in behind)
    known = {one.path for one in reaching}
    return reaching, _one_each(one for one in attentions.attending() if one.path not in known)


def _one_each(found: Iterable[Attending]) -> list[Attending]:
    by_path: dict[str, Attending] = {}
    for one in found:
        by_path.setdefault(one.path, one)
    return list(by_path.values())
