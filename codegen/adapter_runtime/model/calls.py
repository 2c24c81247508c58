"""A call of a model: what is prepared before the layers run, and what is handed back after.

The outermost call of a model opens a `ForwardContext`; calls of the same model inside of it (the base model inside of a
model with a head) use it. Nothing is prepared, and no context opened, unless the active adapters need one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers.utils import ModelOutput

from adapter_runtime.call.context import ForwardContext, thread
from adapter_runtime.call.recording import Scores
from adapter_runtime.call.repeating import positional_names, repeated
from adapter_runtime.call.rows import TaskRows, TokenSpans
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.table import recorded_arguments
from adapter_runtime.programs.call_plan import CallPlan

if TYPE_CHECKING:
    from adapter_runtime.model.base import ModelBaseAdaptersMixin

# Arguments that calls of models with adapters take beside upstream's.
RECORDED = recorded_arguments()  # that ask for values which adapters compute
CALL_ARGUMENTS = (
    *RECORDED,
    "adapter_input_parallelized",
    "task_ids",
)


def in_call(forward: Callable[..., Any], is_base: bool) -> Callable[..., Any]:
    """The forward of a model, run in a context where the active adapters need one.

    Its signature has `CALL_ARGUMENTS` in addition: `Trainer` keeps the columns of a data set that a forward can take.
    """
    names = positional_names(forward)
    run = _in_base(forward) if is_base else forward

    @functools.wraps(forward)
    def forward_in_call(self: Any, *args: Any, **kwargs: Any) -> Any:
        base: ModelBaseAdaptersMixin = self if is_base else self.adapters_base
        plan = base.current_call_plan()
        asked = {name: kwargs.pop(name) for name in CALL_ARGUMENTS if name in kwargs} if kwargs else {}
        outer = thread.context
        is_inside = outer is not None and outer.owner is base
        if is_inside and not outer.is_generation:  # type: ignore[union-attr]
            return run(self, *args, **kwargs)
        if plan.is_idle and not asked:
            return forward(self, *args, **kwargs)
        context = ForwardContext(base, outer if is_inside else None)
        if plan.copies > 1 and not context.is_repeated and not asked.get("adapter_input_parallelized"):
            args, kwargs = repeated(names, args, kwargs, plan.copies, self.unrepeated_arguments)
            if isinstance(asked.get("task_ids"), torch.Tensor):
                asked["task_ids"] = asked["task_ids"].repeat(plan.copies)
        context.has_head = not is_base and self.runs_head(kwargs.get("head"))
        _prepare(context, plan, asked)
        thread.context = context
        try:
            if plan.reads_spans and not is_base:
                _find_spans_of_head(base, {**dict(zip(names, args, strict=False)), **kwargs}, plan)
            # Here, and not in the first layer: a checkpointed layer would compute them without gradients.
            for computation in plan.computed:
                context.states_of(computation)
            outputs = run(self, *args, **kwargs)
        finally:
            thread.context = outer
        _check_entered(self, plan, context)
        return _with_scores(context, outputs)

    forward_in_call.__signature__ = _widened(inspect.signature(forward))  # type: ignore[attr-defined]
    return forward_in_call


def _prepare(context: ForwardContext, plan: CallPlan, asked: dict[str, Any]) -> None:
    context.is_repeated = plan.copies > 1
    context.recorded = {argument: Scores() for argument in RECORDED if asked.get(argument)}
    task_ids = asked.get("task_ids")
    if plan.tasks is not None and task_ids is not None:
        context.task_rows = TaskRows.read(task_ids, plan.tasks)


def _in_base(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The forward of a base model, after what happens at its entry."""
    names = positional_names(forward)

    def forward_in_base(self: ModelBaseAdaptersMixin, *args: Any, **kwargs: Any) -> Any:
        plan = self.current_call_plan()
        if not plan.reads_spans and not plan.at_entry:
            return forward(self, *args, **kwargs)
        assert thread.context is not None
        thread.context.is_in_base = True
        given = {**dict(zip(names, args, strict=False)), **kwargs}
        if plan.reads_spans:
            find_spans(self, given, plan.added_positions)
        for layer in plan.at_entry:
            given = layer.at_entry(self, given)
        outputs = forward(self, **given)
        for layer in plan.at_entry:
            outputs = layer.at_exit(outputs)
        return outputs

    return forward_in_base


def _check_entered(model: Any, plan: CallPlan, context: ForwardContext) -> None:
    """Raise where a head went past its base model, and what acts at the entry of that did not.

    Raises:
        UnsupportedMethodError: it did.
    """
    if plan.at_entry and not context.is_in_base:
        raise UnsupportedMethodError(
            f"{type(model).__name__} goes past the forward of its base model, at whose entry an active adapter acts (a "
            "prompt or an invertible one). Use the model with flexible heads, or another method."
        )


def _find_spans_of_head(model: ModelBaseAdaptersMixin, given: dict[str, Any], plan: CallPlan) -> None:
    """The same before the forward of a model with a head, for those that hand on to a part of the base model (OPT).

    Heads that give the base model other rows than they got (multiple choice) call the base model itself.
    """
    tokens, mask = given.get("input_ids"), given.get("attention_mask")
    is_plain = not isinstance(mask, torch.Tensor) or mask.dim() in (2, 4)
    if is_plain and (tokens is None or tokens.dim() == 2):
        find_spans(model, given, plan.added_positions)


def find_spans(model: ModelBaseAdaptersMixin, given: dict[str, Any], prompt: int = 0) -> None:
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


def _past(given: dict[str, Any]) -> int:
    cache = given.get("past_key_values")
    past: Any = cache.get_seq_length() if hasattr(cache, "get_seq_length") else 0  # type: ignore[union-attr]
    # A static cache counts in a tensor, to which the layers of this very call add.
    return past.clone() if isinstance(past, torch.Tensor) else past  # type: ignore[return-value]


def _add_span(
    context: ForwardContext, kind: str, given: dict[str, Any], prefix: str, past: int, prompt: int = 0
) -> None:
    inputs = [given.get(f"{prefix}{name}") for name in ("input_ids", "inputs_embeds")]
    tokens = next((tensor for tensor in inputs if tensor is not None), None)
    if tokens is None and not prefix:  # images, sounds; what a decoder reads shows in nothing else
        tokens = next((v for v in given.values() if isinstance(v, torch.Tensor) and v.dim() > 1), None)
    if tokens is None:
        return
    spans = TokenSpans.read(
        given.get(f"{prefix}attention_mask"), tokens.shape[0], tokens.shape[1], past, prompt, tokens.device
    )
    generation = context.generation
    if generation is not None:
        # What is generated later belongs to no prompt, with or without a cache.
        spans = spans.after(generation.spans.setdefault(kind, spans))
    context.spans[kind] = spans


def _widened(signature: inspect.Signature) -> inspect.Signature:
    parameters = list(signature.parameters.values())
    has_rest = bool(parameters) and parameters[-1].kind is inspect.Parameter.VAR_KEYWORD
    own = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None)
        for name in CALL_ARGUMENTS
        if name not in signature.parameters
    ]
    rest = parameters[-1:] if has_rest else []
    return signature.replace(parameters=[*(parameters[:-1] if has_rest else parameters), *own, *rest])


def _with_scores(context: ForwardContext, outputs: Any) -> Any:
    """The outputs with what the call asked for: further fields, or further entries of a tuple."""
    for argument, scores in context.recorded.items():
        if isinstance(outputs, ModelOutput):
            outputs[argument.removeprefix("output_")] = scores.as_arrays()
        else:
            outputs = (*outputs, scores.as_arrays())
    return outputs
