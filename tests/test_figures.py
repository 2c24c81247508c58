"""Every figure that README.md and the guides state is one that a script gave, and every "all" and "never" of README.md has a test.

`docs/figures.json` holds what takes long or stands elsewhere (`python benchmarks/figures.py sizes models --write`). Here the pages are
compared with it, and it is compared with all that can be computed in seconds. A new number in the prose of a page needs an entry in
`claims`, or a pattern of `NO_FIGURES` if it is none; a new universal statement in README.md needs an entry in `UNIVERSAL`.
"""

from __future__ import annotations

import importlib.util
import json
import re
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import adapter_models
from adapter_models import AdapterCompositionBlock, ParBnConfig

ROOT = Path(__file__).resolve().parent.parent
FIGURES: dict[str, Any] = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))
MANIFEST: dict[str, Any] = json.loads((ROOT / "generated/adapter_models/manifest.json").read_text(encoding="utf-8"))
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

README = "README.md"
# Of tables that a command writes, other tests hold that they are what it writes.
WRITTEN = ("benchmarks", "conformance")
PAGES = [README, *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md") if page.stem not in WRITTEN)]


def script(path: str) -> ModuleType:
    """A script of the checkout as a module."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def prose(page: str) -> str:
    """The sentences and tables of a page, without code, targets of links and comments; blanks are single."""
    text = (ROOT / page).read_text(encoding="utf-8")
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r"^\[[^\]]+\]: .*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"`[^`]*`", "`", text)
    text = re.sub(r"\](\([^)]*\)|\[[^\]]*\])", "]", text)
    return re.sub(r"\s+", " ", text)


def megabytes(size: int) -> str:
    return f"{size / 1e6:.2f} MB"


def seconds_of(command: str) -> float:
    """What the page of benchmarks says that a command of the tool takes."""
    page = (ROOT / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    found = re.search(rf"^\| `adapter-codegen {command}` \| ([\d.]+) s ", page, re.MULTILINE)
    assert found, f"docs/benchmarks.md has no row for {command}"
    return float(found[1])


def claims(page: str) -> list[str]:
    """What a page says with a figure in it, made from where the figure comes from."""
    models, sizes, figures = FIGURES["models"], FIGURES["sizes"], script("benchmarks/figures.py")
    adapters, peft = FIGURES["elsewhere"]["adapters"], FIGURES["elsewhere"]["peft"]
    minor = models["transformers"].rpartition(".")[0]
    minor_of_adapters = adapters["transformers"].strip("~=").rpartition(".")[0]
    known = AdapterCompositionBlock.__subclasses__()  # those of tests that ran before, too
    blocks = sum(block.__module__.startswith("adapter_runtime.") for block in known)
    (oldest_python,) = re.findall(r'requires-python = ">=([0-9.]+)"', PROJECT)
    fixes = " and ".join(f"{name} (in {release})" for name, release in adapters["security_fixes_in"].items())
    files = {config: megabytes(size) for config, size in sizes["files"].items()}
    said = {
        README: [
            f"[`] {adapters['release']} | [PEFT] {peft['release']} |",
            f"| transformers | {minor}, one release line | {minor_of_adapters}, [none of 5.x] |",
            f"{figures.row_of_models(models)} {adapters['model_types']} by hand, or an interface |",
            f"| {peft['methods']}; no bottlenecks, no ReFT |",
            f"| {blocks} blocks, nested | {adapters['blocks']} blocks, nested |",
            f"stays on {minor_of_adapters}, without the fixes of {fixes}.",
            figures.support(models),
            f"{blocks} blocks that",
            f"with Python {oldest_python} or later",
        ],
        "docs/quickstart.md": [
            f"whose own weights take {megabytes(sizes['weights'])}, the file of weights has {files['seq_bn']} with `, "
            f"{files['double_seq_bn']} with `, {files['lora']} with ` and {files['ia3']} with `:",
        ],
        "docs/methods.md": [f"scaled by {ParBnConfig().scaling:g} or by a learned factor"],
        "docs/command-line.md": [f"It takes about {spelled(seconds_of('coverage') / 60)} minutes on two cores"],
    }
    return said.get(page, [])


def spelled(count: float) -> str:
    return ["no", "one", "two", "three", "four", "five"][round(count)]


# Numbers in prose that measure nothing: years of papers, releases that a sentence is about, codes, items of a list, values of options.
NO_FIGURES = [
    r"\[[^\]]* \d{4}\]",  # [Hu et al. 2021]
    r"`\]? 1\.3\.0|versions before 1\.3\.0|` before 1\.1\.0",  # releases of `adapters`
    r"transformers 5\.x",
    r"\| [0-3] \| |exit code 3",  # of `adapter-codegen check`
    r"(?:Qwen|Gemma) 2 and 3",
    r"`, 0 or 1",  # labels of a multi-label head
    r" \d\. (?=[A-Z*`])",  # an item of a list
]


def unexplained(text: str, explained: list[str]) -> list[str]:
    """The numbers of a text, with the words around them, that are in no claim and match no pattern of `NO_FIGURES`."""
    for claim in explained:
        text = text.replace(claim, "")
    for pattern in NO_FIGURES:
        text = re.sub(pattern, " ", text)
    return [
        text[max(0, found.start() - 40) : found.end() + 20] for found in re.finditer(r"(?<![\w.\-])\d[\d.,]*", text)
    ]


# Pages that explain one worked example, which a test of its own runs from their very text: their numbers are those of the example.
WORKED_EXAMPLES = {"docs/a-method-of-your-own.md", "docs/a-block-of-your-own.md"}


@pytest.mark.parametrize("page", sorted({*PAGES} - WORKED_EXAMPLES))
def test_every_number_comes_from_a_script(page: str) -> None:
    text = prose(page)
    missing = [claim for claim in claims(page) if claim not in text]
    assert not missing, f"{page} does not say (any more):\n" + "\n".join(missing)
    assert not unexplained(text, claims(page)), "say in `claims` where these come from"


@pytest.mark.parametrize(
    ("text", "count"),
    [
        pytest.param("takes 40 seconds", 1, id="a bare number is noticed"),
        pytest.param("takes 3.5 MB", 1, id="a number with a point is one number"),
        pytest.param("IA3, T5 and GPT-2", 0, id="a digit in a name is none"),
        pytest.param("[Hu et al. 2021]", 0, id="the year of a paper is none"),
        pytest.param("about two cores", 0, id="the words of a claim are none"),
    ],
)
def test_numbers_are_noticed(text: str, count: int) -> None:
    assert len(unexplained(text, ["about two cores"])) == count


def test_the_figures_are_of_the_release_and_models_of_the_tree() -> None:
    assert FIGURES["models"]["transformers"] == MANIFEST["transformers"]
    assert f"transformers>={MANIFEST['transformers']}," in PROJECT
    assert FIGURES["models"] == script("benchmarks/figures.py").models(), "python benchmarks/figures.py models --write"


def test_sizes_of_files_are_those_of_their_parameters() -> None:
    with torch.device("meta"):
        model = BertModel(BertConfig())
    adapter_models.init(model)
    weights = {name: parameter.numel() for name, parameter in model.named_parameters()}
    assert FIGURES["sizes"]["weights"] == 4 * sum(weights.values())
    for config, size in FIGURES["sizes"]["files"].items():
        model.add_adapter(config, config=config)
        added = sum(p.numel() for name, p in model.named_parameters() if name not in weights and f".{config}." in name)
        header = size - 4 * added
        assert 0 < header < 0.01 * size + 20_000, config


def test_figures_of_peft_are_those_of_the_installed_one() -> None:
    peft = pytest.importorskip("peft", reason="the extra `test` brings PEFT")
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    recorded = FIGURES["elsewhere"]["peft"]
    if version("peft") != recorded["release"]:
        pytest.skip(f"PEFT {version('peft')} is installed, README.md is about {recorded['release']}")
    assert len(PEFT_TYPE_TO_CONFIG_MAPPING) == recorded["methods"]
    names = " ".join(kind.value.lower() for kind in PEFT_TYPE_TO_CONFIG_MAPPING)
    assert "reft" not in names
    assert "bottleneck" not in names
    assert peft.__version__ == recorded["release"]


def test_pictures_are_current() -> None:
    for path, picture in script("docs/picture.py").pictures().items():
        assert path.read_text(encoding="utf-8") == picture, "python docs/picture.py draws it again"
        assert f"_static/{path.name}" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "page", ["CONTRIBUTING.md", "docs/architecture.md", "docs/design/0012-rooms-of-the-runtime.md"]
)
def test_files_that_a_page_names_exist(page: str) -> None:
    roots = [ROOT, ROOT / "codegen/adapter_codegen", ROOT / "codegen/adapter_runtime"]
    upstream = "models/llama/modeling_llama.py"
    text = re.sub(r"^```.*?^```", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = {
        word
        for code in re.findall(r"`([^`]+)`", text)
        for word in re.findall(r"[\w.*-]*(?:/[\w.*-]*)+|[\w-]+\.py", code)
    }
    assert len(named) > 2
    missing = [
        path for path in sorted(named - {upstream}) if not any(list(root.glob(path.strip("/"))) for root in roots)
    ]
    assert not missing


def test_badges_are_current() -> None:
    for path, picture in script("docs/badges.py").pictures().items():
        assert path.read_text(encoding="utf-8") == picture, "python docs/badges.py writes it again"
        assert f"docs/_static/badges/{path.name}" in (ROOT / README).read_text(encoding="utf-8")


def test_descriptions_of_the_distributions_promise_nothing_of_all() -> None:
    for path in ("pyproject.toml", "codegen/pyproject.toml"):
        (description,) = re.findall(r'^description = "(.+)"$', (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        assert not re.search(r"\b(?:any|every|all)\b", description), path


def test_nothing_is_published_yet() -> None:
    assert "https://example.org/adapter-codegen" in PROJECT, "say in README.md where it can be installed from"


# What pages say with "any" or "every" (README.md also with "all" and the like) -> what fails if it is not true: `file::function`.
CHECKS = "tests/conformance/checks"
UNIVERSAL = {
    README: {
        "with nothing active its outputs are bitwise": f"{CHECKS}/identity.py::inactive_is_upstream",
        "no file of the tool mentions": "tests/test_architecture.py::test_the_tool_names_no_model_in_its_code",
        "for each topic": "tests/test_readme.py::test_the_example_of_the_readme_learns_the_topics_of_real_news",
        "Nothing is published yet": "tests/test_figures.py::test_nothing_is_published_yet",
    },
    "docs/a-block-of-your-own.md": {
        "for every model and method": "tests/runtime/test_block_of_ones_own.py::test_each_row_is_that_of_its_adapter_alone",
        "in any order": "tests/runtime/test_block_of_ones_own.py::test_each_row_is_that_of_its_adapter_alone",
        "every child sees": "tests/runtime/test_block_of_ones_own.py::test_the_node_on_the_page_joins_what_every_child_gives",
    },
    "docs/a-method-of-your-own.md": {
        "on every model that this library supports": "tests/runtime/test_method_of_ones_own.py::test_every_conformance_check",
        "on any model": "tests/runtime/test_method_of_ones_own.py::test_a_model_says_that_it_supports_it_and_peft_that_it_does_not",
        "any update of the weight that does not depend": "tests/runtime/test_method_of_ones_own.py::"
        "test_merging_gives_the_same_outputs_and_is_undone_bit_by_bit",
        "without any adapter": "tests/runtime/test_method_of_ones_own.py::"
        "test_parts_of_a_fused_projection_that_stores_its_weight_transposed",
    },
    "docs/a-generated-model.md": {
        "Every string is a path from the layer": f"{CHECKS}/roles.py::roles_are_true",
        "every other line is upstream's": "tests/codegen/test_verify.py::test_an_edit_outside_of_its_markers_is_caught",
        "Any other path that is missing": "tests/runtime/test_init.py::test_a_layer_that_lacks_a_module_is_refused_and_left_alone",
    },
    "docs/adding-a-model.md": {
        "every imported name exists": "tests/codegen/test_rewrite_module.py::test_a_name_that_upstream_binds_nowhere_is_refused",
        "compares every output with": f"{CHECKS}/identity.py::initialised_is_upstream",
    },
    "docs/command-line.md": {
        "Every session on this page": "tests/test_readme.py::test_command_prints_what_the_page_shows",
    },
    "docs/heads.md": {
        "any other is an": "tests/runtime/test_heads_parity.py::test_a_head_that_the_model_cannot_have_is_refused_from_a_config_too",
    },
    "docs/interface.md": {
        "Every path is looked up": "tests/runtime/test_interface_checks.py::"
        "test_a_wrong_path_is_named_with_near_ones_and_changes_nothing",
        "in every layer (Gemma)": "tests/runtime/test_interface.py::test_defect_12_each_layer_applies_its_own_norm",
        "before any projection": "tests/runtime/test_interface_files.py::test_files_of_interface_models_load_and_compute_the_same",
    },
    "docs/methods.md": {
        "of every attention": f"{CHECKS}/liveness.py::every_site_is_live",
        "any other is an error": "tests/runtime/test_prefix_tuning.py::test_blocks_without_a_meaning_for_prefixes_are_refused",
        "every query sees": f"{CHECKS}/prefix.py::prefix_is_cache",
    },
    "docs/moving-from-adapters.md": {
        "Any error leaves": "tests/runtime/test_unchanged_on_error.py::test_a_method_that_fails_anywhere_changes_nothing",
        "in every model and for every method": f"{CHECKS}/composition.py::parallel_is_one_at_a_time",
        "Every name of": "tests/test_reference.py::test_the_guide_has_exactly_the_names_of_adapters",
    },
}


@pytest.mark.parametrize("page", PAGES)
def test_what_is_said_of_all_is_tested(page: str) -> None:
    text = prose(page)
    for words in UNIVERSAL.get(page, {}):
        assert words in text, f"{page} does not say any more: {words}"
        text = text.replace(words, "")
    of_all = r"any|every|all|each|always|never|nothing|nobody" if page == README else "any|every"
    left = [
        text[max(0, m.start() - 40) : m.end() + 40] for m in re.finditer(rf"\b(?:{of_all})\b", text, re.IGNORECASE)
    ]
    assert not left, "name in `UNIVERSAL` a test that fails where this is not true"


@pytest.mark.parametrize("test", sorted({test for page in UNIVERSAL.values() for test in page.values()}))
def test_the_named_test_exists(test: str) -> None:
    path, function = test.split("::")
    assert re.search(rf"^ *def {function}\(", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE), test
