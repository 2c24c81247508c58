"""Running the heads of a model on the outputs of its base model."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn
from transformers.utils import ModelOutput

from adapter_runtime.call.context import thread
from adapter_runtime.contract.config_values import config_value
from adapter_runtime.heads.base import PredictionHead
from adapter_runtime.heads.classes import HEAD_CLASSES
from adapter_runtime.heads.outputs import multi_head_output
from adapter_runtime.heads.parts import Part, divide, targets_of
from adapter_runtime.heads.pooling import Pooling, pool
from adapter_runtime.heads.setups import HeadSetup, head_names, heads_of, parse_heads
from adapter_runtime.programs.dynamic import DynamicMixin

if TYPE_CHECKING:
    from adapter_runtime.model.base import ModelBaseAdaptersMixin

# Arguments of heads; a base model would let them pass unseen.
_DESCRIPTIONS = frozenset(name for head in HEAD_CLASSES.values() for name in head.input_arguments)
_HEAD_ARGUMENTS = frozenset(
    name for head in HEAD_CLASSES.values() for name in (*head.label_arguments, *head.input_arguments)
)


class RunHeadsMixin(DynamicMixin):
    """The end of the forward of a model with flexible heads."""

    pooling: ClassVar[Pooling] = "first"  # rendered: which token stands for a sequence

    if TYPE_CHECKING:  # of other mixins of the model
        heads: Any
        active_head: HeadSetup | None
        adapters_base: ModelBaseAdaptersMixin

        def _head(self, name: str | None) -> PredictionHead: ...

    def head_arguments(self, call: dict[str, Any]) -> dict[str, Any]:
        """Take out of `call`, the keyword arguments of a forward, those that heads declare."""
        if not call:
            return {}
        own = {name for head in self.heads.values() for name in (*head.label_arguments, *head.input_arguments)}
        return {name: call.pop(name) for name in sorted((_HEAD_ARGUMENTS | own) & call.keys())}

    def runs_head(self, head: Any = None) -> bool:
        """Whether a forward, called with this argument ``head``, ends in a head; else it gives the base model's outputs."""
        return self.used_heads(head) is not None

    def _descriptions(self) -> set[str]:
        """Names of arguments that say more about the inputs: heads that do not take them may run all the same."""
        return {*_DESCRIPTIONS, *(name for head in self.heads.values() for name in head.input_arguments)}

    def used_heads(self, head: Any = None) -> HeadSetup | None:
        """The heads that a call runs: `head`, else those of an enclosing `AdapterSetup`, else the active ones.

        A setup that names no heads means those that go by the names of its adapters, if there are such.

        Raises:
            UnknownHeadError: `head` or the setup names a head that there is not.
        """
        given = parse_heads(head)
        setup = thread.setup
        if given is None and setup is not None:
            given = parse_heads(setup.head_setup)
            if given is None:
                follows = heads_of(setup.adapter_setup)
                given = follows if all(name in self.heads for name in head_names(follows)) else None
        if given is None:
            return self.active_head
        for name in head_names(given):
            self._head(name)
        return given

    def forward_head(
        self,
        outputs: ModelOutput,
        head: Any = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        **arguments: Any,
    ) -> ModelOutput:
        """Run one or several heads on the outputs of the base model.

        Args:
            outputs: of the base model.
            head: the head or heads to run; None = those of an enclosing `AdapterSetup`, else the active ones.
            input_ids: (B, L), to find the token that stands for the sequence.
            attention_mask: (B, L), 1 at real tokens.
            logits_to_keep: for language modelling heads, the positions to compute logits for; 0 = all.
            arguments: targets and further inputs; each head takes those that it declares in `label_arguments` and
                `input_arguments`. With several heads, a dict by names of heads or a list gives each its own.

        Returns:
            The output of the head. Of several, and of one on parallel adapters, a `MultiHeadOutput`.

        Raises:
            UnknownHeadError: there is no such head.
            ValueError: targets were given that no head takes.
            InvalidCompositionError: the heads do not fit to the rows or to the parallel adapters.
        """
        given = {name: value for name, value in arguments.items() if value is not None}
        descriptions = self._descriptions() & given.keys()
        setup = self.used_heads(head)
        if setup is None:
            if given.keys() > descriptions:
                raise ValueError(f"Got {', '.join(given)}, but no head is active. Add one: add_..._head(name).")
            return outputs
        heads = [self._head(name) for name in head_names(setup)]
        parts = divide(setup, len(heads), outputs, self._copies())
        heads = heads * len(parts) if len(heads) == 1 else heads
        targets = targets_of(given, heads, parts, descriptions)
        results = []
        for module, part, own in zip(heads, parts, targets, strict=True):
            inputs = {"input_ids": part.of(input_ids), "attention_mask": part.of(attention_mask)}
            results.append(self._run(module, part, part.of_outputs(outputs), inputs, logits_to_keep, own))
        is_single = isinstance(setup, str) and len(parts) == 1
        return results[0] if is_single else multi_head_output(outputs, results)

    def _run(
        self,
        head: PredictionHead,
        part: Part,
        outputs: ModelOutput,
        inputs: dict[str, torch.Tensor | None],
        logits_to_keep: int | torch.Tensor,
        own: dict[str, Any],
    ) -> ModelOutput:
        options: dict[str, Any] = {"return_dict": True}
        if head.is_pooled:
            options["cls_output"] = self.pooled(head, outputs, **inputs)
        if head.get_output_embeddings() is not None:
            options |= {"logits_to_keep": logits_to_keep, "inverse": self._inverse(part, head.get_output_embeddings())}
        result: ModelOutput = head(
            outputs, **head.taken({**options, "attention_mask": inputs["attention_mask"]}), **own
        )
        return result

    def _copies(self) -> int:
        """How many copies of the batch the active adapters make."""
        return self.adapters_base.current_call_plan().copies

    def _inverse(self, part: Part, projection: nn.Module | None) -> Callable[[torch.Tensor], torch.Tensor] | None:
        """What undoes the invertible adapters that run; None where none does, or the projection is not tied."""
        base: Any = self.adapters_base
        if not hasattr(base, "has_running_invertible") or not base.has_running_invertible(projection):
            return None

        def inverse(hidden_states: torch.Tensor) -> torch.Tensor:
            if part.rows is None:
                return base.invertible_adapters_forward(hidden_states, rev=True)  # type: ignore[no-any-return]
            # Which adapter runs is told by the row, so the rows must stand where they stand in the whole batch.
            whole = hidden_states.new_zeros(part.total, *hidden_states.shape[1:])
            whole[part.rows] = hidden_states
            return base.invertible_adapters_forward(whole, rev=True)[part.rows]  # type: ignore[no-any-return]

        return inverse

    def pooled(
        self,
        head: PredictionHead,
        outputs: ModelOutput,
        input_ids: torch.Tensor | None,
        attention_mask: torch.Tensor | None,
    ) -> torch.Tensor:
        """The vector (B, H) that stands for each sequence."""
        if head.config.get("use_pooler"):
            pooled: torch.Tensor | None = outputs.get("pooler_output")
            if pooled is None:
                raise ValueError(f"Head {head.name!r} has use_pooler=True, but the base model gives no pooled output.")
            return pooled
        config = self.config
        return pool(
            outputs["last_hidden_state"],
            self.pooling,
            input_ids,
            attention_mask,
            pad_token_id=config_value(config, "pad_token_id"),
            eos_token_id=config_value(config, "eos_token_id"),
        )

    @staticmethod
    def flatten_choices(**inputs: torch.Tensor | None) -> dict[str, torch.Tensor | None]:
        """Inputs of a multiple choice question, (batch, choices, length), as (batch * choices, length).

        Other inputs stay as they are: whether there are choices shows in the rank of input_ids or inputs_embeds.
        """
        ranks = {"input_ids": 3, "inputs_embeds": 4}
        given = {name: inputs.get(name) for name in ranks}
        if not any(tensor is not None and tensor.dim() == ranks[name] for name, tensor in given.items()):
            return inputs
        return {name: None if tensor is None else tensor.flatten(0, 1) for name, tensor in inputs.items()}
