"""A method that the plan claims can be added, runs and does something; without that, no other check is worth trying."""

from __future__ import annotations

from conformance.adapted import adapted
from conformance.methods import Method
from conformance.outputs import assert_differs, run
from conformance.subjects import Subject


def adapter_runs(subject: Subject, method: Method) -> None:
    inputs = subject.padded_inputs()
    try:
        assert_differs(run(adapted(subject, method), inputs), run(subject.upstream(), inputs), "the adapter")
    except AssertionError as error:
        raise AssertionError("a random adapter that is active changes no output") from error
