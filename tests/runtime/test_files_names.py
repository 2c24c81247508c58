"""The exact names of the tensors that each method writes: those of `adapters`, so that files go both ways."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from adapter_models import AutoAdapterModel, init
from adapter_runtime.methods.configs.strings import ADAPTER_CONFIG_MAP
from conformance.tiny import tiny_config

# Model type -> places in a layer, and the base model. A place of a whole model has no number of a layer in it.
PLACES = {
    "bert": {
        "base": "bert",
        "attention": "bert.encoder.layer.{}.attention.output",
        "output": "bert.encoder.layer.{}.output",
        "q": "bert.encoder.layer.{}.attention.self.query",
        "k": "bert.encoder.layer.{}.attention.self.key",
        "v": "bert.encoder.layer.{}.attention.self.value",
        "intermediate": "bert.encoder.layer.{}.intermediate.dense",
        "core": "bert.encoder.layer.{}.attention.self",
        "layer": "bert.encoder.layer.{}",
    },
    "llama": {
        "base": "model",
        "attention": "model.layers.{}.attention_adapters",
        "output": "model.layers.{}.output_adapters",
        "q": "model.layers.{}.self_attn.q_proj",
        "k": "model.layers.{}.self_attn.k_proj",
        "v": "model.layers.{}.self_attn.v_proj",
        "intermediate": "model.layers.{}.mlp.up_proj",
        "core": "model.layers.{}.self_attn",
        "layer": "model.layers.{}",
    },
}

Names = dict[tuple[str, ...], tuple[str, ...]]  # places -> what stands below each of them


def linear(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.{leaf}" for name in names for leaf in ("weight", "bias"))


BOTTLENECK = tuple(f"adapters.a.{leaf}" for leaf in linear("adapter_down.0", "adapter_up"))
COMPACTER = tuple(
    f"adapters.a.{name}.{leaf}" for name in ("adapter_down.0", "adapter_up") for leaf in ("W_left", "W_right", "b")
)
INVERTIBLE = tuple(f"invertible_adapters.a.{half}.{leaf}" for half in "FG" for leaf in linear("0", "2"))
PREFIX = tuple(
    f"prefix_tuning.prefix_tunings.a.self_prefix.{leaf}"
    for leaf in ("wte.weight", *linear("control_trans.0", "control_trans.2"))
)
FLAT = ("prefix_tuning.prefix_tunings.a.self_prefix.control_trans",)
LORA = ("loras.a.lora_A", "loras.a.lora_B")
VERA = ("loras.a.vera_B", "loras.a.vera_D")
VERA_SHARED = ("shared_parameters.a.lora_A", "shared_parameters.a.lora_B")
MAGNITUDE = ("loras.a.m.weight",)
GATE = linear("gate")
SOURCE = tuple(f"reft_layer.refts.a.units.{unit}.{leaf}" for unit in "01" for leaf in linear("learned_source"))
PLAIN = tuple(f"reft_layer.refts.a.units.{unit}.projection.weight" for unit in "01")
ORTHONORMAL = tuple(
    f"reft_layer.refts.a.units.{unit}.projection.parametrizations.weight.{leaf}"
    for unit in "01"
    for leaf in ("original", "0.base")
)

OUTPUT, BOTH, QV, BASE, LAYER, CORE = (
    ("output",),
    ("attention", "output"),
    ("q", "v"),
    ("base",),
    ("layer",),
    ("core",),
)
METHODS: dict[str, Names] = {
    "seq_bn": {OUTPUT: BOTTLENECK},
    "double_seq_bn": {BOTH: BOTTLENECK},
    "par_bn": {OUTPUT: BOTTLENECK},
    "scaled_par_bn": {OUTPUT: (*BOTTLENECK, "adapters.a.scaling")},
    "seq_bn_inv": {OUTPUT: BOTTLENECK, BASE: INVERTIBLE},
    "double_seq_bn_inv": {BOTH: BOTTLENECK, BASE: INVERTIBLE},
    "compacter[reduction_factor=4]": {BOTH: COMPACTER, BASE: ("shared_parameters.a.phm_rule",)},
    "compacter++[reduction_factor=4]": {OUTPUT: COMPACTER, BASE: ("shared_parameters.a.phm_rule",)},
    "compacter++[reduction_factor=4,factorized_phm_rule=True]": {
        OUTPUT: COMPACTER,
        BASE: ("shared_parameters.a.phm_rule_left", "shared_parameters.a.phm_rule_right"),
    },
    "compacter++[reduction_factor=4,factorized_phm_W=False,shared_phm_rule=False]": {
        OUTPUT: tuple(
            f"adapters.a.{name}.{leaf}" for name in ("adapter_down.0", "adapter_up") for leaf in ("W", "b", "phm_rule")
        )
    },
    "compacter++[reduction_factor=4,shared_W_phm=True]": {
        OUTPUT: ("adapters.a.adapter_down.0.b", "adapters.a.adapter_up.b"),
        BASE: tuple(
            f"shared_parameters.a.{leaf}"
            for leaf in ("phm_rule", "W_down_left", "W_down_right", "W_up_left", "W_up_right")
        ),
    },
    "prefix_tuning": {BASE: PREFIX},
    "prefix_tuning_flat": {BASE: FLAT},
    "prompt_tuning": {BASE: ("prompt_tuning.prompt_tunings.a.prompt_embedding.weight",)},
    "lora": {QV: LORA},
    "ia3": {("k", "v", "intermediate"): ("loras.a.lora_B",)},
    "vera": {QV: VERA, BASE: VERA_SHARED},
    "dora": {QV: (*LORA, *MAGNITUDE)},
    "dvora": {QV: (*VERA, *MAGNITUDE), BASE: VERA_SHARED},
    "mtl_lora": {QV: (*LORA, "loras.a.weights", "loras.a.task_specific.values")},
    "loreft": {LAYER: (*SOURCE, *ORTHONORMAL)},
    "noreft": {LAYER: (*SOURCE, *PLAIN)},
    "direft": {LAYER: (*SOURCE, *PLAIN)},
    "mam": {OUTPUT: BOTTLENECK, BASE: PREFIX},
    "unipelt": {
        OUTPUT: (*BOTTLENECK, *(f"adapters.a.{leaf}" for leaf in GATE)),
        QV: (*LORA, *(f"loras.a.{leaf}" for leaf in GATE)),
        CORE: linear("prefix_tuning.prefix_gates.a"),
        BASE: PREFIX,
    },
    "seq_bn[ln_before=True,ln_after=True,scaling='channel']": {
        OUTPUT: tuple(
            f"adapters.a.{leaf}"
            for leaf in (
                *linear("adapter_norm_before", "adapter_down.1", "adapter_up", "adapter_norm_after"),
                "scaling",
            )
        )
    },
}
OLD_NAMES = {"pfeiffer", "houlsby", "parallel", "scaled_parallel", "pfeiffer+inv", "houlsby+inv"}


def expected_names(model_type: str, method: str) -> set[str]:
    names = set()
    for places, leaves in METHODS[method].items():
        for place in places:
            path = PLACES[model_type][place]
            for layer in range(2) if "{}" in path else (0,):
                names |= {f"{path.format(layer)}.{leaf}" for leaf in leaves}
    return names


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("model_type", PLACES)
def test_the_exact_names_of_saved_tensors(tmp_path: Path, model_type: str, method: str) -> None:
    config = tiny_config(model_type)
    assert config.num_hidden_layers == 2
    model = AutoAdapterModel.from_config(config)
    model.add_adapter("a", method)
    model.save_adapter(tmp_path / "safe", "a")
    assert set(load_file(tmp_path / "safe" / "adapter.safetensors")) == expected_names(model_type, method)
    model.save_adapter(tmp_path / "bin", "a", use_safetensors=False)
    stored = torch.load(tmp_path / "bin" / "pytorch_adapter.bin", weights_only=True)
    assert set(stored) == expected_names(model_type, method)


@pytest.mark.parametrize("method", ["seq_bn_inv", "vera", "prefix_tuning"])
@pytest.mark.parametrize("model_type", PLACES)
def test_a_bare_base_model_writes_the_same_names_without_its_prefix(
    tmp_path: Path, model_type: str, method: str
) -> None:
    model = AutoModel.from_config(tiny_config(model_type))
    init(model)
    model.add_adapter("a", method)
    model.save_adapter(tmp_path, "a")
    prefix = PLACES[model_type]["base"]
    expected = {name.removeprefix(f"{prefix}.") for name in expected_names(model_type, method)}
    assert set(load_file(tmp_path / "adapter.safetensors")) == expected


def test_every_named_config_is_in_the_table() -> None:
    assert {method.partition("[")[0] for method in METHODS} == ADAPTER_CONFIG_MAP.keys() - OLD_NAMES
