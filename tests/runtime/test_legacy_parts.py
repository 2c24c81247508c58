"""Files of `adapters` for an EncoderDecoderModel: layers counted in each part, and one invertible adapter under three names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from adapter_runtime.files.formats.legacy import modernise
from adapter_runtime.files.formats.legacy_parts import counts_in_parts, renumber, without_aliases

WRITTEN = {"version": "adapters.1.3.0", "model_type": "encoder-decoder"}
COUPLING = "invertible_adapters.a.F.0.weight"


def model(encoder: int, decoder: int) -> Any:
    """As much of a model as is asked for here."""
    layers = [nn.Identity() for _ in range(encoder + decoder)]
    encoding = nn.ModuleList(layers[:encoder])
    return SimpleNamespace(
        adapters_base=SimpleNamespace(iter_layers=lambda: enumerate(layers), get_encoder=lambda: encoding)
    )


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        pytest.param(WRITTEN, True, id="a file of an encoder with a decoder"),
        pytest.param({**WRITTEN, "model_type": "t5"}, False, id="a model of one class counts on in its decoder"),
        pytest.param({**WRITTEN, "version": "adapter-codegen.0.1.0"}, False, id="a file of our own"),
        pytest.param({"model_type": "encoder-decoder"}, False, id="a file of the predecessor"),
    ],
)
def test_whose_layers_are_counted_in_each_part(document: dict[str, Any], expected: bool) -> None:
    assert counts_in_parts(document) is expected


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        pytest.param({"leave_out": [1]}, {"leave_out": [1, 3]}, id="a layer of both"),
        pytest.param({"leave_out": [2]}, {"leave_out": [4]}, id="not the first of the decoder, which comes second"),
        pytest.param({"leave_out": []}, {"leave_out": []}, id="none"),
        pytest.param({"leave_out": [7]}, {"leave_out": [12]}, id="one that no part has stays one that is not there"),
        pytest.param({"layers": [0]}, {"layers": [0, 2]}, id="of ReFT"),
        pytest.param({"layers": "all"}, {"layers": "all"}, id="all of ReFT"),
        pytest.param({"reduction_factor": 8}, {"reduction_factor": 8}, id="a factor for all"),
        pytest.param(
            {"reduction_factor": {"1": 4, "2": 2, "default": 8}},
            {"reduction_factor": {"1": 4, "3": 4, "4": 2, "default": 8}},
            id="factors",
        ),
    ],
)
def test_a_number_means_that_layer_of_each_part(given: dict[str, Any], meant: dict[str, Any]) -> None:
    renumber(model(encoder=2, decoder=3), [given])
    assert given == meant


@pytest.mark.parametrize(
    ("other", "value", "stays"),
    [
        pytest.param(f"decoder.bert.{COUPLING}", 1.0, False, id="the same under the decoder"),
        pytest.param(COUPLING, 1.0, False, id="the same under no part"),
        pytest.param(f"decoder.bert.{COUPLING}", 2.0, True, id="another one"),
        pytest.param("decoder.bert.invertible_adapters.a.G.0.weight", 1.0, True, id="another tensor of it"),
        pytest.param("decoder.bert.encoder.layer.0.output.adapters.a.adapter_up.weight", 1.0, True, id="a bottleneck"),
    ],
)
def test_an_invertible_adapter_has_one_name(other: str, value: float, stays: bool) -> None:
    own = {f"encoder.{COUPLING}": torch.ones(1)}
    assert set(without_aliases({**own, other: torch.full((1,), value)})) == {*own, *[other] * stays}


@pytest.mark.parametrize(
    ("key", "config", "version", "found"),
    [
        pytest.param("crossattention.output", {"mh_adapter": True}, "adapters.1.3.0", True, id="behind BERT's"),
        pytest.param("attention.output", {"mh_adapter": True}, "adapters.1.3.0", None, id="self-attention alone"),
        pytest.param("crossattention.self", {"mh_adapter": True}, "adapters.1.3.0", None, id="another place in it"),
        pytest.param("crossattention.output", {"mh_adapter": True}, "adapter-codegen.0.1.0", None, id="of our own"),
        pytest.param("crossattention.output", {"r": 8}, "adapters.1.3.0", None, id="a member of another method"),
    ],
)
def test_adapters_behind_cross_attention_are_recognised_by_their_tensors(
    key: str, config: dict[str, Any], version: str, found: bool | None
) -> None:
    name = f"decoder.bert.encoder.layer.0.{key}.adapters.a.adapter_up.weight"
    modern, _ = modernise({"config": config, "version": version}, {name: torch.ones(1)})
    assert modern["config"].get("cross_adapter") is found
