"""Files of earlier versions and libraries are read as if they had been written today."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import BertModel, T5ForConditionalGeneration

from adapter_models import init
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import AdapterMismatchError
from adapter_runtime.files.formats.legacy import modernise
from adapter_runtime.files.formats.refused_files import note_if_different, refuse_if_different
from adapter_runtime.files.formats.renames import fit_prefix
from adapter_runtime.files.keys import is_alias, of_adapter, owner, renamed
from conformance.tiny import tiny_config

UP = "bert.encoder.layer.0.output.adapters.a.adapter_up.weight"


def tensors(*names: str) -> dict[str, torch.Tensor]:
    return {name: torch.full((1,), float(index)) for index, name in enumerate(names)}


def modern(config: dict[str, Any], *keys: str, **document: Any) -> tuple[dict[str, Any], list[str]]:
    result, renamed_tensors = modernise({"config": config, **document}, tensors(*(keys or (UP,))))
    return result["config"], list(renamed_tensors)


@pytest.mark.parametrize(
    ("config", "document"),
    [
        pytest.param({"non_linearity": "gelu"}, {"version": "adapters.1.3.0"}, id="gelu of a file with a version"),
        pytest.param({"non_linearity": "relu"}, {}, id="an activation that was never renamed"),
        pytest.param(
            {"architecture": "lora", "r": 8, "alpha": 16}, {"version": "adapters.1.1.0"}, id="a scaling that counted"
        ),
        pytest.param(
            {"architecture": "lora", "r": 8, "alpha": 16}, {"version": "adapter-codegen.0.1.0"}, id="a file of our own"
        ),
        pytest.param(
            {"intermediate_lora": True, "output_lora": False},
            {"version": "adapters.1.3.0", "model_type": "bert"},
            id="places of LoRA in a model that never had them reversed",
        ),
        pytest.param(
            {"intermediate_lora": True, "output_lora": False},
            {"version": "adapter-codegen.0.1.0", "model_type": "llama"},
            id="places of LoRA in a file of our own",
        ),
        pytest.param(
            {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2},
            {"type": "text_lang"},
            id="the invertible adapter of a language",
        ),
    ],
)
def test_noop(config: dict[str, Any], document: dict[str, Any]) -> None:
    before = dict(config)
    assert modern(config, **document) == (before, [UP])


@pytest.mark.parametrize(
    ("config", "document", "expected"),
    [
        pytest.param({"non_linearity": "gelu"}, {}, {"non_linearity": "gelu_new"}, id="gelu once was gelu_new"),
        pytest.param({"non_linearity": "gelu_orig"}, {}, {"non_linearity": "gelu"}, id="gelu_orig now is gelu"),
        pytest.param(
            {"architecture": "lora", "r": 8, "alpha": 16},
            {"version": "adapters.1.0.1"},
            {"architecture": "lora", "r": 8, "alpha": 8},
            id="alpha was ignored before 1.1.0",
        ),
        pytest.param(
            {"intermediate_lora": True, "output_lora": False},
            {"version": "adapters.1.3.0", "model_type": "llama"},
            {"intermediate_lora": False, "output_lora": True},
            id="intermediate of Llama was its last projection",
        ),
        pytest.param(
            {"architecture": "union", "configs": [{"intermediate_lora": False, "output_lora": True}]},
            {"version": "adapters.1.2.0", "model_type": "mistral"},
            {"architecture": "union", "configs": [{"intermediate_lora": True, "output_lora": False}]},
            id="members of a union have their places put right, too",
        ),
        pytest.param(
            {"invertible_adapter": {"block_type": "nice", "reduction_factor": 2}},
            {},
            {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2},
            id="options of invertible adapters once stood in a dict",
        ),
        pytest.param(
            {"inv_adapter": "nice", "inv_adapter_reduction_factor": 2},
            {"type": "text_task"},
            {"inv_adapter": None, "inv_adapter_reduction_factor": None},
            id="task adapters never had an invertible adapter",
        ),
    ],
)
def test_an_old_config_is_put_right(
    config: dict[str, Any], document: dict[str, Any], expected: dict[str, Any]
) -> None:
    before = {**config}
    assert modern(config, **document)[0] == expected
    assert config == before, "the argument stays as it is"


def test_old_containers_are_renamed() -> None:
    old = (
        "bert.encoder.layer.0.attention.output.attention_text_task_adapters.a.adapter_up.weight",
        "bert.encoder.layer.0.output.layer_text_lang_adapters.a.adapter_up.weight",
        "bert.invertible_lang_adapters.a.F.0.weight",
    )
    assert modern({}, *old)[1] == [
        "bert.encoder.layer.0.attention.output.adapters.a.adapter_up.weight",
        "bert.encoder.layer.0.output.adapters.a.adapter_up.weight",
        "bert.invertible_adapters.a.F.0.weight",
    ]


def test_an_ejected_prefix_is_recognised_by_its_tensors() -> None:
    config = {"architecture": "prefix_tuning", "flat": False}
    assert modern(config, "model.prefix_tuning.prefix_tunings.a.self_prefix.control_trans")[0]["flat"] is True
    assert (
        modern(config, "model.prefix_tuning.prefix_tunings.a.self_prefix.control_trans.0.weight")[0]["flat"] is False
    )


@pytest.mark.parametrize(
    ("model_type", "theirs", "ours"),
    [
        pytest.param("distilbert", "self", "self_prefix", id="DistilBERT"),
        pytest.param("clip_text_model", "clip_text_model_self_prefix", "self_prefix", id="a tower of CLIP"),
        pytest.param("clip", "bert_self_prefix", "bert_self_prefix", id="what is named by another type stays"),
        pytest.param("bart", "encoder_prefix", "encoder_prefix", id="every other place stays"),
    ],
)
def test_the_self_attention_of_prefixes_has_one_name(model_type: str, theirs: str, ours: str) -> None:
    for start in ("", "base."):
        key = f"{start}prefix_tuning.prefix_tunings.a.{theirs}.wte.weight"
        renamed = modern({}, key, version="adapters.1.3.0", model_type=model_type)[1]
        assert renamed == [key.replace(f".{theirs}.", f".{ours}.")]


@pytest.mark.parametrize("start", ["", "clip."])
def test_a_prefix_that_the_whole_of_clip_holds_goes_to_its_tower(start: str) -> None:
    """Each tower is a part with prefixes of its own here."""
    key = f"{start}prefix_tuning.prefix_tunings.a.clip_text_model_self_prefix.wte.weight"
    renamed = modern({}, key, version="adapters.1.3.0", model_type="clip")[1]
    assert renamed == [f"{start}text_model.prefix_tuning.prefix_tunings.a.self_prefix.wte.weight"]


def test_the_alias_of_a_norm_before_the_bottleneck_is_dropped() -> None:
    place = "bert.encoder.layer.0.output.adapters.a"
    keys = [f"{place}.adapter_norm_before.weight", f"{place}.adapter_down.0.weight", f"{place}.adapter_down.1.weight"]
    assert modern({}, *keys)[1] == [keys[0], keys[2]]
    assert modern({}, *keys[1:])[1] == keys[1:], "without the norm it is the projection"


def test_tensors_are_found_by_whole_segments() -> None:
    assert owner("bert.encoder.layer.0.output.adapters.n.adapter_up.weight") == "n"
    assert owner("model.layers.0.output_adapters.adapters.n.gate.bias") == "n"
    assert owner("bert.encoder.layer.0.output_adapters.n.weight") is None
    assert owner("heads.adapters.weight") is None
    keys = tensors("x.loras.n.lora_A", "x.loras.n2.lora_A", "x.my_loras.n.lora_A")
    assert list(of_adapter(keys, "n")) == ["x.loras.n.lora_A"]


def test_copies_of_prefixes_below_attention_layers_are_aliases() -> None:
    assert is_alias("model.layers.0.self_attn.prefix_tuning.pool.prefix_tunings.a.self_prefix.wte.weight")
    assert not is_alias("model.prefix_tuning.prefix_tunings.a.self_prefix.wte.weight")
    assert not is_alias("model.layers.0.self_attn.prefix_tuning.prefix_gates.a.weight")


def test_an_adapter_is_renamed_in_its_place_only() -> None:
    keys = tensors("output.loras.output.lora_A", "output.adapters.output.output.weight")
    assert list(renamed(keys, "output", "b")) == ["output.loras.b.lora_A", "output.adapters.b.output.weight"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        pytest.param("model.layers.0.x", "model.layers.0.x", id="the same on both sides"),
        pytest.param("model.layers.0.x", "layers.0.x", id="from a model with a head into a bare one"),
        pytest.param("layers.0.x", "model.layers.0.x", id="from a bare model into one with a head"),
        pytest.param("model_x.layers.0.x", "model_x.layers.0.x", id="a name that only begins like the prefix"),
    ],
)
def test_the_prefix_of_the_base_model_is_added_or_removed(given: str, expected: str) -> None:
    assert list(fit_prefix(tensors(given), [expected], "model")) == [expected]


# Files that would compute something else here


@pytest.mark.parametrize(
    ("model_type", "config", "deed"),
    [
        pytest.param("t5", "prefix_tuning_flat", "moves the relative positions", id="a prefix of T5"),
        pytest.param("mt5", "mam", "moves the relative positions", id="a union with a prefix"),
        pytest.param("albert", "double_seq_bn", "in exchanged places", id="an adapter after attention of ALBERT"),
        pytest.param("deberta", "unipelt", "head by head", id="a union with LoRA of DeBERTa's queries and values"),
    ],
)
def test_a_file_that_adapters_computed_otherwise_is_refused(model_type: str, config: str, deed: str) -> None:
    document = {"version": "adapters.1.3.0", "model_type": model_type}
    with pytest.raises(AdapterMismatchError, match=deed):
        refuse_if_different(document, AdapterConfig.load(config), strict=True)
    refuse_if_different({**document, "version": "adapter-codegen.0.1.0"}, AdapterConfig.load(config), strict=True)


def test_the_warning_of_a_lenient_load_says_what_is_different(caplog: pytest.LogCaptureFixture) -> None:
    document = {"version": "adapters.1.3.0", "model_type": "t5"}
    refuse_if_different(document, AdapterConfig.load("prefix_tuning"), strict=False)
    assert "moves the relative positions" in caplog.text


@pytest.mark.parametrize(
    ("model_type", "config"),
    [
        ("t5", "lora"),
        ("albert", "seq_bn"),
        ("bart", "prefix_tuning"),
        ("gpt2", "lora"),
        ("deberta", "lora[selfattn_lora=False,output_lora=True]"),
        ("deberta", "lora[attn_matrices=['o']]"),
    ],
)
def test_other_adapters_of_these_models_are_read(model_type: str, config: str) -> None:
    refuse_if_different(
        {"version": "adapters.1.3.0", "model_type": model_type}, AdapterConfig.load(config), strict=True
    )


@pytest.mark.parametrize(
    ("model", "config", "deed"),
    [
        pytest.param("t5", "seq_bn_inv", "does not undo", id="the language modeling head of upstream's"),
        pytest.param("t5", "seq_bn|loreft[suffix_positions=1]", "the last positions", id="the padding of an encoder"),
        pytest.param("t5", "seq_bn|loreft", "", id="no last positions"),
        pytest.param("bert", "loreft[suffix_positions=1]", "", id="one padding alone"),
        pytest.param("bert", "seq_bn_inv", "", id="no head of upstream's"),
    ],
)
def test_what_adapters_only_does_wrong_at_times_is_loaded_with_a_warning(
    model: str, config: str, deed: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = T5ForConditionalGeneration(tiny_config("t5")) if model == "t5" else BertModel(tiny_config("bert"))
    init(made)
    note_if_different(made, {"version": "adapters.1.3.0"}, AdapterConfig.load(config))
    assert (deed in caplog.text) if deed else not caplog.text
    caplog.clear()
    note_if_different(made, {"version": "adapter-codegen.0.1.0"}, AdapterConfig.load(config))
    assert not caplog.text
