"""The linear modules of a feed-forward block, by data flow."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from adapter_codegen.plan.flow.kinds import Kind
from adapter_codegen.plan.flow.scene import Scene
from adapter_codegen.plan.flow.values import Op, Value, ancestors, argument_behind
from adapter_codegen.plan.flow.walks import CASTS, DROPOUTS, VIEWS, called, is_scalar, last_name, sources
from adapter_codegen.plan.stream.additions.residuals import far_side

_LINEAR = frozenset({Kind.LINEAR})
_ACTIVATIONS = frozenset(
    {
        *("gelu", "silu", "relu", "swish", "sigmoid", "tanh", "relu6", "softplus"),
        *("quick_gelu", "mish", "leaky_relu", "elu"),
    }
)

_CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")
_CLIPS = ("clamp", "clip", "clamp_")

Paths = list[str]
Block = tuple[Value, Value]  # what it gives, and the stream before it


def feed_forward(branch: Value, residual: Value, scene: Scene) -> tuple[Paths, Paths, Paths]:
    """Paths of the first, gate and last projections between `residual` and `branch`."""
    return _Between(residual, scene).projections(branch)


def is_block(branch: Value, residual: Value, scene: Scene) -> bool:
    """Whether what stands between is a feed-forward block for certain: each last projection reads an activation of first ones."""
    return _Between(residual, scene).is_block(branch)


def plain_blocks(blocks: Sequence[Block], scene: Scene) -> Sequence[Block]:
    """Those of the blocks of a layer that do nothing else than feed forward; all, where each does something else.

    A convolution between two projections makes a module for positions of them where the layer has another block (Conformers), and a
    feed-forward block where it has none (SegFormer). So does a factor that the layer is given beside its stream (inputs per layer).
    """
    plain = [block for block in blocks if not _Between(block[1], scene).does_more(block[0])]
    return plain or blocks


class _Between:
    """Answers about what was computed from the residual stream, up to where it was read."""

    def __init__(self, residual: Value, scene: Scene) -> None:
        self._scene = scene
        self._behind = ancestors(residual)

    def projections(self, branch: Value) -> tuple[Paths, Paths, Paths]:
        last = [linear for linear in sources(branch, self._scene.kinds, _LINEAR) if id(linear) not in self._behind]
        first: list[Value] = []
        gate: list[Value] = []
        for linear in last:
            carried, gating = self._before(linear)
            first += carried
            gate += gating
        last = [linear for linear in last if linear not in first and linear not in gate] if first else []
        return _paths(first), _paths(gate), _paths(last)

    def does_more(self, branch: Value) -> bool:
        between = ancestors(branch, lambda found: id(found) in self._behind).values()
        return any(id(one) not in self._behind and (self._convolves(one) or self._is_given(one)) for one in between)

    def _convolves(self, value: Value) -> bool:
        return self._scene.is_call_of(value, Kind.CONVOLUTION) or called(value, *_CONVOLUTIONS)

    def _is_given(self, value: Value) -> bool:
        """Whether a value is a product with an argument of the layer, of which the stream is none."""
        is_product = (value.op is Op.BINARY and value.operator == "*") or called(value, "mul", "multiply")
        factors = [argument_behind(one) for one in value.inputs] if is_product else []
        root = self._scene.flow.root
        return any(
            one.op is Op.PARAMETER and one.frame is root and id(one) not in self._behind and not is_scalar(one)
            for one in factors
        )

    def is_block(self, branch: Value) -> bool:
        _, _, paths = self.projections(branch)
        found = sources(branch, self._scene.kinds, _LINEAR)
        last = [linear for linear in found if linear.path in paths and linear.inputs]
        return bool(last) and all(self._is_activated(one.inputs[0]) and any(self._before(one)) for one in last)

    def _before(self, last: Value) -> tuple[list[Value], list[Value]]:
        """The linear modules before `last`: those that carry the signal, and those that only open a gate."""
        value = self._plain(last.inputs[0]) if last.inputs else last
        if value.op is Op.BINARY and value.operator == "*":
            left, right = (self._linears(operand) for operand in value.inputs)
            left_gates, right_gates = (self._is_activated(operand) for operand in value.inputs)
            if left and right and left_gates != right_gates:
                carried, gating = (right, left) if left_gates else (left, right)
                return carried, [linear for linear in gating if linear not in carried]
        return self._linears(value), []

    def _plain(self, value: Value) -> Value:
        """`value` without views, casts, clips, dropout and norms."""
        for _ in range(20):
            value = far_side(value, self._scene)  # what a norm does inside is none of ours
            if value.op is Op.JOIN:  # cast or not
                ends = {id(end): end for end in map(self._plain, value.inputs)}
                return next(iter(ends.values())) if len(ends) == 1 else value
            is_step = self._scene.is_call_of(value, Kind.DROPOUT, Kind.NORM, Kind.IDENTITY)
            if not value.inputs or not (is_step or called(value, *VIEWS, *CASTS, *DROPOUTS, *_CLIPS)):
                break
            value = value.inputs[0]
        return value

    def _linears(self, value: Value) -> list[Value]:
        """The nearest linear modules behind `value`."""
        return [found for found in self._up_to_linears(value) if self._is_end(found) and id(found) not in self._behind]

    def _is_activated(self, value: Value) -> bool:
        return any(self._is_activation(found) for found in self._up_to_linears(value))

    def _up_to_linears(self, value: Value) -> Iterable[Value]:
        return ancestors(value, lambda found: id(found) in self._behind or self._is_end(found)).values()

    def _is_end(self, value: Value) -> bool:
        return self._scene.is_call_of(value, Kind.LINEAR)

    def _is_activation(self, value: Value) -> bool:
        if value.op is Op.SUBMODULE:
            return self._scene.is_call_of(value, Kind.ACTIVATION)
        return value.op in (Op.METHOD, Op.FUNCTION) and last_name(value) in _ACTIVATIONS


def _paths(linears: Iterable[Value]) -> Paths:
    return list(dict.fromkeys(linear.path for linear in linears if "*" not in linear.path))
