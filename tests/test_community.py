"""The files that a host of repositories and a newcomer look for say what is so."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found, unused-ignore]

ROOT = Path(__file__).resolve().parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


def hooks() -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Repository, revision and hooks, as .pre-commit-config.yaml has them."""
    document = yaml.safe_load(read(".pre-commit-config.yaml"))
    return [(repository["repo"], repository.get("rev", ""), repository["hooks"]) for repository in document["repos"]]


def test_hooks_run_the_versions_that_are_pinned() -> None:
    pins = dict(re.findall(r"^([\w-]+)==([\w.]+)", read("constraints.txt"), re.MULTILINE))
    revisions = {repository.rpartition("/")[2]: revision for repository, revision, _ in hooks() if revision}
    assert revisions == {"ruff-pre-commit": f"v{pins['ruff']}", "black-pre-commit-mirror": pins["black"]}


def test_local_hooks_name_commands_and_files_that_exist() -> None:
    for repository, _, found in hooks():
        for hook in found if repository == "local" else []:
            program, *arguments = hook["entry"].split()
            assert program == "adapter-codegen" or (program == "python" and (ROOT / arguments[0]).is_file()), hook
            assert any(re.search(hook["files"], path) for path in ("codegen/adapter_codegen/cli.py", "docs/badges.py"))


@pytest.mark.parametrize("path", sorted((ROOT / ".github").rglob("*.yml")), ids=lambda path: path.name)
def test_documents_of_the_host_are_read(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text(encoding="utf-8")), dict)


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github/ISSUE_TEMPLATE").glob("[0-9]*.yml")), ids=lambda path: path.name
)
def test_an_issue_is_asked_for_what_a_reader_needs(path: Path) -> None:
    template = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert {"name", "description", "body"} <= set(template)
    assert any(field.get("validations", {}).get("required") for field in template["body"])


def test_the_citation_is_of_this_release() -> None:
    citation = yaml.safe_load(read("CITATION.cff"))
    (release,) = re.findall(r'^__version__ = "([^"]+)"', read("codegen/adapter_runtime/__init__.py"), re.MULTILINE)
    assert (citation["title"], citation["version"]) == (PROJECT["project"]["name"], release)
    assert citation["license"] == "Apache-2.0"


def test_generated_files_are_marked() -> None:
    marked = {line.split()[0] for line in read(".gitattributes").splitlines() if line.endswith(" linguist-generated")}
    assert {"generated/**", "tests/generated/**", "docs/classes/models/**", "NOTICE"} <= marked
    for pattern in marked:
        assert any(ROOT.glob(pattern)), f"nothing is like {pattern}"


def test_the_source_archive_holds_what_tests_and_contributors_need() -> None:
    included = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    assert not [path for path in included if not (ROOT / path.strip("/")).exists()]
    for name in ("CONTRIBUTING.md", "SECURITY.md", "CITATION.cff", ".pre-commit-config.yaml", ".github"):
        assert f"/{name}" in included
