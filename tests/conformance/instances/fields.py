"""A config as a tree of fields: read it, change it, build it again through its class.

A config is never edited in place. What is changed is *given* to the class (`Draft.build`), so that fields which the class
derives from others follow. A path is a tuple of names: ``("text_config", "hidden_size")``.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import transformers
from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.models.auto import modeling_auto
from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

Path = tuple[str, ...]
_IGNORED = {
    "transformers_version",
    "architectures",
    "id2label",
    "label2id",
    "dtype",
    "torch_dtype",
    "chunk_size_feed_forward",
}


def architecture(model_type: str) -> str:
    """The base class that upstream's `AutoModel` takes; where it takes none, the first class that a table of heads names.

    A class that is built with the type's own config comes before one that it borrows from another type.

    Raises:
        KeyError: no table of upstream's names a class for `model_type`.
    """
    if model_type in MODEL_MAPPING_NAMES:
        name = MODEL_MAPPING_NAMES[model_type]
        return name if isinstance(name, str) else name[0]
    names = _heads()[model_type]
    own = CONFIG_MAPPING[model_type] if model_type in CONFIG_MAPPING else None
    classes = {name: getattr(transformers, name, None) for name in names}
    return next((name for name, cls in classes.items() if cls and cls.config_class is own), names[0])


def model_types() -> tuple[str, ...]:
    """Every model type of which some table of upstream's names a class; some have no base model, but only heads."""
    return tuple(sorted({*MODEL_MAPPING_NAMES, *_heads()}))


@functools.cache
def _heads() -> dict[str, tuple[str, ...]]:
    """Model type -> the classes that upstream's tables of heads name for it, without those types that have a base model."""
    named: dict[str, dict[str, None]] = {}
    for table_name, table in sorted(vars(modeling_auto).items()):
        if table_name.startswith("MODEL_FOR_") and table_name.endswith("_MAPPING_NAMES"):
            for model_type, entry in table.items():
                if model_type not in MODEL_MAPPING_NAMES:
                    named.setdefault(model_type, {}).update(
                        dict.fromkeys((entry,) if isinstance(entry, str) else entry)
                    )
    return {model_type: tuple(names) for model_type, names in named.items()}


def config_class(model_type: str) -> type[PreTrainedConfig]:
    """The class of the configs that the base class of `model_type` is built with.

    It is the type's own; but where the base class is that of a part (MusicGen's is its decoder), it is the part's.
    """
    own = CONFIG_MAPPING[model_type]
    try:
        wanted = getattr(transformers, architecture(model_type)).config_class
    except (AttributeError, ImportError):  # upstream does not export it, or a package is not there
        return own
    return wanted if wanted in own.sub_configs.values() else own


@functools.cache
def words(name: str) -> tuple[str, ...]:
    """``"num_attention_heads"`` -> num, attention, heads; digits stand alone."""
    return tuple(word for word in re.split(r"_|(?<=\D)(?=\d)", name.lower()) if word)


def nodes(config: PreTrainedConfig, path: Path = ()) -> Iterator[tuple[Path, PreTrainedConfig]]:
    """The config and those within it, outer ones first."""
    yield path, config
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig) and not name.startswith("_"):
            yield from nodes(value, (*path, name))


def own_fields(config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of one config, without those of the configs within it and without bookkeeping."""
    given_as = _given_as(type(config))
    own = {
        given_as.get(name, name): value
        for name, value in vars(config).items()
        if not name.startswith("_") and name not in _IGNORED and not isinstance(value, PreTrainedConfig)
    }
    if "_out_features" in vars(config):  # what a backbone hands on is a property of its config
        own["out_features"] = attribute(config, "out_features")
    return own


@functools.cache
def _given_as(cls: type[PreTrainedConfig]) -> dict[str, str]:
    """Where a class declares a field and keeps it by another name: that name -> the field, which is what is given."""
    declared = {entry.name for entry in dataclasses.fields(cls)} if dataclasses.is_dataclass(cls) else set()
    kept = {other: name for name, other in (cls.attribute_map or {}).items() if name in declared}
    return {other: name for other, name in kept.items() if other not in declared}


def attribute(config: PreTrainedConfig, name: str) -> Any:
    """The value that upstream's code would read; None where there is none, or one per layer."""
    try:
        return getattr(config, name, None)
    except Exception:
        return None


def field(config: PreTrainedConfig, path: Path) -> Any:
    """The value at `path`; None if there is none."""
    value: Any = config
    for name in path:
        value = value.get(name) if isinstance(value, dict) else attribute(value, name)
    return value


@dataclass(frozen=True)
class Draft:
    """What is given to a config class: nested dictionaries, as JSON could hold them."""

    model_type: str
    given: Mapping[str, Any]

    def build(self) -> PreTrainedConfig:
        return config_class(self.model_type)(**copy.deepcopy(dict(self.given)))

    @functools.cached_property
    def seen(self) -> PreTrainedConfig:
        """The config to read only: a model writes into the one that it is built with."""
        return self.build()

    @functools.cached_property
    def sketch(self) -> PreTrainedConfig:
        """`seen`; where fields do not fit each other, so that the class refuses them, its defaults with what is given."""
        try:
            return self.seen
        except Exception:
            config = Draft(self.model_type, {}).build()
            _put(config, self.given)
            return config

    def changed(self, changes: Mapping[Path, Any]) -> Draft:
        """With `changes`; a config within that was not given before is given as it is now."""
        now = self.sketch
        given = copy.deepcopy(dict(self.given))
        for path, value in changes.items():
            if field(now, path) == value:
                continue
            place, node = given, now
            for name in path[:-1]:
                node = getattr(node, name)
                place = place.setdefault(name, {}) if isinstance(node, dict) else _given_within(place, name, node)
                if not isinstance(node, PreTrainedConfig):
                    place.update({k: v for k, v in copy.deepcopy(node).items() if k not in place})
            place[path[-1]] = value
        return Draft(self.model_type, given)

    def without(self, path: Path) -> Draft:
        """With the class's own value at `path`."""
        given = copy.deepcopy(dict(self.given))
        place = given
        for name in path[:-1]:
            place = place.get(name, {})
        place.pop(path[-1], None)
        return Draft(self.model_type, given)


def _put(config: PreTrainedConfig, given: Mapping[str, Any]) -> None:
    """Set fields without asking the class."""
    for name, value in given.items():
        inner = vars(config).get(name)
        if isinstance(inner, PreTrainedConfig) and isinstance(value, Mapping):
            _put(inner, value)
        elif name in vars(config):
            vars(config)[name] = copy.deepcopy(value)


def _given_within(place: dict[str, Any], name: str, node: PreTrainedConfig) -> dict[str, Any]:
    if name not in place:
        place[name] = explicit(node)
    return place[name]


def explicit(config: PreTrainedConfig) -> dict[str, Any]:
    """The fewest fields from which the class of `config` builds it again."""
    wanted = _plain(config)
    given = {"model_type": config.model_type} if config.model_type else {}
    try:
        default = _plain(type(config)())
    except Exception:
        default = {}
    differing = {name: value for name, value in wanted.items() if default.get(name) != value}
    for name in list(differing):
        fewer = {key: value for key, value in differing.items() if key != name}
        with contextlib.suppress(Exception):
            if _plain(type(config)(**copy.deepcopy(fewer))) == wanted:
                differing = fewer
    return {**given, **differing}


def _plain(config: PreTrainedConfig) -> dict[str, Any]:
    plain = {name: copy.deepcopy(value) for name, value in own_fields(config).items()}
    for name, value in vars(config).items():
        if isinstance(value, PreTrainedConfig) and not name.startswith("_"):
            plain[name] = {"model_type": value.model_type, **_plain(value)}
    return plain


def under(path: Path, tops: Collection[Path]) -> bool:
    """Whether `path` is one of `tops` or within one."""
    return any(path[: len(top)] == top for top in tops)


def computed(draft: Draft) -> set[Path]:
    """What classes set themselves: no field of theirs, and not given."""
    return {
        (*path, name)
        for path, node in nodes(draft.seen)
        if dataclasses.is_dataclass(node)
        for name in own_fields(node).keys() - {entry.name for entry in dataclasses.fields(node)}
        if name not in _at(draft.given, path)
    }


def _at(given: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    for name in path:
        given = given.get(name) or {}
    return given


def followers(draft: Draft, settled: Collection[Path] = ()) -> dict[Path, set[Path]]:
    """Field -> the fields that the class derives from it, found by changing each alone that is not settled."""
    follow: dict[Path, set[Path]] = {}
    for node_path, node in nodes(draft.seen):
        if under(node_path, settled):
            continue
        try:
            fields = explicit(node)
            before = own_fields(type(node)(**copy.deepcopy(fields)))
        except Exception:
            continue
        for name, value in before.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 2:
                continue
            for other in (2 * value, value // 2):
                try:
                    after = own_fields(type(node)(**copy.deepcopy({**fields, name: other})))
                except Exception:
                    continue
                moved = {key for key in before if key != name and after.get(key) != before[key]}
                if after.get(name) != value and moved:
                    follow.setdefault((*node_path, name), set()).update((*node_path, key) for key in moved)
                break
    return follow
