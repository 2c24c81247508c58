"""All attention of one layer: its cores, what each is used for, and the projections around them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

import libcst as cst

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import AttentionKind, AttentionRoles, Method
from adapter_codegen.plan.attention.core import AttentionCore
from adapter_codegen.plan.attention.origins import Origins
from adapter_codegen.plan.attention.projections import attention_roles
from adapter_codegen.plan.attention.table import find_cores
from adapter_codegen.plan.attention.text import may_be_skipped
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors


@dataclass(frozen=True, eq=False)
class Attending:
    """One attention of a layer."""

    path: str  # of the module that attends
    result: Value  # what holds the attended values
    node: cst.CSTNode


class Attentions:
    """Answers about the attention in a layer's forward."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.cores = find_cores(scene)
        # Calls of nn.MultiheadAttention, which has no core that shows.
        self._of_torch = [value for value in scene.flow.values if scene.is_call_of(value, Kind.TORCH_ATTENTION)]
        self._origins = Origins(scene, (*(core.result for core in self.cores), *self._of_torch))
        self._kinds = _by_path((core.path, self._origins.kind(core)) for core in self.cores)
        self._kinds_of_torch = _by_path((call.path, self._origins.kind_of_torch(call)) for call in self._of_torch)

    # -- questions ---------------------------------------------------------------------------------------------------

    def kinds_in(self, values: Mapping[int, Value]) -> list[AttentionKind]:
        """What the attentions are used for whose results are among `values`."""
        found = [self._kinds[core.path] for core in self.cores if id(core.result) in values]
        return found + [self._kinds_of_torch[call.path] for call in self._of_torch if id(call) in values]

    def is_behind(self, value: Value) -> bool:
        """Whether attended values are among what `value` was computed from."""
        return bool(self.kinds_in(ancestors(value)))

    def are_there(self) -> bool:
        return bool(self.cores or self._of_torch)

    def attending(self) -> Iterator[Attending]:
        """All of them, in order."""
        yield from (Attending(core.path, core.result, core.call.node) for core in self.cores)
        yield from (Attending(call.path, call, call.node) for call in self._of_torch)

    # -- roles -------------------------------------------------------------------------------------------------------

    def roles(self, findings: list[Finding]) -> tuple[AttentionRoles, ...]:
        """The projections around each core. What is missing goes into `findings`."""
        found = [self._roles_at(path, kind, findings) for path, kind in self._kinds.items()]
        return (*found, *self._torch_attentions(findings))

    def _roles_at(self, path: str, kind: AttentionKind, findings: list[Finding]) -> AttentionRoles:
        """Of all cores that the module at a path may have, the roles of the one that shows most, and reads the stream.

        One that always runs goes ahead: Longformer attends once more, with projections of its own, where tokens are global.
        """
        cores = [core for core in self.cores if core.path == path]
        roles = {core: attention_roles(core, self._scene, self._origins) for core in cores}
        among = [core for core in cores if roles[core].kind is kind] or cores
        among = [core for core in among if not may_be_skipped(self._scene, core.result)] or among
        of_stream = self._origins.asks_for_stream
        best = roles[max(among, key=lambda core: (_count_of_projections(roles[core]), of_stream(core)))]
        if cores[0].kind.has_keys and not best.fused and not (best.query and best.key and best.value):
            said = {"core": path or "self"}
            findings.append(Finding(Problem.NO_PROJECTIONS, cores[0].call.node, (Method.LORA,), said))
        return replace(best, core_classes=self._among_others(path, cores))

    def _among_others(self, path: str, cores: Iterable[AttentionCore]) -> tuple[str, ...]:
        """The classes that attend at a path, where the module there may have another one, which does not."""
        calls = [value for value in self._scene.flow.values if value.op is Op.SUBMODULE and value.path == path]
        known = {local_class(name) for call in calls if call.module is not None for name in call.module.classes}
        attending = tuple(dict.fromkeys(core.frame.class_name for core in cores))
        return attending if known - set(attending) else ()

    def _torch_attentions(self, findings: list[Finding]) -> Iterator[AttentionRoles]:
        """nn.MultiheadAttention: attention, with nothing inside that adapters could take hold of but its output."""
        for path, kind in self._kinds_of_torch.items():
            node = next(call.node for call in self._of_torch if call.path == path)
            findings.append(Finding(Problem.TORCH_ATTENTION, node, (Method.PREFIX_TUNING, Method.LORA)))
            yield AttentionRoles(core=path, kind=kind)


def _by_path(kinds: Iterable[tuple[str, AttentionKind]]) -> Mapping[str, AttentionKind]:
    """A module may be one of several classes, or be called twice: it is cross-attention where it is so once."""
    found: dict[str, AttentionKind] = {}
    for path, kind in kinds:
        if found.get(path) is not AttentionKind.CROSS:
            found[path] = kind
    return found


def _count_of_projections(roles: AttentionRoles) -> int:
    return sum(map(bool, (roles.query, roles.key, roles.value, roles.output))) + 3 * bool(roles.fused)
