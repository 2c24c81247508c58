"""The figures that README.md and the guides state: how many model types can be generated, and how large adapters are.

python benchmarks/figures.py sizes models [--write]

They stand in docs/figures.json. `models` plans every model type of the installed transformers, which takes minutes; `sizes` saves
adapters of a model with the dimensions of BERT-base. tests/test_figures.py compares the pages with the file, and the
file with what can be computed again in seconds.
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import ROOT, tool

FILE = ROOT / "docs" / "figures.json"

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
    """How many model types the installed transformers has, and for how many the tool can write which method."""
    command = tool("list", "--plan", "--format", "json", "--quiet")
    printed = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    return counted(json.loads(printed))


def counted(listing: dict[str, object]) -> dict[str, object]:
    """What `adapter-codegen list --plan --format json` printed, as counts."""
    entries = listing["models"]
    assert isinstance(entries, list)
    written = [entry for entry in entries if entry["status"] in ("supported", "available")]
    methods = Counter(method for entry in written for method in entry["methods"])
    return {
        "transformers": listing["transformers"],
        "model_types": len(entries),
        "can_be_generated": len(written),
        "methods": dict(methods.most_common()),
    }


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


if __name__ == "__main__":
    main()
