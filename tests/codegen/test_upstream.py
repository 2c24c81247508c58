"""A release is read from wherever it lies, and from nowhere else."""

from __future__ import annotations

import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from adapter_codegen import upstream
from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.upstream import Release, open_release

INIT = '__version__ = "9.8.7"\n'
LLAMA = "models/llama/modeling_llama.py"


def code_of(error: pytest.ExceptionInfo[CodegenError]) -> str:
    return error.value.diagnostics[0].code


def make_package(root: Path, init: str = INIT) -> Path:
    """A package that looks like transformers as far as `upstream` looks."""
    files = {"__init__.py": init, "models/auto/modeling_auto.py": "", LLAMA: "class LlamaModel: ...\n"}
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
    return root


def make_wheel(path: Path, init: str = INIT) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("transformers/__init__.py", init)
        archive.writestr("transformers/models/auto/modeling_auto.py", "")
        archive.writestr(f"transformers/{LLAMA}", "class LlamaModel: ...\n")
        archive.writestr("transformers/models/llama/modeling_tf_llama.py", "")
        archive.writestr("../outside.py", "")
    return path


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        pytest.param("no-such-thing", "U109", id="a word that is neither a path nor a version"),
        pytest.param("torch==2.0.0", "U109", id="a version of another package"),
        pytest.param("transformers==5..1", "U109", id="a version that is none"),
        pytest.param("missing.whl", "U103", id="a wheel that does not exist"),
    ],
)
def test_a_specification_that_names_no_release_is_refused(spec: str, code: str) -> None:
    with pytest.raises(CodegenError) as error:
        open_release(spec)
    assert code_of(error) == code
    assert spec in str(error.value)


def test_a_directory_without_the_package_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodegenError) as error:
        open_release(tmp_path)
    assert code_of(error) == "U102"


def test_a_zip_archive_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "other.whl", "w") as archive:
        archive.writestr("other/__init__.py", "")
    with pytest.raises(CodegenError) as error:
        open_release(tmp_path / "other.whl")
    assert code_of(error) == "U103"


def test_a_file_that_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.whl").write_bytes(b"PK but nothing more")
    with pytest.raises(CodegenError) as error:
        open_release(tmp_path / "broken.whl")
    assert code_of(error) == "U103"


def test_a_package_without_a_version_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CodegenError) as error:
        open_release(make_package(tmp_path, init="version = 1\n"))
    assert code_of(error) == "U104"


@pytest.mark.parametrize("path", ["../secret.py", "/etc/passwd", "models/../../x.py", "models\\x.py", ""])
@pytest.mark.parametrize("kind", ["directory", "wheel"])
def test_no_path_leads_out_of_the_package(tmp_path: Path, kind: str, path: str) -> None:
    (tmp_path / "secret.py").write_text("secret")
    place = make_package(tmp_path / "transformers") if kind == "directory" else make_wheel(tmp_path / "t.whl")
    release = open_release(place)
    for ask in (release.read, release.read_bytes, release.exists):
        with pytest.raises(CodegenError) as error:
            ask(path)
        assert code_of(error) == "U108"


def test_a_missing_file_is_named_with_the_release(tmp_path: Path) -> None:
    release = open_release(make_package(tmp_path))
    assert not release.exists("models/bert/modeling_bert.py")
    with pytest.raises(CodegenError, match=r"transformers 9\.8\.7 .*models/bert/modeling_bert\.py") as error:
        release.read("models/bert/modeling_bert.py")
    assert code_of(error) == "U107"


@pytest.mark.parametrize("below", ["", "transformers", "src/transformers"])
def test_a_directory_is_the_package_or_holds_it(tmp_path: Path, below: str) -> None:
    make_package(tmp_path / below)
    release = open_release(tmp_path)
    assert release.version == "9.8.7"
    assert release.read(LLAMA).startswith("class LlamaModel")


def test_a_wheel_is_read_in_place(tmp_path: Path) -> None:
    release = open_release(make_wheel(tmp_path / "transformers-9.8.7-py3-none-any.whl"))
    assert release.version == "9.8.7"
    assert release.modeling_paths() == ("models/auto/modeling_auto.py", LLAMA)
    assert release.exists(LLAMA)
    assert [path.name for path in tmp_path.iterdir()] == ["transformers-9.8.7-py3-none-any.whl"]


def test_the_installed_package_is_found_without_importing_it() -> None:
    program = (
        "import sys; from adapter_codegen.upstream import open_release; release = open_release();"
        "assert release.read('models/llama/modeling_llama.py'); assert 'transformers' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_the_installed_release_lists_its_modeling_files_in_order(release: Release) -> None:
    paths = release.modeling_paths()
    assert LLAMA in paths
    assert list(paths) == sorted(paths)
    assert len(paths) > 400


def test_no_installation_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CodegenError) as error:
        open_release()
    assert code_of(error) == "U101"
    assert "--from" in error.value.diagnostics[0].remedy


def test_a_release_and_its_errors_travel_between_processes(tmp_path: Path) -> None:
    release = open_release(make_wheel(tmp_path / "t.whl"))
    release.read(LLAMA)  # the archive is open now
    assert pickle.loads(pickle.dumps(release)).read(LLAMA) == release.read(LLAMA)
    with pytest.raises(CodegenError) as error:
        release.read("missing.py")
    assert pickle.loads(pickle.dumps(error.value)).diagnostics == error.value.diagnostics


class FakePip:
    """Stands for ``pip download``: writes a wheel where it is told to, or fails with a message."""

    def __init__(self, error: str = "") -> None:
        self.error = error
        self.calls: list[list[str]] = []

    def __call__(self, command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        self.calls.append(command)
        if self.error:
            return subprocess.CompletedProcess(command, 1, "", self.error)
        folder = Path(command[command.index("--dest") + 1])
        make_wheel(folder / "transformers-9.8.7-py3-none-any.whl")
        return subprocess.CompletedProcess(command, 0, "", "")


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakePip:
    fake = FakePip()
    monkeypatch.setattr("subprocess.run", fake)
    monkeypatch.setattr(upstream, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    return fake


@pytest.mark.parametrize("spec", ["transformers==9.8.7", "9.8.7"])
def test_a_version_is_fetched_once(pip: FakePip, spec: str, tmp_path: Path) -> None:
    assert open_release(spec).version == "9.8.7"
    assert open_release(spec).version == "9.8.7"
    assert len(pip.calls) == 1
    assert "--no-deps" in pip.calls[0]
    assert [path.name for path in (tmp_path / "cache/wheels").iterdir()] == ["transformers-9.8.7-py3-none-any.whl"]


@pytest.mark.parametrize(
    ("message", "code"),
    [
        pytest.param(
            "ERROR: Could not find a version (from versions: 5.22.0, 5.23.0)\n"
            "ERROR: No matching distribution found for transformers==9.8.7",
            "U106",
            id="the index has other versions only",
        ),
        pytest.param(
            "ERROR: Could not find a version that satisfies the requirement (from versions: none)\n"
            "ERROR: No matching distribution found for transformers==9.8.7",
            "U105",
            id="no index could be reached",
        ),
        pytest.param("ERROR: disk full", "U105", id="anything else that pip says"),
    ],
)
def test_a_failed_download_says_why_and_leaves_nothing(pip: FakePip, tmp_path: Path, message: str, code: str) -> None:
    pip.error = message
    with pytest.raises(CodegenError) as error:
        open_release("9.8.7")
    assert code_of(error) == code
    assert list((tmp_path / "cache/wheels").iterdir()) == []


def test_a_version_may_be_written_in_more_than_one_way() -> None:
    assert upstream._requested_version("transformers == 5.23") == Version("5.23.0")
