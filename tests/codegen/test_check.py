"""What a check tells apart. One model is generated once; each test breaks its own copy of the tree."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.emit.layout import PACKAGE, Target, find_target
from adapter_codegen.emit.manifest import MANIFEST_PATH, dump, load
from adapter_codegen.generate import add_models, generate, remove_models
from adapter_codegen.inspect.check import Change, CheckReport, Kind, check
from adapter_codegen.upstream import Release, open_release

MODELING = "generated/adapter_models/llama/modeling_llama.py"


@pytest.fixture(scope="module")
def release() -> Release:
    return open_release()


@pytest.fixture(scope="module")
def generated_once(release: Release, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("tree")
    add_models(release, ["llama"], Target(root)).write(Target(root))
    return root


@pytest.fixture
def target(generated_once: Path, tmp_path: Path) -> Target:
    shutil.copytree(generated_once, tmp_path / "tree")
    return Target(tmp_path / "tree")


def found(report: CheckReport) -> list[tuple[Kind, str]]:
    return [(finding.kind, finding.path) for finding in report.findings]


def test_a_tree_in_step_is_told_by_digests_alone(target: Target, release: Release) -> None:
    report = check(target, release)
    assert report.in_step
    assert report.by_digests
    assert report.command == ""


def test_an_empty_tree_is_in_step(tmp_path: Path, release: Release) -> None:
    assert check(Target(tmp_path), release).in_step


def test_a_file_of_the_user_s_own_beside_generated_tests_is_no_orphan(target: Target, release: Release) -> None:
    (target.root / "tests/generated/conftest.py").write_text("# mine\n")
    assert check(target, release).in_step


def test_a_hand_edit_is_told_from_a_stale_file(target: Target, release: Release) -> None:
    file = target.root / MODELING
    file.write_text(file.read_text().replace("residual, None", "hidden_states, None", 1))
    report = check(target, release)
    assert found(report) == [(Kind.HAND_EDITED, MODELING)]
    assert "+        hidden_states = self.attention_adapters(hidden_states, residual, None)" in report.findings[0].diff
    assert report.command == "adapter-codegen add-model --existing --overwrite"


def test_a_lost_file_is_missing(target: Target, release: Release) -> None:
    (target.root / MODELING).unlink()
    report = check(target, release)
    assert found(report) == [(Kind.MISSING, MODELING)]
    assert report.command == "adapter-codegen add-model --existing"


def test_a_file_that_no_model_accounts_for_is_an_orphan(target: Target, release: Release) -> None:
    (target.root / "generated/adapter_models/old.py").write_text("")
    assert found(check(target, release)) == [(Kind.ORPHAN, "generated/adapter_models/old.py")]


def test_a_changed_input_makes_what_depends_on_it_stale(target: Target, release: Release) -> None:
    manifest = load(target.root)
    older = replace(manifest, generator="0" * 64)
    (target.root / MANIFEST_PATH).write_text(dump(older))
    assert found(check(target, release)) == [(Kind.STALE, MANIFEST_PATH)]


@pytest.mark.parametrize(
    ("there", "instead", "change"),
    [
        pytest.param("# Self Attention", "# Attention to itself", Change.COSMETIC, id="a comment"),
        pytest.param("residual = hidden_states", "residual = hidden_states * 2", Change.SEMANTIC, id="code"),
    ],
)
def test_cosmetic_drift_is_told_from_semantic_drift(
    target: Target, release: Release, tmp_path: Path, there: str, instead: str, change: Change
) -> None:
    newer = changed_release(release, tmp_path / "transformers", there, instead)
    report = check(target, newer)
    assert [(drift.model_type, drift.change) for drift in report.drifts] == [("llama", change)]
    assert (Kind.STALE, MODELING) in found(report)
    assert Kind.HAND_EDITED not in {finding.kind for finding in report.findings}


def test_a_release_that_changes_no_meaning_touches_the_manifest_alone(
    target: Target, release: Release, tmp_path: Path
) -> None:
    folder = tmp_path / "transformers"
    changed_release(release, folder, "# Initialize weights and apply final processing", "# The last step")
    init = (folder / "__init__.py").read_text()
    (folder / "__init__.py").write_text(init.replace(f'"{release.version}"', '"99.0.0"'))
    newer = open_release(folder)
    report = check(target, newer)
    assert newer.version == "99.0.0"
    assert [(drift.model_type, drift.change) for drift in report.drifts] == [("llama", Change.COSMETIC)]
    assert found(report) == [(Kind.STALE, MANIFEST_PATH)]


def changed_release(release: Release, folder: Path, there: str, instead: str) -> Release:
    """The part of a release that llama needs, with its modeling file changed."""
    for path in (
        "__init__.py",
        "modeling_layers.py",
        *(f"models/auto/{name}" for name in AUTO),
        *(f"models/llama/{name}" for name in LLAMA),
    ):
        text = release.read(path)
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text.replace(there, instead) if path.endswith("modeling_llama.py") else text)
    return open_release(folder)


AUTO = ("auto_mappings.py", "configuration_auto.py", "modeling_auto.py")
LLAMA = ("modeling_llama.py", "configuration_llama.py")


def test_removing_a_model_removes_its_files_and_its_lines(target: Target, release: Release) -> None:
    remove_models(["llama"], target).write(target)
    assert not (target.root / MODELING).exists()
    assert "llama" not in (target.root / "generated/adapter_models/registry.py").read_text()
    assert check(target, release).in_step


def test_removing_a_model_that_is_not_there_names_those_that_are(target: Target) -> None:
    with pytest.raises(CodegenError) as caught:
        remove_models(["bert"], target)
    assert caught.value.diagnostics[0].remedy == "Models that `adapter-codegen remove-model` can remove: llama."


def test_regenerating_into_an_empty_folder_gives_the_same_bytes(target: Target, release: Release) -> None:
    for path, text in generate(release, ["llama"]).files.items():
        assert (target.root / path).read_text() == text, path


def test_without_a_checkout_only_the_package_is_written(release: Release, tmp_path: Path) -> None:
    output = find_target(output=tmp_path / "mine")
    assert output.layout == PACKAGE
    add_models(release, ["llama"], output).write(output)
    assert {path.name for path in output.root.iterdir()} >= {"llama", "registry.py", "manifest.json"}
    assert not (output.root / "docs").exists()
    assert check(output, release).by_digests


@pytest.mark.parametrize("content", ["{", '{"schema": 99}', '{"schema": 1, "models": []}', "[]"])
def test_a_manifest_that_cannot_be_read_is_an_error_that_names_it(
    tmp_path: Path, release: Release, content: str
) -> None:
    (tmp_path / MANIFEST_PATH).parent.mkdir(parents=True)
    (tmp_path / MANIFEST_PATH).write_text(content)
    with pytest.raises(CodegenError) as caught:
        check(Target(tmp_path), release)
    assert caught.value.diagnostics[0].code == "M101"


def test_a_path_in_the_manifest_that_leads_out_of_the_tree_is_an_error(target: Target, release: Release) -> None:
    content = json.loads((target.root / MANIFEST_PATH).read_text())
    content["shared"]["../../outside.py"] = "0" * 64
    (target.root / MANIFEST_PATH).write_text(json.dumps(content))
    with pytest.raises(CodegenError):
        remove_models(["llama"], target).write(target)


def test_the_quick_way_imports_no_parser_no_formatter_and_no_renderer(target: Target) -> None:
    program = (
        "import sys; from pathlib import Path; from adapter_codegen.inspect.check import check;"
        "from adapter_codegen.emit.layout import Target; from adapter_codegen.upstream import open_release;"
        f"assert check(Target(Path({str(target.root)!r})), open_release()).by_digests;"
        "print([name for name in ('libcst', 'black', 'jinja2', 'torch', 'transformers') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
