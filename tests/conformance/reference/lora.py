"""LoRA and its relatives by forward hooks on upstream's projections.

    lora    y + s B A x                                         https://arxiv.org/abs/2106.09685
    ia3     y * l                                               https://arxiv.org/abs/2205.05638
    vera    y + s diag(b) B diag(d) A x, A and B shared         https://arxiv.org/abs/2310.11454
    dora    m / ||W + s B A|| * (W x + s B A x) + bias          https://arxiv.org/abs/2402.09353
    mtl     y + s (sum_u softmax(w / 0.05)_u B_u) diag(t) A x   https://arxiv.org/abs/2410.09437

with s = alpha / r. In a fused projection each adapted span of outputs has an A and a B of its own.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from conformance.methods import LoRA
from conformance.reference.layout import Layout, join
from conformance.reference.together import Averaged, Together

SHARPNESS = 0.05
_TENSORS = {
    "lora": ("lora_A", "lora_B"),
    "ia3": ("lora_B",),
    "dora": ("lora_A", "lora_B", "m.weight"),
    "vera": ("vera_D", "vera_B"),
    "dvora": ("vera_D", "vera_B", "m.weight"),
    "mtl": ("lora_A", "lora_B", "weights", "task_specific.values"),
}
Span = tuple[int, int]


def lora_targets(layout: Layout, part: LoRA) -> tuple[str, ...]:
    """Paths of the projections that get a delta.

    ``intermediate_lora`` is the projection that carries the signal into the block, not the gate.
    """
    paths = []
    for layer in layout.layers:
        for attention in layer.attentions:
            paths += [attention.fused] if attention.fused and part.attention else []
            paths += [getattr(attention, role) for role in part.attention]
            paths += attention.value_beside if "value" in part.attention else ()
        if part.mlp_first:
            paths += layer.mlp_first
        if part.mlp_last:
            paths += layer.mlp_last
        if part.mixer_first:
            paths += layer.mixer_first
        if part.mixer_last:
            paths += layer.mixer_last
    return tuple(dict.fromkeys(path for path in paths if path))


def adapted_spans(layout: Layout, path: str, part: LoRA) -> list[Span]:
    """Which outputs of a projection that gives several are adapted, each span with matrices of its own; [] = all at once."""
    gated = next((one for one in layout.attentions if one.gate and path == one.gate), None)
    if gated is not None:
        asked = [role for role in ("query", "gate") if role in part.attention]
        return [] if len(asked) == 2 else [gated.gate_spans[role] for role in asked]
    one = next((one for one in layout.attentions if one.spans and path == (one.fused or one.key)), None)
    if one is None or (one.shares_projection and {"key", "value"} <= set(part.attention)):
        return []
    return [one.spans[role] for role in part.attention if role in one.spans]


def lora_names(layout: Layout, part: LoRA, name: str) -> list[str]:
    """The names under which a checkpoint stores the adapter `name`."""
    own = [
        f"{path}.loras.{name}.{key}"
        for path in lora_targets(layout, part)
        for key in part.tensors or _TENSORS[part.form]
    ]
    return own + (shared_names(layout, part, name) if part.form in ("vera", "dvora") else [])


def shared_names(layout: Layout, part: LoRA, name: str) -> list[str]:
    """Those of the random matrices of VeRA, of which each part has its own."""
    parts = dict.fromkeys(layout.part_of(path) for path in lora_targets(layout, part))
    return [shared_name(where, name, key) for where in parts for key in ("lora_A", "lora_B")]


def shared_name(part: str, name: str, key: str) -> str:
    return join(part, f"shared_parameters.{name}.{key}")


@contextlib.contextmanager
def lora_applied(
    upstream: nn.Module,
    layout: Layout,
    adapters: Sequence[tuple[str, LoRA]],
    weights: Mapping[str, Tensor],
    together: Together = None,
) -> Iterator[None]:
    """The projections of `upstream` give what they give with `adapters`.

    As in `adapters` 1.3.0, an adapter that adds reads, in a stack, the delta of the one before it, not the input.
    """
    orders = {one.fused or one.key: one.order for one in layout.attentions}
    orders |= {one.gate: one.gate_order for one in layout.attentions if one.gate}
    here: dict[str, list[_Adapter]] = {}
    for name, part in adapters:
        for path in lora_targets(layout, part):
            prefix, spans, order = f"{path}.loras.{name}", adapted_spans(layout, path, part), orders.get(path, ())
            where = layout.part_of(path)
            here.setdefault(path, []).append(_Adapter(part, prefix, weights, spans, order, where, name))
    run = _adapting if together is None else functools.partial(_averaging, together)
    handles = [upstream.get_submodule(path).register_forward_hook(run(entry)) for path, entry in here.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class _Adapter:
    """One adapter at one projection."""

    part: LoRA
    prefix: str
    weights: Mapping[str, Tensor]
    spans: Sequence[Span]  # adapted outputs of a fused projection; empty = all
    order: Sequence[int]  # of its outputs, in which the spans are counted; empty = as they are
    where: str  # the part of the model
    name: str

    def tensor(self, key: str) -> Tensor:
        return self.weights[f"{self.prefix}.{key}"]

    def spans_of(self, outputs: int) -> Sequence[Span]:
        return self.spans or [(0, outputs)]

    def matrices(self, inputs: int, sizes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
        """A (r, in) and B (size, r) of each span, the factors of vera and mtl multiplied in."""
        rank, form = self.part.r, self.part.form
        if form in ("vera", "dvora"):
            down, up = (self.weights[shared_name(self.where, self.name, key)] for key in ("lora_A", "lora_B"))
            inner, outer = self.tensor("vera_D").split(rank), self.tensor("vera_B").split(list(sizes))
            return [
                (d[:, None] * down[:, :inputs], b[:, None] * up[:size])
                for d, b, size in zip(inner, outer, sizes, strict=True)
            ]
        downs = self.tensor("lora_A").split(rank)
        if form != "mtl":
            return list(zip(downs, self.tensor("lora_B").split(list(sizes)), strict=True))
        ups = self.tensor("lora_B").split(list(sizes), dim=1)
        shares = torch.softmax(self.tensor("weights").view(len(sizes), -1) / SHARPNESS, dim=1)
        inner = self.tensor("task_specific.values").split(rank)
        mixed = [(share[:, None, None] * up).sum(0) for share, up in zip(shares, ups, strict=True)]
        return [(t[:, None] * down, up) for t, down, up in zip(inner, downs, mixed, strict=True)]

    def update(self, weight: Tensor) -> Tensor:
        """(out, in): s B A, zero outside of the adapted spans, for a projection with this weight."""
        outputs, inputs = weight.shape
        if self.part.update is not None:
            assert not self.spans, "a relative of one's own at parts of a fused projection"
            tensors = {key: self.tensor(key) for key in self.part.tensors}
            return self.part.alpha / self.part.r * self.part.update(weight.detach(), tensors)
        spans = self.spans_of(outputs)
        sizes = [stop - start for start, stop in spans]
        whole = self.tensor(_TENSORS[self.part.form][0]).new_zeros(outputs, inputs)
        for (start, stop), (down, up) in zip(spans, self.matrices(inputs, sizes), strict=True):
            whole[start:stop] = self.part.alpha / self.part.r * up @ down
        return self.as_they_are(whole)

    def of_all(self, values: Tensor, outputs: int) -> Tensor:
        """(out,): `values` in the adapted spans, 1 elsewhere."""
        whole = values.new_ones(outputs)
        spans = self.spans_of(outputs)
        for (start, stop), piece in zip(spans, values.split([b - a for a, b in spans]), strict=True):
            whole[start:stop] = piece
        return self.as_they_are(whole)

    def in_order(self, values: Tensor) -> Tensor:
        """(out, ...): as the spans count them."""
        return values[torch.tensor(self.order)] if len(self.order) and self.spans else values

    def as_they_are(self, ordered: Tensor) -> Tensor:
        """(out, ...): what belongs to each output, at its place."""
        return ordered[torch.tensor(self.order).argsort()] if len(self.order) and self.spans else ordered


def _adapting(adapters: Sequence[_Adapter]) -> Callable[..., Tensor]:
    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0]
        weight = module.weight if isinstance(module, nn.Linear) else module.weight.T
        if not adapters[0].part.adds:
            for adapter in adapters:
                output = _rescaled(adapter, weight, module.bias, x, output)
            return output
        delta = x
        for adapter in adapters:
            delta = delta @ adapter.update(weight).T
        return output + delta

    return hook


def _averaging(together: Together, adapters: Sequence[_Adapter]) -> Callable[..., Tensor]:
    """What a projection gives is affine in its input under each of these adapters, so their mean is one of outputs."""
    if not isinstance(together, Averaged):
        raise NotImplementedError(f"the reference knows no {type(together).__name__} of projections")
    hooks = [_adapting([adapter]) for adapter in adapters]
    return lambda module, inputs, output: together.of([hook(module, inputs, output) for hook in hooks])


def _rescaled(adapter: _Adapter, weight: Tensor, bias: Tensor | None, x: Tensor, output: Tensor) -> Tensor:
    """The output under ia3 or dora."""
    outputs = weight.shape[0]
    if adapter.part.form == "ia3":
        return output * adapter.of_all(adapter.tensor("lora_B").flatten(), outputs)
    directed = weight.detach() + adapter.update(weight)
    norms = directed.detach().square().sum(1).sqrt()
    adapted = torch.cat([adapter.in_order(norms)[start:stop] for start, stop in adapter.spans_of(outputs)])
    scale = adapter.of_all(adapter.tensor("m.weight").flatten() / adapted, outputs)
    plain = x @ directed.T * scale
    return plain if bias is None else plain + bias
