"""The figures that README.md and the guides state: how many model types are checked in, and how large adapters are.

python benchmarks/figures.py sizes models [--write]

They stand in docs/figures.json. `models` counts the checked-in models, with what the checks say of them, and with --write puts the counts
into README.md too; `sizes` saves adapters of a model with the dimensions of BERT-base. tests/test_figures.py compares the pages
with the file, and the file with what can be computed again in seconds.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import textwrap
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
FILE = ROOT / "docs" / "figures.json"
README = ROOT / "README.md"

# The configurations whose files the quickstart speaks of.
CONFIGS = ("seq_bn", "double_seq_bn", "lora", "ia3")


def sizes() -> dict[str, object]:
    """Bytes of the weights of a BERT-base, and of the file of tensors that `save_adapter` writes for it."""
    from transformers import BertConfig, BertModel

    import adapter_models

    model = BertModel(BertConfig())  # the defaults are the dimensions of BERT-base
    adapter_models.init(model)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    files = {}
    with TemporaryDirectory() as folder:
        for config in CONFIGS:
            model.add_adapter(config, config=config)
            model.save_adapter(f"{folder}/{config}", config)
            files[config] = Path(folder, config, "adapter.safetensors").stat().st_size
            model.delete_adapter(config)
    return {"model": "BERT-base", "weights": weights, "files": files}


def models() -> dict[str, object]:
    """How many model types the release has that the checked-in models are from, how many are checked in, and with which methods.

    A method counts where its checks ran and hold: what a plan says alone, of a model whose parts decide, is not counted.
    """
    sys.path.insert(0, str(ROOT / "tests"))
    from adapter_codegen.emit.manifest import load
    from adapter_codegen.parse import read_auto_mappings
    from adapter_codegen.upstream import open_release
    from conformance.methods import FAMILIES
    from conformance.results import ResultFile
    from conformance.verdicts import verdict_of

    manifest = load(ROOT)
    results = ResultFile(ROOT / "tests" / "conformance" / "results.jsonl", manifest.transformers).models
    held = [verdict_of(results[name]).families for name in manifest.models if name in results]
    methods = Counter(family for families in held for family in families)
    return {
        "transformers": manifest.transformers,
        "model_types": len(read_auto_mappings(open_release()).model_types),
        "checked_in": len(manifest.models),
        "all_families": sum(len(families) == len(FAMILIES) for families in held),
        "methods": dict(methods.most_common()),
    }


def row_of_models(models: dict[str, Any]) -> str:
    """The cell of README.md's table that compares numbers of model types."""
    return f"| model types | {models['checked_in']} of {models['model_types']}, generated |"


def support(models: dict[str, Any]) -> str:
    """What README.md says of the models that are supported."""
    held = {"lora": 0, "reft": 0, "bottleneck": 0, "prefix_tuning": 0, "invertible": 0, "prompt_tuning": 0} | models[
        "methods"
    ]
    return (
        f"Of the {models['model_types']} model types of transformers {models['transformers']}, {models['checked_in']} are"
        f" checked in: {held['lora']} with LoRA, {held['reft']} with ReFT, {held['bottleneck']} with bottleneck adapters,"
        f" {held['prefix_tuning']} with prefix tuning, {held['invertible']} with invertible adapters,"
        f" {held['prompt_tuning']} with prompt tuning, {models['all_families']} with the six together."
    )


def with_figures(page: str, models: dict[str, Any]) -> str:
    """The text of README.md with these figures in it.

    Raises:
        ValueError: it has no places for them.
    """
    block = f"<!-- figures -->\n{textwrap.fill(support(models), 100, break_on_hyphens=False)}\n<!-- end of figures -->"
    page, rows = re.subn(r"\| model types \| [^|]* \|", row_of_models(models), page)
    page, blocks = re.subn(r"<!-- figures -->.*<!-- end of figures -->", block, page, flags=re.DOTALL)
    if (rows, blocks) != (1, 1):
        raise ValueError("README.md has lost its row 'model types', or <!-- figures --> and <!-- end of figures -->")
    return page


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("figures", nargs="+", choices=["sizes", "models"])
    parser.add_argument("--write", action="store_true", help="put them into docs/figures.json")
    options = parser.parse_args()
    figures = json.loads(FILE.read_text(encoding="utf-8"))
    for name in options.figures:
        figures[name] = {"sizes": sizes, "models": models}[name]()
    text = json.dumps(figures, indent=2, ensure_ascii=False) + "\n"
    print(text, end="")
    if options.write:
        FILE.write_text(text, encoding="utf-8")
        README.write_text(with_figures(README.read_text(encoding="utf-8"), figures["models"]), encoding="utf-8")


if __name__ == "__main__":
    main()
