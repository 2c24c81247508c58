"""What `supports_adapter` says of a config is what `add_adapter` does, and what it adds runs: whichever option has whichever value.

The values are those of the type that an option states, with some on either side of what makes sense, and no option is left out.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

import adapter_models  # noqa: F401  registers
from adapter_runtime import init
from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import AdapterError, InvalidConfigError
from adapter_runtime.methods.bottleneck.config import SeqBnConfig
from adapter_runtime.methods.configs.strings import ADAPTER_CONFIG_MAP
from adapter_runtime.methods.configs.union import ConfigUnion
from adapter_runtime.methods.lora.config import LoRAConfig, MTLLoRAConfig, VeraConfig
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.prompt_tuning.config import PromptTuningConfig
from adapter_runtime.methods.reft.config import LoReftConfig
from conformance.instances import read
from conformance.tiny import tiny_config

PRESETS = (
    "seq_bn",
    "seq_bn_inv",
    "par_bn",
    "compacter",
    "lora",
    "ia3",
    "dora",
    "vera",
    "mtl_lora",
    "prefix_tuning",
    "prefix_tuning_flat",
    "prompt_tuning",
    "loreft",
    "noreft",
)
VALUES: Mapping[str, tuple[Any, ...]] = {
    "int": (-1, 0, 1, 3, 1000, 1.5, True, "x", None),
    "float": (-1.0, 0.0, 0.5, 1.0, 2.5, math.nan, math.inf, "x", None),
    "str": (
        "nope",
        "gelu",
        "Relu",
        "lora",
        "bert",
        "glow",
        "from_string",
        "token_embeddings",
        "float16",
        "float17",
        3,
    ),
    "Sequence": ([], [0], [99], ["q"], ["q", "k", "v", "o"], ["z"], "all", 3),
}
# Names of tokenizers and of files are looked for; every other option is tried.
LEFT_OUT = frozenset({"architecture", "tokenizer_name_or_path", "parts", "also_train"})


def variants(config: AdapterConfig) -> Iterator[dict[str, Any]]:
    """The options of `config`, with one of them changed."""
    options = config.to_dict()
    for item in dataclasses.fields(config):
        if item.name in LEFT_OUT:
            continue
        values = [value for kind, found in VALUES.items() if kind in str(item.type) for value in found]
        values += [not options[item.name]] if "bool" in str(item.type) else []
        yield from ({**options, item.name: value} for value in values)


def model_of(model_type: str) -> tuple[PreTrainedModel, dict[str, Any]]:
    torch.manual_seed(0)
    found = read(model_type)
    model = found.model_class._from_config(tiny_config(model_type), attn_implementation="eager").eval()
    init(model)
    return model, found.inputs()


def outcome(model: PreTrainedModel, inputs: dict[str, Any], config: Any) -> tuple[bool, str]:
    """What is said of a config, and what became of it: "" = it was added and ran."""
    said = model.supports_adapter(config)
    try:
        model.add_adapter("a", config=config, set_active=True)
    except AdapterError as error:
        return said, f"add_adapter: {error}"
    try:
        with torch.no_grad():
            model(**inputs)
    except Exception as error:  # whatever it is, a user sees it in the first call
        return said, f"forward: {type(error).__name__}: {error}"
    finally:
        model.delete_adapter("a")
    return said, ""


@pytest.mark.parametrize(
    "model_type",
    [
        pytest.param("llama", id="a decoder"),
        pytest.param("opt", id="positions of all rows in one dimension", marks=pytest.mark.full),
        pytest.param("t5", id="an encoder-decoder", marks=pytest.mark.full),
        pytest.param("segformer", id="stages", marks=pytest.mark.full),
        pytest.param("qwen2_vl", id="a model of two", marks=pytest.mark.full),
    ],
)
@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_said_of_an_option_is_what_is_done(model_type: str, preset: str) -> None:
    model, inputs = model_of(model_type)
    wrong = []
    for options in variants(ADAPTER_CONFIG_MAP[preset]):
        said, became = outcome(model, inputs, options)
        if said is bool(became):
            changed = {name: value for name, value in options.items() if value != ADAPTER_CONFIG_MAP[preset].get(name)}
            wrong.append(f"{changed}: supports_adapter says {said}, {became or 'and it runs'}")
    assert not wrong


@pytest.mark.parametrize(
    "config",
    [
        "unipelt",
        "mam",
        "prefix_tuning[use_gating=True,shared_gating=False]",
        "double_seq_bn[use_gating=True,cross_adapter=True]",
        "lora[use_gating=True,attn_matrices=['q','k','v','o'],intermediate_lora=True,output_lora=True,gate_lora=True]",
        "vera[vera_dense=True]",
        "dora[use_gating=True]",
        "loreft[r=33]",
        "prefix_tuning[non_linearity='nope']",
        "prompt_tuning[prompt_init='from_string',prompt_init_text='hi']",
    ],
)
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "vit"])
def test_what_is_said_of_several_options_is_what_is_done(model_type: str, config: str) -> None:
    """GPT-2 has one projection for queries, keys and values, ViT no words."""
    said, became = outcome(*model_of(model_type), config)
    assert said is not bool(became), became


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        (PrefixTuningConfig, {"prefix_length": 0}, "prefix_length is 0, but must be a whole number of at least 1"),
        (PrefixTuningConfig, {"bottleneck_size": 0}, "bottleneck_size is 0, but must be a whole number of at least 1"),
        (PrefixTuningConfig, {"dropout": 1.5}, r"dropout is 1.5, but must be a number that lies in \[0, 1\)"),
        (PrefixTuningConfig, {"leave_out": 3}, "leave_out is 3, but must be a list of indices of layers"),
        (PromptTuningConfig, {"prompt_length": -1}, "prompt_length is -1, but must be a whole number of at least 1"),
        (
            PromptTuningConfig,
            {"random_uniform_scale": -1},
            "random_uniform_scale is -1, but must be a number of at least 0",
        ),
        (LoRAConfig, {"r": 0}, "r is 0, but must be a whole number of at least 1"),
        (LoRAConfig, {"r": 2.0}, "r is 2.0, but must be a whole number"),
        (LoRAConfig, {"alpha": math.nan}, "alpha is nan, but must be a number"),
        (LoRAConfig, {"init_weights_seed": "x"}, "init_weights_seed is 'x', but must be a whole number, or None"),
        (VeraConfig, {"vera_d": "x"}, "vera_d is 'x', but must be a number"),
        (MTLLoRAConfig, {"weights_sharpness": 0.0}, "weights_sharpness is 0.0, but must be a number above 0"),
        (MTLLoRAConfig, {"n_up_projection": 0}, "n_up_projection is 0, but must be a whole number"),
        (LoReftConfig, {"r": 0}, "r is 0, but must be a whole number"),
        (LoReftConfig, {"prefix_positions": -1}, "prefix_positions is -1, but must be a whole number of at least 0"),
        (LoReftConfig, {"layers": 3}, "layers is 3, but must be a list of indices"),
        (SeqBnConfig, {"reduction_factor": -1}, "reduction_factor is -1, but must be a positive number"),
        (SeqBnConfig, {"reduction_factor": "x"}, "reduction_factor is 'x', but must be a positive number"),
        (SeqBnConfig, {"phm_dim": 0}, "phm_dim is 0, but must be a whole number of at least 1"),
        (SeqBnConfig, {"stochastic_depth": 1.0}, "stochastic_depth is 1.0, but must be a number that lies in"),
        (SeqBnConfig, {"inv_adapter": "nice"}, "inv_adapter_reduction_factor is None, but must be a number above 0"),
    ],
)
def test_numbers_that_make_no_sense_are_refused_with_what_is_expected(
    kind: type[AdapterConfig], options: dict[str, Any], expected: str
) -> None:
    with pytest.raises(InvalidConfigError, match=f"^{kind.__name__}: {expected}"):
        kind(**options)


@pytest.mark.parametrize(
    "config",
    [
        PrefixTuningConfig(flat=True, bottleneck_size=0),
        PrefixTuningConfig(flat=True, non_linearity="nope"),
        SeqBnConfig(non_linearity="LeakyReLU"),
        SeqBnConfig(scaling=2),
        LoRAConfig(alpha=2.5),
    ],
)
def test_what_nothing_reads_and_what_others_write_is_accepted(config: AdapterConfig) -> None:
    model, inputs = model_of("llama")
    assert outcome(model, inputs, config) == (True, "")


def test_a_check_changes_nothing() -> None:
    model, _ = model_of("llama")
    before, state = torch.get_rng_state(), {name: type(module) for name, module in model.named_modules()}
    for preset in PRESETS:
        model.supports_adapter(ADAPTER_CONFIG_MAP[preset])
    model.supports_adapter(ConfigUnion(LoRAConfig(init_weights_seed=3), SeqBnConfig(use_gating=True)))
    assert torch.equal(torch.get_rng_state(), before)
    assert {name: type(module) for name, module in model.named_modules()} == state
