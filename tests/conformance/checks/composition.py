"""Stack(a, b) is b after a."""

from __future__ import annotations

from conformance.adapted import FIRST, SECOND, adapted
from conformance.checks.reference import compare
from conformance.methods import Method
from conformance.outputs import assert_differs, run
from conformance.subjects import Subject


def stack_is_one_after_the_other(subject: Subject, method: Method) -> None:
    """Two adapters equal the reference that runs them in this order; the other order gives something else."""
    model = adapted(subject, method, names=(FIRST, SECOND))
    inputs = subject.padded_inputs("left" if subject.text else "none")
    both = run(model, inputs)
    compare(model, subject, inputs, [(FIRST, method.parts), (SECOND, method.parts)], "Stack")
    for name in (FIRST, SECOND):
        model.set_active_adapters(name)
        assert_differs(run(model, inputs), both, "one adapter of the stack")
