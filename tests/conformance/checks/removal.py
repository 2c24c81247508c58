"""Deleting the last adapter restores the module tree, the weights and the outputs that ``init`` left."""

from __future__ import annotations

from conformance.adapted import FIRST, SECOND, adapted, initialised, state, structure
from conformance.methods import Method
from conformance.outputs import assert_bitwise, assert_differs, run
from conformance.subjects import Subject


def removal_restores(subject: Subject, method: Method) -> None:
    fresh = initialised(subject)
    inputs = subject.padded_inputs("left" if subject.text else "none")
    expected = run(fresh, inputs)
    model = adapted(subject, method, names=(FIRST, SECOND), active=(FIRST,))
    if structure(model) == structure(fresh):
        raise AssertionError("adding an adapter leaves the module tree as it was; the check would be empty")
    assert_differs(run(model, inputs), expected, "the adapter")
    model.delete_adapter(FIRST)
    if any(f".{FIRST}." in f".{name}." for name in (*model.state_dict(), *dict(model.named_modules()))):
        raise AssertionError("something of the first adapter is left after its deletion")
    model.delete_adapter(SECOND)
    left, wanted = structure(model), structure(fresh)
    changed = {path for path in {*left, *wanted} if left.get(path) != wanted.get(path)}
    if changed:
        raise AssertionError(f"modules differ from those of a fresh init: {sorted(changed)}")
    assert_bitwise(state(model), state(fresh), "weights after deletion")
    assert_bitwise(run(model, inputs), expected, "outputs after deletion")
