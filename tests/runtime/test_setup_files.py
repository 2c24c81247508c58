"""Mixtures and setups go to disk and come back; what `adapters` writes is read with its oddities."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close
from transformers import PreTrainedModel

from adapter_models import AutoAdapterModel
from adapter_runtime.composition import (
    BLOCKS,
    AdapterCompositionBlock,
    Average,
    BatchSplit,
    Fuse,
    MultiTask,
    Parallel,
    Split,
    Stack,
)
from adapter_runtime.contract.names import InvalidNameError
from adapter_runtime.errors import (
    AdapterError,
    AdapterFileError,
    AdapterMismatchError,
    InvalidCompositionError,
    InvalidConfigError,
    UnknownAdapterError,
    UnsupportedMethodError,
)
from adapter_runtime.files.formats.blocks import block_from_dict, block_to_dict
from adapter_runtime.heads.errors import UnknownHeadError
from adapter_runtime.methods.fusion.config import AdapterFusionConfig
from conformance.tiny import randomise, tiny_config

NAMED = Fuse("a", "b", name="mix")


def adapter_model() -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config("bert"))
    randomise(model)
    return model.eval()


def with_adapters(*names: str, config: str = "seq_bn") -> PreTrainedModel:
    model = adapter_model()
    for name in names:
        model.add_adapter(name, config)
        shake(model, lambda key, name=name: f".{name}." in key)
    return model


def with_fusion(fuse: Fuse = NAMED, config: str = "dynamic") -> PreTrainedModel:
    model = with_adapters("a", "b", "c")
    model.add_adapter_fusion(fuse, config)
    shake(model, lambda key: f".adapter_fusion_layer.{fuse.name}." in key)
    return model


def shake(model: PreTrainedModel, which: Callable[[str], bool]) -> None:
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if which(key):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def run(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.randint(3, 90, (2, 6), generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        return model(input_ids=tokens)[0]


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


class Unchanged:
    """A model compared with what it was."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.model = model
        self.keys = list(model.state_dict())
        self.values = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        self.rest = self.look()

    def look(self) -> tuple[Any, ...]:
        return self.model.adapters_config.to_dict(), repr(self.model.active_adapters), list(self.model.heads)

    def check(self) -> None:
        assert self.look() == self.rest
        state = self.model.state_dict()
        assert list(state) == self.keys
        assert all(torch.equal(state[key], value) for key, value in self.values.items())


# Fusions


@pytest.mark.parametrize("use_safetensors", [True, False])
@pytest.mark.parametrize("config", ["static", "dynamic"])
def test_a_fusion_comes_back_bitwise_in_a_fresh_model(tmp_path: Path, config: str, use_safetensors: bool) -> None:
    model = with_fusion(config=config)
    model.set_active_adapters(NAMED)
    model.save_adapter_fusion(tmp_path / "deep" / "down", "mix", use_safetensors=use_safetensors)
    other = with_adapters("a", "b")
    assert other.load_adapter_fusion(tmp_path / "deep" / "down", set_active=True) == "mix"
    assert other.active_adapters == NAMED
    assert torch.equal(run(other), run(model))


@pytest.mark.parametrize("given", [NAMED, "mix"])
def test_the_exact_files_and_tensors_of_a_fusion(tmp_path: Path, given: Any) -> None:
    with_fusion().save_adapter_fusion(tmp_path, given, meta_dict={"note": "n"})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "adapter_fusion_config.json",
        "model_adapter_fusion.safetensors",
    ]
    document = json.loads((tmp_path / "adapter_fusion_config.json").read_text())
    assert (document["name"], document["adapter_names"], document["note"]) == ("mix", ["a", "b"], "n")
    assert sorted(document["config"]) == [
        "dropout_prob",
        "key",
        "query",
        "query_before_ln",
        "regularization",
        "residual_before",
        "temperature",
        "value",
        "value_before_softmax",
        "value_initialized",
    ]
    place = "bert.encoder.layer.0.output.adapter_fusion_layer.mix"
    saved = load_file(tmp_path / "model_adapter_fusion.safetensors")
    leaves = ("query.weight", "query.bias", "key.weight", "key.bias", "value.weight")
    assert {key for key in saved if ".layer.0." in key} == {f"{place}.{leaf}" for leaf in leaves}


@pytest.mark.parametrize("by_adapters", [False, True], ids=["ours", "one of adapters"])
def test_a_fusion_that_learns_nothing_comes_back(tmp_path: Path, by_adapters: bool) -> None:
    """`adapters` writes a layer for it that no forward uses."""
    none = AdapterFusionConfig.load("static", key=False, query=False, value=False)
    model = with_adapters("a", "b")
    model.add_adapter_fusion(NAMED, none, set_active=True)
    model.save_adapter_fusion(tmp_path, "mix")
    if by_adapters:
        place = "bert.encoder.layer.0.output.adapter_fusion_layer.mix.dense"
        unused = {f"{place}.weight": torch.ones(1, 32), f"{place}.bias": torch.ones(1)}
        save_file(unused, tmp_path / "model_adapter_fusion.safetensors")
    other = with_adapters("a", "b")
    other.load_adapter_fusion(tmp_path, set_active=True)
    assert torch.equal(run(other), run(model))


def test_a_fusion_is_known_by_the_names_of_its_adapters(tmp_path: Path) -> None:
    model = with_fusion(Fuse("a", "b"))
    model.save_adapter_fusion(tmp_path / "list", ["a", "b"])
    model.save_adapter_fusion(tmp_path / "text", "a,b")
    assert [
        json.loads((tmp_path / kind / "adapter_fusion_config.json").read_text())["name"] for kind in ("list", "text")
    ] == [
        "a,b",
        "a,b",
    ]


def test_a_fusion_is_loaded_under_another_name(tmp_path: Path) -> None:
    model = with_fusion()
    model.save_adapter_fusion(tmp_path, NAMED)
    other = with_adapters("a", "b")
    assert other.load_adapter_fusion(tmp_path, load_as="again", set_active=True) == "again"
    model.set_active_adapters(NAMED)
    assert torch.equal(run(other), run(model))


def test_loading_over_a_fusion_with_the_same_config_replaces_its_weights(tmp_path: Path) -> None:
    model = with_fusion()
    model.save_adapter_fusion(tmp_path, NAMED)
    model.set_active_adapters(NAMED)
    other = with_adapters("a", "b")
    other.add_adapter_fusion(NAMED)
    other.load_adapter_fusion(tmp_path, set_active=True)
    assert torch.equal(run(other), run(model))
    third = with_adapters("a", "b")
    third.add_adapter_fusion(NAMED, "static")
    unchanged = Unchanged(third)
    with pytest.raises(AdapterMismatchError, match=r"a fusion 'mix' of other adapters or with another config"):
        third.load_adapter_fusion(tmp_path)
    unchanged.check()


def test_all_fusions_are_saved_to_folders_of_their_names(tmp_path: Path) -> None:
    model = with_fusion()
    model.add_adapter_fusion(Fuse("b", "c"), "static")
    model.save_all_adapter_fusions(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b,c", "mix"]


@pytest.mark.parametrize("with_head", [True, "other"])
def test_defect_29_a_fusion_of_a_model_with_heads_is_loaded_with_its_name(
    tmp_path: Path, with_head: bool | str
) -> None:
    model = with_fusion()
    head = "mix" if with_head is True else "other"
    model.add_tagging_head(head, num_labels=3)
    model.save_adapter_fusion(tmp_path, NAMED, with_head=with_head)
    other = with_adapters("a", "b")
    assert other.load_adapter_fusion(tmp_path) == "mix"
    assert list(other.heads) == [head]
    third = with_adapters("a", "b")
    assert third.load_adapter_fusion(tmp_path, with_head=False) == "mix"
    assert not third.heads


def test_a_head_that_there_is_not_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(UnknownHeadError):
        with_fusion().save_adapter_fusion(tmp_path / "x", NAMED, with_head=True)
    with pytest.raises(UnknownAdapterError, match="no fusion 'nix'"):
        with_fusion().save_adapter_fusion(tmp_path / "x", "nix")
    assert not (tmp_path / "x").exists()


def test_a_fusion_of_adapters_that_the_model_lacks_is_refused(tmp_path: Path) -> None:
    with_fusion().save_adapter_fusion(tmp_path, NAMED)
    model = with_adapters("a")
    unchanged = Unchanged(model)
    with pytest.raises(UnknownAdapterError, match="no adapter 'b'"):
        model.load_adapter_fusion(tmp_path)
    unchanged.check()


def test_oddity_4_tensors_of_fusions_whose_names_begin_alike_are_left_alone(tmp_path: Path) -> None:
    """`adapters` writes them along."""
    model = with_fusion()
    model.set_active_adapters(NAMED)
    model.save_adapter_fusion(tmp_path, NAMED)
    path = tmp_path / "model_adapter_fusion.safetensors"
    tensors = load_file(path)
    tensors.update({key.replace(".mix.", ".mix2."): torch.ones_like(tensor) for key, tensor in tensors.items()})
    save_file(tensors, path)
    other = with_adapters("a", "b")
    other.load_adapter_fusion(tmp_path, set_active=True)
    assert torch.equal(run(other), run(model))
    assert list(other.adapters_config.fusions) == ["mix"]


def test_an_old_file_names_its_adapters_by_its_name_only(tmp_path: Path) -> None:
    model = with_fusion(Fuse("a", "b"))
    model.save_adapter_fusion(tmp_path, "a,b")
    edit(tmp_path / "adapter_fusion_config.json", lambda document: document.pop("adapter_names"))
    other = with_adapters("a", "b")
    assert other.load_adapter_fusion(tmp_path) == "a,b"
    assert other.adapters_config.get_fusion("a,b").adapter_names == ("a", "b")


BROKEN_FUSIONS: dict[str, tuple[Callable[[dict[str, Any]], Any], type[AdapterError], str]] = {
    "a name that leads elsewhere": (lambda d: d.update(name="../x"), InvalidNameError, "contains"),
    "a member that leads elsewhere": (lambda d: d.update(adapter_names=["a", "../b"]), InvalidNameError, "contains"),
    "no members": (lambda d: d.update(adapter_names=[]), AdapterFileError, 'no list "adapter_names"'),
    "no config": (lambda d: d.update(config=None), InvalidConfigError, "no config of a fusion"),
    "an unknown option": (lambda d: d["config"].update(magic=1), InvalidConfigError, "magic"),
    "another architecture": (lambda d: d.update(model_type="llama"), AdapterMismatchError, "of type 'llama'"),
}


@pytest.mark.parametrize("case", BROKEN_FUSIONS)
def test_a_broken_fusion_is_refused_and_the_model_stays_as_it_was(tmp_path: Path, case: str) -> None:
    change, error, message = BROKEN_FUSIONS[case]
    with_fusion().save_adapter_fusion(tmp_path, NAMED)
    edit(tmp_path / "adapter_fusion_config.json", change)
    model = with_adapters("a", "b")
    unchanged = Unchanged(model)
    with pytest.raises(error, match=message):
        model.load_adapter_fusion(tmp_path, set_active=True)
    unchanged.check()


# Blocks as JSON

SETUPS = [
    Stack("a", "b"),
    Stack("c", NAMED),
    Fuse("a", Stack("b", "c"), name="mix"),
    Parallel("a", Stack("b", "c")),
    BatchSplit("a", "b", batch_sizes=[1, 2]),
    Split("a", "b", splits=[2, 4]),
    Average("a", "b", weights=[1, 3]),
    Average("a", "b", weights=[1.0, 3.0], normalize_weights=False),
    MultiTask("a", "b"),
]


@pytest.mark.parametrize("block", SETUPS, ids=str)
def test_a_block_comes_back_as_it_was(block: AdapterCompositionBlock) -> None:
    assert block_from_dict(json.loads(json.dumps(block_to_dict(block)))) == block


def test_every_block_has_a_case() -> None:
    assert {type(block).__name__ for block in SETUPS} == set(BLOCKS)


def test_blocks_are_written_as_adapters_writes_them() -> None:
    assert block_to_dict(Stack("c", BatchSplit("a", "b", batch_sizes=1))) == {
        "type": "Stack",
        "children": [
            {"type": "single", "children": ["c"]},
            {
                "type": "BatchSplit",
                "children": [{"type": "single", "children": ["a"]}, {"type": "single", "children": ["b"]}],
                "kwargs": {"batch_sizes": [1, 1]},
            },
        ],
    }


def single(name: object) -> dict[str, Any]:
    return {"type": "single", "children": [name]}


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        pytest.param(
            {"type": "parse_composition", "children": [single("a")]}, AdapterFileError, "unknown type", id="36"
        ),
        pytest.param(
            {"type": "AdapterCompositionBlock", "children": [single("a")]}, AdapterFileError, "unknown", id="base"
        ),
        pytest.param({"type": 3, "children": [single("a")]}, AdapterFileError, "unknown type 3", id="no text"),
        pytest.param(
            {"type": "Stack", "children": [single("../../evil")]}, InvalidNameError, "contains", id="36 path"
        ),
        pytest.param({"type": "Stack", "children": [single("/etc")]}, InvalidNameError, "contains", id="36 absolute"),
        pytest.param({"type": "Stack", "children": [single(7)]}, InvalidNameError, "non-empty string", id="number"),
        pytest.param(
            {"type": "Fuse", "children": [single("a")], "kwargs": {"name": "../x"}},
            InvalidNameError,
            "contains",
            id="name",
        ),
        pytest.param(
            {"type": "Stack", "children": [single("a")], "kwargs": 3},
            AdapterFileError,
            "are options by name",
            id="no options",
        ),
        pytest.param({"type": "Stack", "children": []}, AdapterFileError, "cannot be built", id="no children"),
        pytest.param({"type": "Stack"}, AdapterFileError, "a list", id="no list"),
        pytest.param({"type": "single", "children": ["a", "b"]}, AdapterFileError, "has one name", id="two names"),
        pytest.param(single("a"), AdapterFileError, "not the single name", id="a bare name"),
        pytest.param(
            {"type": "Stack", "children": [single("a")], "kwargs": {"evil": 1}},
            AdapterFileError,
            "cannot be",
            id="option",
        ),
        pytest.param(
            {"type": "Split", "children": [single("a")], "kwargs": {"splits": [1, 2]}},
            AdapterFileError,
            "splits",
            id="sizes",
        ),
        pytest.param(
            {"type": "Fuse", "children": [{"type": "Parallel", "children": [single("a")]}]},
            InvalidCompositionError,
            "cannot stand inside",
            id="nesting",
        ),
    ],
)
def test_defect_36_a_document_can_name_known_blocks_and_plain_names_only(
    data: Any, error: type[AdapterError], message: str
) -> None:
    with pytest.raises(error, match=message):
        block_from_dict(data)


def test_a_document_cannot_exhaust_the_stack() -> None:
    data: dict[str, Any] = single("a")
    for _ in range(5000):
        data = {"type": "Stack", "children": [data]}
    with pytest.raises(AdapterFileError, match="nested more than"):
        block_from_dict(data)


# Setups


def test_a_setup_comes_back_with_its_fusion_and_head(tmp_path: Path) -> None:
    model = with_fusion()
    model.add_classification_head("h", num_labels=3)
    setup = Stack("c", NAMED)
    model.set_active_adapters(setup)
    model.active_head = "h"
    model.save_adapter_setup(tmp_path, setup, head_setup="h")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "adapter_setup.json", "b", "c", "h", "mix"]
    other = adapter_model()
    assert other.load_adapter_setup(tmp_path, set_active=True) == (setup, "h")
    assert (other.active_adapters, other.active_head) == (setup, "h")
    assert torch.equal(run(other), run(model))


@pytest.mark.parametrize("head_setup", [None, "h", ["h", "k"], Parallel("h", "k")], ids=str)
def test_a_head_setup_comes_back_as_it_was_given(tmp_path: Path, head_setup: Any) -> None:
    model = with_adapters("a", "b")
    for name in "hk":
        model.add_tagging_head(name)
    model.save_adapter_setup(tmp_path, Parallel("a", "b"), head_setup=head_setup)
    other = adapter_model()
    assert other.load_adapter_setup(tmp_path)[1] == head_setup
    assert list(other.heads) == ([] if head_setup is None else ["h"] if head_setup == "h" else ["h", "k"])


def test_a_setup_without_set_active_activates_nothing(tmp_path: Path) -> None:
    with_adapters("a", "b").save_adapter_setup(tmp_path, Stack("a", "b"))
    other = adapter_model()
    other.load_adapter_setup(tmp_path)
    assert other.active_adapters is None


def test_oddity_5_a_named_fusion_is_found_by_its_folder(tmp_path: Path) -> None:
    """`adapters` leaves the name out of the setup, and cannot read its own file."""
    model = with_fusion()
    setup = Stack("c", NAMED)
    model.set_active_adapters(setup)
    model.save_adapter_setup(tmp_path, setup)
    edit(tmp_path / "adapter_setup.json", lambda d: d["adapter_setup"]["children"][1].pop("kwargs"))
    other = adapter_model()
    assert other.load_adapter_setup(tmp_path, set_active=True) == (setup, None)
    assert torch.equal(run(other), run(model))
    (tmp_path / "mix2").mkdir()
    for path in (tmp_path / "mix").iterdir():
        (tmp_path / "mix2" / path.name).write_bytes(path.read_bytes())
    with pytest.raises(AdapterFileError, match="does not say which of its fusions of a,b it means: mix, mix2"):
        adapter_model().load_adapter_setup(tmp_path)


BROKEN_SETUPS: dict[str, tuple[Callable[[Path], Any], type[AdapterError], str]] = {
    "an adapter is missing": (
        lambda root: (root / "b" / "adapter.safetensors").unlink(),
        AdapterFileError,
        "no weights",
    ),
    "the fusion is missing": (
        lambda root: (root / "mix" / "adapter_fusion_config.json").unlink(),
        AdapterFileError,
        "no saved fusion",
    ),
    "the head is missing": (
        lambda root: (root / "h" / "head_config.json").unlink(),
        AdapterFileError,
        "no saved head",
    ),
    "the fusion mixes others": (
        lambda root: edit(root / "mix" / "adapter_fusion_config.json", lambda d: d.update(adapter_names=["b", "c"])),
        AdapterFileError,
        "holds a fusion of b, c",
    ),
    "a path leads out": (
        lambda root: edit(
            root / "adapter_setup.json", lambda d: d["adapter_setup"]["children"].append(single("../a"))
        ),
        InvalidNameError,
        "contains",
    ),
    "a head leads out": (
        lambda root: edit(root / "adapter_setup.json", lambda d: d.update(head_setup=["../h"])),
        InvalidNameError,
        "contains",
    ),
    "the heads are a number": (
        lambda root: edit(root / "adapter_setup.json", lambda d: d.update(head_setup=3)),
        AdapterFileError,
        "is no name, list of names or block",
    ),
}


@pytest.mark.parametrize("case", BROKEN_SETUPS)
def test_a_broken_setup_is_refused_and_nothing_of_it_is_loaded(tmp_path: Path, case: str) -> None:
    spoil, error, message = BROKEN_SETUPS[case]
    model = with_fusion()
    model.add_tagging_head("h")
    model.save_adapter_setup(tmp_path, Stack("c", NAMED), head_setup="h")
    spoil(tmp_path)
    other = with_adapters("other")
    other.set_active_adapters("other")
    unchanged = Unchanged(other)
    with pytest.raises(error, match=message):
        other.load_adapter_setup(tmp_path, set_active=True)
    unchanged.check()


def test_a_setup_that_cannot_be_run_is_not_loaded(tmp_path: Path) -> None:
    with_adapters("a", "b", config="prefix_tuning").save_adapter_setup(tmp_path, Split("a", "b", splits=3))
    model = adapter_model()
    unchanged = Unchanged(model)
    with pytest.raises(UnsupportedMethodError):
        model.load_adapter_setup(tmp_path, set_active=True)
    unchanged.check()


def test_a_setup_with_a_part_that_there_is_not_writes_nothing(tmp_path: Path) -> None:
    model = with_adapters("a", "b")
    with pytest.raises(UnknownAdapterError):
        model.save_adapter_setup(tmp_path / "x", Stack("a", "nix"))
    with pytest.raises(UnknownAdapterError, match="no fusion"):
        model.save_adapter_setup(tmp_path / "x", Fuse("a", "b"))
    with pytest.raises(UnknownHeadError):
        model.save_adapter_setup(tmp_path / "x", Stack("a"), head_setup="nix")
    with pytest.raises(InvalidCompositionError):
        model.save_adapter_setup(tmp_path / "x", None)
    assert not (tmp_path / "x").exists()


class Notes:
    """A reader and writer of a further file, as `custom_weights_loaders` takes them."""

    def __init__(self) -> None:
        self.read: list[str] = []

    def save(self, save_directory: str, name: str) -> None:
        (Path(save_directory) / "notes.txt").write_text(name)

    def load(self, save_directory: str, load_as: str | None = None) -> None:
        self.read.append((Path(save_directory) / "notes.txt").read_text())


def test_further_readers_and_writers_get_the_folder(tmp_path: Path) -> None:
    model, notes = with_fusion(), Notes()
    model.save_adapter(tmp_path / "adapter", "a", custom_weights_loaders=[notes])
    model.save_adapter_fusion(tmp_path / "fusion", NAMED, custom_weights_loaders=[notes])
    model.save_adapter_setup(tmp_path / "setup", Stack("a", "c"), custom_weights_loaders=[notes])
    other = with_adapters("b")
    other.load_adapter(tmp_path / "adapter", custom_weights_loaders=[notes])
    other.load_adapter_fusion(tmp_path / "fusion", custom_weights_loaders=[notes])
    other.load_adapter_setup(tmp_path / "setup", custom_weights_loaders=[notes])
    assert notes.read == ["a", "mix", "c"]


def test_a_reader_that_fails_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    with_adapters("a").save_adapter(tmp_path, "a")
    model = adapter_model()
    unchanged = Unchanged(model)
    with pytest.raises(FileNotFoundError):
        model.load_adapter(tmp_path, set_active=True, custom_weights_loaders=[Notes()])
    unchanged.check()


# Whole models


def test_a_whole_model_comes_back_with_its_fusions(tmp_path: Path) -> None:
    model = with_fusion(config="dynamic")
    model.add_adapter_fusion(
        Fuse("b", "c"), {**model.adapters_config.get_fusion("mix").config, "query_before_ln": True}
    )
    shake(model, lambda key: ".adapter_fusion_layer." in key)
    model.save_pretrained(tmp_path)
    stored = json.loads((tmp_path / "config.json").read_text())["adapters"]
    assert stored["fusion_name_map"] == {"mix": ["a", "b"], "b,c": ["b", "c"]}
    assert stored["fusions"] == {"mix": "dynamic", "b,c": "fusion_config_0"}, "known configs go by name"
    assert stored["fusion_config_map"]["fusion_config_0"]["query_before_ln"] is True
    again = AutoAdapterModel.from_pretrained(tmp_path)
    assert all(torch.equal(tensor, model.state_dict()[key]) for key, tensor in again.state_dict().items())
    for setup in (NAMED, Fuse("b", "c")):
        again.set_active_adapters(setup)
        model.set_active_adapters(setup)
        assert_close(run(again), run(model))


def test_a_whole_model_of_adapters_without_a_map_of_names(tmp_path: Path) -> None:
    """Its older releases know the members of a fusion by its name only, and its configs by their names."""
    model = with_fusion(Fuse("a", "b"))
    model.save_pretrained(tmp_path)
    edit(
        tmp_path / "config.json",
        lambda d: (d["adapters"].pop("fusion_name_map"), d["adapters"].pop("fusion_config_map")),
    )
    again = AutoAdapterModel.from_pretrained(tmp_path)
    assert again.adapters_config.get_fusion("a,b").adapter_names == ("a", "b")
