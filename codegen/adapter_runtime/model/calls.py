"""A call of a model: what is prepared before the layers run, and what is handed back after.

The outermost call of a model opens a `ForwardContext`; calls of the same model inside of it (the base model inside of a
model with a head) use it. Nothing is prepared, and no context opened, unless the active adapters need one.
"""

from __future__ import annotations

import functools
import inspect
import logging
import re
from collections.abc import Callable, Iterable, Sequence
from typing import cast

import torch
from torch import nn
from transformers.utils import ModelOutput
from typing_extensions import Never

from adapter_runtime.call.arguments import Argument, ModelForward, Outputs, tokens_among
from adapter_runtime.call.context import ContextScope, ForwardContext, thread
from adapter_runtime.call.crossing import RowsMeetError, RowWatch
from adapter_runtime.call.division import rows_do_not_show
from adapter_runtime.call.recording import Scores
from adapter_runtime.call.repeating import batch_size, by_name, positional_names, repeated, with_all_rows
from adapter_runtime.call.rows import TaskRows, TokenSpans
from adapter_runtime.call.seen import past_positions, seen_with, tell_cache
from adapter_runtime.composition import AdapterCompositionBlock, Setup
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedModel
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.table import recorded_arguments
from adapter_runtime.model.parts.places import counts_items, lacking_in, parts_in, without_places
from adapter_runtime.model.parts.towers import kept_apart, towers_of
from adapter_runtime.programs.call_plan import IDLE, CallPlan

logger = logging.getLogger(__name__)

# Arguments that calls of models with adapters take beside upstream's.
RECORDED = recorded_arguments()  # that ask for values which adapters compute
CALL_ARGUMENTS = (
    *RECORDED,
    "adapter_input_parallelized",
    "task_ids",
)
# What upstream calls methods that run a part, or several, past the forward.
_GIVES_FEATURES = re.compile(r"get_\w+_features")


def calls_in_context(upstream: type[nn.Module], is_base: bool) -> dict[str, ModelForward[Never]]:
    """The forward of a class of upstream's, and its methods that give features of a part, each run in a context where one is needed.

    Upstream names all of the latter alike. They call parts past the forward, some several of them (BLIP-2: a tower, then a Q-Former):
    rows are repeated once for all.

    Args:
        is_base: see `with_call_context`.
    """
    wrapped: dict[str, ModelForward[Never]] = {"forward": with_call_context(upstream.forward, is_base)}
    for name in dir(upstream):
        method = inspect.getattr_static(upstream, name)
        if _GIVES_FEATURES.fullmatch(name) and inspect.isfunction(method):
            wrapped[name] = with_call_context(method, is_base, is_whole=False)
    return wrapped


def with_call_context(
    forward: ModelForward[AdaptedModel], is_base: bool, is_whole: bool = True
) -> ModelForward[AdaptedModel]:
    """The forward of a model, run in a context where the active adapters need one.

    Its signature has `CALL_ARGUMENTS` in addition: `Trainer` keeps the columns of a data set that a forward can take.

    Args:
        forward: of a class with adapters.
        is_base: whether that is a class of base models; else one of models with a head.
        is_whole: whether it is the forward, and not another method which calls parts of it: that has no entry, and may be given
            other rows than those of a batch of texts.
    """
    names = positional_names(forward)
    run = forward if not is_whole else _with_entry(forward) if is_base else _around_part(forward)

    @functools.wraps(forward)
    def forward_in_context(self: AdaptedModel, /, *args: Argument, **kwargs: Argument) -> Outputs:
        base = self.adapters_base
        plan = base.current_call_plan()
        asked = {name: kwargs.pop(name) for name in CALL_ARGUMENTS if name in kwargs} if kwargs else {}
        outer = thread.context
        enclosing = outer if outer is not None and outer.owner is base else None
        if enclosing is not None and not enclosing.is_generation:
            given = by_name(names, args, kwargs) if is_whole and plan.assigns_rows else {}
            return _inside(enclosing, functools.partial(run, self, *args, **kwargs), self, plan, given)
        if plan.is_idle and not asked:
            return forward(self, *args, **kwargs)
        is_watched = is_whole and enclosing is None and plan.divides_rows and _may_compare(self, base)
        if is_watched and torch.compiler.is_compiling():  # which would compile products, and not what watches them
            return uncompiled(self, *args, **kwargs, **asked)
        context = ForwardContext(base, enclosing)
        if plan.copies > 1 and not context.is_repeated and not asked.get("adapter_input_parallelized"):
            args, kwargs = repeated(names, args, kwargs, plan.copies, self.unrepeated_arguments, counts_items(base))
            asked = of_copies(asked, plan.copies)
        if plan.divides_rows:
            given = by_name(names, args, kwargs)
            see_rows(context, base, plan, given, self if is_whole else None)
        context.is_between_parts, context.past_parts = plan.in_parts, plan.past_parts
        context.has_head = self.runs_head(_heads_of(kwargs.get("head")))
        _prepare(context, plan, asked)
        thread.context = context
        try:
            if plan.reads_spans and is_whole and not is_base:
                _find_spans_before_head(base, by_name(names, args, kwargs), plan)
            # Here, and not in the first layer: a checkpointed layer would compute them without gradients.
            for computation in plan.computed:
                context.states_of(computation)
            watched = functools.partial(_watched, run, plan.copies, context) if is_watched else run
            outputs = watched(self, *args, **kwargs)
        finally:
            thread.context = outer
        if is_whole:
            _check_entered(self, plan, context, has_encoded=kwargs.get("encoder_outputs") is not None)
        return _with_scores(context, outputs)

    uncompiled: Callable[..., Outputs] = torch.compiler.disable(forward_in_context)  # type: ignore[no-untyped-call]
    signature = _widened(inspect.signature(forward))
    forward_in_context.__dict__["__signature__"] = signature
    return forward_in_context


def of_copies(asked: dict[str, Argument], copies: int) -> dict[str, Argument]:
    """The arguments that calls take beside upstream's, for copies of a batch: each row has its task in all of them."""
    task_ids = asked.get("task_ids")
    return {**asked, "task_ids": task_ids.repeat(copies)} if isinstance(task_ids, torch.Tensor) else asked


def _inside(
    enclosing: ForwardContext,
    run: Callable[[], Outputs],
    model: AdaptedModel,
    plan: CallPlan,
    given: dict[str, Argument],
) -> Outputs:
    """The outputs of a call within that of a whole, which may keep apart the rows of its parts.

    Args:
        given: the arguments, where rows are assigned to adapters and this is a forward: those of a model that is made of several parts of the
            whole tell what is put into its tokens.
    """
    watch, base = enclosing.watch, model.adapters_base
    if watch is not None and _is_apart(model, base):
        return watch.apart(run, follows=_runs_some(model, plan))
    if not given or not _is_between(model, base):
        return run()
    unshown, inside = enclosing.unshown, {part.get_submodule("") for part in parts_in(base, model.get_submodule(""))}
    enclosing.unshown = (unshown - inside) | lacking_in(base, model.get_submodule(""), given)
    try:
        return run()
    finally:
        enclosing.unshown = unshown


def see_rows(
    context: ForwardContext,
    base: AdaptedBaseModel,
    plan: CallPlan,
    given: dict[str, Argument],
    model: AdaptedModel | None,
) -> None:
    """Note in a context how many rows a batch has before it is copied, and what not each of them has a place for.

    In a generation, what is called past the forward of the whole may be given images, and not rows: then it is known from there.

    Args:
        given: the arguments of the call.
        model: whose forward it is; None = it is none.
    """
    generation, is_of_root = context.generation, model is not None and _is_of_root(model, base)
    context.rows = _rows_before_copies(plan, given)
    if not is_of_root and generation is not None and generation.rows is not None:
        context.rows = generation.rows * generation.rows_per_input
    if plan.assigns_rows and is_of_root:
        context.unshown = without_places(base, given)
    elif plan.assigns_rows and model is not None and _is_between(model, base):
        context.unshown = lacking_in(base, model.get_submodule(""), given)


def see_generation(
    base: AdaptedBaseModel, plan: CallPlan, given: dict[str, Argument], asked: dict[str, Argument]
) -> ForwardContext:
    """A context for `generate`, which is given the tokens of all rows, as what it runs before the first forward need not be.

    Args:
        given: its arguments, with a copy for each adapter of `Parallel`.
        asked: of these, what calls of models with adapters take beside upstream's.
    """
    outer = thread.context
    context = ForwardContext(base, is_generation=True)
    if outer is not None and outer.owner is base:  # of a model in this one, by the forward of the whole
        context.is_repeated, context.task_rows, context.unshown = outer.is_repeated, outer.task_rows, outer.unshown
    if plan.divides_rows:
        inputs = given.get("inputs")
        if given.get("input_ids") is None and isinstance(inputs, torch.Tensor) and not inputs.is_floating_point():
            given = {**given, "input_ids": inputs}
        context.rows = _rows_before_copies(plan, given)
        # Without tokens, a row of them is made for each image (BLIP-2).
        if plan.assigns_rows and tokens_among(given) is not None:
            context.unshown = without_places(base, given)
    _prepare(context, plan, asked)
    return context


def _rows_before_copies(plan: CallPlan, given: dict[str, Argument]) -> int | None:
    rows = batch_size(given)
    return None if rows is None else rows // plan.copies


def _is_of_root(model: AdaptedModel, base: AdaptedBaseModel) -> bool:
    """Whether a model is `base`, the whole, or one around it, and not of a part of it."""
    return model is base or model.base_model is base


def _is_apart(model: AdaptedModel, base: AdaptedBaseModel) -> bool:
    """Whether a model inside of `base` is of one part, and not made of several itself."""
    inner = cast("AdaptedBaseModel", model.base_model)
    return not _is_of_root(model, base) and inner.own_part is inner


def _runs_some(model: AdaptedModel, plan: CallPlan) -> bool:
    """Whether rows of a part differ by the adapter that they are given to: in copies of a batch, all are counted as one's."""
    part = cast("AdaptedBaseModel", model.base_model).own_part
    return plan.copies > 1 or (part is not None and part.current_call_plan().runs)


def _is_between(model: AdaptedModel, base: AdaptedBaseModel) -> bool:
    """Whether a model inside of `base` is made of several parts of it, and no head around such a one."""
    inner = cast("AdaptedBaseModel", model.base_model)
    return not _is_of_root(model, base) and inner is model and inner.own_part is not inner


def _may_compare(model: AdaptedModel, base: AdaptedBaseModel) -> bool:
    """Whether a call is one of a model in which rows of one part, or one tower, may meet those of another."""
    is_apart = _is_of_root(model, base) or cast("AdaptedBaseModel", model.base_model).own_part is not model.base_model
    return is_apart and (len(base.adapter_parts()) > 1 or len(towers_of(base)) > 1)


def _watched(
    run: ModelForward[AdaptedModel],
    copies: int,
    context: ForwardContext,
    model: AdaptedModel,
    /,
    *args: Argument,
    **kwargs: Argument,
) -> Outputs:
    """The outputs of a call of a model that must not compare rows of a part, or a tower, with all rows of another.

    Args:
        copies: of the batch.
        context: of the call.

    Raises:
        UnsupportedMethodError: it does, and they belong to several adapters.
    """
    base = model.adapters_base
    context.watch = watch = RowWatch(copies)
    parts = {part.get_submodule("") for part in base.adapter_parts().values()}
    try:
        with watch, kept_apart((tower for tower in towers_of(base) if tower not in parts), watch):
            return run(model, *args, **kwargs)
    except RowsMeetError:
        features = [name for name in dir(type(model.adapters_base)) if _GIVES_FEATURES.fullmatch(name)]
        raise UnsupportedMethodError(
            f"{type(model).__name__} compares all rows of one part with all rows of another, but the active setup gives rows to"
            " several adapters: those of one would be compared with those of another. Compare features of each adapter"
            f" ({', '.join(features) or 'of the parts'}), or call the model for each adapter."
        ) from None


def _heads_of(head: Argument) -> Setup:
    """What the argument ``head`` of a call names. The model refuses anything else when it runs its heads."""
    if head is None or isinstance(head, (str, AdapterCompositionBlock)):
        return head
    return [name for name in head if isinstance(name, str)] if isinstance(head, Sequence) else None


def _prepare(context: ForwardContext, plan: CallPlan, asked: dict[str, Argument]) -> None:
    """Tell a new context what the call asks for and what the plan needs."""
    context.is_repeated = context.is_repeated or plan.copies > 1
    context.recorded = {argument: Scores() for argument in RECORDED if asked.get(argument)}
    task_ids = asked.get("task_ids")
    if plan.tasks is not None and isinstance(task_ids, (torch.Tensor, Iterable)):
        context.task_rows = TaskRows.read(task_ids, plan.tasks)


def _with_entry(forward: ModelForward[AdaptedModel]) -> ModelForward[AdaptedModel]:
    """The forward of a base model, or of a part of one, with what adapters that act at its entry do before and after it."""
    names = positional_names(forward)

    def forward_with_entry(self: AdaptedModel, /, *args: Argument, **kwargs: Argument) -> Outputs:
        model, whole = cast("AdaptedBaseModel", self), self.adapters_base  # the class is one of base models
        part = model.own_part
        plan = IDLE if part is None else part.current_call_plan()
        at_root = whole.current_call_plan().at_root if whole is model and part is not model else ()
        is_prepared = part is model is whole and not plan.reads_spans and len(plan.at_entry) == 0
        if len(at_root) == 0 and (plan.is_idle or is_prepared):  # (torch.compile cannot negate a tuple)
            return forward(self, *args, **kwargs)
        context, text = thread.context, whole.text_part
        assert context is not None
        given = by_name(names, args, kwargs)
        if text is not None and text is not part:  # whose layers are the root's own does all at its entry
            for layer in at_root:
                given = layer.at_root(model, text, given)
        if part is None or plan.is_idle:
            outputs = forward(self, **given)
        else:
            given = given if part is whole else with_all_rows(given)
            with ContextScope(context if part is whole else context_of_part(context, model, plan, given)) as own:
                outputs = _entered(forward, model, part, plan, own, given)
        for layer in at_root:
            outputs = layer.after_root(outputs)
        return outputs

    return forward_with_entry


def _around_part(forward: ModelForward[AdaptedModel]) -> ModelForward[AdaptedModel]:
    """The forward of a model with a head, in the context of its base model where that is a part of one made of several."""
    names = positional_names(forward)

    def forward_around_part(self: AdaptedModel, /, *args: Argument, **kwargs: Argument) -> Outputs:
        whole = self.adapters_base
        if self.base_model is whole or not whole.current_call_plan().in_parts:
            return forward(self, *args, **kwargs)
        base = cast("AdaptedBaseModel", self.base_model)
        part = base.own_part
        plan = IDLE if part is None else part.current_call_plan()
        if plan.is_idle:
            return forward(self, *args, **kwargs)
        assert thread.context is not None
        given = by_name(names, args, kwargs)
        with ContextScope(context_of_part(thread.context, base, plan, given)):
            if plan.reads_spans:
                _find_spans_before_head(base, given, plan)
            return forward(self, *args, **kwargs)

    return forward_around_part


def _entered(
    forward: ModelForward[AdaptedModel],
    model: AdaptedBaseModel,
    part: AdaptedBaseModel,
    plan: CallPlan,
    context: ForwardContext,
    given: dict[str, Argument],
) -> Outputs:
    """The outputs of a model, with what its own adapters do at its entry.

    Args:
        part: what of the model they belong to.
        context: the current one.
        given: the arguments.
    """
    context.is_in_base = True
    context.entered.add(model)
    if plan.reads_spans:
        of_tokens = context.of_tokens if part is model.adapters_base.text_part else {}
        find_spans(model, {**given, **of_tokens}, plan.added_positions)
    seen = seen_with(given, plan.added_positions)
    for layer in plan.at_entry:
        given = layer.at_entry(part, given)
    outputs = forward(model, **given)
    if seen is not None:
        tell_cache(seen, given, outputs)
    for layer in plan.at_entry:
        outputs = layer.at_exit(outputs)
    return outputs


def context_of_part(
    context: ForwardContext, part: AdaptedBaseModel, plan: CallPlan, given: dict[str, Argument]
) -> ForwardContext:
    """The context of a call of a part within that of the whole model.

    Raises:
        UnsupportedMethodError: rows of the batch are assigned to adapters, and the part works on other rows.
    """
    own = context.of_part(part)
    own.has_head = own.has_head or part is not part.adapters_base  # whatever calls a part reads real tokens only
    rows, batch = batch_size(given), context.rows
    if plan.assigns_rows and plan.runs and rows is not None and batch is not None and rows != batch * plan.copies:
        raise rows_do_not_show(batch, f"{type(part).__name__} works on {rows}")
    if plan.assigns_rows and plan.runs and part in context.unshown:
        raise rows_do_not_show(batch, f"not each of them has a place for what {type(part).__name__} reads")
    # Here, and not in the first layer: a checkpointed layer would compute them without gradients.
    for computation in plan.computed:
        own.states_of(computation)
    return own


def _check_entered(model: AdaptedModel, plan: CallPlan, context: ForwardContext, has_encoded: bool) -> None:
    """Raise where a model called parts of its base model, or of the one that reads the tokens, past the forward, at whose entry
    adapters act. A part that did not run at all has lost nothing.

    Args:
        has_encoded: the call is given what an encoder gave. Where that is a part of its own, it was entered before.

    Raises:
        UnsupportedMethodError: it did.
    """
    whole = model.adapters_base
    if plan.in_parts:
        text = whole.text_part
        is_part = any(part is model for part in whole.adapter_parts().values())
        is_asked = not (is_part or has_encoded) and text is not None and bool(text.current_call_plan().at_entry)
        inner = text.get_submodule("") if text is not None else None
        is_missed, what = is_asked and inner not in context.entered and inner in context.ran, type(text).__name__
        if is_asked and inner not in context.entered and not is_missed:
            _warn_of_idle(type(model).__name__, what)
    else:
        is_missed, what = bool(plan.at_entry) and not context.is_in_base, "its base model"
    if is_missed:
        raise UnsupportedMethodError(
            f"{type(model).__name__} goes past the forward of {what}, at whose entry an active adapter acts (a prompt or an"
            " invertible one). Use the model with flexible heads, or another method."
        )


@functools.lru_cache(maxsize=64)
def _warn_of_idle(whole: str, part: str) -> None:
    """Say, once, that a call did not run the part that reads the tokens (RAG's question encoder, where documents are given)."""
    logger.warning(
        "%s did not run its %s in a call, so that the prompt or the invertible adapter there changed nothing.",
        whole,
        part,
    )


def _find_spans_before_head(model: AdaptedBaseModel, given: dict[str, Argument], plan: CallPlan) -> None:
    """`find_spans` before the forward of a model with a head, for those that go on to a part of the base model (OPT).

    Heads that give the base model other rows than they got (multiple choice) call the base model itself.
    """
    tokens, mask = given.get("input_ids"), given.get("attention_mask")
    is_plain = not isinstance(mask, torch.Tensor) or mask.dim() in (2, 4)
    if is_plain and (not isinstance(tokens, torch.Tensor) or tokens.dim() == 2):
        find_spans(model, given, plan.added_positions)


def find_spans(model: AdaptedBaseModel, given: dict[str, Argument], prompt: int = 0) -> None:
    """Tell the context where the real tokens of each row are, in the encoder and in the decoder.

    Args:
        given: the arguments of a call of the base model.
        prompt: positions that come in front of the tokens, in the encoder where there is one.
    """
    context = thread.context
    assert context is not None
    if not model.config.is_encoder_decoder:
        _add_span(context, "self", given, "", _past(given), prompt)
        return
    if given.get("encoder_outputs") is None:
        _add_span(context, "encoder", given, "", 0, prompt)
    elif context.generation is not None:
        context.spans.update(context.generation.spans)
    _add_span(context, "self", given, "decoder_", _past(given))


def _past(given: dict[str, Argument]) -> int | torch.Tensor:
    """How many positions the cache among the arguments of a call holds.

    A static cache counts in a tensor, to which the layers of this very call add: then it is a copy.
    """
    past = past_positions(given)
    return past.clone() if isinstance(past, torch.Tensor) else past


def _add_span(
    context: ForwardContext,
    kind: str,
    given: dict[str, Argument],
    prefix: str,
    past: int | torch.Tensor,
    prompt: int = 0,
) -> None:
    """Tell the context where the real tokens are that one stack reads.

    Args:
        kind: "encoder" or "self".
        prefix: of the names of the arguments: "decoder_" or "".
        past: positions in the cache.
        prompt: positions in front of the tokens.
    """
    tokens = tokens_among(given, prefix)
    if tokens is None and not prefix:  # images, sounds; what a decoder reads shows in nothing else
        tokens = next((v for v in given.values() if isinstance(v, torch.Tensor) and v.dim() > 1), None)
        _add_span_of_others(context, given.get("attention_mask"))
    if tokens is None:
        return
    seen = None if prefix else seen_with(given, prompt)
    mask = given.get(f"{prefix}attention_mask") if seen is None else seen.mask
    spans = TokenSpans.read(mask, tokens.shape[0], tokens.shape[1], past, prompt, tokens.device)
    generation = context.generation
    if generation is not None:
        # What is generated later belongs to no prompt, with or without a cache.
        spans = spans.after(generation.spans.setdefault(kind, spans))
    context.spans[kind] = spans


def _add_span_of_others(context: ForwardContext, mask: Argument) -> None:
    """Tell the context which positions of images or sounds are real, by the mask of a model that reads nothing else.

    How many there are shows only in the mask: whether it is one of what a layer sees, the layer knows.

    Args:
        mask: [B, L] or [B, 1, Q, L]; a model of waves may have one of samples.
    """
    if isinstance(mask, torch.Tensor) and mask.dim() in (2, 4):
        context.spans[""] = TokenSpans.read(mask, mask.shape[0], mask.shape[-1], 0, 0, mask.device)


def _widened(signature: inspect.Signature) -> inspect.Signature:
    """A signature with `CALL_ARGUMENTS`, before ``**kwargs``."""
    parameters = list(signature.parameters.values())
    has_rest = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in CALL_ARGUMENTS
        if name not in signature.parameters
    ]
    rest = parameters[-1:] if has_rest else []
    return signature.replace(parameters=[*(parameters[:-1] if has_rest else parameters), *own, *rest])


def _with_scores(context: ForwardContext, outputs: Outputs) -> Outputs:
    """The outputs with what the call asked for: further fields, or further entries of a tuple."""
    for argument, scores in context.recorded.items():
        if isinstance(outputs, ModelOutput):
            outputs[argument.removeprefix("output_")] = scores.as_arrays()
        else:
            outputs = (*outputs, scores.as_arrays())
    return outputs
