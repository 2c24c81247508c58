"""A new LoRA, and a bottleneck of which the up-projection is zero, leave the outputs as they were."""

from __future__ import annotations

import torch

from conformance.adapted import FIRST, adapter_parameters, initialised, randomise_adapter
from conformance.methods import Bottleneck, Method
from conformance.outputs import assert_differs, assert_equal_within, run
from conformance.subjects import Subject


def new_adapter_changes_nothing(subject: Subject, method: Method) -> None:
    inputs = subject.padded_inputs("left" if subject.text else "none")
    expected = run(subject.upstream(), inputs)
    model = initialised(subject)
    model.add_adapter(FIRST, config=method.config)
    if method.has(Bottleneck):
        with torch.no_grad():
            for name, parameter in adapter_parameters(model, FIRST).items():
                if ".adapter_up." in name:
                    parameter.zero_()
    model.set_active_adapters(FIRST)
    assert_equal_within(run(model, inputs), expected, "a new adapter", atol=1e-6 if method.only else 1e-5, rtol=1e-5)
    randomise_adapter(model, FIRST)
    assert_differs(run(model, inputs), expected, "a random adapter")
