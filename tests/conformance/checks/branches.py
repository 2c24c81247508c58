"""What the hosts of bottlenecks receive is what their location says, and nothing else joins the stream.

Each forward of our model is cut at its hosts, so that what one of them is given depends on the code since the host before it and no more.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from conformance.adapted import initialised
from conformance.checks.beside import in_no_layer, joined_until_next, running
from conformance.extensions import can_be_without, named_by
from conformance.gates import weighs_both
from conformance.methods import Method
from conformance.outputs import flags, seeded
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.bottleneck import all_hosts_run
from conformance.reference.layout import Layer, Layout, layout_of
from conformance.subjects import Subject


@dataclass(frozen=True)
class Received:
    """What one call of a host got."""

    layer: Layer
    host: str
    location: str
    x: Tensor
    residual: Tensor | None  # None: upstream mixes what the host gives into several streams
    is_beside: bool = False  # called while the forward of its layer does not run
    trains: bool = True  # upstream runs some of its layers without gradients first, and again with them (HRM)


def hosts_receive_branches(subject: Subject, method: Method) -> None:
    """Shapes, locations and completeness."""
    model = initialised(subject)
    model.requires_grad_(True)
    layout = layout_of(model)
    inputs = subject.uncached_inputs()
    received: list[Received] = []

    def cut(original: Callable[..., Tensor], one: Received, *rest: Any, **options: Any) -> Tensor:
        is_beside = one.layer.path not in inside
        received.append(replace(one, trains=torch.is_grad_enabled(), is_beside=is_beside))
        # A copy: upstream may go on to change what it gets.
        return original(one.x, one.residual, *rest, **options).detach().requires_grad_().clone()

    with running(model, layout.layers) as inside, _hosts(model, layout, cut), seeded(5):
        outputs = model(**inputs, **flags(model))
    if not received:
        raise AssertionError("no host is called: there is no residual addition to adapt")
    del outputs
    if never := sorted({one.host for one in received} - {one.host for one in received if one.trains}):
        raise AssertionError(f"{never} are called without gradients only")
    for one in received:
        assert_shapes(one)
        if one.trains:
            _assert_location(model, layout, one)
    _assert_complete(subject, layout, {one.layer.path for one in received if one.is_beside})


def assert_shapes(one: Received) -> None:
    """The branch and the stream have one shape, (batch, length, hidden) or more axes before the last.

    Where the positions of all examples stand in one row, a branch may lack the axis of this one row. Queries that are learned may be one row
    for all that they attend to, which upstream adds to each (Granite Speech's Q-Former).
    """
    if one.residual is None or _is_one_row_for_all(one.x, one.residual):
        return
    more = one.residual.dim() - one.x.dim()
    of_one_row = more in (0, 1) and one.residual.shape == (*(1,) * more, *one.x.shape)
    if not of_one_row or one.x.dim() < 2:
        raise AssertionError(f"{one.host} is given {tuple(one.x.shape)} to add to {tuple(one.residual.shape)}")


def _is_one_row_for_all(x: Tensor, residual: Tensor) -> bool:
    return x.dim() == residual.dim() > 2 and len(residual) == 1 and x.shape[1:] == residual.shape[1:]


def _assert_location(model: nn.Module, layout: Layout, one: Received) -> None:
    if not one.x.requires_grad:
        raise AssertionError(f"{one.host} ({one.location}): what it is given depends on no parameter of its sublayer")
    parameters = {
        name: p
        for name, p in model.named_parameters(remove_duplicate=False)
        if name.startswith(f"{one.layer.path}.") or (one.is_beside and in_no_layer(name, layout.layers))
    }
    weight = torch.randn(one.x.shape, generator=torch.Generator().manual_seed(3))
    found = torch.autograd.grad(
        (one.x * weight).sum(), list(parameters.values()), allow_unused=True, retain_graph=True
    )
    reached = {name for name, grad in zip(parameters, found, strict=True) if grad is not None and bool(grad.any())}
    kinds = {"attention": "self", "cross_attention": "cross"}
    has_own = {location for location, _ in one.layer.hosts}
    attentions = {location: _of_attention(one.layer, kind) for location, kind in kinds.items() if location in has_own}
    mlp = (*one.layer.mlp_first, *one.layer.mlp_last)
    if one.location == "output":
        wrong = [path for paths in attentions.values() for path in paths if _touches(reached, path)]
        right = bool(reached)
    else:
        others = [path for location, paths in attentions.items() if location != one.location for path in paths]
        wrong = [path for path in (*mlp, *others) if _touches(reached, path)]
        right = any(_touches(reached, path) for path in attentions[one.location]) or not attentions[one.location]
    if wrong or not right:
        what = f"depends on {sorted(wrong)}" if wrong else "does not depend on what stands there"
        raise AssertionError(f"{one.host} ({one.location}): what it is given {what}")


def _of_attention(layer: Layer, kind: str) -> list[str]:
    return [
        path
        for one in layer.attentions
        if one.kind == kind
        for path in (one.query, one.key, one.value, one.fused, one.output)
        if path
    ]


def _touches(reached: set[str], path: str) -> bool:
    return any(name.startswith(f"{path}.") for name in reached)


def _assert_complete(subject: Subject, layout: Layout, beside: Set[str]) -> None:
    """With every branch at a host set to zero, the output of a layer depends on no projection in it.

    Upstream's own extensions of a layer, behind its last host, are none of its sublayers: no adapter belongs to them. Nor
    does one belong to a projection of the stream itself, where a layer gets wider, or to a gate that weighs the stream and what a host gave.

    Args:
        beside: paths of layers whose hosts are called beside them.
    """
    silent = _silent(subject, layout, cut=False)
    behind: _Silent | None = None
    for layer in layout.layers:
        if layer.is_left_out:  # what it adds has no host, which its part says
            continue
        if layer.path in beside:
            weights = dict(_projections(silent.model, ""))
            if joined := joined_until_next(layer, layout.layers, silent.given, silent.results, weights):
                raise AssertionError(f"beside {layer.path} something is added that no host is given: {joined}")
            continue
        left = [path for path in _reaching(silent, layer) if not _is_in_gate(silent, layer, path)]
        if not left or projects_the_stream(silent, layer, left) or _replaces_the_stream(subject, layer, left):
            continue
        behind = behind or _silent(subject, layout, cut=True)
        if not _is_extension(subject, layout, layer, left, behind):
            raise AssertionError(
                f"{layer.path} adds what no host is given: with all hosts silent it depends on {left}"
            )


@dataclass(frozen=True)
class _Silent:
    """A forward in which all hosts hand on the stream as it is; what ran, by path, in its first call."""

    model: nn.Module
    given: dict[str, Tensor]  # to modules
    ends: dict[str, Tensor]  # of layers
    behind: dict[str, list[Tensor]]  # layer -> what its output hosts gave, cut off from what stands before
    residuals: dict[str, Tensor] = field(default_factory=dict)  # layer -> the stream that its first host is given
    results: dict[str, Tensor] = field(default_factory=dict)  # layer -> what its last host gave
    handed: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)  # the same of each, with its residual
    calls: dict[str, tuple[Any, dict[str, Any]]] = field(default_factory=dict)  # module -> its arguments


def _silent(subject: Subject, layout: Layout, cut: bool) -> _Silent:
    model = initialised(subject)
    model.requires_grad_(True)
    seen = _Silent(model, {}, {}, {})

    def silent(original: Callable[..., Tensor], one: Received, *rest: Any, **options: Any) -> Tensor:
        if one.residual is not None:
            seen.residuals.setdefault(one.layer.path, one.residual)
        result = seen.results[one.layer.path] = original(torch.zeros_like(one.x), one.residual, *rest, **options)
        if one.residual is not None:
            seen.handed.setdefault(one.layer.path, []).append((result, one.residual))
        if cut and one.location == "output":
            result = result.detach().requires_grad_()
            seen.behind.setdefault(one.layer.path, []).append(result)
            return result.clone()  # upstream may go on to change it
        return result

    def keep(found: dict[str, Tensor], path: str, of: Callable[[Any, Any], Any]) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, output: Any) -> None:  # what a hook returns would be the output
            if (value := of(args, output)) is not None:
                found.setdefault(path, value)

        return hook

    def keep_call(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
            seen.calls.setdefault(path, (args, kwargs))

        return hook

    handles = []
    for path, module in model.named_modules():
        handles.append(module.register_forward_hook(keep(seen.given, path, lambda args, output: _a_tensor(args))))
        handles.append(module.register_forward_pre_hook(keep_call(path), with_kwargs=True))
    for layer in layout.layers:
        end = keep(seen.ends, layer.path, lambda args, output: _first_tensor(output))
        handles.append(model.get_submodule(layer.path).register_forward_hook(end))
    with _hosts(model, layout, silent), seeded(5):
        model(**subject.uncached_inputs(), **flags(model))
    for handle in handles:
        handle.remove()
    return seen


def _reaching(silent: _Silent, layer: Layer) -> list[str]:
    """The projections of a layer on which its output depends."""
    end, weights = silent.ends.get(layer.path), dict(_projections(silent.model, layer.path))
    if end is None or not end.requires_grad or not weights:
        return []
    found = _gradients(end, list(weights.values()))
    return [path for path, grad in zip(weights, found, strict=True) if grad is not None and bool(grad.any())]


def _is_in_gate(silent: _Silent, layer: Layer, projection: str) -> bool:
    """Whether a projection is that of a module which is given what a host gave and its residual, and only weighs both."""
    path = projection.rpartition(".")[0]
    if path == layer.path or any(_touches({f"{projection}."}, role) for role in named_by(layer)):
        return False
    args, kwargs = silent.calls.get(path, ((), {}))
    given = (*args, *kwargs.values())
    pairs = silent.handed.get(layer.path, [])
    if len(given) != 2 or not any({id(one) for one in given} == {id(x), id(stream)} for x, stream in pairs):
        return False
    module = silent.model.get_submodule(path)

    def call(*values: Tensor) -> Tensor:
        result: Tensor = module(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True)))
        return result

    return weighs_both(module, call, given[0])


def projects_the_stream(silent: _Silent, layer: Layer, left: Sequence[str]) -> bool:
    """Whether `left` is one projection, to another width, of what the first host of the layer adds to, and nothing else.

    All that comes from it to the end of the layer comes through this stream: seen by the chain rule.
    """
    stream, end = silent.residuals.get(layer.path), silent.ends[layer.path]
    weights = dict(_projections(silent.model, layer.path))
    weight = weights.get(left[0]) if len(left) == 1 else None
    if stream is None or not stream.requires_grad or weight is None or weight.dim() != 2:
        return False
    if weight.shape[0] == weight.shape[1] or stream.shape[-1] not in weight.shape:
        return False
    with_stream, whole = _gradients(end, [stream, weight])
    if with_stream is None or whole is None:
        return False
    (through,) = torch.autograd.grad(stream, [weight], with_stream, retain_graph=True, allow_unused=True)
    return through is not None and torch.allclose(through, whole, rtol=1e-4, atol=1e-5 * float(whole.abs().max()))


def _is_extension(subject: Subject, layout: Layout, layer: Layer, left: list[str], behind: _Silent) -> bool:
    """The projections `left` play no role in the layer, all read what its output hosts gave, and upstream can be without."""
    roles = named_by(layer)
    if any(_touches({f"{path}."}, role) for path in left for role in roles) or _reaching(behind, layer) != left:
        return False
    starts = behind.behind.get(layer.path, [])
    for path in left:
        given = behind.given.get(path, behind.given.get(path.rpartition(".")[0]))  # a parameter stands in a module
        read = starts and given is not None and given.requires_grad and _gradients(given, starts)
        if not read or not any(grad is not None and bool(grad.any()) for grad in read):
            return False
    weights = {id(weight): path for path, weight in _projections(behind.model, layer.path)}
    names = [name for name, parameter in behind.model.named_parameters() if weights.get(id(parameter)) in left]
    return can_be_without(subject, layout, names)


def _gradients(value: Tensor, of: list[Tensor]) -> tuple[Tensor | None, ...]:
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(3))
    return torch.autograd.grad((value * weight).sum(), of, allow_unused=True, retain_graph=True)


def _a_tensor(args: Any) -> Tensor | None:
    return next((value for value in args if isinstance(value, Tensor) and value.is_floating_point()), None)


def _replaces_the_stream(subject: Subject, layer: Layer, left: Sequence[str]) -> bool:
    """Whether what is left is of an attention whose output takes the place of the stream, as in the first layer of SAM's decoder.

    Then nothing of what upstream's layer is given comes to its end beside that attention: there is no addition to adapt.
    """
    ends = [one.output for one in layer.attentions if one.output]
    if not all(any(_is_within(path, one.core) for one in layer.attentions) for path in left):
        return False
    upstream = subject.upstream().requires_grad_(True)
    module = upstream.get_submodule(layer.path)
    seen: dict[str, Tensor] = {}

    def give(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        first = next(iter(inspect.signature(module.forward).parameters))
        given = args[0] if args else kwargs[first]
        seen.setdefault("start", given.detach().clone().requires_grad_())
        return ((seen["start"], *args[1:]), kwargs) if args else (args, {**kwargs, first: seen["start"]})

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        seen.setdefault("end", _first_tensor(output))

    def cut(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        return output.detach()

    handles = [upstream.get_submodule(path).register_forward_hook(cut) for path in ends]
    handles.append(module.register_forward_pre_hook(give, with_kwargs=True))
    handles.append(module.register_forward_hook(keep))
    with seeded(5):
        upstream(**subject.uncached_inputs(), **flags(upstream))
    for handle in handles:
        handle.remove()
    if not seen.get("end", torch.empty(0)).requires_grad:
        return "end" in seen
    (gradient,) = _gradients(seen["end"], [seen["start"]])
    return gradient is None or not bool(gradient.any())


def _is_within(path: str, module: str) -> bool:
    return f"{path}.".startswith(f"{module}.")


def _projections(model: nn.Module, layer: str) -> Iterator[tuple[str, Tensor]]:
    """Weights of linear maps of the layer, experts in one parameter included; "" = of the model."""
    for path, module in model.get_submodule(layer).named_modules():
        if isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D":
            yield f"{layer}.{path}".removeprefix("."), module.weight
        else:
            for name, parameter in module.named_parameters(recurse=False):
                is_matrices = parameter.dim() == 3 and min(parameter.shape[1:]) > 1  # and no scale of channels
                if is_matrices and not isinstance(module, (nn.Conv1d, nn.ConvTranspose1d)):
                    yield f"{layer}.{path}.{name}".removeprefix("."), parameter


def _first_tensor(output: Any) -> Tensor:
    while isinstance(output, (tuple, list)):
        output = output[0]
    return output if isinstance(output, Tensor) else next(v for v in output.values() if isinstance(v, Tensor))


@contextlib.contextmanager
def _hosts(model: nn.Module, layout: Layout, change: Callable[..., Tensor]) -> Iterator[None]:
    """Hosts compute `change` in the place of their addition."""
    found = [(layer, location, host) for layer in layout.layers for location, host in layer.hosts]
    if not found:
        raise DoesNotApply(Reason.NO_PLACE)

    def changed(layer: Layer, location: str, host: str, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forward(x: Tensor, residual: Tensor | None = None, *rest: Any, **options: Any) -> Tensor:
            return change(original, Received(layer, host, location, x, residual), *rest, **options)

        return forward

    modules = [(model.get_submodule(host), one) for one in found for host in one[2:]]
    for module, one in modules:
        module.bottleneck_layer_forward = changed(*one, module.bottleneck_layer_forward)
    try:
        with all_hosts_run():
            yield
    finally:
        for module, _ in modules:
            module.__dict__.pop("bottleneck_layer_forward", None)
