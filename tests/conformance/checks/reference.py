"""Outputs and gradients equal those of upstream with the adapter computed by plain torch at the same places.

This holds bottlenecks to forward hooks, prefixes to an attention written out, LoRA to its formula, and mixtures to all at once.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from conformance.adapted import FIRST, adapted, adapter_parameters, initialised
from conformance.in_double import IN_DOUBLE, InDouble, doubled
from conformance.methods import Bottleneck, Method, Part, Prefix, Prompt, ReFT, positions_in_front
from conformance.outputs import (
    all_outputs,
    are_close,
    assert_differs,
    assert_equal_within,
    at_tokens,
    flags,
    flatten,
    main_outputs,
    removed,
    run,
    seeded,
)
from conformance.reference import applied
from conformance.reference.bottleneck import claims_of, sites_of
from conformance.reference.layout import Layout, layout_of
from conformance.reference.together import Averaged, Fused, Together
from conformance.scales import subjects_of_other_scales
from conformance.sites import quiet_names
from conformance.subjects import Attention, Subject, attentions


def equals_the_reference(subject: Subject, method: Method) -> None:
    for attention in attentions(subject):
        if method.has(Prefix) and not is_as_eager(subject, attention):
            continue  # the reference of a prefix watches the softmax of the eager attention
        ours = adapted(subject, method, attention)
        for padding in ("none", "left", "right") if subject.text else ("none",):
            compare(
                ours,
                subject,
                subject.padded_inputs(padding),
                [(FIRST, method.parts)],
                f"{attention}, padding {padding}",
            )
    for other in subjects_of_other_scales(subject):
        compare(adapted(other, method), other, other.padded_inputs(), [(FIRST, method.parts)], other.label)


@functools.cache
def is_as_eager(subject: Subject, attention: Attention) -> bool:
    """Upstream's own class computes the same as with its eager attention. (PaliGemma's masks mean another thing there.)"""
    inputs = subject.padded_inputs()
    theirs, eager = (main_outputs(run(subject.upstream(one), inputs)) for one in (attention, "eager"))
    return are_close(theirs, eager, atol=1e-3, rtol=1e-3)


def compare(
    ours: nn.Module,
    subject: Subject,
    inputs: dict[str, Any],
    adapters: Sequence[tuple[str, Sequence[Part]]],
    what: str,
    together: Together = None,
    atol: float = 2e-5,
) -> None:
    """Compare `ours` with upstream and the reference of `adapters`: outputs and gradients of all adapter weights.

    Where many roundings add up, the difference must be gone in double precision, by far more than `atol` allows.
    """
    layout = layout_of(ours)
    if any(isinstance(part, Bottleneck) for _, parts in adapters for part in parts):
        layout = with_sites(layout, subject, inputs, ours.config._attn_implementation or "eager")
    if any(isinstance(part, Prompt) for _, parts in adapters for part in parts):
        layout = as_called(layout, subject, inputs)
    one = _Comparison(subject, layout, adapters, what, together)
    try:
        one.run(ours, one.upstream(ours), inputs, atol)
    except AssertionError:
        if not one.holds_in_double(ours, inputs, atol):
            raise


@dataclass(frozen=True)
class _Comparison:
    """What is compared, in one precision or the other."""

    subject: Subject
    layout: Layout
    adapters: Sequence[tuple[str, Sequence[Part]]]
    what: str
    together: Together

    def upstream(self, ours: nn.Module) -> nn.Module:
        """With the same attention: a padded token that sees no other gives something else in each.

        Data2Vec has a class of its own for each attention, which stays when another is set: a softmax is to be seen in that of "eager" alone.
        """
        same = self.subject.upstream(ours.config._attn_implementation or "eager")
        if not any(isinstance(part, Prefix) for _, parts in self.adapters for part in parts):
            return same
        eager = self.subject.upstream("eager")
        cores = [one.core for one in self.layout.prefixed]
        is_same = all(type(same.get_submodule(core)) is type(eager.get_submodule(core)) for core in cores)
        return same if is_same else eager

    def run(
        self, ours: nn.Module, upstream: nn.Module, inputs: dict[str, Any], atol: float, rtol: float = 1e-4
    ) -> None:
        adapters, together, asked = self.adapters, self.together, asked_for(upstream, self.subject)
        mask = _output_mask(self.subject, inputs)
        owners = self._owners()
        names = [name for owner in owners for name in adapter_parameters(ours, owner)]
        weights = {name: ours.get_parameter(name).detach().clone().requires_grad_() for name in names}
        fixed = {
            name: buffer for name, buffer in ours.named_buffers() if any(f".{owner}." in name for owner in owners)
        }
        ours.requires_grad_(True)
        ours.zero_grad()
        with seeded(5):
            outputs = ours(**inputs, **asked)
        with applied(upstream, self.layout, adapters, {**weights, **fixed}, together), seeded(5):
            expected = upstream(**inputs, **asked)
        ours_seen, seen = without_lone_weights(*(_seen(one, mask, self._in_front()) for one in (outputs, expected)))
        assert_equal_within(ours_seen, seen, self.what, atol, rtol)
        assert_differs(seen, _seen(run(upstream, inputs), mask), "the adapter")
        _loss(outputs, mask, self._in_front()).backward()
        _loss(expected, mask, self._in_front()).backward()
        trained = [name for name in names if not is_fixed(name, adapters)]
        trained = self._without_quiet(ours, [name for name in trained if weights[name].grad is not None], trained)
        gradients = _present({name: ours.get_parameter(name).grad for name in trained})
        theirs = _present({name: weights[name].grad for name in trained})
        assert_equal_within(gradients, theirs, f"{self.what}: gradients", atol / 2, 10 * rtol)

    def _owners(self) -> list[str]:
        """The adapters, and the fusion of them."""
        fused = [self.together.name] if isinstance(self.together, Fused) else []
        return [*(adapter for adapter, _ in self.adapters), *fused]

    def _without_quiet(self, ours: nn.Module, reached: list[str], trained: list[str]) -> list[str]:
        """Without what neither the reference nor, at that place, upstream's own class trains."""
        if len(reached) == len(trained) or not reached:
            return trained
        quiet = {name for owner in self._owners() for name in quiet_names(self.subject, ours, owner)}
        left = quiet.difference(reached)
        return [name for name in trained if name not in left or ours.get_parameter(name).grad is not None]

    def holds_in_double(self, ours: nn.Module, inputs: dict[str, Any], atol: float) -> bool:
        """What a class computes in single precision by its own order, it also does in double: else its roundings would stay."""
        copies = copy.deepcopy(ours).double(), self.upstream(ours).double()
        try:
            with InDouble():
                self.run(*copies, doubled(inputs), atol * IN_DOUBLE, 1e-4 * IN_DOUBLE)
        except Exception:
            return False
        return True

    def _in_front(self) -> int:
        """An average of prompts is as long as one of them."""
        adapters = self.adapters[:1] if isinstance(self.together, Averaged) else self.adapters
        return sum(positions_in_front(parts) for _, parts in adapters)


def asked_for(model: nn.Module, subject: Subject) -> dict[str, bool]:
    return {**flags(model), "use_cache": False} if subject.causal else flags(model)


def with_sites(layout: Layout, subject: Subject, inputs: dict[str, Any], attention: Attention = "eager") -> Layout:
    """`layout` with the places of bottlenecks in a forward of upstream on these inputs.

    Some modules add a mask to scores where they also add to the stream (ALBERT), with one attention and not with another.
    """
    model = initialised(subject, attention)
    given = {**inputs, **asked_for(model, subject)}
    claims = claims_of(model, layout, given)
    if not claims:
        raise AssertionError("no host is called: there is no residual addition to adapt")
    return replace(layout, sites=sites_of(subject.upstream(attention), claims, given))


def as_called(layout: Layout, subject: Subject, inputs: dict[str, Any]) -> Layout:
    """`layout` with how upstream's own class calls the model within it that embeds tokens.

    Whether it gives it embeddings, and no tokens; and whether a mask of ones would mean the same to it, where it gives none.
    """
    upstream, fed = subject.upstream(), []

    def see(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        fed.append(kwargs.get("inputs_embeds") is not None)

    upstream.get_submodule(layout.front).register_forward_pre_hook(see, with_kwargs=True)
    plain = main_outputs(run(upstream, inputs))
    layout = replace(layout, is_fed=any(fed))
    if layout.embeds_tokens:  # a prompt comes in before any mask is made
        return layout
    with removed([upstream.get_submodule(layout.text).register_forward_pre_hook(_with_ones, with_kwargs=True)]):
        masked = main_outputs(run(upstream, inputs))
    return replace(layout, ones_are_none=are_close(plain, masked))


def _with_ones(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give a model that takes a mask, and gets none, one of ones for its tokens."""
    names = list(inspect.signature(type(module).forward).parameters)[1:]
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    tokens = given.get("input_ids")
    if "attention_mask" not in names or given.get("attention_mask") is not None or tokens is None:
        return args, kwargs
    return (), {**given, "attention_mask": torch.ones(tokens.shape[:2], dtype=torch.long)}


def is_fixed(name: str, adapters: Sequence[tuple[str, Sequence[Part]]]) -> bool:
    """A unit of ReFT that has no positions to edit computes nothing."""
    idle = [adapter for adapter, parts in adapters for part in parts if isinstance(part, ReFT) and part.suffix == 0]
    return any(f".refts.{adapter}.units.1." in name for adapter in idle)


def _output_mask(subject: Subject, inputs: dict[str, Any]) -> Tensor | None:
    return None if subject.kind == "encoder-decoder" else inputs.get("attention_mask")


def without_lone_weights(*outputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Without weights of attention that only one gives: sdpa gives none, and the reference of a prefix writes them out."""
    lone = {name for name in set.union(*map(set, outputs)) if "attentions" in name}
    lone -= set.intersection(*map(set, outputs))
    return [{name: value for name, value in one.items() if name not in lone} for one in outputs]


def _seen(outputs: Any, mask: Tensor | None, in_front: int = 0) -> dict[str, Tensor]:
    """What is compared: everything, or, with padding, what stands at real tokens."""
    flat = {name: value.detach() for name, value in flatten(outputs).items() if value.is_floating_point()}
    return flat if mask is None else at_tokens(flat, mask, in_front)


def _loss(outputs: Any, mask: Tensor | None, in_front: int) -> Tensor:
    generator = torch.Generator().manual_seed(11)
    seen = main_outputs(outputs)
    if mask is not None:  # what a user reads may have no tokens: a sound
        rows = _without_tokens(seen, mask.shape[1]) if _shortens(outputs, mask.shape[1]) else {}
        seen = at_tokens(seen, mask, in_front) or {**at_tokens(all_outputs(outputs), mask, in_front), **rows}
    weighted = [(value * torch.randn(value.shape, generator=generator)).mean() for value in seen.values()]
    return torch.stack(weighted).sum()


def _shortens(outputs: Any, length: int) -> bool:
    """Whether layers see fewer positions than there are tokens: none of what these give is at tokens (Funnel without its decoder)."""
    states = (value for name, value in all_outputs(outputs).items() if name.startswith("hidden_states."))
    return any(value.dim() == 3 and value.shape[1] < length for value in states)


def _without_tokens(outputs: dict[str, Tensor], length: int) -> dict[str, Tensor]:
    """Outputs with one entry per row, or with fewer positions than tokens, each of which several are pooled into."""
    return {name: value for name, value in outputs.items() if value.dim() == 2 or value.shape[1] < length}


def _present(gradients: dict[str, Tensor | None]) -> dict[str, Tensor]:
    missing = [name for name, gradient in gradients.items() if gradient is None]
    if missing:
        raise AssertionError(f"no gradient reaches {missing}")
    return {name: gradient for name, gradient in gradients.items() if gradient is not None}
