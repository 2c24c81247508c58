"""Several adapters at once: what a block computes is what its definition says of the adapters alone.

    stack        b after a
    parallel     copies of the batch, each as under its adapter alone
    batch split  rows of the batch, each as under its adapter alone; so are the rows of the tasks of MultiTask
    average      the weighted sum, in each place, of what the adapters give there
    fuse         an attention over the outputs of bottlenecks

A method that cannot run a block has to refuse it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from adapter_runtime.composition import Average, BatchSplit, Fuse, MultiTask, Parallel
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from conformance.adapted import FIRST, SECOND, adapted, initialised, randomise_adapter
from conformance.checks.reference import compare
from conformance.compared import note
from conformance.in_double import IN_DOUBLE, doubled, in_either_precision
from conformance.methods import Bottleneck, Invertible, LoRA, Method, Prefix
from conformance.outputs import (
    assert_differs,
    assert_equal_within,
    assert_same_names,
    run,
)
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import features, layout_of
from conformance.reference.lora import lora_targets
from conformance.reference.together import Averaged, Fused
from conformance.rows import (
    are_near,
    compared_rows,
    given_one_row,
    given_some_positions,
    in_each,
    mixed_outputs,
    of_rows,
    outputs_without_rows,
    parts_on_other_rows,
    require_rows,
    run_by_rows,
    second_copy,
    with_rows,
)
from conformance.several import with_other_numbers
from conformance.subjects import BATCH, Attention, Padding, Subject, attentions

SHARES = (0.3, 0.7)
SPLIT = 1  # rows of the first adapter
TASKS = (1, 0, 1)  # of the rows
ATOL, RTOL = 2e-5, 1e-4
FUSION = f"{FIRST},{SECOND}"


def stack_is_one_after_the_other(subject: Subject, method: Method) -> None:
    """Two adapters equal the reference that runs them in this order; each alone gives something else.

    LoRA in a stack reads the delta of the one before it, so a projection that is not square cannot run a stack: an error.
    Nor can DoRA, which rescales all of the output.
    """
    part = method.only
    if isinstance(part, LoRA) and part.form != "ia3" and (not part.adds or not _square(subject, part)):
        _assert_refused(_two(subject, method), [FIRST, SECOND], "Stack")
        return
    model = adapted(subject, method, names=(FIRST, SECOND))
    inputs = subject.padded_inputs("left" if subject.text else "none")
    both = run(model, inputs)
    compare(model, subject, inputs, [(FIRST, method.parts), (SECOND, method.parts)], "Stack")
    _assert_differs_from_each(model, inputs, both)


def parallel_is_one_at_a_time(subject: Subject, method: Method) -> None:
    """All outputs, the cache too, hold the copies one below the other; also where a row has no image, two, or more than others."""
    _assert_composed(subject, method, Parallel(FIRST, SECOND), torch.cat, are_packed=True)
    for what, inputs in _with_other_numbers(subject):
        model = _two(subject, method)
        alone = [_under(subject, model, name, inputs) for name in (FIRST, SECOND)]
        found, *alone = in_each(subject, _under(subject, model, Parallel(FIRST, SECOND), inputs), *alone)
        assert_same_names(with_rows(subject, found), with_rows(subject, alone[0]), what)
        expected = {name: torch.cat([one[name] for one in alone]) for name in of_rows(subject, found, *alone)}
        assert_equal_within({name: found[name] for name in expected}, expected, f"Parallel, {what}", ATOL, RTOL)
        note(what)


def _under(subject: Subject, model: PreTrainedModel, setup: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    model.set_active_adapters(setup)
    return run_by_rows(subject, model, inputs)


@functools.cache
def _with_other_numbers(subject: Subject) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Inputs with other numbers of images, which upstream's own class takes, and reads as well in a copy behind them: some count over all
    rows of a batch (VibeVoice).
    """
    found = []
    for what, inputs in with_other_numbers(subject):
        with contextlib.suppress(Exception):  # whatever upstream raises
            once, behind = run_by_rows(subject, subject.upstream(), inputs), second_copy(subject, inputs)
            without = mixed_outputs(subject) | outputs_without_rows(subject)
            if all(are_near(name, behind, once) for name in once.keys() - without):
                found.append((what, inputs))
    return tuple(found)


def split_batch_is_its_parts(subject: Subject, method: Method) -> None:
    """The first rows are those under the first adapter, the others those under the second."""
    block = BatchSplit(FIRST, SECOND, batch_sizes=[SPLIT, BATCH - SPLIT])
    _assert_rows(subject, method, block, [int(row >= SPLIT) for row in range(BATCH)])


def tasks_are_their_rows(subject: Subject, method: Method) -> None:
    """Each row is as under the adapter of its task."""
    _assert_rows(subject, method, MultiTask(FIRST, SECOND), list(TASKS), task_ids=torch.tensor(TASKS))


def average_is_the_weighted_sum(subject: Subject, method: Method) -> None:
    """Outputs and gradients are those of the reference that sums up in each place.

    Prefixes and invertible adapters have no results that could be summed up: an error.
    """
    block = Average(FIRST, SECOND, weights=list(SHARES))
    model = _two(subject, method)
    if method.has(Prefix) or method.has(Invertible):
        _assert_refused(model, block, "Average")
        return
    model.set_active_adapters(block)
    inputs = subject.padded_inputs("left" if subject.text else "none")
    adapters = [(FIRST, method.parts), (SECOND, method.parts)]
    compare(model, subject, inputs, adapters, "Average", Averaged(SHARES))
    _assert_differs_from_each(model, inputs, run(model, inputs))


def fusion_is_an_attention(subject: Subject, method: Method) -> None:
    """Outputs and gradients, also of the attention, are those of a softmax over the bottlenecks; else an error."""
    model = _two(subject, method)
    block = Fuse(FIRST, SECOND)
    if not any(isinstance(part, Bottleneck) for part in method.parts):
        _assert_refused(model, block, "fus", add=True)
        return
    model.add_adapter_fusion(block)
    randomise_adapter(model, FUSION, seed=2)
    if method.only is None:
        _assert_refused(model, block, "Fuse")
        return
    model.set_active_adapters(block)
    inputs = subject.padded_inputs("left" if subject.text else "none")
    adapters = [(FIRST, method.parts), (SECOND, method.parts)]
    compare(model, subject, inputs, adapters, "Fuse", Fused(FUSION), atol=1e-4)  # softmax of products of sums
    _assert_differs_from_each(model, inputs, run(model, inputs))


def _assert_rows(subject: Subject, method: Method, block: Any, owners: list[int], **keywords: Tensor) -> None:
    def rows_of_owners(outputs: list[Tensor]) -> Tensor:
        pieces = [torch.tensor_split(output, BATCH) for output in outputs]  # of an image or a sound a row has several
        return torch.cat([pieces[owner][row] for row, owner in enumerate(owners)])

    require_rows(subject, are_packed=True)
    if parts_on_other_rows(subject) and _is_refused(_two(subject, method), block, subject.padded_inputs() | keywords):
        raise DoesNotApply(Reason.PARTS_ON_OTHER_ROWS)
    _assert_composed(subject, method, block, rows_of_owners, **keywords)


def _assert_composed(
    subject: Subject,
    method: Method,
    block: Any,
    compose: Callable[[list[Tensor]], Tensor],
    are_packed: bool = False,
    **keywords: Tensor,
) -> None:
    """Under `block`, each output is what `compose` makes of those under each adapter. (Torch rounds by the number of rows.)

    Args:
        are_packed: the inputs of a row may be several pieces, one row's after the other's.
    """
    require_rows(subject, are_packed)
    if compared_rows(subject):
        if _is_refused(_two(subject, method), block, subject.padded_inputs() | keywords, "compares all rows"):
            raise DoesNotApply(Reason.UPSTREAM_MIXES_ROWS)
        assert not isinstance(block, Parallel), "rows of one copy are compared with those of another"
    without_rows = why_without_rows(subject, method)
    if without_rows and _is_refused(_two(subject, method), block, subject.padded_inputs() | keywords):
        raise DoesNotApply(without_rows)

    def compare(model: PreTrainedModel, attention: Attention, padding: Padding, is_double: bool) -> None:
        inputs = subject.padded_inputs(padding)
        if is_double:
            model, inputs = copy.deepcopy(model).double(), doubled(inputs)
        alone = _alone(subject, model, inputs)
        model.set_active_adapters(block)
        found, *alone = in_each(subject, run_by_rows(subject, model, {**inputs, **keywords}), *alone)
        what = f"{type(block).__name__}, {attention}, padding {padding}"
        assert_same_names(with_rows(subject, found), with_rows(subject, alone[0]), what)
        names = of_rows(subject, found, *alone)
        expected = {name: compose([one[name] for one in alone]) for name in names}
        bound = IN_DOUBLE if is_double else 1.0
        assert_equal_within({name: found[name] for name in names}, expected, what, ATOL * bound, RTOL * bound)
        _assert_rows_meet_none_of_another(subject, found, alone, compose, what)

    for attention in attentions(subject):
        model = _two(subject, method, attention)
        for padding in _paddings(subject):
            in_either_precision(functools.partial(compare, model, attention, padding))


def _assert_rows_meet_none_of_another(
    subject: Subject,
    found: dict[str, Tensor],
    alone: list[dict[str, Tensor]],
    compose: Callable[[list[Tensor]], Tensor],
    what: str,
) -> None:
    """Where all rows of one input are compared with all of another, either has an adapter's own: then each row of the outcome, or each
    column, is as under one adapter.
    """
    for name, dims in compared_rows(subject).items():
        ways = (compose([one[name].movedim(at, 0) for one in alone]).movedim(0, at) for at in dims)
        if not any(are_near(name, found, {name: way}) for way in ways):
            raise AssertionError(f"{what}: in {name}, rows of one adapter are compared with those of another")


def why_without_rows(subject: Subject, method: Method) -> Reason | None:
    """What upstream gives a projection that the method adapts in place of all positions of each row; None where it gives these."""
    layout = layout_of(initialised(subject))
    targets = {path for part in method.parts if isinstance(part, LoRA) for path in lora_targets(layout, part)}
    if not targets:
        return None
    if targets & given_one_row(subject):
        return Reason.ONE_ROW_FOR_ALL
    return Reason.SOME_POSITIONS if targets & given_some_positions(subject) else None


def _is_refused(
    model: PreTrainedModel, block: Any, inputs: dict[str, Any], why: str = "belong to which does not show"
) -> bool:
    """Whether a call says that it does not show which rows are whose, or `why` else. Anything else is the business of the check."""
    model.set_active_adapters(block)
    try:
        run(model, inputs)
    except UnsupportedMethodError as error:
        return why in str(error)
    return False


def _two(subject: Subject, method: Method, attention: Attention = "eager") -> PreTrainedModel:
    return adapted(subject, method, attention, names=(FIRST, SECOND), active=(FIRST,))


def _paddings(subject: Subject) -> tuple[Padding, ...]:
    return ("none", "left") if subject.text else ("none",)


def _alone(subject: Subject, model: PreTrainedModel, inputs: dict[str, Any]) -> list[dict[str, Tensor]]:
    """The outputs under each adapter."""
    outputs = []
    for name in (FIRST, SECOND):
        model.set_active_adapters(name)
        outputs.append(run_by_rows(subject, model, inputs))
    assert_differs(outputs[0], outputs[1], "which adapter it is")
    return outputs


def _assert_differs_from_each(model: PreTrainedModel, inputs: dict[str, Any], both: dict[str, Tensor]) -> None:
    for name in (FIRST, SECOND):
        model.set_active_adapters(name)
        assert_differs(run(model, inputs), both, "one adapter of the block")


def _square(subject: Subject, part: LoRA) -> bool:
    """The outputs of each projection, of which an adapter may change a part, are as many as its inputs."""
    model = initialised(subject)
    sizes = [features(model.get_submodule(path)) for path in lora_targets(layout_of(model), part)]
    return all(outputs == inputs for outputs, inputs in sizes)


def _assert_refused(model: PreTrainedModel, block: Any, named: str, add: bool = False) -> None:
    """Adding the fusion `block`, or activating it, raises an error that says what cannot run."""
    try:
        model.add_adapter_fusion(block) if add else model.set_active_adapters(block)
    except (UnsupportedMethodError, InvalidConfigError) as error:
        if named not in str(error):
            raise AssertionError(f"the message does not say what cannot run: {error}") from error
    else:
        raise AssertionError(f"{block!r} was accepted, which the method cannot run")
