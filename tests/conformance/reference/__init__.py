"""Adapters computed with plain torch on an untouched upstream model. Nothing here calls the runtime under test.

    layout.py      which module plays which role, read from the roles that the generated mixins declare
    bottleneck.py  finds the residual additions by watching upstream's forward, and computes the adapter in their place
    prefix.py      an attention function for upstream that puts keys and values in front; a cache filled in advance
    lora.py        forward hooks on the projections
    reft.py        forward hooks on the layers
    embeddings.py  hooks around the embeddings: invertible adapters, prompts
    together.py    averages and fusions of several adapters

`applied` puts an adapter onto upstream for the length of a ``with`` block. Weights are given by the names under which a
checkpoint stores them, so a comparison with ours also holds those names.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor, nn

from conformance.methods import Bottleneck, Invertible, LoRA, Part, Prefix, Prompt, ReFT
from conformance.reference.bottleneck import bottlenecks_applied
from conformance.reference.embeddings import invertible_applied, prompts_applied
from conformance.reference.layout import Layout
from conformance.reference.lora import lora_applied
from conformance.reference.prefix import prefix_applied
from conformance.reference.reft import reft_applied
from conformance.reference.together import Together

# In the order in which they are put on: bottlenecks watch a whole forward, with everything else in place.
_APPLIED = (
    (LoRA, lora_applied),
    (Prefix, prefix_applied),
    (ReFT, reft_applied),
    (Invertible, invertible_applied),
    (Prompt, prompts_applied),
    (Bottleneck, bottlenecks_applied),
)


@contextlib.contextmanager
def applied(
    upstream: nn.Module,
    layout: Layout,
    adapters: Sequence[tuple[str, Sequence[Part]]],
    weights: Mapping[str, Tensor],
    together: Together = None,
) -> Iterator[None]:
    """Upstream computes as if `adapters`, pairs of a name and its parts, were stacked in this order.

    Args:
        upstream: the untouched model; its eager attention is replaced where a prefix asks for it.
        weights: at least the tensors of the adapters, by their names in the state dict of our model.
        together: another way than a stack.
    """
    with contextlib.ExitStack() as stack:
        for kind, put in _APPLIED:
            named = [(name, part) for name, parts in adapters for part in parts if isinstance(part, kind)]
            if named:
                stack.enter_context(put(upstream, layout, named, weights, together))
        yield
