"""All attention of one layer: its cores, what each is used for, and the projections around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.model import AttentionKind, AttentionRoles, Method
from adapter_codegen.plan.attention.origins import Origins
from adapter_codegen.plan.attention.projections import attention_roles
from adapter_codegen.plan.attention.table import find_cores
from adapter_codegen.plan.findings import Finding
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Value, ancestors


class Attentions:
    """Answers about the attention in a layer's forward."""

    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self.cores = find_cores(scene)
        self._origins = Origins(scene, self.cores)
        self._kinds = self._kinds_of_paths()

    def _kinds_of_paths(self) -> Mapping[str, AttentionKind]:
        """A core's module may be one of several classes; what it is used for is the same for all of them."""
        found: dict[str, AttentionKind] = {}
        for core in self.cores:
            kind = self._origins.kind(core)
            if found.get(core.path) is not AttentionKind.CROSS:
                found[core.path] = kind
        return found

    # -- questions ---------------------------------------------------------------------------------------------------

    def kinds_in(self, values: Mapping[int, Value]) -> list[AttentionKind]:
        """What the cores are used for whose results are among `values`."""
        return [self._kinds[core.path] for core in self.cores if id(core.result) in values]

    def is_behind(self, value: Value) -> bool:
        """Whether attended values are among what `value` was computed from."""
        return bool(self.kinds_in(ancestors(value)))

    def is_torch_attention(self, value: Value) -> bool:
        """The call of an nn.MultiheadAttention, which has no core that shows."""
        return self._scene.is_call_of(value, Kind.TORCH_ATTENTION)

    # -- roles -------------------------------------------------------------------------------------------------------

    def roles(self, findings: list[Finding]) -> tuple[AttentionRoles, ...]:
        """The projections around each core. What is missing goes into `findings`."""
        found = [self._roles_at(path, kind, findings) for path, kind in self._kinds.items()]
        return (*found, *self._torch_attentions(findings))

    def _roles_at(self, path: str, kind: AttentionKind, findings: list[Finding]) -> AttentionRoles:
        """Of all cores that the module at a path may have, the roles of the one that shows most, and reads the stream."""
        cores = [core for core in self.cores if core.path == path]
        roles = {core: attention_roles(core, self._scene, self._origins) for core in cores}
        among = [core for core in cores if roles[core].kind is kind] or cores
        of_stream = self._origins.asks_for_stream
        best = roles[max(among, key=lambda core: (_count_of_projections(roles[core]), of_stream(core)))]
        if cores[0].kind.has_keys and not best.fused and not (best.query and best.key and best.value):
            said = {"core": path or "self"}
            findings.append(Finding(Problem.NO_PROJECTIONS, cores[0].call.node, (Method.LORA,), said))
        return best

    def _torch_attentions(self, findings: list[Finding]) -> Iterator[AttentionRoles]:
        """nn.MultiheadAttention: attention, with nothing inside that adapters could take hold of but its output."""
        calls = [value for value in self._scene.flow.values if self.is_torch_attention(value)]
        for path in dict.fromkeys(call.path for call in calls):
            node = next(call.node for call in calls if call.path == path)
            findings.append(Finding(Problem.TORCH_ATTENTION, node, (Method.PREFIX_TUNING, Method.LORA)))
            yield AttentionRoles(core=path, kind=AttentionKind.SELF)


def _count_of_projections(roles: AttentionRoles) -> int:
    return sum(map(bool, (roles.query, roles.key, roles.value, roles.output))) + 3 * bool(roles.fused)
