"""The manifest: what was generated from what, so that a check can tell a hand edit from a stale input from a new upstream.

``generated/adapter_models/manifest.json`` also keeps, per model, everything that shared files (registries, the index and the
table of the docs) say about it. So adding a model never plans the others again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.emit.public_names import public_names_path

MANIFEST_PATH = "generated/adapter_models/manifest.json"
SCHEMA = 2  # of the manifest; a number that we do not know is an error, never a guess

# How the paths of modules begin that only show or compare (of explain's template too): what they say never reaches a generated file.
SHOWING = (
    "__main__.py",
    "cli.py",
    "commands/",
    "diagnostics/report.py",
    "explain.",
    "inspect/",
    "plan/pool.py",
)


@dataclass(frozen=True)
class ModelRecord:
    """One generated model, as JSON can hold it."""

    model_type: str  # upstream's: "xlm-roberta"
    package: str  # of the generated code: "xlm_roberta"
    title: str  # for people, from upstream's class names: "XLMRoberta"
    adapter_model: str  # class that holds a base model: "XLMRobertaAdapterModel"
    path: str  # upstream's modeling file, relative to the transformers package
    module: str  # the same as a dotted module
    config_class: str
    base_class: str
    licence: str  # of upstream's file, as an SPDX identifier
    notices: tuple[str, ...]  # what copies of that file must carry: lines with the copyright, the licence's own text
    text_digest: str  # of upstream's file: its bytes
    meaning_digest: str  # ... and its code without annotations, docstrings and comments
    inputs: Mapping[str, str]  # every upstream file that the plan read -> sha256 of its bytes
    mixins: Mapping[str, str]  # upstream class -> mixin, both dotted; classes that need a mixin only
    with_adapters: Mapping[str, str]  # upstream class -> generated class with edited forwards, both dotted
    config_keys: Mapping[str, str]  # our name -> the config's own where it differs
    static_heads: Mapping[str, Mapping[str, Any]]  # upstream head class -> {"config": ..., "layers": [...]}
    flexible_heads: tuple[str, ...]
    methods: Mapping[str, str]  # method -> "" if supported, else the reason why not
    restrictions: Mapping[str, str]  # supported method -> what users should know about it
    stacks: Mapping[str, str] = field(default_factory=dict)  # residual stream -> "" if complete, else why it is not
    # Upstream class that is a base model by itself, dotted -> its `methods`.
    towers: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    parts: Mapping[str, str] = field(
        default_factory=dict
    )  # models inside: path -> class; "" = known when a model is built
    usual_parts: Mapping[str, str] = field(
        default_factory=dict
    )  # such a path -> the model type that stands there by default
    files: Mapping[str, str] = field(default_factory=dict)  # emitted file -> sha256 of its bytes


@dataclass(frozen=True)
class Manifest:
    transformers: str  # release that all models were generated from
    generator: str  # digest of the tool's sources, templates, overrides and verdicts
    models: Mapping[str, ModelRecord]
    shared: Mapping[str, str]  # emitted file that belongs to no single model -> sha256 of its bytes

    def files(self) -> dict[str, str]:
        """Every emitted file (without the manifest itself) and its digest."""
        files = dict(self.shared)
        for record in self.models.values():
            files.update(record.files)
        return files


EMPTY = Manifest("", "", {}, {})


def digest(content: bytes | str) -> str:
    """The sha256 of `content` in hexadecimal."""
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()


def dump(manifest: Manifest) -> str:
    """The manifest as text. Models and files are sorted; inside a record, upstream's order is kept."""
    models = {model_type: _fields(record) for model_type, record in sorted(manifest.models.items())}
    content = {
        "@generated": "by adapter-codegen; do not edit",
        "schema": SCHEMA,
        "transformers": manifest.transformers,
        "generator": manifest.generator,
        "shared": dict(sorted(manifest.shared.items())),
        "models": models,
    }
    return json.dumps(content, indent=2, ensure_ascii=False) + "\n"


def parse(text: str, path: str = MANIFEST_PATH) -> Manifest:
    """Read the text of a manifest.

    Raises:
        CodegenError: it is no JSON, has another schema or other keys (M101).
    """
    try:
        content = json.loads(text)
        if content["schema"] != SCHEMA:
            raise ValueError(f"schema {content['schema']}, expected {SCHEMA}")
        models = {model_type: _record(record) for model_type, record in content["models"].items()}
        return Manifest(content["transformers"], content["generator"], models, content["shared"])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Problem.BROKEN_MANIFEST.error(path=path, error=error) from error


def _record(content: dict[str, Any]) -> ModelRecord:
    sequences = {name: tuple(content[name]) for name in ("flexible_heads", "notices")}
    return ModelRecord(**{**content, **sequences})


def canonical(record: ModelRecord) -> ModelRecord:
    """The record as it will be read back, so that files rendered from it now and later agree (JSON knows no tuples)."""
    return _record(json.loads(json.dumps(_fields(record))))


def _fields(record: ModelRecord) -> dict[str, Any]:
    """Name -> value, not copied: there may be hundreds of records.

    A record of before stacks were kept is written as it was read, and most models have no towers or parts.
    """
    found = {one.name: getattr(record, one.name) for one in fields(record)}
    return {
        name: value
        for name, value in found.items()
        if value or name not in ("stacks", "towers", "parts", "usual_parts")
    }


def load(root: Path, path: str = MANIFEST_PATH) -> Manifest:
    """The manifest below `root`; the empty one where there is none yet."""
    try:
        return parse((root / path).read_text(encoding="utf-8"), path)
    except FileNotFoundError:
        return EMPTY


def _generator_sources(verdicts: bool) -> Iterator[tuple[str, Path]]:
    """Name and path of every file of the tool that can change what is generated."""
    tool = Path(__file__).parents[1]
    # Not imported: the templates are beside the tool in an installation, in a source root of their own in a checkout.
    templates = next(
        folder
        for folder in (tool.parent / "adapter_templates", tool.parents[1] / "templates" / "adapter_templates")
        if folder.is_dir()
    )
    suffixes = {".py", ".toml", *([".json"] if verdicts else [])}  # verdicts.json is the only JSON of the tool
    for path in tool.rglob("*"):
        name = path.relative_to(tool).as_posix()
        if path.suffix in suffixes and not name.startswith(SHOWING):
            yield f"adapter_codegen/{name}", path
    for path in templates.rglob("*.jinja"):
        name = path.relative_to(templates).as_posix()
        if not name.startswith(SHOWING):
            yield f"adapter_templates/{name}", path
    yield "adapter_runtime/public.py", public_names_path()


def generator_digest(verdicts: bool = True) -> str:
    """One digest of the tool's own sources, its templates, its overrides and the table of public names.

    Args:
        verdicts: whether verdicts.json is heeded, and so is a source too.
    """
    total = hashlib.sha256()
    for name, path in sorted(_generator_sources(verdicts)):
        # Line ends are not meaning: a checkout on another system must give the same digest.
        total.update(f"{name}\0{digest(path.read_bytes().replace(bytes([13, 10]), bytes([10])))}\n".encode())
    return total.hexdigest()
