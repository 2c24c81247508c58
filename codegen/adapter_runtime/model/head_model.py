"""Models around a base model: upstream's classes with a head, and models made of several models."""

from __future__ import annotations

import functools
import inspect

import torch
from torch import nn
from transformers import GenerationConfig
from transformers.utils import ModelOutput
from typing_extensions import Never

from adapter_runtime.call.arguments import Argument, Generate, ModelForward
from adapter_runtime.call.checkpoint import CheckpointFunction
from adapter_runtime.call.context import ContextScope, thread
from adapter_runtime.call.repeating import by_name, repeated
from adapter_runtime.composition import Setup
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.summary import HeadSummary
from adapter_runtime.errors import UnsupportedModelError
from adapter_runtime.methods.prompt_tuning.api import PromptGenerationMixin
from adapter_runtime.model.api import ModelAdaptersMixin
from adapter_runtime.model.base import ModelBaseAdaptersMixin, refuse_parts, wrap_checkpoints
from adapter_runtime.model.calls import calls_in_context, find_spans, of_copies, see_generation
from adapter_runtime.model.parts.places import counts_items


class ModelAroundBaseAdaptersMixin(ModelAdaptersMixin):
    """Base of models that hold a base model, to which the adapters belong."""

    @property
    def adapters_base(self) -> ModelBaseAdaptersMixin:
        base = self.base_model
        if not isinstance(base, ModelBaseAdaptersMixin):
            raise UnsupportedModelError(
                f"The base model of {type(self).__name__}, a {type(base).__name__}, has no adapters. Call init(model) first."
            )
        return base.adapters_base

    def _check_supported(self, config: AdapterConfig) -> None:
        if self.models_beside and "" in self.adapters_base.adapter_parts():
            beside = ", ".join(self.models_beside)
            refuse_parts(
                config, f"in {type(self).__name__} one alone has adapters, {self.base_model_prefix}, and {beside} none"
            )
        super()._check_supported(config)

    def summarized_heads(self) -> list[HeadSummary]:
        """The modules of upstream's class beside its base model: they always run."""
        base = self.adapters_base
        around = [
            (name, child)
            for name, child in self.named_children()
            if base not in set(child.modules()) and name not in self.models_beside
        ]
        return [
            HeadSummary(name, "static", True, child) for name, child in around if any(True for _ in child.parameters())
        ]

    def is_of_head(self, key: str) -> bool:
        """Whether the tensor of this name in the state dict belongs to no base model, nor to a whole model beside it."""
        return not key.startswith(tuple(f"{path}." for path in (self.base_model_prefix, *self.models_beside)))

    @classmethod
    def prepare_subclass(cls, upstream: type[nn.Module]) -> dict[str, ModelForward[Never]]:
        """The forward and the like of the class made of this mixin and `upstream`, with the signature of upstream's."""
        return calls_in_context(upstream, is_base=False)

    def _set_gradient_checkpointing(
        self, *args: bool | CheckpointFunction, **kwargs: bool | CheckpointFunction
    ) -> None:
        """See transformers. The recomputation of a layer sees the context of its forward."""
        super()._set_gradient_checkpointing(*args, **kwargs)
        wrap_checkpoints(self)


class GenerationAdaptersMixin(PromptGenerationMixin):
    """Base of models that upstream's `generate` may be called on."""

    @property
    def generate(self) -> Generate:
        """See transformers. Prefixes are computed once, not at each step; `Parallel` gives its copies one after the other.

        This is a property, so that models of upstream's that cannot generate still have no such attribute.
        """
        upstream: Generate = super().generate

        @functools.wraps(upstream)
        def generate(*args: Argument, **kwargs: Argument) -> torch.Tensor | ModelOutput:
            base = self.adapters_base
            outer = thread.context
            enclosing = outer if outer is not None and outer.owner is base else None
            if enclosing is not None and enclosing.is_generation:
                return upstream(*args, **kwargs)  # of a model in this one, by whose generate it is called
            plan, named = base.current_call_plan(), _by_position(upstream)
            # Kept for all that runs; upstream would hand them on to what it runs before the first forward only.
            names = ("task_ids",) if plan.tasks is not None else ()
            asked = {name: kwargs.pop(name) for name in names if name in kwargs}
            if plan.copies > 1 and not (enclosing is not None and enclosing.is_repeated):
                args, kwargs = repeated(named, args, kwargs, plan.copies, whole=counts_items(base))
                asked = of_copies(asked, plan.copies)
            given = by_name(named, args, kwargs)
            with ContextScope(see_generation(base, plan, given, asked)):
                return upstream(*args, **kwargs)

        return generate

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, **kwargs: Argument
    ) -> tuple[torch.Tensor | None, dict[str, Argument]]:
        """See transformers: each row gets its beams. (An encoder ran before this, with one row per input.)"""
        if thread.context is not None:
            thread.context.rows_per_input = expand_size
        tokens, others = super()._expand_inputs_for_generation(expand_size=expand_size, **kwargs)
        return tokens, others

    def _prepare_text_encoder_decoder_kwargs_for_generation(
        self,
        inputs_tensor: torch.Tensor,
        model_kwargs: dict[str, Argument],
        model_input_name: str | None,
        generation_config: GenerationConfig,
    ) -> dict[str, Argument]:
        """See transformers: runs the encoder by itself, before the first call of the model."""
        base = self.adapters_base
        plan = base.current_call_plan()
        if plan.reads_spans:  # (parts find their own)
            find_spans(base, {**model_kwargs, base.main_input_name: inputs_tensor}, plan.added_positions)
        prepared: dict[str, Argument] = super()._prepare_text_encoder_decoder_kwargs_for_generation(
            inputs_tensor, model_kwargs, model_input_name, generation_config
        )
        return prepared


def _by_position(generate: Generate) -> tuple[str, ...]:
    """The names of the arguments of upstream's `generate` that can be given by position; where it hides them, as those of most."""
    parameters = inspect.signature(generate).parameters.values()
    return tuple(one.name for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD) or ("inputs",)


class ModelWithHeadsAdaptersMixin(ModelAroundBaseAdaptersMixin, GenerationAdaptersMixin):
    """Base of models with heads."""

    def runs_head(self, head: Setup = None) -> bool:
        """Whether a forward, called with this argument ``head``, ends in a head: upstream's classes always do."""
        return True
