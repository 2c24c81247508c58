"""The places of one adapter in a model, each with its parameters, and what each does while all others do nothing.

A site is what holds tensors of the adapter at one place: a host of bottlenecks, a projection, a layer with ReFT, one attention core of a
prefix, the entrance of the stream. With all its tensors zero, it does nothing that depends on it.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from adapter_runtime.programs.layer import AdapterLayerBase, TensorLayer
from conformance.adapted import fill_randomly
from conformance.in_double import InDouble, doubled
from conformance.outputs import flags, flatten, fresh, loss_of, seeded
from conformance.subjects import Subject
from conformance.unread import Unread

# The least that a site has to change: this share of the largest output. What rounding changes in float32 is a hundredth of it.
EFFECT = 1e-4
EXACT = 1e-9  # in double precision, whose rounding is far less
DRAWS = 4  # of random values, one of which has to give a gradient: few units of a ReLU can be off in one of them
LARGER = 8.0  # times the usual weights, for another try
EVERYTHING_IS_READ = Unread()
_KEPT = (
    ".parametrizations.",
    "shared_parameters.",
)  # orthonormal rows and what all sites share: zeros would switch off more


@dataclass(frozen=True)
class Site:
    """One place."""

    path: str  # of the module of upstream at which it stands, or nearest to it
    tensors: Mapping[
        str, Callable[[], Tensor]
    ]  # name -> its part of a parameter; a name with "[...]" is a part of one
    gradients: Mapping[str, Callable[[], Tensor | None]]


def sites_of_adapter(model: nn.Module, name: str) -> list[Site]:
    """The sites of the adapter `name`, in the order of the module tree."""
    found: dict[str, dict[str, nn.Parameter]] = {}
    for key, parameter in model.named_parameters():
        if f".{name}." in f".{key}." and not any(kept in key for kept in _KEPT):
            container = key.partition(f".{name}.")[0]
            found.setdefault(container, {})[key] = parameter
    prefixes = [container for container in found if "prefix_tunings" in container]
    flat = {
        key: p for container in prefixes for key, p in found.pop(container).items() if key.endswith(".control_trans")
    }
    whole = [
        Site(
            path.rpartition(".")[0],
            {key: functools.partial(_data, p) for key, p in tensors.items()},
            {key: functools.partial(_gradient, p) for key, p in tensors.items()},
        )
        for path, tensors in found.items()
    ]
    return whole + _prefix_sites(model, name, {id(parameter): key for key, parameter in flat.items()})


def _prefix_sites(model: nn.Module, name: str, keys: Mapping[int, str]) -> list[Site]:
    """One per attention core with a flat prefix: columns of the parameter (P, columns) that all cores share."""
    sites = []
    for path, module in model.named_modules():
        placed = getattr(getattr(module, "prefix_tuning", None), "placed", {})
        if name not in placed:
            continue
        tuning, position = placed[name].tuning, placed[name].position
        key = keys.get(id(tuning.control_trans))
        if key is None:  # out of an MLP
            continue
        start = sum(tuning.sizes[: 2 * position])
        columns = slice(start, start + sum(tuning.sizes[2 * position : 2 * position + 2]))
        shape = (tuning.config.prefix_length, -1)
        parts = (tuning.control_trans, shape, columns)
        label = f"{key}[{position}]"
        sites.append(
            Site(path, {label: functools.partial(_data, *parts)}, {label: functools.partial(_gradient, *parts)})
        )
    return sites


def _data(parameter: nn.Parameter, shape: tuple[int, int] | None = None, columns: slice = slice(None)) -> Tensor:
    return parameter.data if shape is None else parameter.data.view(shape)[:, columns]


def _gradient(
    parameter: nn.Parameter, shape: tuple[int, int] | None = None, columns: slice = slice(None)
) -> Tensor | None:
    gradient = parameter.grad
    return gradient if gradient is None or shape is None else gradient.view(shape)[:, columns]


def assert_each_acts_alone(
    model: nn.Module,
    name: str,
    subject: Subject,
    inputs: Mapping[str, Any],
    fixed: Set[str] = frozenset(),
    unread: Unread = EVERYTHING_IS_READ,
) -> int:
    """Each site of the active adapter `name` changes the outputs, and all its tensors get gradients, while the others are zero.

    A site around which upstream's own parameters get no gradient (an expert that no token is sent to) is passed over, and one
    without effect where upstream's own weight has none.

    Args:
        fixed: names of parameters that are never trained.
        unread: those of edits at positions that upstream does not read.

    Returns:
        How many sites were seen to change the outputs, with a tensor that gets a gradient: 0 if all were passed over.
    """
    sites = sites_of_adapter(model, name)
    if not sites:
        raise AssertionError("the adapter has no site; the check would be empty")
    _silence(sites)
    plain = _outputs(model, inputs)[1]
    silent: list[str] = []
    dead: list[str] = []
    acting = 0
    untrained, unseen = fixed | unread.untrained, fixed | unread.unseen
    loud = {number: site for number, site in enumerate(sites) if not _is_quiet(subject, site)}
    together = _dead_together(model, list(loud.values()), inputs, untrained)
    hosts = _hosts(model)
    for number, site in loud.items():
        with _running(hosts, site):
            has_effect = _acts(model, site, inputs, plain, 200 + number)
        if not has_effect and not unseen.issuperset(site.tensors) and not is_idle(subject, site):
            has_effect = _acts_in_double(model, name, number, inputs)
            silent += [] if has_effect else [", ".join(site.tensors)]
        seeds = (200 + number + draw * len(sites) for draw in range(DRAWS))
        still = _dead(model, [site], inputs, seeds, untrained) if together.intersection(site.tensors) else set()
        dead += sorted(still)
        acting += has_effect and not untrained.union(still).issuperset(site.tensors)
    if silent:
        raise AssertionError(f"alone without effect: {silent}")
    if dead:
        raise AssertionError(f"alone without a gradient: {dead}")
    return acting


def _silence(sites: Iterable[Site]) -> None:
    for site in sites:
        for tensor in site.tensors.values():
            tensor().zero_()


def _hosts(model: nn.Module) -> dict[str, AdapterLayerBase[Any]]:
    """The modules with a program that, with zeros, changes nothing: not those that act at the entrance of the model, and not prefixes, which
    take attention from the tokens whatever they are.
    """
    return {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, TensorLayer) and not module.acts_at_entry and module.program is not None
    }


@contextlib.contextmanager
def _running(hosts: Mapping[str, AdapterLayerBase[Any]], site: Site) -> Iterator[None]:
    """Leave out what runs at other sites: with zeros, it would only take time, for each site again."""
    others = [host for path, host in hosts.items() if path != site.path]
    programs = [host.program for host in others]
    try:
        for host in others:
            host.program = None
        yield
    finally:
        for host, program in zip(others, programs, strict=True):
            host.program = program


def _acts(model: nn.Module, site: Site, inputs: Mapping[str, Any], plain: Mapping[str, Tensor], seed: int) -> bool:
    """Whether a site with random values, all others zero, changes the outputs.

    Args:
        plain: the outputs without.
    """
    fill_randomly((tensor() for tensor in site.tensors.values()), seed)
    has_effect = _differ(_outputs(model, inputs)[1], plain) or _differ(_enlarged(model, site, inputs), plain)
    _silence([site])
    return has_effect


def _dead_together(model: nn.Module, sites: list[Site], inputs: Mapping[str, Any], untrained: Set[str]) -> set[str]:
    """The tensors that get no gradient where all sites have random values at once: one backward pass, where each site alone costs one.

    What gets one there can be trained. What gets none is tried alone: among others, its unit of a ReLU may be off.
    """
    return _dead(model, sites, inputs, range(100, 100 + DRAWS), untrained)


def _dead(
    model: nn.Module, sites: list[Site], inputs: Mapping[str, Any], seeds: Iterable[int], untrained: Set[str]
) -> set[str]:
    """The tensors of `sites`, but for `untrained`, that get no gradient with any of the random values of `seeds`, all other sites zero."""
    still = {key for site in sites for key in site.gradients} - untrained
    for seed in seeds:
        if not still:
            break
        for number, site in enumerate(sites):
            fill_randomly((tensor() for tensor in site.tensors.values()), seed + number)
        model.zero_grad()
        if (loss := loss_of(_outputs(model, inputs, with_gradients=True)[0])).requires_grad:
            loss.backward()  # not where nothing of the adapter is called
        still -= {key for site in sites for key, of in site.gradients.items() if _moves(of())}
    _silence(sites)
    return still


def _acts_in_double(model: nn.Module, name: str, number: int, inputs: Mapping[str, Any]) -> bool:
    """Whether a site that seems silent changes the outputs by more than double precision rounds, while all others are zero.

    A query whose few keys are nearly equal is that weak (the last layers of EfficientLoFTR).
    """
    double, given = copy.deepcopy(model).double(), doubled(inputs)
    site = sites_of_adapter(double, name)[number]
    try:
        with InDouble():
            plain = _outputs(double, given)[1]
            fill_randomly((tensor() for tensor in site.tensors.values()), 200 + number)
            return _differ(_outputs(double, given)[1], plain, EXACT)
    except RuntimeError:  # it does not run in double precision
        return False


def _enlarged(model: nn.Module, site: Site, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
    """The outputs where a site is far larger: some are weak, as one of few queries that look at few keys. None at all stays so."""
    for tensor in site.tensors.values():
        tensor().mul_(LARGER)
    return _outputs(model, inputs)[1]


def _outputs(
    model: nn.Module, inputs: Mapping[str, Any], with_gradients: bool = False
) -> tuple[Any, dict[str, Tensor]]:
    with torch.set_grad_enabled(with_gradients), seeded(5):
        outputs = model(**fresh(inputs), **flags(model))
    return outputs, {key: value.detach() for key, value in flatten(outputs).items() if value.is_floating_point()}


def _differ(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], share: float = EFFECT) -> bool:
    for key, value in theirs.items():
        other = ours.get(key)
        if other is None or other.shape != value.shape:
            return True
        finite = torch.isfinite(value) & torch.isfinite(other)
        if finite.any():
            scale = max(1.0, float(value[finite].abs().max()))
            if float((other - value)[finite].abs().max()) > share * scale:
                return True
    return False


def is_dead(gradient: Tensor | None) -> bool:
    """Whether training would not move a tensor with this gradient."""
    return gradient is None or not bool(torch.any(gradient != 0))


def _moves(gradient: Tensor | None) -> bool:
    """Whether it is a finite one: where all sites are far too much at once, infinite ones say nothing."""
    return gradient is not None and not is_dead(gradient) and bool(torch.isfinite(gradient).all())


def quiet_names(subject: Subject, model: nn.Module, name: str) -> set[str]:
    """Parameters of the adapter `name` at places where upstream's own parameters get no gradient."""
    sites = sites_of_adapter(model, name)
    quiet = {key for site in sites if _is_quiet(subject, site) for key in site.tensors}
    # the orthonormal rows of an edit stand beside its other tensors, but are none of the site (`_KEPT`)
    containers = {key.partition(f".{name}.")[0] for key in quiet}
    rows = (key for key, _ in model.named_parameters() if f".{name}." in key and ".parametrizations." in key)
    # a prefix of several cores is one parameter, which is quiet where all of its parts are
    loud = {key.partition("[")[0] for site in sites for key in site.tensors if key not in quiet}
    shared = {key.partition("[")[0] for key in quiet} - loud
    return quiet | shared | {key for key in rows if key.partition(f".{name}.")[0] in containers}


def _is_quiet(subject: Subject, site: Site) -> bool:
    """Whether upstream's parameters at the site, or of the nearest module around it that has some, get no gradient.

    What changes a weight is quiet where this weight is: a projection of queries that begin as zeros is trained in its bias alone.
    """
    alive, all_names = living_parameters(subject)
    path = site.path
    if all(".loras." in key for key in site.tensors) and f"{path}.weight" in all_names:
        return f"{path}.weight" not in alive
    while True:
        inside = [name for name in all_names if not path or name.startswith(f"{path}.")]
        if inside:
            return not any(name in alive for name in inside)
        path = path.rpartition(".")[0]


def is_idle(subject: Subject, site: Site) -> bool:
    """Whether the site changes a weight of upstream's, and upstream's own outputs stay where this weight becomes another.

    A decoder that starts from zeros has equal values in its first attention, so that queries and keys change nothing: only
    rounding gives their weights a gradient. So it is asked in double precision.
    """
    upstream, inputs = subject.upstream().double(), doubled(subject.padded_inputs())
    weight = dict(upstream.named_parameters()).get(f"{site.path}.weight")
    if weight is None or not all(".loras." in key for key in site.tensors):
        return False
    try:
        with InDouble():
            before = _outputs(upstream, inputs)[1]
            fill_randomly([weight], 300)
            return not _differ(_outputs(upstream, inputs)[1], before, EXACT)
    except RuntimeError:  # it does not run in double precision
        return False


@functools.lru_cache(maxsize=8)
def living_parameters(subject: Subject) -> tuple[frozenset[str], tuple[str, ...]]:
    """The parameters of upstream's model that get a gradient from its outputs; and all of them."""
    upstream = subject.upstream().requires_grad_(True)
    with seeded(5):
        outputs = upstream(**subject.padded_inputs(), **flags(upstream))
    loss_of(outputs).backward()
    named = dict(upstream.named_parameters(remove_duplicate=False))
    return frozenset(name for name, p in named.items() if not is_dead(p.grad)), tuple(named)
