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
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from adapter_runtime.composition import Average, BatchSplit, Fuse, MultiTask, Parallel
from adapter_runtime.errors import InvalidConfigError, UnsupportedMethodError
from conformance.adapted import FIRST, SECOND, adapted, initialised, randomise_adapter
from conformance.checks.reference import compare
from conformance.in_double import IN_DOUBLE, doubled, in_either_precision
from conformance.methods import Bottleneck, Invertible, LoRA, Method, Prefix
from conformance.outputs import (
    are_close,
    assert_differs,
    assert_equal_within,
    assert_same_names,
    changed,
    flatten,
    run,
)
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import features, layout_of
from conformance.reference.lora import lora_targets
from conformance.reference.together import Averaged, Fused
from conformance.several import with_other_numbers
from conformance.subjects import BATCH, Attention, Padding, Subject, attentions

SHARES = (0.3, 0.7)
SPLIT = 1  # rows of the first adapter
TASKS = (1, 0, 1)  # of the rows
FEW = 2  # rows
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
        alone = [_under(model, name, inputs) for name in (FIRST, SECOND)]
        found = _under(model, Parallel(FIRST, SECOND), inputs)
        assert_same_names(_with_rows(subject, found, alone[0]), _with_rows(subject, alone[0], found), what)
        expected = {name: torch.cat([one[name] for one in alone]) for name in _of_rows(subject, found, *alone)}
        assert_equal_within({name: found[name] for name in expected}, expected, f"Parallel, {what}", ATOL, RTOL)


def _under(model: PreTrainedModel, setup: Any, inputs: dict[str, Any]) -> dict[str, Tensor]:
    model.set_active_adapters(setup)
    return run(model, inputs)


@functools.cache
def _with_other_numbers(subject: Subject) -> tuple[tuple[str, dict[str, Any]], ...]:
    """Inputs with other numbers of images, which upstream's own class takes, and reads as well in a copy behind them: some count over all
    rows of a batch (VibeVoice).
    """
    found = []
    for what, inputs in with_other_numbers(subject):
        with contextlib.suppress(Exception):  # whatever upstream raises
            once, behind = run(subject.upstream(), inputs), _second_copy(subject, inputs)
            without = mixed_outputs(subject) | outputs_without_rows(subject)
            if all(_are_near(name, behind, once) for name in once.keys() - without):
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
    if compares_all_rows(subject):
        if _is_refused(_two(subject, method), block, subject.padded_inputs() | keywords, "compares all rows"):
            raise DoesNotApply(Reason.UPSTREAM_MIXES_ROWS)
        assert not isinstance(block, Parallel), "rows of one copy are compared with those of another"
    one_for_all = has_one_row_for_all(subject, method)
    if one_for_all and _is_refused(_two(subject, method), block, subject.padded_inputs() | keywords):
        raise DoesNotApply(Reason.ONE_ROW_FOR_ALL)

    def compare(model: PreTrainedModel, attention: Attention, padding: Padding, is_double: bool) -> None:
        inputs = subject.padded_inputs(padding)
        if is_double:
            model, inputs = copy.deepcopy(model).double(), doubled(inputs)
        alone = _alone(model, inputs)
        model.set_active_adapters(block)
        found = run(model, {**inputs, **keywords})
        what = f"{type(block).__name__}, {attention}, padding {padding}"
        assert_same_names(_with_rows(subject, found, alone[0]), _with_rows(subject, alone[0], found), what)
        names = _of_rows(subject, found, *alone)
        expected = {name: compose([one[name] for one in alone]) for name in names}
        bound = IN_DOUBLE if is_double else 1.0
        assert_equal_within({name: found[name] for name in names}, expected, what, ATOL * bound, RTOL * bound)

    for attention in attentions(subject):
        model = _two(subject, method, attention)
        for padding in _paddings(subject):
            in_either_precision(functools.partial(compare, model, attention, padding))


@functools.cache
def parts_on_other_rows(subject: Subject) -> bool:
    """Whether upstream calls a model inside of a whole, which is a part of it, with other rows than the batch has, or layers with
    the positions of all rows in one.
    """
    model, upstream, rows = initialised(subject), subject.upstream(), set[int]()
    parts = {id(part) for part in model.adapters_base.adapter_parts().values()}
    paths = [
        path for path, module in model.named_modules() if id(module) in parts and module is not model.adapters_base
    ]

    def see(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        given = (*args, *kwargs.values())
        rows.add(next((len(value) for value in given if isinstance(value, Tensor) and value.dim() > 1), BATCH))

    def see_packed(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        states = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
        if states is not None and (states.dim() == 2 or (states.dim() == 3 and len(states) == 1)):
            rows.add(1)

    for path in paths:
        upstream.get_submodule(path).register_forward_pre_hook(see, with_kwargs=True)
    for layer in layout_of(model).layers:
        upstream.get_submodule(layer.path).register_forward_pre_hook(see_packed, with_kwargs=True)
    run(upstream, subject.padded_inputs())
    return not rows <= {BATCH}


def has_one_row_for_all(subject: Subject, method: Method) -> bool:
    """Whether upstream gives a projection that the method adapts one row, which all rows of the batch read."""
    layout = layout_of(initialised(subject))
    targets = {path for part in method.parts if isinstance(part, LoRA) for path in lora_targets(layout, part)}
    return bool(targets) and not targets.isdisjoint(_given_one_row(subject))


@functools.cache
def _given_one_row(subject: Subject) -> frozenset[str]:
    """The modules of upstream's that are given a tensor with a batch of one."""
    upstream, found = subject.upstream(), set[str]()

    def see(path: str, args: Any) -> None:
        if args and isinstance(args[0], Tensor) and args[0].dim() > 2 and len(args[0]) == 1:
            found.add(path)

    for path, module in upstream.named_modules():
        module.register_forward_pre_hook(lambda module, args, path=path: see(path, args))
    run(upstream, subject.padded_inputs())
    return frozenset(found)


@functools.cache
def compares_all_rows(subject: Subject) -> bool:
    """Whether a model made of several has an output with a dimension for the rows of one part, and one for those of another."""
    if len(initialised(subject).adapters_base.adapter_parts()) < 2:
        return False
    inputs = subject.padded_inputs()
    all_rows, few_rows = (run(subject.upstream(), given) for given in (inputs, _some_rows(inputs, 0, FEW)))
    return any(
        name in few_rows and list(zip(value.shape, few_rows[name].shape, strict=False)).count((BATCH, FEW)) > 1
        for name, value in all_rows.items()
    )


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


@functools.cache
def has_rows(subject: Subject) -> bool:
    """Every input of upstream's has a row per example, and so has some output."""
    inputs = flatten(subject.padded_inputs()).values()
    return all(map(_are_rows, inputs)) and any(
        map(_are_rows, run(subject.upstream(), subject.padded_inputs()).values())
    )


@functools.cache
def has_pieces_of_rows(subject: Subject, are_packed: bool) -> bool:
    """Every input has a row per example, and so has some output, or, where a text has images in it, as many pieces of each; where inputs
    `are_packed`, these too.
    """
    inputs = subject.padded_inputs()
    if "input_ids" not in inputs:
        return has_rows(subject)
    of_rows = (_are_rows(tensor) or (are_packed and _are_pieces(tensor)) for tensor in flatten(inputs).values())
    return all(of_rows) and any(map(_are_pieces, run(subject.upstream(), inputs).values()))


@functools.cache
def outputs_without_rows(subject: Subject) -> frozenset[str]:
    """Outputs of upstream's in which an example has no row, nor pieces beside each other: of layers that see something else than
    rows (SegGPT's prompts are rows behind those of the images), or the same for all.
    """
    inputs = subject.padded_inputs()
    has_own = _are_pieces if "input_ids" in inputs else _are_rows
    return frozenset(name for name, tensor in run(subject.upstream(), inputs).items() if not has_own(tensor))


def _with_rows(subject: Subject, outputs: dict[str, Tensor], names: Iterable[str]) -> dict[str, Tensor]:
    """Outputs of which an example has a row. Of a list that may have an entry per example instead, only the entries that are in `names`."""
    without = outputs_without_rows(subject)
    lists = {name.rpartition(".")[0] for name in without if "." in name}
    more = {name for name in outputs.keys() - set(names) if name.rpartition(".")[0] in lists}
    return {name: value for name, value in outputs.items() if name not in without | more}


def _are_rows(tensor: Tensor) -> bool:
    return tensor.dim() > 0 and len(tensor) == BATCH


def _are_pieces(tensor: Tensor) -> bool:
    return tensor.dim() > 0 and len(tensor) > 0 and len(tensor) % BATCH == 0


def require_rows(subject: Subject, are_packed: bool = False) -> None:
    if not has_pieces_of_rows(subject, are_packed):
        raise DoesNotApply(Reason.UPSTREAM_MIXES_ROWS)


def _some_rows(inputs: dict[str, Any], first: int, after: int) -> dict[str, Any]:
    """What belongs to the rows from `first` on."""
    return changed(inputs, lambda value: value[first * len(value) // BATCH : after * len(value) // BATCH])


@functools.cache
def mixed_outputs(subject: Subject) -> frozenset[str]:
    """Outputs of upstream's that compare the rows with each other, as fewer rows change those that are left; those that count images
    over all rows (HunYuan-VL), so that a second copy of a batch behind it gives something else; and what it draws at random, of
    which a batch of another size gets other numbers.
    """
    inputs = subject.padded_inputs()
    all_rows, few_rows = (run(subject.upstream(), given) for given in (inputs, _some_rows(inputs, 0, FEW)))
    drawn_again, behind = run(subject.upstream(), inputs, seed=6), _second_copy(subject, inputs) or all_rows
    return frozenset(
        name
        for name, value in all_rows.items()
        if name not in outputs_without_rows(subject)
        if not _are_near(name, few_rows, _some_rows({name: value}, 0, FEW))
        or not _are_near(name, drawn_again, all_rows)
        or not _are_near(name, behind, all_rows)
    )


def _second_copy(subject: Subject, inputs: dict[str, Any]) -> dict[str, Tensor]:
    """What upstream gives for a batch that stands behind itself; nothing where it does not take twice as many rows."""
    twice = changed(inputs, lambda value: torch.cat([value, value]))
    try:
        outputs = run(subject.upstream(), twice)
    except Exception:
        return {}
    return {name: value[len(value) // 2 :] for name, value in outputs.items() if value.dim() > 0}


def _are_near(name: str, ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return name in ours and are_close({name: ours[name]}, {name: theirs[name]}, atol=1e-4, rtol=1e-3)


@functools.cache
def ragged_outputs(subject: Subject) -> frozenset[str]:
    """Outputs of upstream's that are as long as the values of a row make them (a sound): in a batch, as the longest."""
    inputs = subject.padded_inputs()
    alone = [run(subject.upstream(), _some_rows(inputs, row, row + 1)) for row in range(BATCH)]
    return frozenset(name for name in alone[0] if len({one[name].shape for one in alone}) > 1)


def _of_rows(subject: Subject, *outputs: dict[str, Tensor]) -> list[str]:
    """What a row has to itself: not how alike each text and each image of the batch are, nor what the longest decides."""
    names = [name for name in _with_rows(subject, outputs[0], outputs[-1]) if name not in mixed_outputs(subject)]
    if not names:
        raise DoesNotApply(Reason.UPSTREAM_MIXES_ROWS)
    other_shapes = {name for name in names if len({one[name].shape[1:] for one in outputs}) > 1}
    if other_shapes and not other_shapes <= ragged_outputs(subject):
        raise AssertionError(f"other shapes than under each adapter: {sorted(other_shapes - ragged_outputs(subject))}")
    return [name for name in names if name not in other_shapes]


def _two(subject: Subject, method: Method, attention: Attention = "eager") -> PreTrainedModel:
    return adapted(subject, method, attention, names=(FIRST, SECOND), active=(FIRST,))


def _paddings(subject: Subject) -> tuple[Padding, ...]:
    return ("none", "left") if subject.text else ("none",)


def _alone(model: PreTrainedModel, inputs: dict[str, Any]) -> list[dict[str, Tensor]]:
    """The outputs under each adapter."""
    outputs = []
    for name in (FIRST, SECOND):
        model.set_active_adapters(name)
        outputs.append(run(model, inputs))
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
