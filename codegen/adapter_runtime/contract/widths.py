"""How wide the inputs and outputs of a projection are, whatever its class calls them."""

from __future__ import annotations

from torch import nn

from adapter_runtime.errors import UnsupportedMethodError


def out_width(module: nn.Module) -> int:
    """Output features of a linear layer or Conv1D.

    Raises:
        UnsupportedMethodError: the module does not tell them.
    """
    return _width(module, "nf", "out_features")


def in_width(module: nn.Module) -> int:
    """Input features of a linear layer or Conv1D.

    Raises:
        UnsupportedMethodError: the module does not tell them.
    """
    return _width(module, "nx", "in_features")


def embedding_width(module: nn.Module) -> int:
    """Width of a table of embeddings."""
    return _width(module, "embedding_dim")


def has_out_width(module: nn.Module) -> bool:
    """Whether a module tells how many output features it has."""
    return any(isinstance(getattr(module, name, None), int) for name in ("nf", "out_features"))


def has_in_width(module: nn.Module) -> bool:
    """Whether a module tells how many input features it has."""
    return any(isinstance(getattr(module, name, None), int) for name in ("nx", "in_features"))


def norm_width(module: nn.Module) -> int | None:
    """Width of what a norm scales: it holds a weight per feature and nothing else but a bias. None for other modules."""
    parameters = dict(module.named_parameters())
    weight = parameters.get("weight")
    if weight is None or weight.dim() != 1 or not parameters.keys() <= {"weight", "bias"}:
        return None
    return int(weight.shape[0])


def summed_width(module: nn.Module) -> int | None:
    """Width of the sum in a module of upstream's own, where it tells: it holds the projection of one operand and the norm of the sum."""
    norms = {width for child in module.children() if (width := norm_width(child)) is not None}
    projected = {out_width(child) for child in module.children() if has_out_width(child)}
    return norms.pop() if len(norms) == 1 and norms <= projected else None


def _width(module: nn.Module, *names: str) -> int:
    for name in names:
        width = getattr(module, name, None)
        if isinstance(width, int):
            return width
    raise UnsupportedMethodError(f"{type(module).__name__} does not tell its width: it has no {' or '.join(names)}.")
