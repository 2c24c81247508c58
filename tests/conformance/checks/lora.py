"""LoRA is what `peft` computes, and merging it into the weights and out again is exact."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import nn

from adapter_runtime.errors import UnsupportedMethodError
from conformance.adapted import FIRST, adapted, adapter_parameters, initialised, refused, state
from conformance.compared import note
from conformance.in_double import IN_DOUBLE, doubled, in_either_precision
from conformance.methods import LoRA, Method
from conformance.methods import method as named
from conformance.outputs import (
    assert_bitwise,
    assert_differs,
    assert_equal_within,
    flags,
    flatten,
    loss_of,
    run,
    seeded,
)
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import Layout, layout_of
from conformance.reference.lora import adapted_spans, lora_targets
from conformance.subjects import Subject

IN_FEED_FORWARD = named("lora_mlp")


def lora_is_peft(subject: Subject, method: Method) -> None:
    """The same A and B in `peft`, on the same modules, give the same outputs and gradients."""
    if importlib.util.find_spec("peft") is None:
        pytest.skip("peft is not installed; the formula is held by the check 'reference'")
    compared = compared_with_peft(subject, method)
    assert compared is not None, "the check does not apply"
    in_either_precision(functools.partial(_compare_with_peft, subject, compared))
    note(f"{len(as_a_whole(layout_of(initialised(subject)), compared.parts[0]))} projections of {compared}")  # type: ignore[arg-type]


def compared_with_peft(subject: Subject, method: Method) -> Method | None:
    """`method`, where it adapts any projection as a whole; else the one that adapts the feed-forward block. None if that does not either.

    A projection that gives several of queries, keys and values gets matrices for each from us, and one pair from `peft`.
    """
    layout = layout_of(initialised(subject))
    for one in (method, IN_FEED_FORWARD):
        if not refused(subject, one) and as_a_whole(layout, one.parts[0]):  # type: ignore[arg-type]
            return one
    return None


def as_a_whole(layout: Layout, part: LoRA) -> tuple[str, ...]:
    """The projections that get one pair of matrices for all of their outputs."""
    return tuple(path for path in lora_targets(layout, part) if not adapted_spans(layout, path, part))


def _compare_with_peft(subject: Subject, method: Method, double: bool) -> None:
    ours = adapted(subject, method)
    part: LoRA = method.parts[0]  # type: ignore[assignment]
    targets = as_a_whole(layout_of(ours), part)
    beside = _silence(ours, set(lora_targets(layout_of(ours), part)) - set(targets))
    theirs, twins = _in_peft(subject, ours, part, targets)
    inputs, share = subject.padded_inputs("left" if subject.text else "none"), 1.0
    if double:
        inputs, ours, theirs, share = doubled(inputs), ours.double(), theirs.double(), IN_DOUBLE
    outputs = [_seeded(model, inputs) for model in (ours, theirs)]
    detached = [{name: value.detach() for name, value in flatten(output).items()} for output in outputs]
    assert_equal_within(detached[0], detached[1], "peft", share * 2e-5, share * 1e-4)
    for output in outputs:
        loss_of(output).backward()
    own = adapter_parameters(ours, FIRST)
    mine = {name: parameter.grad for name, parameter in own.items() if name not in beside}
    peft = {name: parameter.grad for name, parameter in twins.items()}
    assert_equal_within(mine, peft, "peft: gradients", share * 2e-5, share * 1e-3)


def _seeded(model: nn.Module, inputs: dict[str, Any]) -> Any:
    with seeded(5):  # some draw random numbers in evaluation too
        return model(**inputs, **flags(model))


def _silence(ours: nn.Module, paths: Iterable[str]) -> set[str]:
    """Let the adapter do nothing at projections that `peft` does not adapt like us. Returns the names of its parameters there."""
    with torch.no_grad():
        for path in paths:
            ours.get_parameter(f"{path}.loras.{FIRST}.lora_B").zero_()
    return {f"{path}.loras.{FIRST}.{letter}" for path in paths for letter in ("lora_A", "lora_B")}


def _in_peft(
    subject: Subject, ours: nn.Module, part: LoRA, targets: Iterable[str]
) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """Upstream with LoRA by peft, and peft's parameters under our names."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=part.r, lora_alpha=part.alpha, target_modules=list(targets), lora_dropout=0.0)
    theirs = inject_adapter_in_model(config, _untied(subject.upstream()), "default").eval()
    twins: dict[str, nn.Parameter] = {}
    for path in targets:
        module = theirs.get_submodule(path)
        for letter in ("lora_A", "lora_B"):
            twin = getattr(module, letter)["default"].weight
            twins[f"{path}.loras.{FIRST}.{letter}"] = twin
            with torch.no_grad():
                twin.copy_(ours.get_parameter(f"{path}.loras.{FIRST}.{letter}"))
    return theirs, twins


def _untied(upstream: nn.Module) -> nn.Module:
    """Where a config ties word embeddings by its default and the model has none, peft would look for them."""
    try:
        upstream.get_input_embeddings()
    except NotImplementedError:
        upstream.config.tie_word_embeddings = False
    return upstream


def merging_is_exact(subject: Subject, method: Method) -> None:
    """Merged weights give the adapter's outputs without the adapter; unmerging restores the base weights bitwise."""
    model = adapted(subject, method)
    if shares_a_weight(subject.upstream(), lora_targets(layout_of(model), method.only)):  # type: ignore[arg-type]
        with pytest.raises(UnsupportedMethodError, match="share one weight"):
            model.merge_adapter(FIRST)
        raise DoesNotApply(Reason.SHARED_WEIGHT)
    in_either_precision(functools.partial(_merged_is_active, subject, method))
    inputs = subject.padded_inputs("left" if subject.text else "none")
    before, active = state(model), run(model, inputs)
    model.set_active_adapters(None)
    inactive = run(model, inputs)
    assert_differs(active, inactive, "the adapter")
    model.merge_adapter(FIRST)
    model.reset_adapter()
    assert_bitwise(state(model), before, "weights after unmerging")
    assert_bitwise(run(model, inputs), inactive, "outputs after unmerging")


def _merged_is_active(subject: Subject, method: Method, is_double: bool) -> None:
    model, inputs = adapted(subject, method), subject.padded_inputs("left" if subject.text else "none")
    if is_double:
        model, inputs = model.double(), doubled(inputs)
    active = run(model, inputs)
    model.set_active_adapters(None)
    model.merge_adapter(FIRST)
    bound = IN_DOUBLE if is_double else 1.0
    assert_equal_within(run(model, inputs), active, "merged", atol=1e-4 * bound, rtol=1e-3 * bound)


def shares_a_weight(upstream: nn.Module, paths: Iterable[str]) -> bool:
    """Two of the modules at `paths` have one weight."""
    weights = [id(upstream.get_submodule(path).weight) for path in paths]
    return len(set(weights)) < len(weights)
