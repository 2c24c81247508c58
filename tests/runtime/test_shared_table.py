"""Projections that upstream also calls with a table that is one for all rows: DeBERTa-v2 with `share_att_key`."""

from __future__ import annotations

import pytest
import torch
from transformers import DebertaV2Config, DebertaV2Model, PreTrainedModel

from adapter_runtime import BatchSplit, MultiTask, Parallel, init
from adapter_runtime.errors import UnsupportedMethodError
from runtime_models import randomise

IDS = torch.randint(5, 99, (3, 8), generator=torch.Generator().manual_seed(0))
REFUSED = r"one that stands for all of them \(relative positions\).*call the model for each adapter"


def with_two(config: str) -> PreTrainedModel:
    torch.manual_seed(0)
    made = DebertaV2Config(
        vocab_size=99, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=40, relative_attention=True,
        share_att_key=True, pos_att_type=["p2c", "c2p"], position_buckets=4, norm_rel_ebd="layer_norm", position_biased_input=False,
    )  # fmt: skip
    model = DebertaV2Model(made).eval()
    init(model)
    for seed, name in enumerate("ab"):
        model.add_adapter(name, config)
        randomise(model, name, seed)
    return model


def run(model: PreTrainedModel, setup: object, **keywords: object) -> torch.Tensor:
    model.set_active_adapters(setup)
    with torch.no_grad():
        states: torch.Tensor = model(input_ids=IDS, **keywords)[0]
    return states


@pytest.mark.parametrize("config", ["lora[r=2,attn_matrices=['q','k','v']]", "ia3", "mtl_lora[n_up_projection=2]"])
def test_rows_are_not_divided_where_the_table_is_projected_too(config: str) -> None:
    model = with_two(config)
    for block, tasks in (
        (BatchSplit("a", "b", batch_sizes=[1, 2]), {}),
        (Parallel("a", "b"), {}),
        (MultiTask("a", "b"), {"task_ids": [0, 1, 1]}),
    ):
        with pytest.raises(UnsupportedMethodError, match=REFUSED):
            run(model, block, **tasks)


def test_one_adapter_changes_the_table_as_its_merged_weight_does() -> None:
    model = with_two("lora[r=2,attn_matrices=['q','k','v']]")
    found = run(model, "a")
    assert not torch.allclose(found, run(model, None))
    model.set_active_adapters("a")
    model.merge_adapter("a")
    with torch.no_grad():
        torch.testing.assert_close(model(input_ids=IDS)[0], found, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", ["lora[r=2,attn_matrices=['v']]", "double_seq_bn", "loreft"])
def test_what_leaves_these_projections_out_is_divided(config: str) -> None:
    model = with_two(config)
    one, two = run(model, "a"), run(model, "b")
    found = run(model, BatchSplit("a", "b", batch_sizes=[1, 2]))
    torch.testing.assert_close(found, torch.cat([one[:1], two[1:]]), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(run(model, Parallel("a", "b")), torch.cat([one, two]), atol=1e-5, rtol=1e-5)
