"""What projects import from ``adapters.utils``."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub.errors import RepositoryNotFoundError

from adapter_runtime.files import utils

MODELS = [
    SimpleNamespace(id="ann/one", config={"adapters": {"model_name": "bert-base"}}, sha="1a", card_data=None),
    SimpleNamespace(id="bob/two", config={"adapter_transformers": {"model_name": "llama"}}, sha="2b", card_data=None),
    SimpleNamespace(id="bob/three", config=None, sha="3c", card_data=None),
]


class Hub:
    """Stands in for the hub."""

    def __init__(self, token: bool | str | None) -> None:
        pass

    def list_models(self, filter: str, full: bool, cardData: bool, fetch_config: bool) -> Any:
        assert filter == "adapters"
        return iter(MODELS)

    def model_info(self, name: str) -> Any:
        for model in MODELS:
            if model.id == name:
                return model
        response = SimpleNamespace(headers={}, request=None)
        raise RepositoryNotFoundError("there is none", response=response)


@pytest.fixture(autouse=True)
def _hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", Hub)


def test_adapters_of_the_hub_are_listed() -> None:
    assert [(info.adapter_id, info.model_name) for info in utils.list_adapters()] == [
        ("ann/one", "bert-base"),
        ("bob/two", "llama"),
        ("bob/three", None),
    ]
    (only,) = utils.list_adapters("llama")
    assert only == utils.AdapterInfo("hf", "bob/two", "llama", username="bob", sha1_checksum="2b")


def test_one_adapter_is_looked_up() -> None:
    info = utils.get_adapter_info("ann/one")
    assert info is not None
    assert info.username == "ann"
    assert utils.get_adapter_info("ann/nothing") is None


def test_digests_differ_where_configs_do() -> None:
    """In `adapters` options with certain values are left out, and DiReFT and NoReFT have the same digest."""
    digests = {
        utils.get_adapter_config_hash(name) for name in ("direft", "noreft", "seq_bn", "seq_bn[phm_layer=True]")
    }
    assert len(digests) == 4
    assert {len(digest) for digest in digests} == {16}
    assert utils.get_adapter_config_hash("lora[r=8]") == utils.get_adapter_config_hash("lora")


def test_names_of_files_are_those_of_adapters() -> None:
    assert utils.CONFIG_NAME == "adapter_config.json"
    assert utils.WEIGHTS_NAME == "pytorch_adapter.bin"
    assert utils.SAFE_HEAD_WEIGHTS_NAME == "model_head.safetensors"
    assert utils.ADAPTERFUSION_WEIGHTS_NAME == "pytorch_model_adapter_fusion.bin"
    assert utils.SETUP_CONFIG_NAME == "adapter_setup.json"
    assert utils.AdapterType.has("text_task")
    assert not utils.AdapterType.has("image")
