"""`generate` for models whose language modelling head is one of several."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, GenerationMixin
from transformers.utils import ModelOutput

from adapter_runtime.call.arguments import Argument
from adapter_runtime.composition import Parallel, Setup
from adapter_runtime.heads.errors import UnsupportedHeadError
from adapter_runtime.heads.protocol import FlexibleHeadsModel, head_named
from adapter_runtime.heads.setups import HeadSetup, head_names
from adapter_runtime.model.heads.running import copies_of_batch, used_heads


class HeadsGenerationMixin(GenerationMixin):
    """The base of a generated class with flexible heads where one of its head types can generate."""

    def generate(self, *args: Argument, head: Setup = None, **kwargs: Argument) -> ModelOutput | torch.Tensor:
        """See transformers. Needs an active head that generates, or ``head=...``; with parallel adapters, one or one for each.

        Raises:
            UnknownHeadError: there is no head of the given name.
            UnsupportedHeadError: no head, one that predicts no tokens, or several are active.
        """
        check_generative(self, used_heads(self, head))
        if head is not None:
            kwargs["head"] = head
        generated: ModelOutput | torch.Tensor = super().generate(*args, **kwargs)
        return generated

    def _prepare_text_encoder_decoder_kwargs_for_generation(
        self,
        inputs_tensor: torch.Tensor,
        model_kwargs: dict[str, Argument],
        model_input_name: str | None,
        generation_config: GenerationConfig,
    ) -> dict[str, Argument]:
        """See transformers. The encoder, which runs by itself before the first call, knows no heads."""
        head = model_kwargs.pop("head", None)
        prepared: dict[str, Argument] = super()._prepare_text_encoder_decoder_kwargs_for_generation(
            inputs_tensor, model_kwargs, model_input_name, generation_config
        )
        return prepared if head is None else {**prepared, "head": head}


def check_generative(model: FlexibleHeadsModel, setup: HeadSetup | None) -> None:
    """Raise where the heads of `setup` cannot generate.

    Raises:
        UnsupportedHeadError: no head, one that predicts no tokens, or several are active.
    """
    heads = [head_named(model, name) for name in head_names(setup)]
    other = next((head for head in heads if not head.is_generative), None)
    if heads and other is None:
        # Heads of other blocks give their logits in another order than that of the rows.
        if len(heads) == 1 or (isinstance(setup, (list, Parallel)) and len(heads) == copies_of_batch(model)):
            return
        state = f"{setup!r} are active; several heads can generate only if each has its parallel adapter"
    elif other is None:
        state = "no head is active"
    else:
        state = f"the active head {other.name!r} is a {other.head_type} head"
    raise UnsupportedHeadError(
        f"generate() needs an active language modelling head, but {state}. Add one: add_causal_lm_head(...), or"
        " say which: generate(..., head=...)."
    )
