"""Adapters go to a hub and come back: a stub of its API on 127.0.0.1, and huggingface_hub as it is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard, constants
from transformers import BertForSequenceClassification, PreTrainedModel

from adapter_models import AutoAdapterModel, init
from adapter_runtime.composition import Fuse, Stack
from adapter_runtime.errors import AdapterFileError, InvalidCompositionError, UnknownAdapterError
from adapter_runtime.files.hub.pushing import HubError
from adapter_runtime.files.utils import (
    ADAPTER_CACHE,
    AdapterInfo,
    AdapterType,
    get_adapter_config_hash,
    get_adapter_info,
    list_adapters,
)
from conformance.tiny import randomise, tiny_config
from hub_stub import GOOD_TOKEN, HubStub, Repository

REPO = "me/some-adapter"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubStub]:
    """A hub that huggingface_hub takes for the real one, and an empty cache."""
    with HubStub() as stub:
        monkeypatch.setattr(constants, "ENDPOINT", stub.endpoint)
        template = stub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.setattr(constants, "HF_STORED_TOKENS_PATH", str(tmp_path / "tokens"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield stub


def adapter_model() -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config("bert"))
    randomise(model)
    return model.eval()


def with_adapter(name: str = "a", config: str = "seq_bn") -> PreTrainedModel:
    model = adapter_model()
    model.add_adapter(name, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _, parameter in model.adapter_parameters(name):
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return model


def run(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.randint(3, 90, (2, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(input_ids=tokens)[0]


def test_an_adapter_goes_to_the_hub_and_comes_back_with_its_head(hub: HubStub) -> None:
    model = with_adapter()
    model.add_tagging_head("a", num_labels=3)
    model.set_active_adapters("a")
    url = model.push_adapter_to_hub(REPO, "a", token=GOOD_TOKEN)
    assert url.startswith(f"{hub.endpoint}/{REPO}/commit/")
    files = hub.repositories[REPO].branches["main"]
    assert set(files) == {
        "README.md",
        "adapter.safetensors",
        "adapter_config.json",
        "head_config.json",
        "model_head.safetensors",
    }
    assert hub.repositories[REPO].titles == ["Upload adapter a"]
    other = adapter_model()
    assert other.load_adapter(REPO, set_active=True) == "a"
    assert other.active_head == "a"
    assert torch.equal(run(other), run(model))


def test_a_setup_goes_to_the_hub_and_comes_back(hub: HubStub) -> None:
    model = with_adapter("a")
    model.add_adapter("b", "seq_bn")
    model.add_adapter_fusion(Fuse("a", "b", name="mix"))
    model.add_tagging_head("h")
    setup = Stack("a", Fuse("a", "b", name="mix"))
    model.push_adapter_setup_to_hub(REPO, setup, head_setup="h", token=GOOD_TOKEN)
    assert "mix/adapter_fusion_config.json" in hub.repositories[REPO].branches["main"]
    card = hub.repositories[REPO].branches["main"]["README.md"].decode()
    assert f'adapter_setup, head_setup = model.load_adapter_setup("{REPO}", set_active=True)' in card
    other = adapter_model()
    assert other.load_adapter_setup(REPO, set_active=True) == (setup, "h")
    model.set_active_adapters(setup)
    model.active_head = "h"
    assert torch.equal(run(other), run(model))


def test_a_revision_is_a_branch_to_push_to_and_to_load_from(hub: HubStub) -> None:
    model = with_adapter()
    hub.repositories[REPO] = Repository(branches={"main": {}, "v2": {}})
    model.push_adapter_to_hub(REPO, "a", revision="v2", commit_message="Second", token=GOOD_TOKEN)
    assert not hub.repositories[REPO].branches["main"]
    assert hub.repositories[REPO].titles == ["Second"]
    adapter_model().load_adapter(REPO, version="v2")
    with pytest.raises(AdapterFileError, match="has no revision 'v3'"):
        adapter_model().load_adapter(REPO, version="v3")
    with pytest.raises(AdapterFileError, match=r"has no adapter_config\.json: it holds no adapter"):
        adapter_model().load_adapter(REPO)


def test_a_pull_request_leaves_the_branch_alone(hub: HubStub) -> None:
    with_adapter().push_adapter_to_hub(REPO, "a", create_pr=True, token=GOOD_TOKEN)
    assert not hub.repositories[REPO].branches["main"]
    assert "adapter.safetensors" in hub.repositories[REPO].branches["refs/pr/1"]
    with pytest.raises(ValueError, match="either create_pr=True or a revision"):
        with_adapter().push_adapter_to_hub(REPO, "a", create_pr=True, revision="v2", token=GOOD_TOKEN)


def test_a_private_repository_needs_a_token(hub: HubStub) -> None:
    with_adapter().push_adapter_to_hub(REPO, "a", private=True, token=GOOD_TOKEN)
    assert hub.repositories[REPO].private
    with pytest.raises(AdapterFileError, match="or it is private and the token gives no access"):
        adapter_model().load_adapter(REPO)
    assert adapter_model().load_adapter(REPO, token=GOOD_TOKEN) == "a"


def test_what_was_loaded_once_is_there_offline(hub: HubStub, monkeypatch: pytest.MonkeyPatch) -> None:
    model = with_adapter()
    model.set_active_adapters("a")
    model.push_adapter_to_hub(REPO, "a", token=GOOD_TOKEN)
    adapter_model().load_adapter(REPO)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.requests)
    other = adapter_model()
    other.load_adapter(REPO, set_active=True)
    assert torch.equal(run(other), run(model))
    with pytest.raises(AdapterFileError, match=r"The hub was not asked \(HF_HUB_OFFLINE=1.* Load it once"):
        adapter_model().load_adapter("me/another")
    assert len(hub.requests) == asked
    with pytest.raises(HubError, match="the hub cannot be reached"):
        model.push_adapter_to_hub("me/new", "a", token=GOOD_TOKEN)


def test_local_files_only_asks_nobody(hub: HubStub) -> None:
    with pytest.raises(AdapterFileError, match="The hub was not asked"):
        adapter_model().load_adapter(REPO, local_files_only=True)
    assert not hub.requests


def test_a_hub_that_cannot_be_reached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with HubStub() as stub:
        endpoint = stub.endpoint
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(AdapterFileError, match=r"There is no folder 'me/some-adapter'.*the hub gave no repository"):
        adapter_model().load_adapter(REPO)
    with pytest.raises(HubError, match="the hub cannot be reached"):
        with_adapter().push_adapter_to_hub(REPO, "a", token=GOOD_TOKEN)


def test_defect_35_a_mistyped_path_says_what_was_looked_for_here_and_on_the_hub(hub: HubStub) -> None:
    with pytest.raises(AdapterFileError) as error:
        adapter_model().load_adapter("my_adaptres/a")
    local = Path("my_adaptres/a").absolute()
    assert f"There is no folder 'my_adaptres/a' (looked for {local})" in str(error.value)
    assert f"the hub has no repository {hub.endpoint}/my_adaptres/a" in str(error.value)
    with pytest.raises(AdapterFileError, match="cannot be the id of a repository"):
        adapter_model().load_adapter("./not/there/at/all")


def test_an_address_is_not_fetched(hub: HubStub) -> None:
    """`adapters` unpacks archives from any address."""
    with pytest.raises(AdapterFileError, match="Archives are not fetched"):
        adapter_model().load_adapter("http://127.0.0.1/adapter.zip")
    assert not hub.requests


@pytest.mark.parametrize("token", ["hf_bad", False], ids=["a token that is not known", "no token"])
def test_the_hub_refuses_who_may_not_write(hub: HubStub, token: str | bool) -> None:
    with pytest.raises(HubError, match=r"\(status 401\)(?s:.*)Log in"):
        with_adapter().push_adapter_to_hub(REPO, "a", token=token)
    assert not hub.repositories
    with pytest.raises(HubError, match="there is no token"):
        with_adapter().push_adapter_to_hub(REPO, "a", token=True)
    with pytest.raises(HubError, match="cannot be the id of a repository"):
        with_adapter().push_adapter_to_hub("a/b/c", "a", token=GOOD_TOKEN)


def test_what_cannot_be_saved_makes_no_repository(hub: HubStub) -> None:
    with pytest.raises(UnknownAdapterError):
        with_adapter().push_adapter_to_hub(REPO, "nix", token=GOOD_TOKEN)
    with pytest.raises(UnknownAdapterError):
        with_adapter().push_adapter_setup_to_hub(REPO, Stack("a", "nix"), token=GOOD_TOKEN)
    with pytest.raises(InvalidCompositionError):
        with_adapter().push_adapter_setup_to_hub(REPO, None, token=GOOD_TOKEN)
    with pytest.raises(TypeError, match="A card has no colour"):
        with_adapter().push_adapter_to_hub(REPO, "a", token=GOOD_TOKEN, adapter_card_kwargs={"colour": "red"})
    assert not hub.requests


def test_a_folder_in_a_repository(hub: HubStub) -> None:
    with_adapter().push_adapter_setup_to_hub(REPO, Stack("a"), token=GOOD_TOKEN)
    assert adapter_model().load_adapter(REPO, subfolder="a") == "a"


# Cards


def test_a_card_that_somebody_wrote_is_kept_unless_told_otherwise(hub: HubStub, tmp_path: Path) -> None:
    model = with_adapter()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "README.md").write_text("mine")
    model.push_adapter_to_hub(REPO, "a", local_path=tmp_path / "out", token=GOOD_TOKEN)
    files = hub.repositories[REPO].branches["main"]
    assert files["README.md"] == b"mine"
    assert (tmp_path / "out" / "adapter.safetensors").is_file()
    model.push_adapter_to_hub(REPO, "a", token=GOOD_TOKEN)
    assert files["README.md"] == b"mine", "the one on the hub"
    model.push_adapter_to_hub(REPO, "a", token=GOOD_TOKEN, overwrite_adapter_card=True)
    assert b"adapter-transformers" in files["README.md"]


def card_of(hub: HubStub, model: PreTrainedModel, **options: Any) -> str:
    model.push_adapter_to_hub(REPO, "a", token=GOOD_TOKEN, overwrite_adapter_card=True, **options)
    return hub.repositories[REPO].branches["main"]["README.md"].decode()


def test_a_card_says_what_is_known(hub: HubStub) -> None:
    model = with_adapter()
    model.config._name_or_path = "google-bert/bert-base-uncased"
    model.add_tagging_head("a")
    card = card_of(
        hub,
        model,
        datasets_tag="conll2003",
        adapter_card_kwargs={
            "tags": ["ner"],
            "language": "en",
            "license": "apache-2.0",
            "metrics": ["f1"],
            "results": "Good: 90 % of **all**.",
            "citation": "@misc{us}",
        },
    )
    data = ModelCard(card).data.to_dict()
    assert data == {
        "tags": ["adapter-transformers", "bert", "ner"],
        "base_model": "google-bert/bert-base-uncased",
        "datasets": ["conll2003"],
        "language": ["en"],
        "license": "apache-2.0",
        "metrics": ["f1"],
    }
    assert "with a head for tagging." in card
    assert "Good: 90 % of **all**." in card and "@misc{us}" in card
    assert 'AutoAdapterModel.from_pretrained("google-bert/bert-base-uncased")' in card
    assert "<!-- Add some description here -->" in card, "of the architecture, which nobody described"


def test_the_metadata_cannot_be_broken_out_of(hub: HubStub) -> None:
    card = card_of(hub, with_adapter(), adapter_card_kwargs={"license": 'x"\n---\nevil: true', "tags": ["a: b"]})
    data = ModelCard(card).data.to_dict()
    assert data["license"] == 'x"\n---\nevil: true'
    assert data["tags"] == ["adapter-transformers", "bert", "a: b"]


@pytest.mark.parametrize("static", [False, True])
def test_the_snippet_of_a_card_runs(hub: HubStub, tmp_path: Path, static: bool) -> None:
    model = with_adapter()
    if static:
        model = BertForSequenceClassification(tiny_config("bert"))
        init(model)
        model.add_adapter("a")
    base = tmp_path / "base"
    model.save_pretrained(base)
    (base / "config.json").write_text((base / "config.json").read_text().replace('"adapters"', '"unused"'))
    model.config._name_or_path = str(base)
    card = card_of(hub, model)
    names: dict[str, Any] = {}
    exec(card.split("```python\n")[1].split("```")[0], names)
    assert names["adapter_name"] == "a"
    assert names["model"].active_adapters == Stack("a")
    assert type(names["model"]).__name__ == ("BertForSequenceClassification" if static else "BertAdapterModel")


# Looking adapters up


def test_adapters_on_the_hub_are_listed(hub: HubStub) -> None:
    model = with_adapter()
    model.config._name_or_path = "some/base"
    model.push_adapter_to_hub(REPO, "a", token=GOOD_TOKEN)
    hub.repositories["me/other"] = Repository(branches={"main": {"README.md": b"no adapter"}})
    info = AdapterInfo(
        "hf", REPO, model_name="some/base", username="me", sha1_checksum=hub.repositories[REPO].commit("main")
    )
    assert list_adapters() == [info]
    assert list_adapters("some/base") == [info]
    assert list_adapters("some/thing-else") == []
    assert get_adapter_info(REPO) == info
    assert get_adapter_info("me/nothing", token=GOOD_TOKEN) is None


def test_configs_have_the_same_short_name_exactly_where_they_are_the_same() -> None:
    """Defect 6: in `adapters`, these pairs have one."""
    configs = [with_adapter("a", config).adapters_config.get("a") for config in ("seq_bn", "seq_bn[leave_out=[1]]")]
    assert get_adapter_config_hash(configs[0]) == get_adapter_config_hash(configs[0].to_dict())
    assert len({get_adapter_config_hash(config) for config in configs}) == 2
    assert len({get_adapter_config_hash(config, ignore_params=["leave_out"]) for config in configs}) == 1
    assert len(get_adapter_config_hash(configs[0], length=8)) == 8
    from adapter_runtime.methods.bottleneck.config import SeqBnConfig
    from adapter_runtime.methods.reft.config import DiReftConfig, NoReftConfig

    assert get_adapter_config_hash(DiReftConfig()) != get_adapter_config_hash(NoReftConfig())
    assert get_adapter_config_hash(SeqBnConfig(phm_layer=True)) != get_adapter_config_hash(SeqBnConfig())


def test_types_of_old() -> None:
    assert AdapterType.has("text_task") and not AdapterType.has("text")
    assert repr(AdapterType.text_lang) == "text_lang"
    assert constants.HF_HUB_CACHE == ADAPTER_CACHE
