"""`average_adapter`: weights, strategies, and what each of them does to what an adapter computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers.pytorch_utils import Conv1D

from adapter_runtime.errors import AdapterError
from adapter_runtime.methods.lora.averaging import decomposed
from adapter_runtime.methods.lora.config import LoRAConfig
from adapter_runtime.methods.lora.layer import enable_lora
from adapter_runtime.model.averaging import weights_of
from runtime_models import adapted, randomise

LINEAR = [
    "seq_bn",
    "double_seq_bn[scaling='learned',use_gating=True]",
    "compacter[phm_dim=2,reduction_factor=4]",
    "prefix_tuning[prefix_length=3,bottleneck_size=4]",
    "prefix_tuning_flat[prefix_length=3,use_gating=True]",
    "lora[r=2,use_gating=True]",
    "ia3",
    "dora[r=2]",
    "vera[r=2]",
    "mtl_lora[r=2,n_up_projection=2]",
    "noreft",
    "seq_bn_inv",
    "prompt_tuning[prompt_length=3]",
    "unipelt",
]


def with_adapters(config: str, *names: str, kind: str = "llama") -> Any:
    model = adapted(kind)
    for seed, name in enumerate(names):
        model.add_adapter(name, config)
        randomise(model, name, seed)
    return model


def parameters(model: Any, name: str) -> list[torch.Tensor]:
    return [parameter for _, parameter in model.adapter_parameters(name)]


def output(model: Any, name: str | None, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    model.set_active_adapters(name)
    with torch.no_grad():
        return model(**inputs)[0]


@pytest.mark.parametrize("config", LINEAR)
def test_a_linear_average_has_the_weighted_sum_of_each_parameter(config: str) -> None:
    model = with_adapters(config, "a", "b")
    model.average_adapter("c", ["a", "b"], weights=[1, 3])
    for one, two, mean in zip(*(parameters(model, name) for name in "abc"), strict=True):
        assert_close(mean, one / 4 + two * 3 / 4)
    assert model.adapters_config.get("c") == model.adapters_config.get("a")


def test_loreft_stays_orthonormal(inputs: dict[str, torch.Tensor]) -> None:
    model = adapted("llama")
    for name in "ab":
        model.add_adapter(name, "loreft[r=2]")
    model.average_adapter("c", ["a", "b"])
    for layer in model.get_adapter("c").values():
        for module in layer.values():
            for unit in module.units:
                rows = unit.rows()
                assert_close(rows @ rows.T, torch.eye(2), atol=1e-5, rtol=1e-5)
    same = output(model, "a", inputs)
    model.average_adapter("d", {"a": 2.0})
    assert_close(output(model, "d", inputs), same, atol=1e-5, rtol=1e-5)


def test_weights_need_not_be_normalised() -> None:
    model = with_adapters("ia3", "a", "b")
    model.average_adapter("c", ["a", "b"], weights=[2.0, -0.5], normalize_weights=False)
    for one, two, mean in zip(*(parameters(model, name) for name in "abc"), strict=True):
        assert_close(mean, 2 * one - two / 2)


def test_a_negative_weight_subtracts_the_update(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("lora[r=2]", "a", kind="bert")
    strategy = "lora_linear_only_negate_b"
    model.average_adapter("minus", ["a"], weights=[-1.0], combine_strategy=strategy, normalize_weights=False)
    for places, twins in zip(model.get_adapter("a").values(), model.get_adapter("minus").values(), strict=True):
        for one, other in zip(places.values(), twins.values(), strict=True):
            assert torch.equal(one.lora_A, other.lora_A) and torch.equal(one.lora_B, -other.lora_B)


def deltas(model: Any, name: str) -> list[torch.Tensor]:
    return [
        delta for places in model.get_adapter(name).values() for place in places.values() for delta in place.deltas()
    ]


@pytest.mark.parametrize(("r", "alpha", "rank"), [(4, 4, 8), (2, 8, 4), (2, 3, 32)])
def test_svd_keeps_the_update_whatever_alpha_is(r: int, alpha: int, rank: int) -> None:
    """The library that this one follows doubles it for r = alpha = 4 and svd_rank=2."""
    model = with_adapters(f"lora[r={r},alpha={alpha}]", "a", "b")
    model.average_adapter("c", ["a", "b"], [1, 3], combine_strategy="lora_delta_w_svd", svd_rank=rank)
    assert model.adapters_config.get("c")["r"] == rank
    for one, two, mean in zip(*(deltas(model, name) for name in "abc"), strict=True):
        assert_close(mean, one / 4 + two * 3 / 4, atol=1e-5, rtol=1e-5)


def test_svd_averages_adapters_of_different_rank_and_alpha() -> None:
    model = with_adapters("lora[r=2,alpha=8]", "a")
    model.add_adapter("b", "lora[r=3,alpha=2]")
    randomise(model, "b")
    model.average_adapter("c", ["a", "b"], combine_strategy="lora_delta_w_svd", svd_rank=5)
    for one, two, mean in zip(*(deltas(model, name) for name in "abc"), strict=True):
        assert_close(mean, (one + two) / 2, atol=1e-5, rtol=1e-5)


def test_svd_of_a_lower_rank_is_the_nearest() -> None:
    model = with_adapters("lora[r=4,alpha=4]", "a")
    model.average_adapter("c", ["a"], combine_strategy="lora_delta_w_svd", svd_rank=2)
    for one, less in zip(*(deltas(model, name) for name in "ac"), strict=True):
        left, sizes, right = torch.linalg.svd(one)
        assert_close(less, left[:, :2] @ torch.diag(sizes[:2]) @ right[:2], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("make", [lambda: nn.Linear(6, 12), lambda: Conv1D(12, 6)], ids=["linear", "conv1d"])
def test_svd_of_fused_projections_goes_part_by_part(make: Any) -> None:
    layer = enable_lora(make(), 0, "selfattn_lora", fused=True)
    for name in "abc":
        layer.add_adapter(name, LoRAConfig(r=2, alpha=6), [(0, 6), (9, 12)])
        nn.init.normal_(layer.loras[name].lora_B)
    layer.loras["c"].load_state_dict(decomposed([layer.loras["a"], layer.loras["b"]], [0.25, 0.75], 2, 3.0))
    for one, two, mean in zip(*(layer.loras[name].deltas() for name in "abc"), strict=True):
        left, sizes, right = torch.linalg.svd(one / 4 + two * 3 / 4)
        assert_close(mean, left[:, :2] @ torch.diag(sizes[:2]) @ right[:2], atol=1e-5, rtol=1e-5)


def test_an_average_may_replace_one_of_its_parts_and_run(inputs: dict[str, torch.Tensor]) -> None:
    model = with_adapters("ia3", "a", "b")
    expected = [(one + two) / 2 for one, two in zip(parameters(model, "a"), parameters(model, "b"), strict=True)]
    model.average_adapter("a", ["a", "b"], overwrite_ok=True, set_active=True)
    assert_close(parameters(model, "a"), expected)
    assert model.active_adapters is not None and model.active_adapters.flatten() == {"a"}
    model(**inputs)


def test_options_of_training_may_differ() -> None:
    model = with_adapters("lora[r=2]", "a")
    model.add_adapter("b", "lora[r=2,dropout=0.1,init_weights='bert']")
    model.average_adapter("c", ["a", "b"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param({"adapter_list": []}, "no adapters", id="no adapters"),
        pytest.param({"adapter_list": "a"}, "takes a list", id="a bare name"),
        pytest.param({"adapter_list": ["a", "nobody"]}, "no adapter 'nobody'", id="an unknown name"),
        pytest.param({"adapter_list": ["a", "a"]}, "twice", id="a name twice"),
        pytest.param({"adapter_list": ["a", "b"], "weights": [1.0]}, "2 adapters but 1", id="too few weights"),
        pytest.param({"adapter_list": ["a", "b"], "weights": []}, "2 adapters but 0", id="no weights"),
        pytest.param({"adapter_list": ["a", "b"], "weights": [1, float("nan")]}, "finite", id="no number"),
        pytest.param({"adapter_list": {"a": 1.0}, "weights": [1.0]}, "holds their weights", id="weights twice"),
        pytest.param({"adapter_list": ["a", "large"]}, "differ in r", id="different ranks"),
        pytest.param({"adapter_list": ["a", "bn"]}, "differ in", id="different methods"),
        pytest.param({"adapter_list": ["a"], "combine_strategy": "mean"}, "combine_strategy", id="no strategy"),
        pytest.param({"adapter_list": ["a"], "combine_strategy": "lora_delta_w_svd"}, "svd_rank", id="no rank"),
        pytest.param({"adapter_list": ["a"], "svd_rank": 2}, "svd_rank", id="a rank without SVD"),
        pytest.param(
            {"adapter_list": ["bn"], "combine_strategy": "lora_linear_only_negate_b"}, 'Use "linear"', id="no LoRA"
        ),
        pytest.param(
            {"adapter_list": ["gated"], "combine_strategy": "lora_delta_w_svd", "svd_rank": 2}, "plain", id="a gate"
        ),
        pytest.param(
            {"adapter_list": ["dora"], "combine_strategy": "lora_delta_w_svd", "svd_rank": 2}, "plain", id="magnitudes"
        ),
        pytest.param({"adapter_list": ["a", "b"], "adapter_name": "b"}, "overwrite_ok", id="a name that is taken"),
        pytest.param({"adapter_list": ["a", "b"], "adapter_name": "b.c"}, "b.c", id="a name that cannot be"),
    ],
)
def test_what_cannot_be_averaged_is_refused_and_nothing_changes(arguments: dict[str, Any], message: str) -> None:
    model = with_adapters("lora[r=2]", "a", "b")
    for name, config in (
        ("large", "lora[r=3]"),
        ("bn", "seq_bn"),
        ("gated", "lora[r=2,use_gating=True]"),
        ("dora", "dora"),
    ):
        model.add_adapter(name, config)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        model.average_adapter(**{"adapter_name": "c", **arguments})
    after = model.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)
    assert list(model.adapters_config) == ["a", "b", "large", "bn", "gated", "dora"]


def test_a_union_names_the_member_that_differs() -> None:
    model = with_adapters("seq_bn|lora[r=2]", "a")
    model.add_adapter("b", "seq_bn|lora[r=3]")
    with pytest.raises(AdapterError, match=r"differ in configs\[1\]\.r"):
        model.average_adapter("c", ["a", "b"])


def test_defect_22_a_dict_gives_the_weights() -> None:
    model = with_adapters("ia3", "a", "b")
    model.average_adapter("c", {"a": 1.0, "b": 3.0})
    for one, two, mean in zip(*(parameters(model, name) for name in "abc"), strict=True):
        assert_close(mean, one / 4 + two * 3 / 4)


def test_defect_22_weights_that_sum_up_to_zero_are_refused() -> None:
    with pytest.raises(AdapterError, match="sum up to 0"):
        weights_of(["a", "b"], [1.0, -1.0], True)
    assert weights_of(["a", "b"], [1.0, -1.0], False) == {"a": 1.0, "b": -1.0}
