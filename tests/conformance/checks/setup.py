"""Within an `AdapterSetup`, a model computes what it computes after `set_active_adapters`, and afterwards what it did before."""

from __future__ import annotations

from adapter_runtime.call.context import AdapterSetup
from adapter_runtime.composition import BatchSplit, Stack
from conformance.adapted import FIRST, SECOND, adapted
from conformance.checks.composition import why_without_rows
from conformance.methods import LoRA, Method
from conformance.outputs import assert_bitwise, assert_differs, run
from conformance.rows import compared_rows, has_rows, parts_on_other_rows
from conformance.subjects import BATCH, Subject


def setup_is_activation(subject: Subject, method: Method) -> None:
    """One adapter, a block, and none at all, also one within the other."""
    model = adapted(subject, method, names=(FIRST, SECOND), active=(SECOND,))
    inputs = subject.padded_inputs("left" if subject.text else "none")
    together = parts_on_other_rows(subject) or why_without_rows(subject, method) or compared_rows(subject)
    is_by_rows = has_rows(subject) and not together
    block = BatchSplit(SECOND, FIRST, batch_sizes=[1, BATCH - 1]) if is_by_rows else Stack(SECOND, FIRST)
    if not is_by_rows and method.has(LoRA):
        block = FIRST  # updates of any shape run in no stack
    setups = (FIRST, block, None)
    within = []
    with AdapterSetup(setups[1]):
        for setup in setups:
            with AdapterSetup(setup):
                within.append(run(model, inputs))
        assert_bitwise(run(model, inputs), within[1], "back in the outer setup")
    active = run(model, inputs)
    for setup, outputs in zip(setups, within, strict=True):
        assert_differs(outputs, active, f"the setup {setup!r}")
        model.set_active_adapters(setup)
        assert_bitwise(outputs, run(model, inputs), f"the setup {setup!r}")
    model.set_active_adapters(SECOND)
    assert_bitwise(active, run(model, inputs), "after all setups")
