"""Configs: names, strings, dicts and files stand for the right options, and wrong ones are refused with a hint."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.bottleneck.config import BnConfig, SeqBnConfig
from adapter_runtime.methods.configs.strings import ADAPTER_CONFIG_MAP, resolve_adapter_config
from adapter_runtime.methods.configs.union import ConfigUnion, MAMConfig, UniPELTConfig
from adapter_runtime.methods.fusion.config import AdapterFusionConfig
from adapter_runtime.methods.lora.config import LoRAConfig, VeraConfig
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.reft.config import DiReftConfig, NoReftConfig

REFUSED = [
    pytest.param("seq_bm", "Did you mean 'seq_bn'", id="an unknown name, with the nearest ones"),
    pytest.param("seq_bn[reduction=8]", "Did you mean 'reduction_factor'", id="an unknown option"),
    pytest.param("seq_bn[8]", "name=value", id="an option without its name"),
    pytest.param("seq_bn[scaling=open('x')]", "Cannot read", id="an option that is no literal"),
    pytest.param("seq_bn[reduction_factor=8", "No adapter config|Cannot read", id="a bracket that is not closed"),
    pytest.param("lora|lora[r=4]", "same places", id="the same method twice"),
    pytest.param({"architecture": "magic"}, "architecture 'magic'", id="a dict of an unknown architecture"),
    pytest.param({"mh_adapter": True}, "BnConfig", id="a dict that lacks options"),
    pytest.param("seq_bn[scaling='sometimes']", "scaling", id="an option that is none of the choices"),
    pytest.param("lora[attn_matrices=['x']]", "attn_matrices", id="a matrix that attention has not"),
    pytest.param("lora[r=0]", "r is 0", id="a rank of zero"),
    pytest.param("double_seq_bn[residual_before_ln='post_add']", "original_ln_before", id="post_add without the sum"),
    pytest.param(3, "not 3", id="a number"),
]


@pytest.mark.parametrize(("config", "message"), REFUSED)
def test_refused(config: Any, message: str) -> None:
    with pytest.raises(InvalidConfigError, match=message):
        AdapterConfig.load(config)


def test_configs_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        SeqBnConfig().dropout = 0.5  # type: ignore[misc]


def test_a_union_holds_no_union() -> None:
    with pytest.raises(InvalidConfigError, match="another union"):
        ConfigUnion(MAMConfig(), LoRAConfig())


@pytest.mark.parametrize("name", ADAPTER_CONFIG_MAP)
def test_dicts_come_back_equal(name: str) -> None:
    config = ADAPTER_CONFIG_MAP[name]
    again = AdapterConfig.from_dict(json.loads(json.dumps(config.to_dict())))
    assert again == config
    assert hash(again) == hash(config)


def test_identities_do_not_collide() -> None:
    different = [
        LoRAConfig(),
        VeraConfig(),
        NoReftConfig(),
        DiReftConfig(),
        SeqBnConfig(),
        SeqBnConfig(phm_layer=True),
    ]
    assert len({config.identity() for config in different}) == len(different)


def test_a_string_gives_options_and_members() -> None:
    union = AdapterConfig.load("prefix_tuning[flat=True] | lora[r=4,attn_matrices=['q','k']]")
    assert isinstance(union, ConfigUnion)
    prefix, lora = union.configs
    assert prefix == PrefixTuningConfig(flat=True)
    assert lora == LoRAConfig(r=4, attn_matrices=["q", "k"])


def test_brackets_may_hold_dicts() -> None:
    config = AdapterConfig.load("seq_bn[reduction_factor={'1': 8, 'default': 16}]")
    assert isinstance(config, BnConfig)
    assert [config.reduction_factor_of(layer) for layer in (0, 1)] == [16, 8]


def test_a_file_is_read_plain_or_under_config(tmp_path: Path) -> None:
    for content in (LoRAConfig(r=3).to_dict(), {"config": LoRAConfig(r=3).to_dict(), "name": "a"}):
        path = tmp_path / "adapter_config.json"
        path.write_text(json.dumps(content))
        assert AdapterConfig.load(str(path)) == LoRAConfig(r=3)


def test_replace_reaches_the_members_that_have_the_option() -> None:
    union = UniPELTConfig().replace(prefix_length=3)
    assert isinstance(union, UniPELTConfig)
    assert union.prefix_tuning["prefix_length"] == 3
    assert all(member["use_gating"] for member in union.configs)


def test_configs_read_like_mappings() -> None:
    assert dict(LoRAConfig(r=2))["r"] == 2
    with pytest.raises(KeyError):
        LoRAConfig()["_architectures"]


def _below(kind: type[Any]) -> Iterator[type[Any]]:
    for below in kind.__subclasses__():
        yield below
        yield from _below(below)


CONFIG_CLASSES = sorted(
    (
        kind
        for base in (AdapterConfig, AdapterFusionConfig)
        for kind in dict.fromkeys((base, *_below(base)))
        if dataclasses.is_dataclass(kind) and kind.__module__.startswith("adapter_runtime.")
    ),
    key=lambda kind: kind.__name__,
)


@pytest.mark.parametrize("kind", CONFIG_CLASSES)
def test_help_names_every_option_with_its_default(kind: type[Any]) -> None:
    """A variant of another config names the options whose defaults it changes; the rest are told there."""
    bases = [base for base in kind.__mro__[1:] if dataclasses.is_dataclass(base)]
    inherited = {item.name: _default(item) for base in reversed(bases) for item in dataclasses.fields(base)}
    entries = dict(
        re.findall(r"^ {8}(\w+): (.*?)(?=^ {8}\w|^$|^ {4}\w|\Z)", kind.__doc__ or "", re.MULTILINE | re.DOTALL)
    )
    for item in dataclasses.fields(kind):
        default = _default(item)
        if item.name in inherited and inherited[item.name] == default:
            continue
        shown = "Required" if default is dataclasses.MISSING else repr(default).replace("'", '"')
        assert shown in entries.get(item.name, ""), (item.name, shown)


def _default(item: dataclasses.Field[Any]) -> Any:
    factory = item.default_factory
    return item.default if factory is dataclasses.MISSING else factory()


def test_a_config_string_may_be_longer_than_the_name_of_a_file() -> None:
    text = "|".join(
        (
            "double_seq_bn[reduction_factor=4,mh_adapter=True,output_adapter=True,cross_adapter=True]",
            "prefix_tuning_flat[prefix_length=3]",
            "lora[r=2,alpha=4,attn_matrices=['q','k','v'],intermediate_lora=True,output_lora=True]",
            "noreft[r=2,prefix_positions=2,suffix_positions=1]",
        )
    )
    assert len(text) > 255 - len(".json")
    assert len(resolve_adapter_config(text + " " * 20).configs) == 4
