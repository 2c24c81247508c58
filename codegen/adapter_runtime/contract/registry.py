"""What generated code tells the runtime about the models it holds.

The runtime never imports ``adapter_models``; a generated package calls `register` when it is imported. Its tables are read from its
manifest when they are first asked for, and its classes are named by dotted strings and imported when a model of theirs is first
touched, so that ``import adapter_models`` stays cheap whatever number of models it holds.

Several packages may be registered: the one of this library, and others that someone generated. `registered` gives their tables as
one, in which packages of users' own come first.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.resources import files
from pathlib import PurePosixPath
from typing import NamedTuple, TypedDict

from adapter_runtime.contract.head_config import StaticHead, StaticHeadConfig

SCHEMA = 2  # of the manifests that can be read


class Classes(NamedTuple):
    """Upstream classes, dotted, and what takes their place."""

    model_mixins: Mapping[str, str]  # classes that need a mixin only -> the mixin
    with_adapters: Mapping[str, str]  # classes with edited forwards -> the generated class


@dataclass(frozen=True)
class Registry:
    """The tables of generated code."""

    transformers_version: str  # the release that the generated files were written from
    model_mixins: Mapping[str, str]  # upstream class -> mixin; classes that need a mixin only
    with_adapters: Mapping[str, str]  # upstream class -> generated class with edited forwards
    adapter_models: Mapping[str, str]  # model type -> "adapter_models.llama.adapter_model.LlamaAdapterModel"
    # Config class name -> our name -> its own.
    config_keys: Mapping[str, Mapping[str, str]]
    static_heads: Mapping[str, StaticHead]  # name of upstream's class with a head -> the flexible head for it
    methods: Mapping[str, Mapping[str, str]]  # model type -> method -> "" if supported, else the reason why not
    # Config class name -> type of a head -> what upstream's class with such a head has.
    heads: Mapping[str, Mapping[str, StaticHeadConfig]] = field(default_factory=dict)
    # Config class name -> the names of upstream's classes with heads for it. Some are made with another class's config, too (Llama's).
    head_classes: Mapping[str, Sequence[str]] = field(default_factory=dict)
    model_types: Sequence[str] = field(default=())
    # Model type -> its own classes. Types whose models stand in one file of upstream may have a class in common; each has one of ours for it.
    own_classes: Mapping[str, Classes] = field(default_factory=dict)
    _by_type: dict[str, Registry] = field(default_factory=dict, init=False, repr=False, compare=False)

    def of_type(self, model_type: str) -> Registry:
        """The same tables, with the classes of a model type in front of those of other types."""
        own = self.own_classes.get(model_type)
        if own is None:
            return self
        if model_type not in self._by_type:  # `init` asks for each whole model in a model, and the tables are long
            self._by_type[model_type] = replace(self, **_over(own, self)._asdict())
        return self._by_type[model_type]

    def type_of(self, base: type, model_type: str) -> str:
        """The model type that the class of a base model was generated for, whose plan holds for it.

        Its config may have the type of a part: that of MusicGen's is its decoder's. A model that only an interface describes has
        no generated class, so that it is of the type that its config has.
        """
        dotted = (f"{known.__module__}.{known.__qualname__}" for known in base.__mro__)
        return next((self._types[name] for name in dotted if name in self._types), model_type)

    @cached_property
    def _types(self) -> Mapping[str, str]:
        """Our class -> the model type that it was generated for."""
        return {
            ours: model_type
            for model_type, classes in self.own_classes.items()
            for ours in (*classes.model_mixins.values(), *classes.with_adapters.values())
        }


def _over(first: Classes, other: Registry | Classes) -> Classes:
    """Both together. A class of `first` has no entry of `other`, in neither table."""
    taken = {*first.model_mixins, *first.with_adapters}
    mixins = {name: ours for name, ours in other.model_mixins.items() if name not in taken}
    with_adapters = {name: ours for name, ours in other.with_adapters.items() if name not in taken}
    return Classes({**mixins, **first.model_mixins}, {**with_adapters, **first.with_adapters})


class _Record(TypedDict):
    """What a manifest says of one model type. Names of generated classes are relative to the package."""

    package: str  # its folder
    path: str  # of upstream's modeling file
    adapter_model: str
    config_class: str
    config_keys: dict[str, str]
    static_heads: dict[str, StaticHead]
    methods: dict[str, str]
    mixins: dict[str, str]
    with_adapters: dict[str, str]


class GeneratedPackage:
    """A package that the tool wrote.

    Args:
        name: its dotted name.
        gives_way: whether packages of users' own come first: it is the one that comes with this library.
    """

    def __init__(self, name: str, gives_way: bool = False) -> None:
        self.name = name
        self.gives_way = gives_way

    @cached_property
    def registry(self) -> Registry:
        """Its tables.

        Raises:
            RuntimeError: it was written by a version of the tool whose manifest cannot be read.
        """
        content = json.loads(files(self.name).joinpath("manifest.json").read_text(encoding="utf-8"))
        if content["schema"] != SCHEMA:
            raise RuntimeError(
                f"The manifest of {self.name} has the schema {content['schema']}, and this release reads {SCHEMA}. Write the"
                " package again: adapter-codegen add-model --existing, with --output and its folder."
            )
        version: str = content["transformers"]
        return self._tables(version, content["models"])

    def _tables(self, version: str, records: Mapping[str, _Record]) -> Registry:
        # A class that several types share belongs to the type that upstream's folder is named after, else to the first.
        ordered = sorted(records.values(), key=lambda record: _folder(record["path"]) != record["package"])[::-1]
        return Registry(
            transformers_version=version,
            model_mixins=self._absolute(record["mixins"] for record in ordered),
            with_adapters=self._absolute(record["with_adapters"] for record in ordered),
            adapter_models={
                model_type: f"{self.name}.{record['package']}.adapter_model.{record['adapter_model']}"
                for model_type, record in records.items()
            },
            config_keys={r["config_class"]: r["config_keys"] for r in records.values() if r["config_keys"]},
            static_heads={name: head for record in ordered for name, head in record["static_heads"].items()},
            heads={
                r["config_class"]: _by_type(r["static_heads"].values()) for r in records.values() if r["static_heads"]
            },
            head_classes=_head_classes(records.values()),
            methods={model_type: record["methods"] for model_type, record in records.items()},
            model_types=tuple(records),
            own_classes={
                model_type: Classes(self._absolute([record["mixins"]]), self._absolute([record["with_adapters"]]))
                for model_type, record in records.items()
            },
        )

    def _absolute(self, tables: Iterable[Mapping[str, str]]) -> dict[str, str]:
        return {upstream: f"{self.name}{ours}" for table in tables for upstream, ours in table.items()}

    def adapter_model(self, name: str) -> type:
        """The class with heads of that name.

        Raises:
            AttributeError: the package has no model with such a class.
        """
        for dotted in self.registry.adapter_models.values():
            if dotted.endswith(f".{name}"):
                return load_class(dotted)
        raise AttributeError(f"module {self.name!r} has no attribute {name!r}")


def _by_type(heads: Iterable[StaticHead]) -> dict[str, StaticHeadConfig]:
    """The heads of a model type by their own types, of several the first."""
    return {head["config"]["head_type"]: head["config"] for head in reversed([*heads])}


def _head_classes(records: Iterable[_Record]) -> dict[str, tuple[str, ...]]:
    """By config class, which several model types may share."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        found.setdefault(record["config_class"], {}).update(dict.fromkeys(record["static_heads"]))
    return {config_class: tuple(names) for config_class, names in found.items()}


def _folder(path: str) -> str:
    return PurePosixPath(path).parent.name


_packages: dict[str, GeneratedPackage] = {}  # in the order in which they were registered
_registry: Registry | None = None  # all tables as one, once they were asked for


def register_package(package: GeneratedPackage) -> None:
    """Make the models of `package` known to `init` and the auto classes."""
    global _registry
    _packages[package.name] = package
    _registry = None


def registered() -> Registry:
    """The tables of all generated packages that were imported. Where two have a model, that of users' own counts, and of several the last.

    Raises:
        RuntimeError: no generated models were imported.
    """
    global _registry
    if _registry is None:
        if not _packages:
            raise RuntimeError("No generated models are registered. Import them first: `import adapter_models`.")
        packages = sorted(_packages.values(), key=lambda package: not package.gives_way)
        _registry = _together([package.registry for package in packages])
    return _registry


def type_of_adapter_model(cls: type) -> str | None:
    """The model type that a class with flexible heads was generated for; None for a class that no package registers."""
    dotted = f"{cls.__module__}.{cls.__qualname__}"
    tables = (package.registry.adapter_models for package in _packages.values())
    return next((model_type for table in tables for model_type, name in table.items() if name == dotted), None)


def _together(registries: Sequence[Registry]) -> Registry:
    """The tables of several packages as one; later ones have precedence."""
    result, *others = registries
    for other in others:
        classes = _over(Classes(other.model_mixins, other.with_adapters), result)
        result = Registry(
            transformers_version=other.transformers_version,
            model_mixins=classes.model_mixins,
            with_adapters=classes.with_adapters,
            adapter_models={**result.adapter_models, **other.adapter_models},
            config_keys={**result.config_keys, **other.config_keys},
            static_heads={**result.static_heads, **other.static_heads},
            heads={**result.heads, **other.heads},
            head_classes={**result.head_classes, **other.head_classes},
            methods={**result.methods, **other.methods},
            model_types=tuple(dict.fromkeys((*result.model_types, *other.model_types))),
            own_classes={**result.own_classes, **other.own_classes},
        )
    return result


def load_class(dotted: str) -> type:
    """Import ``package.module.Class``."""
    module, _, name = dotted.rpartition(".")
    found: type = getattr(importlib.import_module(module), name)
    return found
