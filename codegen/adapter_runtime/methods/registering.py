"""Methods from outside of this library: given to `register_method`, or named by an entry point of an installed distribution."""

from __future__ import annotations

import threading
from importlib.metadata import EntryPoint, entry_points

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.errors import AdapterError
from adapter_runtime.methods.configs.named import NAMED
from adapter_runtime.methods.spec import C, MethodSpec
from adapter_runtime.methods.table import CONTAINERS, METHODS, PLANNED

GROUP = "adapter_models.methods"  # of entry points; each names a `MethodSpec`


class MethodRegistrationError(AdapterError, ValueError):
    """A method that cannot be registered: its name or its configs are another one's, or its entry point is broken."""


def register_method(spec: MethodSpec[C]) -> None:
    """Let all models have adapters of a method of your own.

    Its config strings, `add_adapter`, files and all that models can do know it from now on. Register it before you load
    adapters of it, and before `init` if it has `prepare_model` or `prepare_layer`. Registering a spec again does nothing;
    where its config classes were defined anew, under the same names in the same module (a cell of a notebook that runs a second
    time), the new ones take the place of the old ones.

    Raises:
        MethodRegistrationError: a name, config class or architecture of the spec is taken, or a field cannot be honoured.
    """
    known = METHODS.get(spec.name)
    if known is spec:
        return
    if known is not None and _is_redefined(known, spec):
        _forget(known)
    _check_names(spec)
    _check_configs(spec)
    for kind in spec.configs:
        kind.register(kind.architecture)
    _REGISTERED.add(spec.name)
    METHODS[spec.name] = spec
    NAMED.update(spec.named)
    CONTAINERS.update(spec.containers)


_REGISTERED: set[str] = set()  # names of methods from outside


def _is_redefined(known: MethodSpec[C], spec: MethodSpec[C]) -> bool:
    """Whether `spec` is a method from outside that is there already, made of classes that were defined anew."""
    paths = [[(kind.__module__, kind.__qualname__) for kind in method.configs] for method in (known, spec)]
    return spec.name in _REGISTERED and paths[0] == paths[1]


def _forget(spec: MethodSpec[C]) -> None:
    """Take a method from outside away."""
    del METHODS[spec.name]
    for name in spec.named:
        NAMED.pop(name, None)
    for kind in spec.configs:
        AdapterConfig.unregister(kind.architecture)


def _check_names(spec: MethodSpec[C]) -> None:
    """Raise where a name is taken, or names what is not there."""
    if spec.name in METHODS:
        raise MethodRegistrationError(f"There is a method {spec.name!r} already. Choose another name.")
    taken = sorted(name for name in spec.named if name in NAMED)
    if taken:
        raise MethodRegistrationError(
            f"Method {spec.name!r}: the config strings {', '.join(map(repr, taken))} stand for configs already. Choose others."
        )
    if spec.places and spec.places not in PLANNED:
        raise MethodRegistrationError(
            f"Method {spec.name!r}: places is {spec.places!r}, but plans of models know {', '.join(PLANNED)}."
        )


def _check_configs(spec: MethodSpec[C]) -> None:
    """Raise where adapters of the method could not be told from others when their files are read."""
    if not spec.configs:
        raise MethodRegistrationError(f"Method {spec.name!r} has no config classes, so no adapter can be of it.")
    foreign = sorted(name for name, config in spec.named.items() if not isinstance(config, spec.configs))
    if foreign:
        raise MethodRegistrationError(
            f"Method {spec.name!r}: {', '.join(map(repr, foreign))} stands for a config of another method."
        )
    for kind in spec.configs:
        owner = next((other.name for other in METHODS.values() if kind in other.configs), None)
        if owner is not None:
            raise MethodRegistrationError(
                f"Method {spec.name!r}: {kind.__name__} is a config of the method {owner!r}. Make a subclass of it."
            )
        known = AdapterConfig.of_architecture(kind.architecture)
        if known is not None and known is not kind:
            raise MethodRegistrationError(
                f"Method {spec.name!r}: {kind.__name__} has the architecture {kind.architecture!r}, by which files are read as"
                f" a {known.__name__}. Give it one of its own: architecture: str | None = {spec.name!r}"
            )


class _Discovery:
    """Entry points, which are looked at once, and only when a name is not known."""

    def __init__(self) -> None:
        self.is_done = False
        self.lock = threading.RLock()

    def run(self) -> None:
        with self.lock:
            if self.is_done:
                return
            self.is_done = True
            try:
                for entry in entry_points(group=GROUP):
                    _register_entry(entry)
            except AdapterError:
                self.is_done = False  # so that the next one who asks sees the error too
                raise


def _register_entry(entry: EntryPoint) -> None:
    where = f"The entry point {entry.name!r} ({entry.value}) of the distribution {entry.dist.name if entry.dist else '?'!r}"
    try:
        spec = entry.load()
    except Exception as error:
        raise MethodRegistrationError(
            f"{where}, group {GROUP!r}, cannot be imported: {type(error).__name__}: {error}. Mend or uninstall it."
        ) from error
    if not isinstance(spec, MethodSpec):
        raise MethodRegistrationError(f"{where}, group {GROUP!r}, names a {type(spec).__name__}, not a MethodSpec.")
    register_method(spec)


_discovery = _Discovery()


def discover_methods() -> None:
    """Register the methods that installed distributions bring, unless that was done.

    Raises:
        MethodRegistrationError: one of them is broken; the message names its distribution.
    """
    _discovery.run()
