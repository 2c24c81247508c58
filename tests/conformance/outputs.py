"""Everything that a forward returns, as a flat dictionary of tensors, and how two of them are compared."""

from __future__ import annotations

import contextlib
import inspect
import random
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from transformers import Cache, EncoderDecoderCache

FLAGS = {"output_hidden_states": True, "return_dict": True}
_MAPS_ALONE: weakref.WeakKeyDictionary[nn.Module, bool] = weakref.WeakKeyDictionary()


def flags(model: nn.Module) -> dict[str, bool]:
    """What a forward is asked for: hidden states, too, but of a model that holds one of timm's which gives maps and refuses states.

    The forward of a model inside of others may take nothing of the kind.
    """
    asked = {"return_dict": True} if _gives_maps_alone(model) else FLAGS
    takes = inspect.signature(model.forward).parameters
    takes_all = any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values())
    return {name: value for name, value in asked.items() if takes_all or name in takes}


def _gives_maps_alone(model: nn.Module) -> bool:
    """Whether the model holds one of timm's that does. Looked up once for each model: a check may run it for every site of an adapter."""
    if model not in _MAPS_ALONE:
        _MAPS_ALONE[model] = any(getattr(module, "features_only", False) is True for module in model.modules())
    return _MAPS_ALONE[model]


def run(model: nn.Module, inputs: Mapping[str, Any], seed: int = 5, **more: Any) -> dict[str, Tensor]:
    """Forward without gradients; all outputs, hidden states and the cache included."""
    with torch.no_grad(), seeded(seed):  # some draw random numbers in evaluation too
        return flatten(model(**fresh(inputs), **{**flags(model), **more}))


def fresh(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments for one call: a forward of a model inside of others may write into what it is given."""
    return changed(inputs, Tensor.clone)


def changed(inputs: Mapping[str, Any], change: Callable[[Tensor], Tensor]) -> dict[str, Any]:
    """Inputs with `change` done to each tensor, also in lists and tuples (what an encoder gave)."""
    return {name: _changed(value, change) for name, value in inputs.items()}


def _changed(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return type(value)(_changed(entry, change) for entry in value) if type(value) in (list, tuple) else value


def flatten(value: Any, name: str = "") -> dict[str, Tensor]:
    """Tensors of nested outputs by dotted name; of a cache, the keys and values of every layer, or its states."""
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, EncoderDecoderCache):
        value = {"self": value.self_attention_cache, "cross": value.cross_attention_cache}
    elif isinstance(value, Cache):
        value = {str(i): _states(layer) for i, layer in enumerate(value.layers)}
    elif isinstance(value, (tuple, list)):
        value = {str(i): entry for i, entry in enumerate(value)}
    if not isinstance(value, Mapping):
        return {}
    flat: dict[str, Tensor] = {}
    for key, entry in value.items():
        flat.update(flatten(entry, f"{name}.{key}" if name else key))
    return flat


def _states(layer: Any) -> dict[str, Any]:
    """What a layer of a cache holds: keys and values, or what layers without softmax keep of all tokens so far."""
    names = ("keys", "values", "conv_states", "recurrent_states")
    return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


def main_outputs(outputs: Any) -> dict[str, Tensor]:
    """What a user reads: floating-point tensors at the top, without the loss; not the hidden states of each layer.

    Where there are none, those at the top of what the model's parts give; where there are none either, lists, as of maps of features.
    """
    numbers = {
        name: value
        for name, value in flatten(outputs).items()
        if value.is_floating_point() and name.rpartition(".")[2] != "loss"
    }
    top = {name: value for name, value in numbers.items() if "." not in name}
    parts = {name: value for name, value in numbers.items() if not any(map(str.isdigit, name.split(".")))}
    return top or parts or {name: value for name, value in numbers.items() if not _is_of_layers(name)}


def _is_of_layers(name: str) -> bool:
    return name.partition(".")[0].endswith(("hidden_states", "attentions"))


def all_outputs(outputs: Any) -> dict[str, Tensor]:
    """Every floating-point tensor, of whatever depth."""
    return {name: value for name, value in flatten(outputs).items() if value.is_floating_point()}


def loss_of(outputs: Any, read: Callable[[Any], dict[str, Tensor]] = main_outputs) -> Tensor:
    """A scalar on which every element of the outputs that are `read` weighs differently (a plain sum is blind behind a norm)."""
    generator = torch.Generator().manual_seed(11)
    terms = [
        (value.float() * torch.randn(value.shape, generator=generator)).mean() for value in read(outputs).values()
    ]
    return torch.stack(terms).sum()


def assert_bitwise(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> None:
    """Same names, shapes, types and bits."""
    assert_same_names(ours, theirs, what)
    for name, expected in theirs.items():
        actual = ours[name]
        if actual.dtype != expected.dtype or actual.shape != expected.shape:
            raise AssertionError(
                f"{what}: {name} is {actual.dtype}{tuple(actual.shape)}, not {expected.dtype}{tuple(expected.shape)}"
            )
        if not torch.equal(actual, expected) and not _same_nans(actual, expected):
            raise AssertionError(
                f"{what}: {name} differs by up to {_largest(actual, expected):.2e}, expected bitwise equal"
            )


def assert_equal_within(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str, atol: float = 2e-5, rtol: float = 1e-4
) -> None:
    """Same names, and values within a few roundings of fp32."""
    assert_same_names(ours, theirs, what)
    for name, expected in theirs.items():
        assert_close(ours[name], expected, atol=atol, rtol=rtol, msg=lambda text, name=name: f"{what}: {name}: {text}")


def assert_same_names(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> None:
    if not theirs:
        raise AssertionError(f"{what}: nothing to compare; the check would be empty")
    if ours.keys() != theirs.keys():
        raise AssertionError(f"{what}: outputs {sorted(ours)} are not {sorted(theirs)}")


def are_close(
    ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], atol: float = 1e-5, rtol: float = 1e-4
) -> bool:
    """Same names and shapes, and values within a few roundings."""
    if ours.keys() != theirs.keys() or any(ours[name].shape != theirs[name].shape for name in theirs):
        return False
    return all(
        torch.allclose(ours[name], value, atol=atol, rtol=rtol, equal_nan=True) for name, value in theirs.items()
    )


def assert_differs(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], what: str) -> None:
    """Guards a check against being empty: something must have an effect.

    With a prompt, outputs of a base model without a head are longer: of these the last tokens are compared.
    """
    pairs = [(_last(ours[name], value), _last(value, ours[name])) for name, value in theirs.items() if name in ours]
    pairs = [(one, other) for one, other in pairs if one.shape == other.shape]
    if all(torch.allclose(one, other, atol=1e-4) for one, other in pairs):
        raise AssertionError(f"{what} has no effect on the outputs; the check would be empty")


def _last(longer: Tensor, shape_of: Tensor) -> Tensor:
    """(B, L, ...): as many of the last tokens as the other one has, if it has fewer."""
    if longer.dim() < 3 or longer.dim() != shape_of.dim() or longer.shape[1] <= shape_of.shape[1]:
        return longer
    return longer[:, -shape_of.shape[1] :]


def at_tokens(outputs: Mapping[str, Tensor], mask: Tensor | None, in_front: int = 0) -> dict[str, Tensor]:
    """Outputs with a token dimension (B, L, ...), at the places where `mask` (B, L) is 1.

    Args:
        in_front: positions of prompts, which a base model without a head gives, too.
    """
    per_token = {name: value for name, value in outputs.items() if value.dim() >= 3 and _is_per_token(name)}
    if mask is None:
        return per_token
    rows, length = mask.shape
    longer = {name: value for name, value in per_token.items() if value.shape[:2] == (rows, in_front + length)}
    per_token |= {name: value[:, in_front:] for name, value in longer.items()}
    return {name: value[mask.bool()] for name, value in per_token.items() if value.shape[:2] == mask.shape}


def _is_per_token(name: str) -> bool:
    return name.split(".")[0] in ("logits", "last_hidden_state", "hidden_states", "decoder_hidden_states")


@contextlib.contextmanager
def removed(handles: Iterable[Any]) -> Iterator[None]:
    """Afterwards, these hooks are gone."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    """Random numbers (dropout; of layers that are dropped, NumPy's) start from `seed`; afterwards the generators are as before."""
    others = random.getstate(), np.random.get_state()
    random.seed(seed)
    np.random.seed(seed)
    try:
        with torch.random.fork_rng(devices=()):
            torch.default_generator.manual_seed(
                seed
            )  # `torch.manual_seed` also keeps a stack trace per call, for CUDA
            yield
    finally:
        random.setstate(others[0])
        np.random.set_state(others[1])


def _same_nans(actual: Tensor, expected: Tensor) -> bool:
    return (
        actual.is_floating_point()
        and torch.equal(actual.isnan(), expected.isnan())
        and torch.equal(actual.nan_to_num(), expected.nan_to_num())
    )


def _largest(actual: Tensor, expected: Tensor) -> float:
    return float((actual.double() - expected.double()).abs().max()) if actual.numel() else 0.0
