"""Stack(a, b) is b after a."""

from __future__ import annotations

from adapter_runtime.errors import UnsupportedMethodError
from conformance.adapted import FIRST, SECOND, adapted, initialised
from conformance.checks.reference import compare
from conformance.methods import LoRA, Method
from conformance.outputs import assert_differs, run
from conformance.reference.layout import features, layout_of
from conformance.reference.lora import lora_targets
from conformance.subjects import Subject


def stack_is_one_after_the_other(subject: Subject, method: Method) -> None:
    """Two adapters equal the reference that runs them in this order; each alone gives something else.

    LoRA in a stack reads the delta of the one before it, so a projection that is not square cannot run a stack: an error.
    Nor can DoRA, which rescales all of the output.
    """
    part = method.only
    if isinstance(part, LoRA) and part.form != "ia3" and (not part.adds or not _square(subject, part)):
        _assert_refused(subject, method)
        return
    model = adapted(subject, method, names=(FIRST, SECOND))
    inputs = subject.padded_inputs("left" if subject.text else "none")
    both = run(model, inputs)
    compare(model, subject, inputs, [(FIRST, method.parts), (SECOND, method.parts)], "Stack")
    for name in (FIRST, SECOND):
        model.set_active_adapters(name)
        assert_differs(run(model, inputs), both, "one adapter of the stack")


def _square(subject: Subject, part: LoRA) -> bool:
    """The adapted outputs of each projection, which in a fused one are parts, are as many as its inputs."""
    layout = layout_of(initialised(subject))
    spans = {one.fused: one.spans for one in layout.attentions if one.fused}
    for path in lora_targets(layout, part):
        outputs, inputs = features(initialised(subject).get_submodule(path))
        if path in spans:
            outputs = sum(stop - start for start, stop in (spans[path][role] for role in part.attention))
        if outputs != inputs:
            return False
    return True


def _assert_refused(subject: Subject, method: Method) -> None:
    try:
        adapted(subject, method, names=(FIRST, SECOND))
    except UnsupportedMethodError as error:
        if "Stack" not in str(error):
            raise AssertionError(f"the message does not say what cannot run: {error}") from error
    else:
        raise AssertionError("a stack of LoRA on a projection that is not square was accepted")
