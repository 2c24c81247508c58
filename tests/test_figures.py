"""Every figure that README.md and the guides state is one that a script gave, and every "all" and "never" of README.md has a test.

`docs/figures.json` holds what takes long or stands elsewhere (`python benchmarks/figures.py sizes models --write`). Here the pages are
compared with it, and it is compared with all that can be computed in seconds. A new number in the prose of a page needs an entry in
`claims`, or a pattern of `NO_FIGURES` if it is none; a new universal statement in README.md needs an entry in `UNIVERSAL`.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertModel

import adapter_models
from adapter_models import ADAPTER_CONFIG_MAP, AdapterCompositionBlock, AutoAdapterModel
from adapter_models.registry import ADAPTER_MODEL_MODULES

ROOT = Path(__file__).resolve().parent.parent
FIGURES: dict[str, Any] = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))
MANIFEST: dict[str, Any] = json.loads((ROOT / "generated/adapter_models/manifest.json").read_text(encoding="utf-8"))
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")

README = "README.md"
PAGES = [README, *sorted(f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md") if page.stem != "benchmarks")]


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
    models, files = FIGURES["models"], FIGURES["sizes"]["files"]
    adapters, peft = FIGURES["elsewhere"]["adapters"], FIGURES["elsewhere"]["peft"]
    methods = models["methods"]
    minor = ".".join(models["transformers"].split(".")[:2])
    blocks = len(AdapterCompositionBlock.__subclasses__())
    fixed = " and ".join(f"{name} (in {release})" for name, release in adapters["security_fixes_in"].items())
    of_all = f"{models['can_be_generated']} of {models['model_types']}"
    said = {
        README: [
            f"| ] {adapters['release']} | ] {peft['release']} |".replace("]", "[`]", 1).replace(" ] ", " [PEFT] "),
            f"| transformers | {minor}, one release line | {adapters['transformers'].strip('~=')[:4]}, [none of 5.x] |",
            f"| model types | {of_all}, generated | {adapters['model_types']} by hand",
            f"| {peft['methods']}; no bottlenecks, no ReFT |",
            f"| {blocks} blocks, nested | {adapters['blocks']} blocks, nested |",
            f"stays on {adapters['transformers'].strip('~=')[:4]}, without the fixes of {fixed}",
            f"Of the {models['model_types']} model types of transformers {models['transformers']} the tool can write "
            f"{models['can_be_generated']}: with bottleneck adapters {methods['bottleneck']}, LoRA {methods['lora']}, "
            f"ReFT {methods['reft']}, prefix tuning {methods['prefix_tuning']}, prompt tuning "
            f"{methods['prompt_tuning']}, invertible adapters {methods['invertible']}.",
            f"[{len({type(config) for config in ADAPTER_CONFIG_MAP.values()})} classes of configurations]",
            f"[{blocks} blocks]",
            f"[{len(AutoAdapterModel.head_types)} types of heads]" if hasattr(AutoAdapterModel, "head_types") else "",
            f"with Python {re.search(r'requires-python = .>=([0-9.]+)', PROJECT)[1]} or later",  # type: ignore[index]
        ],
        "docs/quickstart.md": [
            f"{megabytes(files['seq_bn'])} for ` of BERT-base",
            f"{megabytes(FIGURES['sizes']['weights'])}",
        ],
    }
    return [claim for claim in said.get(page, []) if claim]
