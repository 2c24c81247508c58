"""A new LoRA, and a bottleneck of which the up-projection is zero, leave the outputs as they were."""

from __future__ import annotations

import functools

import torch

from conformance.adapted import FIRST, adapter_parameters, initialised, randomise_adapter
from conformance.in_double import IN_DOUBLE, doubled, in_either_precision
from conformance.methods import Bottleneck, Method
from conformance.outputs import assert_differs, assert_equal_within, run
from conformance.subjects import Subject


def new_adapter_changes_nothing(subject: Subject, method: Method) -> None:
    in_either_precision(functools.partial(_compare, subject, method))


def _compare(subject: Subject, method: Method, double: bool) -> None:
    inputs = subject.padded_inputs("left" if subject.text else "none")
    upstream, model, share = subject.upstream(), initialised(subject), 1.0
    model.add_adapter(FIRST, config=method.config)
    if method.has(Bottleneck):
        with torch.no_grad():
            for name, parameter in adapter_parameters(model, FIRST).items():
                if ".adapter_up." in name:
                    parameter.zero_()
    model.set_active_adapters(FIRST)
    if double:
        inputs, upstream, model, share = doubled(inputs), upstream.double(), model.double(), IN_DOUBLE
    expected, atol = run(upstream, inputs), 1e-6 if method.only else 1e-5
    assert_equal_within(run(model, inputs), expected, "a new adapter", atol=share * atol, rtol=share * 1e-5)
    randomise_adapter(model, FIRST)
    assert_differs(run(model, inputs), expected, "a random adapter")
