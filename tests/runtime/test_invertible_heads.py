"""Heads of upstream's that compare hidden states with the token embeddings in a way of their own: invertible adapters are not undone."""

from __future__ import annotations

import pytest
import torch
from transformers import (
    DebertaConfig,
    DebertaForMaskedLM,
    DebertaV2Config,
    DebertaV2ForMaskedLM,
    DebertaV2ForSequenceClassification,
    PreTrainedModel,
)

from adapter_runtime import AdapterSetup, init
from adapter_runtime.errors import UnsupportedMethodError
from runtime_models import randomise

SIZES = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.randint(5, 99, (2, 6), generator=torch.Generator().manual_seed(0))
REFUSED = r"compares hidden states with the token embeddings in a way of its own.*inv_adapter=None"


def deberta(legacy: bool, cls: type[PreTrainedModel] = DebertaV2ForMaskedLM) -> PreTrainedModel:
    config = DebertaConfig if cls is DebertaForMaskedLM else DebertaV2Config
    return with_adapters(cls(config(**SIZES, intermediate_size=40, legacy=legacy)))


def with_adapters(model: PreTrainedModel) -> PreTrainedModel:
    init(model.eval())
    model.add_adapter("inv", "seq_bn_inv[inv_adapter_reduction_factor=2]")
    model.add_adapter("plain", "seq_bn")
    for name in ("inv", "plain"):
        randomise(model, name)
    return model


@pytest.mark.parametrize(
    "made",
    [
        pytest.param(lambda: deberta(False), id="deberta-v2: the table is handed on"),
        pytest.param(lambda: deberta(False, DebertaForMaskedLM), id="deberta: the table is handed on"),
    ],
)
def test_a_head_with_a_way_of_its_own_is_refused(made) -> None:  # type: ignore[no-untyped-def]
    model = made()
    model.set_active_adapters("inv")
    with pytest.raises(UnsupportedMethodError, match=REFUSED):
        model(input_ids=IDS)
    for setup in ("plain", None):
        model.set_active_adapters(setup)
        model(input_ids=IDS)
    with AdapterSetup("inv"), pytest.raises(UnsupportedMethodError, match=REFUSED):
        model(input_ids=IDS)
    model.base_model(input_ids=IDS)  # nothing is compared with the embeddings


def test_a_legacy_head_undoes() -> None:
    model = deberta(True)
    model.set_active_adapters("inv")
    with torch.no_grad():
        given, predictions = model(input_ids=IDS).logits, model.cls.predictions
        states = predictions.transform(model.deberta(input_ids=IDS)[0])
        undone = model.invertible_adapters_forward(states, rev=True)
    expected = undone @ predictions.decoder.weight.t() + predictions.decoder.bias
    torch.testing.assert_close(given, expected, atol=1e-5, rtol=1e-5)


def test_a_head_that_needs_no_projection_is_not_asked_for_it() -> None:
    model = deberta(False, DebertaV2ForSequenceClassification)
    model.set_active_adapters("inv")
    model(input_ids=IDS)
