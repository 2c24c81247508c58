"""Model type -> modeling module, config class, base model class and head classes, as upstream's auto classes have them.

Upstream's tables name classes, not files. A class is looked for in the folder of its model type first; where another
folder holds it (a model type that borrows a whole model), in the folder of the model type that it is borrowed from.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from adapter_codegen.diagnostics.errors import CodegenError
from adapter_codegen.diagnostics.table import Problem
from adapter_codegen.parse.literals import UnreadableTable, Value, read_tables
from adapter_codegen.upstream import Release

_FILES = ("models/auto/auto_mappings.py", "models/auto/configuration_auto.py", "models/auto/modeling_auto.py")
_CONFIGS = "CONFIG_MAPPING_NAMES"
_BASES = "MODEL_MAPPING_NAMES"
_FOLDERS = "SPECIAL_MODEL_TYPE_TO_MODULE_NAME"
BACKBONES = "backbone"  # the task of classes that are what others have before a head
_TASK = re.compile(r"MODEL_FOR_(\w+)_MAPPING_NAMES")


@dataclass(frozen=True)
class ModelEntry:
    """What upstream's auto classes know about one model type, with the files that its classes stand in."""

    model_type: str  # "xlm-roberta"
    path: str  # of the file that defines the base class: "models/xlm_roberta/modeling_xlm_roberta.py"
    config_class: str  # "XLMRobertaConfig"
    config_path: str  # "models/xlm_roberta/configuration_xlm_roberta.py"
    base_class: str  # "XLMRobertaModel"; of a type without a base model, its own or borrowed, the first of its classes with a head
    heads: Mapping[str, tuple[str, ...]]  # task -> head classes: "sequence_classification", "causal_lm", ...

    has_base: bool = (
        True  # whether upstream has a base model of the type: `base_class` may end in a head where it has none
    )

    @property
    def module(self) -> str:
        return dotted_module(self.path)

    @property
    def config_module(self) -> str:
        return dotted_module(self.config_path)


@dataclass(frozen=True)
class AutoMappings:
    """Upstream's tables. An entry is worked out when it is asked for: finding a class reads files."""

    release: Release
    configs: Mapping[str, str]  # model type -> config class
    bases: Mapping[str, tuple[str, ...]]  # model type -> base model classes, the usual one first
    tasks: Mapping[str, Mapping[str, tuple[str, ...]]]  # task -> model type -> head classes
    folders: Mapping[str, str]  # model types whose folder is not spelled as they are
    _entries: dict[str, ModelEntry] = field(default_factory=dict, repr=False, compare=False)
    _paths: dict[str, str] = field(default_factory=dict, repr=False, compare=False)

    @property
    def model_types(self) -> tuple[str, ...]:
        """Model types that have a base model class, or at least one with a head, sorted."""
        return tuple(sorted(self.mains))

    @cached_property
    def mains(self) -> Mapping[str, tuple[str, ...]]:
        """Model type -> its base model classes, the usual one first; of a type without any (UperNet) its classes with a head.

        A type that borrows the class with a head of another one (PP-Chart2Table that of GOT-OCR2) has the base model inside of it.
        """
        heads: dict[str, tuple[str, ...]] = {}
        for by_type in self.tasks.values():
            for model_type, names in by_type.items():
                heads[model_type] = tuple(dict.fromkeys((*heads.get(model_type, ()), *names)))
        borrowed = {name: self.bases[lender] for name in heads if (lender := self._lender(name)) is not None}
        return {**heads, **borrowed, **self.bases}

    def _lender(self, model_type: str) -> str | None:
        """Of a type without a base model the one type with such of which it has a class with a head; None where it has none, or of several."""
        if model_type in self.bases:
            return None
        by_types = list(self.tasks.values())
        names = {name for by_type in by_types for name in by_type.get(model_type, ())}
        found = {
            other for by_type in by_types for other in by_type if names & {*by_type[other]} and other in self.bases
        }
        return found.pop() if len(found) == 1 else None

    def entry(self, model_type: str) -> ModelEntry:
        """Everything about one model type.

        Raises:
            CodegenError: upstream has no class of that type (U110), or its class is in no file (U112).
        """
        if model_type not in self._entries:
            self._entries[model_type] = self._entry(model_type)
        return self._entries[model_type]

    def nearest(self, model_type: str, count: int = 3) -> tuple[str, ...]:
        """Known model types that are spelled most like `model_type`, best first."""
        spellings = {_spelling(known): known for known in reversed(self.model_types)}
        found = difflib.get_close_matches(_spelling(model_type), spellings, n=count, cutoff=0.5)
        return tuple(spellings[spelling] for spelling in found)

    def folder(self, model_type: str) -> str:
        """The folder below models/ that upstream imports a model type from."""
        return self.folders.get(model_type, model_type.replace("-", "_"))

    def model_types_of(self, path: str) -> tuple[str, ...]:
        """The model types whose base class stands in the modeling file at `path`, sorted."""
        candidates = self._by_folder.get(path.split("/")[-2], ())
        return tuple(name for name in candidates if self._path(name) == path)

    @cached_property
    def _by_folder(self) -> Mapping[str, tuple[str, ...]]:
        grouped: dict[str, list[str]] = {}
        for model_type in self.model_types:
            grouped.setdefault(self._home(model_type), []).append(model_type)
        return {folder: tuple(names) for folder, names in grouped.items()}

    @cached_property
    def _modeling_paths(self) -> Mapping[str, tuple[str, ...]]:
        """Folder name -> its modeling files."""
        grouped: dict[str, list[str]] = {}
        for path in self.release.modeling_paths():
            grouped.setdefault(path.split("/")[-2], []).append(path)
        return {folder: tuple(paths) for folder, paths in grouped.items()}

    def _home(self, model_type: str) -> str:
        """The folder that holds the base class: its own, or that of the model type it borrows the model from."""
        own = self.folder(model_type)
        if self.release.exists(_usual_path(own)) or own in self._modeling_paths:
            return own
        lenders = (other for other, names in self.mains.items() if names == self.mains[model_type])
        return next((self.folder(other) for other in lenders if self.folder(other) in self._modeling_paths), own)

    def _entry(self, model_type: str) -> ModelEntry:
        if model_type not in self.mains:
            raise self._unknown(model_type)
        base = self.mains[model_type][0]
        path = self._path(model_type)
        if not path:
            raise Problem.NO_MODELING_FILE.error(version=self.release.version, base=base, model_type=model_type)
        config = self.configs.get(model_type, "")
        heads = {task: by_type[model_type] for task, by_type in self.tasks.items() if model_type in by_type}
        has_base = model_type in self.bases or self._lender(model_type) is not None or heads.keys() == {BACKBONES}
        return ModelEntry(model_type, path, config, self._config_path(config, path), base, heads, has_base)

    def _path(self, model_type: str) -> str:
        """The file of the base class; "" where upstream names a class that it does not have."""
        if model_type not in self._paths:
            self._paths[model_type] = self._defining_file(self.mains[model_type][0], self._home(model_type))
        return self._paths[model_type]

    def _defining_file(self, class_name: str, folder: str) -> str:
        """The modeling file that defines a class, looked for in `folder` first; "" if none does."""
        usual = _usual_path(folder)
        if self.release.exists(usual) and _defines(self.release.read(usual), class_name):
            return usual
        ordered = dict.fromkeys((*self._modeling_paths.get(folder, ()), *self.release.modeling_paths()))
        return next((path for path in ordered if _defines(self.release.read(path), class_name)), "")

    def _config_path(self, config: str, modeling: str) -> str:
        """The configuration file beside the modeling file, or that of the model type that owns the config class."""
        if not config:
            return ""
        owners = [self.folder(other) for other, name in self.configs.items() if name == config]
        beside = modeling.replace("/modeling_", "/configuration_")
        candidates = (beside, *(f"models/{folder}/configuration_{folder}.py" for folder in owners), modeling)
        for path in dict.fromkeys(candidates):
            if self.release.exists(path) and _defines(self.release.read(path), config):
                return path
        return ""

    def _unknown(self, model_type: str) -> CodegenError:
        near = self.nearest(model_type)
        known = "a config but no base model" if model_type in self.configs else "no model type"
        version = self.release.version
        if not near:
            return Problem.UNKNOWN_MODEL_TYPE.error(version=version, known=known, model_type=model_type)
        names = " or ".join(near)
        return Problem.MISSPELT_MODEL_TYPE.error(version=version, known=known, model_type=model_type, near=names)


@lru_cache(maxsize=2)
def read_auto_mappings(release: Release) -> AutoMappings:
    """Read upstream's auto tables, once per release and process.

    Raises:
        CodegenError: a table is missing or not a display of strings (U111).
    """
    tables: dict[str, dict[str, Value] | UnreadableTable] = {}
    for path in _FILES:
        if release.exists(path):  # older releases keep all tables in the last two files
            tables = read_tables(release.read(path), tables)
    tasks = {match[1].lower(): name for name in tables if (match := _TASK.fullmatch(name))}
    return AutoMappings(
        release=release,
        configs={key: names[0] for key, names in _names(release, tables, _CONFIGS).items()},
        bases=_names(release, tables, _BASES),
        tasks={task: _names(release, tables, name) for task, name in tasks.items()},
        folders={key: names[0] for key, names in _names(release, tables, _FOLDERS).items()},
    )


def dotted_module(path: str) -> str:
    """``transformers.models.llama.modeling_llama`` of its path; "" of ""."""
    return ".".join(("transformers", *path.removesuffix(".py").split("/"))) if path else ""


def _names(
    release: Release, tables: Mapping[str, Mapping[str, Value] | UnreadableTable], name: str
) -> dict[str, tuple[str, ...]]:
    table = tables.get(name)
    if not isinstance(table, Mapping):
        what = f"is not a plain table of names (line {table.args[0]})" if table else "is missing"
        raise Problem.UNREADABLE_TABLE.error(name=name, version=release.version, what=what)
    found: dict[str, tuple[str, ...]] = {}
    for key, value in table.items():
        names = value if isinstance(value, tuple) else (value,)
        found[key] = tuple(part for part in names if isinstance(part, str))
    return {key: names for key, names in found.items() if names}


def _usual_path(folder: str) -> str:
    return f"models/{folder}/modeling_{folder}.py"


def _defines(text: str, class_name: str) -> bool:
    return f"\nclass {class_name}(" in text or f"\nclass {class_name}:" in text


def _spelling(model_type: str) -> str:
    return model_type.lower().replace("-", "").replace("_", "").replace(".", "")
