"""Stack(a, b) is b after a."""

from __future__ import annotations

from adapter_runtime.errors import UnsupportedMethodError
from conformance.adapted import FIRST, SECOND, adapted, adapter_parameters
from conformance.checks.reference import compare
from conformance.methods import LoRA, Method
from conformance.outputs import assert_differs, run
from conformance.subjects import Subject


def stack_is_one_after_the_other(subject: Subject, method: Method) -> None:
    """Two adapters equal the reference that runs them in this order; each alone gives something else.

    LoRA in a stack reads the delta of the one before it, so a projection that is not square cannot run a stack: an error.
    """
    if method.has(LoRA) and not _square(subject, method):
        _assert_refused(subject, method)
        return
    model = adapted(subject, method, names=(FIRST, SECOND))
    inputs = subject.padded_inputs("left" if subject.text else "none")
    both = run(model, inputs)
    compare(model, subject, inputs, [(FIRST, method.parts), (SECOND, method.parts)], "Stack")
    for name in (FIRST, SECOND):
        model.set_active_adapters(name)
        assert_differs(run(model, inputs), both, "one adapter of the stack")


def _square(subject: Subject, method: Method) -> bool:
    """The adapted outputs of each projection, which in a fused one are parts, are as many as its inputs."""
    parameters = adapter_parameters(adapted(subject, method), FIRST)
    downs = {name: parameter for name, parameter in parameters.items() if name.endswith(".lora_A")}
    return all(
        down.shape[1] == parameters[f"{name.removesuffix('lora_A')}lora_B"].shape[0] for name, down in downs.items()
    )


def _assert_refused(subject: Subject, method: Method) -> None:
    try:
        adapted(subject, method, names=(FIRST, SECOND))
    except UnsupportedMethodError as error:
        if "Stack" not in str(error):
            raise AssertionError(f"the message does not say what cannot run: {error}") from error
    else:
        raise AssertionError("a stack of LoRA on a projection that is not square was accepted")
