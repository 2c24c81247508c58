"""What a person sees: ``print(model)`` and `adapter_summary`."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel

from adapter_models import BertAdapterModel
from adapter_runtime import init
from interface_models import qwen2
from runtime_models import BERT, adapted, upstream

EVERY_METHOD = [
    "seq_bn_inv",
    "compacter[reduction_factor=4]",
    "lora",
    "ia3",
    "vera",
    "loreft",
    "prefix_tuning[use_gating=True]",
    "prompt_tuning",
]


def shown(model: nn.Module) -> str:
    """What is printed, with the names that upstream gave its classes."""
    return repr(model).replace("WithAdapters", "")


def classifier() -> PreTrainedModel:
    model = BertForSequenceClassification(BertConfig(**BERT))
    init(model)
    return model


def tree(model: nn.Module) -> list[tuple[str, type]]:
    return [(path, type(module)) for path, module in model.named_modules()]


@pytest.mark.parametrize("kind", ["bert", "bert_decoder", "bert_lm", "llama", "llama_lm"])
def test_a_model_without_adapters_is_shown_as_upstreams(kind: str) -> None:
    model = upstream(kind)
    before = repr(model)
    init(model)
    assert shown(model) == before


def test_a_model_with_an_interface_and_without_adapters_is_shown_as_upstreams() -> None:
    assert shown(qwen2()) == repr(qwen2(None))


@pytest.mark.parametrize("config", EVERY_METHOD)
def test_an_adapter_that_is_deleted_is_not_shown_any_more(config: str) -> None:
    model = adapted("llama_lm")
    before = repr(model)
    model.add_adapter("a", config)
    assert "(a): " in repr(model)
    model.delete_adapter("a")
    assert repr(model) == before


@pytest.mark.parametrize("config", EVERY_METHOD)
def test_no_empty_container_is_shown(config: str) -> None:
    model = adapted("llama_lm")
    model.add_adapter("a", config)
    assert not re.search(
        r"ModuleDict\(\)|PrefixTuningPool\(\)|PromptTuningLayer\(\)|SharedParameters\(\)", repr(model)
    )


def test_showing_a_model_changes_nothing() -> None:
    model = adapted("llama_lm")
    model.add_adapter("a", "lora")
    modules, keys = tree(model), list(model.state_dict())
    repr(model)
    assert (tree(model), list(model.state_dict())) == (modules, keys)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ("lora[r=4,alpha=16]", "(a): LoRA(r=4, alpha=16)"),
        ("seq_bn[reduction_factor=8]", "size=4, scaling=1.0"),
        ("par_bn[reduction_factor=8]", "size=4, scaling=4.0, is_parallel=True"),
        ("prefix_tuning_flat[prefix_length=7]", "prefix_length=7, attentions=3"),
        ("loreft[r=2]", "r=2, prefix_positions=3, suffix_positions=0"),
        ("compacter[reduction_factor=4]", "PHMLinear(in_features=32, out_features=8, bias=True, phm_dim=4)"),
    ],
)
def test_an_adapter_shows_its_sizes(config: str, line: str) -> None:
    model = adapted("llama")
    model.add_adapter("a", config)
    assert line in repr(model)


def sizes(model: PreTrainedModel) -> tuple[int, int]:
    """All parameters of a model, and those that are trained."""
    parameters = list(model.parameters())
    return sum(p.numel() for p in parameters), sum(p.numel() for p in parameters if p.requires_grad)


@pytest.mark.parametrize("kind", ["bert", "bert_lm", "llama_lm"])
def test_the_summary_counts_every_parameter_once(kind: str) -> None:
    model = adapted(kind)
    model.add_adapter("a", "seq_bn")
    model.add_adapter("b", "seq_bn")
    model.add_adapter("l", "vera")
    model.add_adapter_fusion(["a", "b"])
    model.train_adapter("a")
    *_, full = model.adapter_summary(as_dict=True)
    assert (full["#total"], full["#total_train"]) == sizes(model)


def test_the_summary_counts_the_head_that_is_trained() -> None:
    model = classifier()
    model.add_adapter("reviews", "seq_bn")
    model.train_adapter("reviews")
    row, full = model.adapter_summary(as_dict=True)
    (head,) = full["heads"]
    assert (head["name"], head["architecture"], head["active"], head["train"]) == (
        "classifier",
        "static head",
        True,
        True,
    )
    assert row["#train"] + head["#train"] == full["#total_train"] == sizes(model)[1]
    assert "classifier" in model.adapter_summary() and f"{full['#total_train']:,}" in model.adapter_summary()


def test_the_summary_counts_heads_by_name_but_for_weights_of_the_base_model() -> None:
    model = BertAdapterModel(BertConfig(**BERT))
    assert "ModuleDict" not in repr(model)
    model.add_adapter("reviews", "seq_bn")
    model.add_classification_head("reviews", num_labels=3)
    model.add_masked_lm_head("lm")
    model.train_adapter("reviews")
    *_, full = model.adapter_summary(as_dict=True)
    assert [(head["name"], head["architecture"], head["active"]) for head in full["heads"]] == [
        ("reviews", "classification head", True),
        ("lm", "masked_lm head", False),
    ]
    assert (full["#total"], full["#total_train"]) == sizes(model)


def test_the_summary_tells_fusions_from_the_base_model() -> None:
    model = adapted("llama")
    bare = sizes(model)[0]
    for name in "ab":
        model.add_adapter(name, "seq_bn")
    model.add_adapter_fusion(["a", "b"])
    model.train_adapter_fusion([["a", "b"]])
    *adapters, full = model.adapter_summary(as_dict=True)
    (fusion,) = full["fusions"]
    assert full["#param"] == bare
    assert (fusion["name"], fusion["architecture"], fusion["active"]) == ("a,b", "fusion", True)
    assert [row["train"] for row in adapters] == [False, False]
    assert fusion["#train"] == full["#total_train"] == sizes(model)[1]


def test_the_table_has_a_line_for_each_part_and_one_for_all() -> None:
    model = classifier()
    model.add_adapter("reviews", "seq_bn", set_active=True)
    lines = [re.split(r"\s{2,}", line) for line in model.adapter_summary().splitlines()]
    assert [line[0] for line in lines if not line[0].startswith("-")] == [
        "Name",
        "reviews",
        "classifier",
        "Full model",
        "In all",
    ]


def test_the_table_of_a_model_without_adapters_and_heads_has_one_line_only() -> None:
    lines = adapted("bert").adapter_summary().splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == ["Full model", "In all"]


def test_modules_with_room_for_adapters_run_as_before_when_shown() -> None:
    model = adapted("llama")
    model.add_adapter("a", "seq_bn", set_active=True)
    tokens = torch.randint(5, 50, (2, 6))
    with torch.no_grad():
        before = model(tokens)[0]
        repr(model)
        assert torch.equal(model(tokens)[0], before)
