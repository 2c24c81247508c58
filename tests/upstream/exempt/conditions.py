"""What entries of several kinds ask about a model."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import torch
from transformers import PreTrainedModel

from conformance import heads
from upstream.exempt.table import Facts
from upstream.model_tester import ModelTester, outputs_of


def models(facts: Facts) -> Iterator[PreTrainedModel]:
    """The model and those inside."""
    return (module for module in facts.on_meta.modules() if isinstance(module, PreTrainedModel))


def left_out(facts: Facts) -> frozenset[str]:
    """Outputs of upstream's model that no output class of the AdapterModel's head holds, and that it does not compute from."""
    return _left_out_by_head(facts.subject.model_type) if facts.head else frozenset()


@functools.cache
def _left_out_by_head(model_type: str) -> frozenset[str]:
    config, inputs = ModelTester(model_type).prepare_config_and_inputs_for_common()
    model = heads.adapter_model_class(model_type)(config).eval()
    read = {"last_hidden_state", "pooler_output"}
    given = {
        name
        for name, value in outputs_of(heads.base_subject(model_type)).items()
        if not isinstance(value, tuple) or value
    }
    return frozenset(given - read - set(_outputs(model, inputs)))


def _outputs(model: PreTrainedModel, inputs: dict[str, Any]) -> dict[str, Any]:
    """With states and attention weights."""
    with torch.no_grad():
        outputs: dict[str, Any] = model(**inputs, output_hidden_states=True, output_attentions=True, return_dict=True)
        return outputs


def doubled(value: torch.Tensor) -> torch.Tensor:
    return value.double() if value.is_floating_point() else value


def takes_no_tokens(facts: Facts) -> bool:
    return "input_ids" not in facts.subject.padded_inputs()
