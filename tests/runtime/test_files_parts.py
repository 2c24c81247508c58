"""Names, JSON, tensors and sources of files, without a model."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch
from huggingface_hub.errors import RepositoryNotFoundError

from adapter_runtime.contract.names import InvalidNameError, check_name
from adapter_runtime.errors import AdapterFileError
from adapter_runtime.files.documents import read_document, write_atomically, write_document
from adapter_runtime.files.loading.commit import Transaction, copy_tensors
from adapter_runtime.files.loading.fit import compare
from adapter_runtime.files.names import ADAPTER_FILES
from adapter_runtime.files.source import local_folder
from adapter_runtime.files.tensors import read_tensors, write_tensors

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3), "a.bias": torch.tensor([1, 2])}


@pytest.mark.parametrize("name", ["a", "sst-2", "my adapter", "Ä", "a,b", "adapters", "0"])
def test_names_that_can_be_folders_and_modules_are_allowed(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        pytest.param("", "non-empty string", id="nothing"),
        pytest.param(None, "non-empty string", id="no string"),
        pytest.param("../../evil", "contains '.' '/'", id="a way out of the folder"),
        pytest.param("a.b", "contains '.'", id="a dot, which torch refuses"),
        pytest.param("a\\b", "contains", id="a separator of another system"),
        pytest.param("a\0b", "contains", id="a zero byte"),
        pytest.param("a\nb", "contains", id="a line break"),
        pytest.param("keys", "attribute of torch's modules", id="an attribute of the container of modules"),
    ],
)
def test_other_names_are_refused(name: Any, message: str) -> None:
    with pytest.raises(InvalidNameError, match=message):
        check_name(name)


@pytest.mark.parametrize("use_safetensors", [True, False])
def test_tensors_come_back_bitwise(tmp_path: Path, use_safetensors: bool) -> None:
    write_tensors(tmp_path, ADAPTER_FILES, TENSORS, use_safetensors)
    read = read_tensors(tmp_path, ADAPTER_FILES)
    assert read.keys() == TENSORS.keys()
    assert all(
        torch.equal(read[name], tensor) and read[name].dtype == tensor.dtype for name, tensor in TENSORS.items()
    )


def test_writing_one_format_removes_the_other(tmp_path: Path) -> None:
    write_tensors(tmp_path, ADAPTER_FILES, TENSORS, use_safetensors=True)
    write_tensors(tmp_path, ADAPTER_FILES, {"b": torch.ones(1)}, use_safetensors=False)
    assert [path.name for path in tmp_path.iterdir()] == ["pytorch_adapter.bin"]
    assert read_tensors(tmp_path, ADAPTER_FILES).keys() == {"b"}


def test_a_view_is_written_without_the_rest_of_its_storage(tmp_path: Path) -> None:
    write_tensors(tmp_path, ADAPTER_FILES, {"a": torch.zeros(100_000)[:2]}, use_safetensors=False)
    assert (tmp_path / "pytorch_adapter.bin").stat().st_size < 10_000


def test_missing_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(AdapterFileError, match=r"looked for adapter\.safetensors and pytorch_adapter\.bin"):
        read_tensors(tmp_path, ADAPTER_FILES)
    write_tensors(tmp_path, ADAPTER_FILES, TENSORS, use_safetensors=True)
    with pytest.raises(AdapterFileError, match=r"looked for pytorch_adapter\.bin"):
        read_tensors(tmp_path, ADAPTER_FILES, use_safetensors=False)


@pytest.mark.parametrize("use_safetensors", [True, False])
@pytest.mark.parametrize("kept", [0, 5, 60, 200])
def test_a_truncated_file_is_called_damaged(tmp_path: Path, use_safetensors: bool, kept: int) -> None:
    write_tensors(tmp_path, ADAPTER_FILES, TENSORS, use_safetensors)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[: min(kept, path.stat().st_size - 1)])
    with pytest.raises(AdapterFileError, match="is damaged"):
        read_tensors(tmp_path, ADAPTER_FILES)


class Malicious:
    """Writes a file when it is unpickled."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("writer", ["torch", "pickle"])
def test_a_pickle_that_would_run_code_is_refused(tmp_path: Path, writer: str) -> None:
    target, path = tmp_path / "ran", tmp_path / "pytorch_adapter.bin"
    if writer == "torch":
        torch.save({"a": Malicious(target)}, path)
    else:
        path.write_bytes(pickle.dumps({"a": Malicious(target)}))
    with pytest.raises(AdapterFileError, match="is damaged, or holds objects other than tensors"):
        read_tensors(tmp_path, ADAPTER_FILES)
    assert not target.exists()


def test_a_file_that_holds_other_than_named_tensors_is_refused(tmp_path: Path) -> None:
    torch.save({"a": 1}, tmp_path / "pytorch_adapter.bin")
    with pytest.raises(AdapterFileError, match="does not hold named tensors only"):
        read_tensors(tmp_path, ADAPTER_FILES)


def test_a_document_is_sorted_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "down" / "a.json"
    write_document(path, {"b": 1, "a": None})
    assert path.read_text() == '{\n  "a": null,\n  "b": 1\n}\n'
    assert read_document(path) == {"a": None, "b": 1}


@pytest.mark.parametrize("text", ["", "{", "[1]", '"a"', "\x80"])
def test_a_damaged_document_is_called_so(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(AdapterFileError, match="is damaged"):
        read_document(path)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail(temporary: Path) -> None:
        temporary.write_text("half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_atomically(path, fail)
    assert [(child.name, child.read_text()) for child in tmp_path.iterdir()] == [("a", "old")]


def test_a_folder_without_an_adapter_says_what_it_holds(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    with pytest.raises(
        AdapterFileError, match=r"no saved adapter: it has no adapter_config\.json, only: config\.json"
    ):
        local_folder(tmp_path, ADAPTER_FILES)


def test_a_file_is_not_taken_for_a_folder(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").touch()
    with pytest.raises(AdapterFileError, match=r"is a file\. Give the folder"):
        local_folder(tmp_path / "adapter_config.json", ADAPTER_FILES)


def test_what_is_no_folder_is_fetched_from_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "adapter_config.json").touch()
    asked: list[Any] = []

    def snapshot_download(source: str, **options: Any) -> str:
        asked.append((source, options))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert local_folder("someone/some-adapter", ADAPTER_FILES, revision="v1") == tmp_path
    ((source, options),) = asked
    assert (source, options["revision"]) == ("someone/some-adapter", "v1")
    files = {"adapter_config.json", "adapter.safetensors", "pytorch_adapter.bin"}
    of_peft = {"adapter_model.safetensors", "adapter_model.bin"}
    of_head = {"head_config.json", "model_head.safetensors", "pytorch_model_head.bin"}
    assert set(options["allow_patterns"]) >= files | of_peft | of_head


def test_a_name_that_is_neither_folder_nor_repository_says_both(monkeypatch: pytest.MonkeyPatch) -> None:
    def snapshot_download(source: str, **options: Any) -> str:
        raise RepositoryNotFoundError.__new__(RepositoryNotFoundError)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    with pytest.raises(
        AdapterFileError, match=r"There is no folder 'a/b' \(looked for .*\), and the hub has no repository .*a/b"
    ):
        local_folder("a/b", ADAPTER_FILES)
    monkeypatch.undo()
    with pytest.raises(AdapterFileError, match="cannot be the id of a repository"):
        local_folder("./not/there/at/all", ADAPTER_FILES)


def test_a_tensor_with_two_names_needs_to_be_given_once() -> None:
    tensor = torch.zeros(2)
    expected = {"a": tensor, "alias": tensor, "b": torch.zeros(3)}
    assert not compare({"alias": torch.ones(2), "b": torch.ones(3)}, expected)
    assert compare({"b": torch.ones(3)}, expected).missing == {"a", "alias"}


def test_a_mismatch_lists_what_differs() -> None:
    text = str(compare({"a": torch.ones(2), "c": torch.ones(1)}, {"a": torch.zeros(3), "b": torch.zeros(1)}))
    assert "missing from the file (1):\n    b" in text
    assert "unknown to the model (1):\n    c" in text
    assert "of another shape (1):\n    a: [2] in the file, [3] in the model" in text


def test_copying_keeps_the_type_of_the_model() -> None:
    expected = {"a": torch.zeros(2, dtype=torch.bfloat16)}
    copy_tensors({"a": torch.tensor([1.0, 2.0])}, expected)
    assert expected["a"].tolist() == [1.0, 2.0]
    assert expected["a"].dtype is torch.bfloat16


def test_a_failed_transaction_copies_nothing() -> None:
    target = {"a": torch.zeros(1)}

    def fail() -> None:
        with Transaction() as transaction:
            transaction.copy({"a": torch.ones(1)}, target)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target["a"].item() == 0.0


def test_a_copy_that_fails_takes_back_those_before_it() -> None:
    first, second = {"a": torch.zeros(1)}, {"b": torch.zeros(1)}

    def fail() -> None:
        with Transaction() as transaction:
            transaction.copy({"a": torch.ones(1)}, first)
            transaction.copy({"b": torch.ones(2)}, second)  # does not fit; shapes are compared before

    with pytest.raises(RuntimeError):
        fail()
    assert first["a"].item() == second["b"].item() == 0.0


def test_a_transaction_that_succeeds_copies_in_the_end() -> None:
    target = {"a": torch.zeros(1)}
    with Transaction() as transaction:
        transaction.copy({"a": torch.ones(1)}, target)
        assert target["a"].item() == 0.0, "tensors are copied at the end"
    assert target["a"].item() == 1.0
