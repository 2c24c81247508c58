"""What all adapter configs share: frozen, comparable, readable as a mapping, and told apart by their architecture."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, ClassVar, Protocol, TypeGuard

from typing_extensions import Self

from adapter_runtime.contract.names import OF_ALL_METHODS, NamesModules
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import InvalidConfigError, nearest


class KnownConfigs(Protocol):
    """Finds the configs of all methods; the package ``methods`` has one."""

    def resolve(self, config: str | Mapping[str, Json] | AdapterConfig) -> AdapterConfig:
        """The config that a name, config string, path of a JSON file, dict or config stands for."""

    def discover(self) -> None:
        """Import the methods that installed distributions bring, if that was not done yet."""


class AdapterConfig(NamesModules, Mapping[str, Json]):
    """Base of the config classes. Options are read as attributes or as items, and never change after creation.

    A config is written to ``adapter_config.json`` as its fields. Reading a file gives the class that belongs to the
    field ``architecture``, so ``SeqBnConfig()`` comes back as a `BnConfig` with the same values, and equal to it.

    Args:
        parts: of a model made of several (a vision tower, a language model), those that get the adapter: their paths, the last
            names of these, or "text", "vision", "audio" for all that read such. None = all. It is an item, and written to files,
            only where it is given. Default: None.
        also_train: modules of the base model that are trained along with the adapter, by their paths or last names: a projector
            ("multi_modal_projector"), norms. The adapter gets a copy of each, which runs while the adapter is active. None = none.
            It is an item, and written to files, only where it is given. Default: None.

    Raises:
        InvalidConfigError: `parts` or `also_train` are no names.
    """

    architecture: str | None = None
    _architectures: ClassVar[dict[str | None, type[AdapterConfig]]] = {}
    _known: ClassVar[KnownConfigs]  # set by the package ``methods``, which this room cannot import

    def __getitem__(self, key: str) -> Json:
        if key not in self._items():
            raise KeyError(key)
        value: Json = getattr(self, key)
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(self._items())

    def __len__(self) -> int:
        return len(self._items())

    def _items(self) -> tuple[str, ...]:
        """The names of the options, without those that `adapters` does not know where they are not given."""
        return tuple(name for name in self._names() if name not in OF_ALL_METHODS or getattr(self, name) is not None)

    def __hash__(self) -> int:
        return hash(self.identity())

    @classmethod
    def _names(cls) -> tuple[str, ...]:
        return tuple(item.name for item in dataclasses.fields(cls))

    def identity(self) -> str:
        """All options as canonical JSON: equal exactly where the configs are."""
        return json.dumps(self.to_dict(), sort_keys=True)

    def to_dict(self) -> dict[str, Json]:
        """The options as plain data that JSON can hold."""
        options = dataclasses.asdict(self)
        return {name: options[name] for name in self._items()}

    def replace(self, **changes: Json) -> Self:
        """A copy with some options changed.

        Raises:
            InvalidConfigError: an option does not exist.
        """
        self._check_names(changes)
        options: dict[str, Any] = dict(changes)
        return dataclasses.replace(self, **options)

    def stated(self) -> str:
        """For messages: the class, with the options that are not as by default."""
        given = []
        for item in dataclasses.fields(self):
            default = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            if (value := getattr(self, item.name)) != default:
                given.append(f"{item.name}={value!r}")
        return f"{type(self).__name__}({', '.join(given)})"

    @staticmethod
    def of_architecture(architecture: str | None) -> type[AdapterConfig] | None:
        """The class that files of `architecture` are read into; None where there is none."""
        return AdapterConfig._architectures.get(architecture)

    def never_meets(self, other: AdapterConfig) -> bool:
        """Whether two configs of one architecture never ask for the same place, so that one `ConfigUnion` can hold both."""
        return False

    @classmethod
    def _check_names(cls, options: Mapping[str, Json]) -> None:
        for name in options:
            if name not in cls._names():
                raise InvalidConfigError(f"{cls.__name__} has no option {name!r}. {nearest(name, cls._names())}")

    @classmethod
    def register(cls, architecture: str | None) -> None:
        """Make this the class that files of `architecture` are read into."""
        AdapterConfig._architectures[architecture] = cls

    @staticmethod
    def unregister(architecture: str | None) -> None:
        """Let no class be the one of `architecture`."""
        AdapterConfig._architectures.pop(architecture, None)

    @staticmethod
    def use(known: KnownConfigs) -> None:
        """Let `load` and `from_dict` find configs by `known`."""
        AdapterConfig._known = known

    @staticmethod
    def from_dict(options: Mapping[str, Json]) -> AdapterConfig:
        """The config that `options`, as written by `to_dict`, stand for.

        Raises:
            InvalidConfigError: the architecture or an option is unknown.
        """
        architecture = options.get("architecture")
        if architecture not in AdapterConfig._architectures:
            AdapterConfig._known.discover()
        if architecture not in AdapterConfig._architectures:
            known = [name for name in AdapterConfig._architectures if name]
            raise InvalidConfigError(
                f"No adapter config has architecture {architecture!r}. {nearest(str(architecture), known)} If it is one of a "
                "method from outside, import the file that registers it first."
            )
        return AdapterConfig._architectures[architecture]._from_options(options)

    @classmethod
    def _from_options(cls, options: Mapping[str, Json]) -> AdapterConfig:
        known: dict[str, Any] = {
            name: value for name, value in options.items() if name != "architecture" or name in cls._names()
        }
        cls._check_names(known)
        try:
            return cls(**known)
        except TypeError as error:
            raise InvalidConfigError(f"Cannot make a {cls.__name__} of {dict(options)}: {error}.") from error

    @staticmethod
    def load(config: str | Mapping[str, Json] | AdapterConfig, **changes: Json) -> AdapterConfig:
        """The config that a name, config string, path of a JSON file, dict or config stands for, with `changes`.

        Raises:
            InvalidConfigError: it stands for none, or a changed option does not exist.
        """
        resolved = AdapterConfig._known.resolve(config)
        return resolved.replace(**changes) if changes else resolved


def left_out_layers(config: AdapterConfig) -> list[int]:
    """The indices of the layers without modules of an adapter; none where its config has no option ``leave_out``."""
    indices = config.get("leave_out")
    return [index for index in indices if isinstance(index, int)] if isinstance(indices, Sequence) else []


def check_choice(owner: AdapterConfig, option: str, choices: Sequence[Json]) -> None:
    """Check the value of an option.

    Raises:
        InvalidConfigError: it is none of `choices`.
    """
    value = owner[option]
    if value not in choices:
        shown = ", ".join(map(repr, choices))
        raise InvalidConfigError(f"{type(owner).__name__}: {option} is {value!r}, but must be one of {shown}.")


def check_whole(owner: AdapterConfig, least: int, *options: str) -> None:
    """Check that options are whole numbers.

    Args:
        least: the smallest that makes sense.

    Raises:
        InvalidConfigError: one is none, or is smaller.
    """
    for option in options:
        value = owner[option]
        if not _is_whole(value) or value < least:
            raise _unfit(owner, option, f"a whole number of at least {least}")


def check_numbers(owner: AdapterConfig, *options: str, above: float = -math.inf, least: float = -math.inf) -> None:
    """Check that options are finite numbers.

    Args:
        above: they must be greater than that.
        least: they must not be smaller than that.

    Raises:
        InvalidConfigError: one is no such number.
    """
    bound = f" above {above:g}" if above > -math.inf else f" of at least {least:g}" if least > -math.inf else ""
    for option in options:
        value = owner[option]
        if not is_number(value) or not (value > above and value >= least):
            raise _unfit(owner, option, f"a number{bound}")


def check_rates(owner: AdapterConfig, *options: str) -> None:
    """Check that options are probabilities of dropping something, of which at least something must be kept.

    Raises:
        InvalidConfigError: one does not lie in [0, 1).
    """
    for option in options:
        value = owner[option]
        if not is_number(value) or not 0.0 <= value < 1.0:
            raise _unfit(owner, option, "a number that lies in [0, 1)")


def check_seed(owner: AdapterConfig) -> None:
    """Check the option `init_weights_seed`.

    Raises:
        InvalidConfigError: it is no whole number, and not None.
    """
    seed = owner["init_weights_seed"]
    if seed is not None and not _is_whole(seed):
        raise _unfit(owner, "init_weights_seed", "a whole number, or None")


def check_indices(owner: AdapterConfig, option: str) -> None:
    """Check an option that lists layers.

    Raises:
        InvalidConfigError: it is no list of indices.
    """
    value = owner[option]
    if isinstance(value, str) or not isinstance(value, (Sequence, range)) or not all(map(_is_whole, value)):
        raise _unfit(owner, option, "a list of indices of layers")


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a finite number; true and false are none."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def _is_whole(value: object) -> TypeGuard[int]:
    return not isinstance(value, bool) and isinstance(value, Integral)


def _unfit(owner: AdapterConfig, option: str, expected: str) -> InvalidConfigError:
    return InvalidConfigError(f"{type(owner).__name__}: {option} is {owner[option]!r}, but must be {expected}.")
