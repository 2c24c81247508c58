"""Which sublayer each residual addition of a layer belongs to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from adapter_codegen.model import AttentionKind, Role
from adapter_codegen.plan.attention.attentions import Attentions
from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors
from adapter_codegen.plan.flow.walks import last_name
from adapter_codegen.plan.stream.additions.by_class import Variant, variants_of
from adapter_codegen.plan.stream.additions.parallel import terms_of
from adapter_codegen.plan.stream.additions.residuals import Addition, InPart
from adapter_codegen.plan.stream.additions.work import STEPS
from adapter_codegen.plan.stream.blocks.feed_forward import feed_forward
from adapter_codegen.plan.stream.optional import is_named_element, optional_start

_MIXING = frozenset({"cumsum", "softplus", "einsum", "conv1d", "exp", "fft", "rfft", "segment_sum"})


class Roles:
    """Answers for one layer, remembered."""

    def __init__(self, scene: Scene, attentions: Attentions, additions: Sequence[Addition]) -> None:
        self._scene = scene
        self._attentions = attentions
        self._additions = additions
        self._known = {id(addition): self._find(addition) for addition in additions}
        self._by_class = {id(addition.value): self._of_classes(addition) for addition in additions}

    def of(self, addition: Addition) -> Role | None:
        """The role of an addition; None where it belongs to no sublayer that adapters know."""
        return self._known[id(addition)]

    def by_class(self, addition: Addition) -> Mapping[str, Role | None]:
        """The roles of an addition whose sublayer is an attention or a mixer in some classes of its module, and a feed-forward block in others.

        None where what a class does is not known; {} where all have the role of the addition.
        """
        return {variant.class_name: role for variant, role in self._by_class[id(addition.value)]}

    def fed_forward(self, addition: Addition) -> Iterator[Value]:
        """What feed-forward blocks give, where it is added here."""
        if self.feeds_forward(addition):
            yield addition.branch
        for variant, role in self._by_class[id(addition.value)]:
            if role is Role.OUTPUT:
                yield from variant.results

    def feeds_forward(self, addition: Addition) -> bool:
        """Whether what is added came out of a feed-forward block, and not out of the whole layer or of what stands behind it."""
        is_output = self.of(addition) is Role.OUTPUT and not self.is_extra(addition)
        return (
            is_output and not self.is_mixer(addition) and not self._is_around_others(addition, only_behind(addition))
        )

    def is_extra(self, addition: Addition) -> bool:
        """A second output, behind one that is always there, of a module that only some configs ask for.

        So it is with an adapter of upstream's own (Wav2Vec2) and with inputs per layer (Gemma 4): the sum before it is the
        output of the layer that adapters follow. A feed-forward block beside an attention in such a module (Evolla) is none:
        with that it makes a layer of its own.
        """
        if (
            self.of(addition) is not Role.OUTPUT
            or not self._is_optional(addition)
            or self._is_beside_attention(addition)
        ):
            return False
        behind = ancestors(addition.residual)
        others = [other for other in self._additions if other is not addition and self.of(other) is Role.OUTPUT]
        return any(id(other.value) in behind and not self._is_optional(other) for other in others)

    def _is_beside_attention(self, addition: Addition) -> bool:
        """Whether another sublayer of the module that only some configs ask for attends."""
        start = self._optional_start(addition.work.path)
        others = (one for one in self._additions if self.of(one) in (Role.ATTENTION, Role.CROSS_ATTENTION))
        return any(start and self._optional_start(one.work.path) == start for one in others)

    def is_extra_sum(self, value: Value) -> bool:
        """Whether an addition that no rule claims is such a second output: all that runs since the first is only there for some configs."""
        outputs = [one.value for one in self._additions if self.of(one) is Role.OUTPUT and not self._is_optional(one)]
        before = {key for output in outputs if output in ancestors(value).values() for key in ancestors(output)}
        calls = [one for key, one in ancestors(value).items() if key not in before and one.op is Op.SUBMODULE]
        works = [call.path for call in calls if self._scene.kind(call) not in STEPS] or [value.frame.path]
        return bool(before) and all(map(self._is_for_some, works))

    def is_mixer(self, addition: Addition) -> bool:
        """Whether what is added was mixed across positions without attention."""
        return not self._attentions.are_there() and self.mixes(only_behind(addition))

    def may_mix(self, addition: Addition) -> bool:
        """Whether what is added is that of an attention or of a mixer in its place, and no feed-forward block."""
        return self.of(addition) is Role.ATTENTION or self.is_mixer(addition)

    def _is_optional(self, addition: Addition) -> bool:
        return self._is_for_some(addition.work.path)

    def _is_for_some(self, path: str) -> bool:
        """Whether upstream creates a module only for some configs."""
        root, facts = self._scene.flow.root.class_name, self._scene.facts
        return bool(self._optional_start(path)) or is_named_element(path, root, facts)

    def _optional_start(self, path: str) -> str:
        return optional_start(path, self._scene.flow.root.class_name, self._scene.facts)

    def _find(self, addition: Addition) -> Role | None:
        branch = only_behind(addition)
        kinds = self._attentions.kinds_in(branch)
        if kinds and (self._is_around_others(addition, branch) or self._is_parallel(addition)):
            return Role.OUTPUT
        if AttentionKind.CROSS in kinds:
            return Role.CROSS_ATTENTION
        if kinds:
            return Role.ATTENTION
        first, _, last = feed_forward(addition.branch, addition.residual, self._scene)
        if not self.mixes(branch):
            return Role.OUTPUT
        if self._attentions.are_there():
            return Role.OUTPUT if first and last else None
        if len(self._additions) == 1:  # the only sublayer, whose sum is the output of the layer (Mamba)
            return Role.OUTPUT if first and last else None
        # A mixer takes the place of the attention here.
        return Role.ATTENTION if (first and last) or any(map(_is_real_part, branch.values())) else None

    def _of_classes(self, addition: Addition) -> tuple[tuple[Variant, Role | None], ...]:
        if self.of(addition) not in (Role.ATTENTION, Role.CROSS_ATTENTION):
            return ()
        found = tuple((one, self._of_class(one, addition)) for one in variants_of(addition, self._scene))
        return found if any(role is Role.OUTPUT for _, role in found) else ()

    def _of_class(self, variant: Variant, addition: Addition) -> Role | None:
        kinds = self._attentions.kinds_in(variant.inside)
        if AttentionKind.CROSS in kinds:
            return Role.CROSS_ATTENTION
        if kinds or self.mixes(variant.inside) or variant.multiplies_activations:
            return Role.ATTENTION
        blocks = [feed_forward(result, addition.residual, self._scene) for result in variant.results]
        feeds_forward = variant.reads_one and bool(blocks) and all(first and last for first, _, last in blocks)
        return Role.OUTPUT if feeds_forward else None

    def mixes(self, branch: Mapping[int, Value]) -> bool:
        """Whether a branch mixes positions. Kernels read the weights of its projections, and do not call them (Mamba's)."""
        return any(map(self._mixes_positions, branch.values()))

    def _is_around_others(self, addition: Addition, branch: Mapping[int, Value]) -> bool:
        """Whether the branch holds other sublayers with their additions: a shortcut around the whole layer."""
        return any(id(other.value) in branch for other in self._additions if other is not addition)

    def _is_parallel(self, addition: Addition) -> bool:
        return terms_of(addition, self._scene, self._attentions) is not None

    def _mixes_positions(self, value: Value) -> bool:
        if value.op is Op.SUBMODULE:
            return self._scene.is_call_of(value, Kind.CONVOLUTION)
        if _is_real_part(value):
            return True
        return value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in _MIXING


def _is_real_part(value: Value) -> bool:
    """``.real``: of what a Fourier transform gave, which has no projections."""
    return value.op is Op.ATTRIBUTE and value.name == "real"


def only_behind(addition: Addition | InPart) -> dict[int, Value]:
    """What the branch was computed from, and the residual was not."""
    before = ancestors(addition.residual)
    return {key: value for key, value in ancestors(addition.branch).items() if key not in before}
