"""Gradient checkpointing gives the same gradients, of both kinds."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Iterable, Iterator, Set
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointFunction
from transformers import PreTrainedModel

from conformance.adapted import FIRST, adapter_parameters, initialised, randomise_adapter
from conformance.methods import Method
from conformance.outputs import are_close, assert_equal_within, flags, loss_of, seeded
from conformance.reasons import DoesNotApply, Reason
from conformance.reference.layout import layout_of
from conformance.sites import quiet_names
from conformance.subjects import Subject


def checkpointing_gives_the_same_gradients(subject: Subject, method: Method) -> None:
    if not upstream_recomputes(subject):
        raise DoesNotApply(Reason.NO_CHECKPOINTING)
    expected, runs = _gradients(subject, method, None)
    for reentrant in (False, True) if upstream_trains_reentrant(subject) else (False,):
        gradients, recomputed = _gradients(subject, method, reentrant)
        if recomputed <= runs:
            raise AssertionError("nothing was recomputed; the check would be empty")
        assert_equal_within(gradients, expected, f"use_reentrant={reentrant}", atol=1e-6, rtol=1e-4)


def _gradients(subject: Subject, method: Method, reentrant: bool | None) -> tuple[dict[str, Tensor], int]:
    """Gradients of the adapter in training mode, and how often modules of the layers ran for them."""
    model = _in_training(subject, method)
    if reentrant is not None:
        model.activation_checkpointing_enable({"use_reentrant": reentrant})
    ran = _count_runs(model)
    with seeded(_seed_of_all_layers(subject, method)):
        loss_of(model(**subject.padded_inputs(), **flags(model), **_without_cache(subject))).backward()
    trained = {name: p for name, p in adapter_parameters(model, FIRST).items() if p.requires_grad}
    missing = [name for name, parameter in trained.items() if parameter.grad is None]
    if missing:
        missing = sorted(set(missing) - quiet_names(subject, model, FIRST))
    found = {name: p.grad for name, p in trained.items() if p.grad is not None}
    if missing or not found:
        raise AssertionError(f"use_reentrant={reentrant}: no gradient reaches {missing}")
    return found, ran.total()


def _in_training(subject: Subject, method: Method) -> nn.Module:
    model = initialised(subject)
    with seeded(4):  # tensors that are drawn and no parameters: the basis of orthonormal rows
        model.add_adapter(FIRST, config=method.config)
    randomise_adapter(model, FIRST)
    model.train_adapter(FIRST)
    return model


@functools.cache
def _seed_of_all_layers(subject: Subject, method: Method) -> int:
    """One with which no layer is dropped in training (M2M100 drops some at random). The adapter, too, may draw numbers."""
    model = _in_training(subject, method)
    wanted = _modules_that_run(model.eval(), subject, seed=0)
    model.train()
    layers = {model.get_submodule(layer.path) for layer in layout_of(model).layers}
    return first_that_runs((_modules_that_run(model, subject, seed) for seed in range(20)), wanted, layers)


def first_that_runs(ran: Iterable[Set[object]], wanted: Set[object], layers: Set[object]) -> int:
    """The first of several runs that ran all that is wanted; or else, as dropout may send tokens to other experts each time, all
    layers of it.
    """
    enough: list[int] = []
    for run, found in enumerate(ran):
        if wanted <= found:
            return run
        if wanted & layers <= found:
            enough.append(run)
    return enough[0] if enough else 0


def _modules_that_run(model: nn.Module, subject: Subject, seed: int) -> set[nn.Module]:
    found: set[nn.Module] = set()
    handles = [module.register_forward_pre_hook(lambda module, args: found.add(module)) for module in model.modules()]
    with torch.no_grad(), seeded(seed):
        model(**subject.padded_inputs(), **flags(model), **_without_cache(subject))
    for handle in handles:
        handle.remove()
    return found


@functools.cache
def upstream_recomputes(subject: Subject) -> bool:
    """Upstream's own class runs something of the layers that have adapters twice with checkpointing, and gets to an end, with
    frozen embeddings too. (A tower that it never recomputes may stand beside layers of which it does.)
    """
    upstream = subject.upstream().train().requires_grad_(True)
    with contextlib.suppress(NotImplementedError):  # a model of images may have no table of tokens
        if (table := upstream.get_input_embeddings()) is not None:  # nor need one that is given vectors
            table.requires_grad_(False)
    counts: dict[nn.Module, int] = {}
    layers = (upstream.get_submodule(layer.path) for layer in layout_of(initialised(subject)).layers)
    for module in {module for layer in layers for module in layer.modules()}:
        module.register_forward_pre_hook(lambda module, args: counts.update({module: counts.get(module, 0) + 1}))
    try:
        upstream.activation_checkpointing_enable({"use_reentrant": False})
        with seeded(5):
            loss = loss_of(upstream(**subject.padded_inputs(), **flags(upstream), **_without_cache(subject)))
            before = dict(counts)
            loss.backward()
    except Exception:
        return False
    return counts != before


@functools.cache
def upstream_trains_reentrant(subject: Subject) -> bool:
    """Whether upstream's own class, all of it and its inputs trained, gets to the gradients that the other kind gives: it does
    not where layers give their hidden states in a tuple within a tuple, which a reentrant checkpoint does not look into, nor where
    they leave something for others beside what they return (an encoder's keys in a cache that the decoder reads; keys that
    later layers share): that was made without a graph.
    """
    found = upstreams_gradients(subject.upstream(), _trained_inputs(subject), reentrant=True)
    if isinstance(found, Exception):
        return not isinstance(
            found, InBackward
        )  # of what upstream cannot do for another reason, nothing is known here
    expected = upstreams_gradients(subject.upstream(), _trained_inputs(subject), reentrant=False)
    return isinstance(expected, Exception) or are_close(found, expected, atol=1e-6, rtol=1e-4)


class InBackward(Exception):
    """The forward came to an end, and the way back did not."""


MOST_RECOMPUTED = 500  # layers, in one way back: far more than a tiny model has


@contextlib.contextmanager
def few_recomputed() -> Iterator[None]:
    """End a way back in which reentrant checkpoints compute layers again and again: where a layer hands the next one more than its hidden
    states (WavLM's positions), torch goes back through it twice for each later layer, for hours and with all of the memory.

    Raises:
        RuntimeError: on the way back.
    """
    seen: Counter[str] = Counter()
    backward = CheckpointFunction.backward

    def counted(context: Any, *gradients: Any) -> Any:
        seen["layers"] += 1
        if seen["layers"] > MOST_RECOMPUTED:
            raise RuntimeError(f"more than {MOST_RECOMPUTED} layers were recomputed")
        return backward(context, *gradients)

    with mock.patch.object(CheckpointFunction, "backward", staticmethod(counted)):
        yield


def _trained_inputs(subject: Subject) -> dict[str, Any]:
    inputs = {
        name: value.clone().requires_grad_() if torch.is_tensor(value) and value.is_floating_point() else value
        for name, value in subject.padded_inputs().items()
    }
    return {**inputs, **_without_cache(subject)}


def upstreams_gradients(
    upstream: PreTrainedModel, inputs: dict[str, Any], reentrant: bool
) -> dict[str, Tensor] | Exception:
    """Those of all of a model of upstream's, which is changed for it; an `InBackward` where only the way back failed."""
    upstream.train().requires_grad_(True)
    try:
        upstream.activation_checkpointing_enable({"use_reentrant": reentrant})
        with seeded(5):
            loss = loss_of(upstream(**inputs, **flags(upstream)))
    except Exception as error:
        return error
    try:
        with few_recomputed():
            loss.backward()
    except RuntimeError as error:
        return InBackward(str(error))
    return {name: parameter.grad for name, parameter in upstream.named_parameters() if parameter.grad is not None}


def _without_cache(subject: Subject) -> dict[str, bool]:
    return {"use_cache": False} if subject.causal else {}


def _count_runs(model: nn.Module) -> Counter[str]:
    """Of all modules in layers, by path: a forward may put another attention in the place of a core."""
    ran: Counter[str] = Counter()
    for layer in layout_of(model).layers:
        for path, module in model.get_submodule(layer.path).named_modules(prefix=layer.path):
            module.register_forward_hook(functools.partial(_count, ran, path))
    return ran


def _count(ran: Counter[str], path: str, *_: object) -> None:
    ran[path] += 1
