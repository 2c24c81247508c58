"""ReFT (https://arxiv.org/abs/2404.03592) by forward hooks on upstream's layers."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from conformance.methods import ReFT
from conformance.reference.layout import Layer, Layout
from conformance.reference.together import Averaged, Together
from conformance.subjects import BATCH

Unit = tuple[Tensor, Tensor, Tensor, bool]  # W (r, H), b (r,), R (r, H), whether R h is subtracted


def reft_names(layout: Layout, part: ReFT, name: str) -> list[str]:
    """The names under which a checkpoint stores the adapter `name`."""
    projection = "projection.parametrizations.weight.original" if part.orthonormal else "projection.weight"
    leaves = ("learned_source.weight", "learned_source.bias", projection)
    return [
        f"{layer.path}.reft_layer.refts.{name}.units.{unit}.{leaf}"
        for layer in layout.layers
        if layer.has_rows
        for unit in range(2)
        for leaf in leaves
    ]


@contextlib.contextmanager
def reft_applied(
    upstream: nn.Module,
    layout: Layout,
    adapters: Sequence[tuple[str, ReFT]],
    weights: Mapping[str, Tensor],
    together: Together = None,
) -> Iterator[None]:
    """The layers of `upstream` give their outputs with the edits of `adapters`, one after the other."""
    inputs, handles = remember_inputs(upstream, layout)
    for layer in layout.layers:
        module = upstream.get_submodule(layer.path)
        if not layer.has_rows:
            of_part = inputs[layer.part]
            handles.append(
                module.register_forward_hook(_without_rows(layer.form, of_part, inputs[layout.base]), prepend=True)
            )
            continue
        edits = [(part, _units(part, layer.path, name, weights)) for name, part in adapters]
        mask = functools.partial(mask_of, upstream, layout, layer, inputs)
        handles.append(module.register_forward_hook(_editing(edits, mask, together), prepend=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def remember_inputs(upstream: nn.Module, layout: Layout) -> tuple[dict[str, dict[str, Any]], list[RemovableHandle]]:
    """What each part is given, by its path, while the hooks stand.

    Of a part that is the base model, also what upstream's class around it is given: that may call what is in its base model, and
    not that, and may have a mask of tokens for which its base model has no use.
    """
    inputs: dict[str, dict[str, Any]] = {part: {} for part in dict.fromkeys((layout.base, *layout.parts))}
    handles = []
    for part, given in inputs.items():
        paths = dict.fromkeys(("", part)) if part == layout.base else (part,)
        handles += [_remembered(upstream.get_submodule(path), given) for path in paths]
    return inputs, handles


def _remembered(module: nn.Module, inputs: dict[str, Any]) -> RemovableHandle:
    def remember(module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        inputs.clear()
        inputs.update(zip(inspect.signature(module.forward).parameters, args, strict=False))
        inputs.update(kwargs)

    return module.register_forward_pre_hook(remember, with_kwargs=True)


def mask_of(
    upstream: nn.Module, layout: Layout, layer: Layer, inputs: Mapping[str, Mapping[str, Any]]
) -> Tensor | None:
    """The mask of the tokens that the layer sees; an encoder-decoder has two, and one half of it one. What stands behind them is in none.

    Args:
        inputs: of each part, as `remember_inputs` found them.
    """
    if layer.form == "no tokens":
        return None
    of_part = inputs[layer.part]
    config = upstream.get_submodule(layer.part).config
    has_two = bool(config.is_encoder_decoder) and any(name.startswith("decoder_") for name in of_part)
    is_decoder = has_two and not any(one.in_encoder for one in layer.attentions)
    start = "decoder_" if is_decoder else ""
    mask = of_part.get(f"{start}attention_mask")
    if layer.part == layout.text != layout.base and mask is not None and not _is_of_tokens(mask):
        mask = inputs[layout.base].get("attention_mask")  # of which the whole made that of the part
    if isinstance(mask, Tensor) and mask.dim() == 4:
        mask = _seen_by_some(mask)
    return torch.ones_like(of_part[f"{start}input_ids"]) if mask is None and layer.form == "followed" else mask


def _is_of_tokens(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.dim() == 2


def _seen_by_some(mask: Tensor) -> Tensor:
    """(B, 1, Q, K), which hides by False or by a large negative number -> (B, K): places that some query may look at."""
    seen = mask if mask.dtype == torch.bool else mask > torch.finfo(mask.dtype).min / 2
    return seen[:, 0].any(dim=1).long()


def _without_rows(form: str, inputs: Mapping[str, Any], of_whole: Mapping[str, Any]) -> Callable[..., None]:
    """A layer that is left out must have a reason for it: what it gives is no (batch, length, width), or of another length than its tokens, or than
    what it was given.

    Args:
        form: as its stack says.
        inputs: of its part.
        of_whole: of the model around that, whose tokens are those of a part that gets something embedded (BLT's patches).
    """

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        if not isinstance(hidden, Tensor):  # several tensors beside each other
            return
        tokens = (of_whole if "input_ids" not in inputs and "inputs_embeds" in inputs else inputs).get("input_ids")
        has_rows = hidden.dim() == 3 and hidden.shape[0] == BATCH != hidden.shape[1]
        is_other = tokens is not None and has_rows and hidden.shape[1] != tokens.shape[1]
        is_shortened = bool(args) and isinstance(args[0], Tensor) and args[0].shape[1:2] > hidden.shape[1:2]
        if form == "padded" or (form == "gathered" and is_shortened):  # `assert_streams` sees the former
            return
        if has_rows and not (is_other and form in ("joined", "gathered", "spread")):
            raise AssertionError(
                f"{type(module).__name__} gives rows of positions, but its stack is said to have none"
            )

    return hook


def _units(part: ReFT, path: str, name: str, weights: Mapping[str, Tensor]) -> list[Unit]:
    units = []
    for index in range(2):
        prefix = f"{path}.reft_layer.refts.{name}.units.{index}"
        source, bias = (weights[f"{prefix}.learned_source.{leaf}"] for leaf in ("weight", "bias"))
        units.append((source, bias, rows_of(part, f"{prefix}.projection", weights), part.subtracts))
    return units


def rows_of(part: ReFT, prefix: str, weights: Mapping[str, Tensor]) -> Tensor:
    """R (r, H). Orthonormal rows are the first columns of a product of reflections, in a rotated basis.

    Reflection j is along a vector of zeros, a one at place j, and what row j of `original` has behind its diagonal.
    """
    if not part.orthonormal:
        return weights[f"{prefix}.weight"]
    original, base = (weights[f"{prefix}.parametrizations.weight.{leaf}"] for leaf in ("original", "0.base"))
    product = torch.eye(original.shape[1])
    for place, row in enumerate(original):
        vector = torch.cat([torch.zeros(place), torch.ones(1), row[place + 1 :]])
        product = product @ (torch.eye(len(row)) - 2 / (vector @ vector) * torch.outer(vector, vector))
    signs = torch.where(original.diagonal() > 0.5, 1.0, -1.0)
    return (base @ product[:, : len(original)] * signs).T


def _editing(
    edits: Sequence[tuple[ReFT, list[Unit]]], mask: Callable[[], Tensor | None], together: Together
) -> Callable[..., Any]:
    def edited(hidden: Tensor, part: ReFT, units: list[Unit]) -> Tensor:
        return torch.stack(
            [_edited(row, real_positions(mask(), i, len(row)), part, units) for i, row in enumerate(hidden)]
        )

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        hidden = output[0] if isinstance(output, (tuple, list)) else output
        if isinstance(together, Averaged):
            hidden = together.of([edited(hidden, *edit) for edit in edits])
        else:
            for edit in edits:
                hidden = edited(hidden, *edit)
        return type(output)([hidden, *output[1:]]) if isinstance(output, (tuple, list)) else hidden

    return hook


def real_positions(mask: Tensor | None, row: int, length: int) -> list[int]:
    """The positions of the real tokens of a row."""
    return list(range(length)) if mask is None else mask[row].nonzero().flatten().tolist()


def edited_positions(part: ReFT, real: list[int]) -> tuple[list[int], list[int]]:
    """Those of the real positions that the first unit edits, and those of the second."""
    last = real[len(real) - part.suffix :] if part.suffix else []
    return [position for position in real[: part.prefix] if position not in last], last


def _edited(hidden: Tensor, real: list[int], part: ReFT, units: list[Unit]) -> Tensor:
    """(L, H): a row, edited token by token."""
    rows = list(hidden.unbind())
    for positions, (source, bias, projection, subtracts) in zip(edited_positions(part, real), units, strict=True):
        for position in positions:
            token = rows[position]
            latent = source @ token + bias - (projection @ token if subtracts else 0.0)
            rows[position] = token + projection.T @ latent
    return torch.stack(rows)
