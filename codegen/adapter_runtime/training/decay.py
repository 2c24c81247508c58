"""Which parameters of adapters weight decay applies to.

Decay pulls towards zero. That is right for weights, whose zero means "no change", and wrong for biases, norms and all
parameters whose neutral value is not zero: factors (IA3, learned scalings) are neutral at one, the magnitudes of DoRA at
the norms of the projection, the value matrix of a fusion at the identity (it has a regularisation of its own). Modules
name these in ``undecayed``, parameters of children with dots ("value.weight").

Upstream decides by patterns in the whole name, which holds the names of adapters and heads: all of an adapter "debias"
would go without decay. For adapters, fusions and heads we decide by the module and the last part of the name.
"""

from __future__ import annotations

from torch import nn

from adapter_runtime.files.keys import fusion_owner, owner


def own_parameters(model: nn.Module) -> dict[str, bool]:
    """The names of all parameters of adapters, fusions and heads; True for those that are decayed."""
    spared = {f"{path}.{name}" for path, module in model.named_modules() for name in getattr(module, "undecayed", ())}
    return {
        f"{path}.{leaf}": f"{path}.{leaf}" not in spared and leaf != "bias" and not _is_norm(module)
        for path, module in model.named_modules()
        for leaf, _ in module.named_parameters(recurse=False)
        if _is_own(f"{path}.{leaf}")
    }


def _is_own(name: str) -> bool:
    return owner(name) is not None or fusion_owner(name) is not None or "heads" in name.split(".")


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower()
