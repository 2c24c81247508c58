"""Any error leaves a model and its config as they were: each method is made to fail at many places deep inside."""

from __future__ import annotations

import copy
import inspect
import sys
from collections import OrderedDict
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn
from transformers import BertForMaskedLM, PreTrainedModel

import adapter_runtime
from adapter_models import AutoAdapterModel, init
from adapter_runtime.composition import Fuse, Parallel, Stack
from adapter_runtime.contract import snapshot
from adapter_runtime.errors import AdapterMismatchError, InvalidConfigError
from conformance.tiny import randomise, tiny_config

RUNTIME = str(Path(adapter_runtime.__file__).parent)
SNAPSHOT = snapshot.__file__  # what restores must not fail itself
PLACES = 10  # at most so many places are tried per method, spread over all of its calls
CONTAINERS = (dict, OrderedDict, list, set)


class InjectedError(Exception):
    """Stands for whatever may go wrong."""


class Calls:
    """Counts the calls of functions of the runtime in this thread, and lets the one of index `failing` fail."""

    def __init__(self, failing: int = -1) -> None:
        self.failing, self.count = failing, 0

    def __call__(self, frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        is_generator = code.co_flags & inspect.CO_GENERATOR  # called when it is closed, too
        if event != "call" or is_generator or not code.co_filename.startswith(RUNTIME) or code.co_filename == SNAPSHOT:
            return
        self.count += 1
        if self.count - 1 == self.failing:
            raise InjectedError(f"in {code.co_name} of {code.co_filename}")


@contextmanager
def watched(calls: Calls) -> Any:
    """Let `calls` see what happens inside."""
    sys.setprofile(calls)
    try:
        yield
    finally:
        sys.setprofile(None)


class Words:
    """A tokenizer as far as embeddings need one."""

    pad_token_id = 0

    def __len__(self) -> int:
        return 50

    def get_vocab(self) -> dict[str, int]:
        return {f"word{index}": index for index in range(50)}


def flexible() -> PreTrainedModel:
    """A model with two adapters, a fusion, a merged LoRA, two heads and a second vocabulary."""
    torch.manual_seed(0)
    model = AutoAdapterModel.from_config(tiny_config("bert"))
    randomise(model)
    furnish(model)
    model.add_classification_head("h", num_labels=3, id2label={0: "x", 1: "y", 2: "z"})
    model.add_masked_lm_head("lm", set_active=False)
    return model


def furnish(model: PreTrainedModel) -> None:
    """Give a model adapters of many kinds; `merged` is in the weights, and `b` runs besides."""
    for name, config in CONFIGS.items():
        model.add_adapter(name, config)
        for _, parameter in model.adapter_parameters(name):
            nn.init.normal_(parameter, std=0.1)
    model.add_adapter_fusion(["a", "b"])
    model.train_adapter("b")
    model.eval()
    model.add_embeddings("other", Words())
    model.set_active_embeddings("default")
    model.merge_adapter("merged")


CONFIGS = {
    "a": "seq_bn",
    "b": "double_seq_bn",
    "inv": "seq_bn_inv",
    "merged": "lora",
    "free": "lora",
    "prefix": "prefix_tuning",
    "task1": "mtl_lora",
    "task2": "mtl_lora",
    "reft": "loreft",
    "prompt": "prompt_tuning",
}


def static() -> PreTrainedModel:
    """The same in a class of upstream's with a tied head."""
    torch.manual_seed(0)
    model = BertForMaskedLM(tiny_config("bert"))
    randomise(model)
    init(model)
    furnish(model)
    return model


MODELS: dict[str, Callable[[], PreTrainedModel]] = {"flexible": flexible, "static": static}


# Each takes a model and the folder that `files` was written to.
METHODS: dict[str, Callable[[PreTrainedModel, Path], object]] = {
    "add bottleneck": lambda model, files: model.add_adapter("new", "double_seq_bn_inv", set_active=True),
    "add union": lambda model, files: model.add_adapter("new", "unipelt"),
    "add compacter": lambda model, files: model.add_adapter("new", "compacter[reduction_factor=8]"),
    "add vera": lambda model, files: model.add_adapter("new", "vera"),
    "add prompt": lambda model, files: model.add_adapter("new", "prompt_tuning", set_active=True),
    "add reft": lambda model, files: model.add_adapter("new", "direft"),
    "add over merged": lambda model, files: model.add_adapter("merged", "ia3", overwrite_ok=True),
    "add fusion": lambda model, files: model.add_adapter_fusion(["a", "b"], name="g", set_active=True),
    "add fusion over another": lambda model, files: model.add_adapter_fusion(["a", "b"], "static", overwrite_ok=True),
    "activate": lambda model, files: model.set_active_adapters(Stack("a", "inv"), skip_layers=[1]),
    "activate copies": lambda model, files: model.set_active_adapters(Parallel("a", "free")),
    "train": lambda model, files: model.train_adapter(Stack("a", "b"), train_embeddings=True),
    "train fusion": lambda model, files: model.train_adapter_fusion(Fuse("a", "b"), unfreeze_adapters=True),
    "load adapter": lambda model, files: model.load_adapter(files / "a", load_as="new", set_active=True),
    "load over adapter": lambda model, files: model.load_adapter(files / "a", set_active=True),
    "load fusion": lambda model, files: model.load_adapter_fusion(files / "f", load_as="f2", set_active=True),
    "load setup": lambda model, files: model.load_adapter_setup(files / "setup", set_active=True),
    "average": lambda model, files: model.average_adapter("new", ["merged", "free"], [0.3, 0.7], set_active=True),
    "average over merged": lambda model, files: model.average_adapter("merged", ["merged", "free"], overwrite_ok=True),
    "merge again": lambda model, files: model.merge_adapter("merged"),
    "unmerge": lambda model, files: model.set_active_adapters("b"),
    "eject": lambda model, files: model.eject_prefix_tuning("prefix"),
    "share": lambda model, files: model.share_parameters(["task1", "task2"]),
    "add embeddings": lambda model, files: model.add_embeddings("third", Words(), "other", Words()),
    "load embeddings": lambda model, files: model.load_embeddings(files / "words", "third"),
    "switch embeddings": lambda model, files: model.set_active_embeddings("other"),
    "delete embeddings": lambda model, files: model.delete_embeddings("other"),
    "delete": lambda model, files: model.delete_adapter("inv"),
    "delete merged": lambda model, files: model.delete_adapter("merged"),
    "delete reft": lambda model, files: model.delete_adapter("reft"),
    "delete prompt": lambda model, files: model.delete_adapter("prompt"),
    "delete fusion": lambda model, files: model.delete_adapter_fusion("a,b"),
}
OF_STATIC = ("add bottleneck", "train", "load adapter", "merge again", "add embeddings", "delete merged")
OF_HEADS: dict[str, Callable[[PreTrainedModel, Path], object]] = {
    "load head": lambda model, files: model.load_head(files / "h", load_as="new"),
    "load over head": lambda model, files: model.load_head(files / "lm", load_as="lm"),
    "add head": lambda model, files: model.add_qa_head("new"),
    "add tied head": lambda model, files: model.add_masked_lm_head("new"),
    "add head over another": lambda model, files: model.add_tagging_head("h", overwrite_ok=True),
    "average head": lambda model, files: model.average_head("new", ["h"], set_active=True),
    "delete head": lambda model, files: model.delete_head("h"),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What can be loaded, with values that differ from those of the models here."""
    folder = tmp_path_factory.mktemp("files")
    model = flexible()
    for _, parameter in model.named_parameters():
        with torch.no_grad():
            parameter.add_(0.5)
    model.add_classification_head("s", num_labels=2)
    model.save_adapter(folder / "a", "a", with_head=False)
    model.save_adapter_fusion(folder / "f", "a,b")
    model.add_adapter("s", "seq_bn")
    model.save_adapter_setup(folder / "setup", Stack("s", Fuse("a", "b")), head_setup="s")
    model.save_head(folder / "h", "h")
    model.save_head(folder / "lm", "lm")
    model.save_embeddings(folder / "words", "other")
    return folder


def look(model: PreTrainedModel) -> dict[str, Any]:
    """Everything that a method could have changed."""
    state = model.adapters_config
    base = model.adapters_base
    modules = [*model.modules(), *base.__dict__.get("_stored_embeddings_by_name", {}).values()]
    return {
        "modules": [(id(module), type(module)) for module in modules],
        "attributes": [attributes(module) for module in modules],
        "trained": [(id(tensor), tensor.requires_grad) for part in modules for tensor in part.parameters()],
        "adapters": (attributes(state), repr(state.active_setup), state.to_dict()),
        "config": copy.deepcopy(model.config.to_dict()),
        "heads": [(id(head.config), copy.deepcopy(head.config)) for head in getattr(model, "heads", {}).values()],
        "stored heads": {name: id(config) for name, config in getattr(model.config, "prediction_heads", {}).items()},
        "merged": model.merged_adapters(),
    }


def attributes(held: object) -> dict[str, Any]:
    """The attributes of an object by identity; of containers, also what is in them."""
    return {
        name: (id(value), inside(value)) if type(value) in CONTAINERS else id(value)
        for name, value in held.__dict__.items()
        if not (
            type(value) in CONTAINERS and not value and name.startswith("_stored_embeddings")
        )  # made when looked at
    }


def inside(container: Any) -> Any:
    if isinstance(container, dict):
        return [(key, id(value)) for key, value in container.items()]
    return sorted(map(id, container)) if isinstance(container, set) else [id(value) for value in container]


def tensors(model: PreTrainedModel) -> list[torch.Tensor]:
    kept = model.adapters_base.__dict__.get("_stored_embeddings_by_name", {}).values()
    parts = [model, *kept]
    return [tensor for part in parts for tensor in (*part.parameters(), *part.buffers())]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "method"),
    [(kind, name) for kind in MODELS for name in METHODS if kind == "flexible" or name in OF_STATIC]
    + [("flexible", name) for name in OF_HEADS],
)
def test_a_method_that_fails_anywhere_changes_nothing(kind: str, method: str, files: Path) -> None:
    call = {**METHODS, **OF_HEADS}[method]
    model = MODELS[kind]()
    call(copy.deepcopy(model), files)  # imports what it needs
    calls, twin = Calls(), copy.deepcopy(model)
    with watched(calls):
        call(twin, files)  # works, where nothing fails
    assert calls.count > 10

    model.state_dict()  # writes the signs of LoReFT's diagonals as torch would, in place
    before, values = look(model), [tensor.clone() for tensor in tensors(model)]
    held = list(model.modules())  # while they are held, no other module can have their identity
    for failing in sorted({index * (calls.count - 1) // (PLACES - 1) for index in range(PLACES)}):
        with pytest.raises(Exception) as error, watched(Calls(failing)):
            call(model, files)
        where = f"{failing} of {calls.count}: {error.value!r}"
        now = look(model)
        for key, was in before.items():
            assert now[key] == was, (where, key)
        assert all(map(torch.equal, tensors(model), values)), where
    assert len(held) == len(list(model.modules()))
    call(model, files)  # and can still be done


def refuse(model: PreTrainedModel) -> None:
    """Let a method fail after it has changed a lot."""
    with pytest.raises(InvalidConfigError):
        model.add_adapter("new", "vera|loreft|seq_bn[non_linearity='wavy']")


def test_a_handle_of_a_hook_still_takes_it_away_after_an_error() -> None:
    model = flexible()
    layer = model.bert.encoder.layer[0]
    handle = layer.register_forward_hook(lambda *call: None)
    refuse(model)
    handle.remove()
    assert handle.id not in layer._forward_hooks


def test_a_head_shares_its_config_with_that_of_the_model_after_an_error() -> None:
    """Embeddings that are resized tell it to the head; what is saved with the model must not stay behind."""
    model = flexible()
    refuse(model)
    model.resize_token_embeddings(120)
    assert model.config.prediction_heads["lm"]["vocab_size"] == 120


def test_reading_an_adapter_in_vain_leaves_another_one_merged(tmp_path: Path) -> None:
    model = flexible()
    model.save_adapter(tmp_path, "a", with_head=False)
    merged = [tensor.clone() for tensor in tensors(model)]
    with pytest.raises(AdapterMismatchError):
        model.load_adapter(tmp_path, load_as="b", set_active=True)
    assert model.merged_adapters() == {"merged"}
    assert all(map(torch.equal, tensors(model), merged))


def test_an_adapter_that_is_added_and_activated_takes_a_merged_one_out_of_the_weights() -> None:
    """As `set_active_adapters` does; the head of its name follows, too."""
    model = flexible()
    model.add_classification_head("new", set_active=False)
    model.add_adapter("new", "seq_bn", set_active=True)
    assert model.merged_adapters() == set()
    assert model.active_head == "new"
