"""Hypercomplex layers: linear layers whose weights are sums of Kronecker products (https://arxiv.org/abs/2106.04647)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import nn

from adapter_runtime.call.context import thread
from adapter_runtime.errors import InvalidConfigError
from adapter_runtime.methods.bottleneck.config import BnConfig
from adapter_runtime.methods.common.initialisation import seeded
from adapter_runtime.methods.common.shared_parameters import SharedDict

Shapes = dict[str, tuple[int, ...]]


class PHMLinear(nn.Module):
    """y = x (Σ_i A_i ⊗ W_i) + b, with small "rules" A_i and factors W_i, of which each may be a product of low rank.

    Shapes: N phm_dim, R phm_rank, I in, O out; A [N, N, N], W [N, I/N, O/N].

    Rules and factors belong to the layer, or to all layers of the adapter: then they are in `shared`.

    Args:
        config: the options.
        in_features: I.
        out_features: O.
        position: "down" or "up", part of the names of shared factors.
        shared: parameters of all layers (`shared_parameters`).

    Raises:
        InvalidConfigError: N does not divide I and O.
    """

    undecayed = ("b",)  # a bias by another name: see ``training/decay.py``
    rule_owner: nn.Module | None  # what holds the rules, where that is not the layer itself
    factor_owner: nn.Module | None

    def __init__(
        self,
        config: BnConfig,
        in_features: int,
        out_features: int,
        position: str,
        shared: SharedDict | None = None,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features, self.parts = in_features, out_features, config.phm_dim
        self.position = position
        rules, factors = rule_shapes(config), factor_shapes(config, in_features, out_features)
        own = ({} if config.shared_phm_rule else rules) | ({} if config.shared_W_phm else factors)
        for key, shape in own.items():
            self.register_parameter(key, nn.Parameter(torch.empty(shape)))
        self.b = nn.Parameter(torch.zeros(out_features)) if config.phm_bias else None
        self.frozen_parameters = () if config.learn_phm or config.shared_phm_rule else tuple(rules)
        # Not registered, or each layer would list the shared parameters as its own.
        self.__dict__["rule_owner"] = shared if config.shared_phm_rule else None
        self.__dict__["factor_owner"] = shared if config.shared_W_phm else None
        self.rule_keys = tuple(rules)
        self.factor_keys = (
            tuple(shared_key(key, position) for key in factors) if config.shared_W_phm else tuple(factors)
        )
        self.product_key = self._product_key(shared)
        draw(config, {key: self.get_parameter(key) for key in own})
        for key in self.frozen_parameters:
            self.get_parameter(key).requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[..., I] -> [..., O]."""
        return nn.functional.linear(x, self.weight(), self.b)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.b is not None}, phm_dim={self.parts}"

    def weight(self) -> torch.Tensor:
        """[O, I], as `torch.nn.Linear` has it. Where all layers have the same, calls of models compute it once."""
        if self.product_key is not None and thread.context is not None:
            found = thread.context.computed.get(self.product_key)
            if found is not None:
                return found[0][SharedWeights._fields.index(self.position)]
        rule = _product(self if self.rule_owner is None else self.rule_owner, self.rule_keys)
        factor = _product(self if self.factor_owner is None else self.factor_owner, self.factor_keys)
        return kronecker_sum(rule, factor)

    def _product_key(self, shared: SharedDict | None) -> str | None:
        """The key under which a call keeps the weight; None where a part of the weight belongs to this layer alone."""
        if self.rule_owner is None or self.factor_owner is None:
            return None
        wanted = (self.rule_keys, self.factor_keys)
        products = () if shared is None else shared.products.values()
        return next(
            (
                product.key
                for product in products
                if isinstance(product, SharedProducts) and product.keys[self.position] == wanted
            ),
            None,
        )

    def zero_(self) -> None:
        """Let the layer give its bias only: the second factor becomes zero."""
        owner = self if self.factor_owner is None else self.factor_owner
        nn.init.zeros_(getattr(owner, self.factor_keys[-1]))


def kronecker_sum(rule: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """[O, I], the transposed Σ_i A_i ⊗ W_i, of A [N, N, N] and W [N, I/N, O/N]."""
    parts, rows, columns = factor.shape
    # One matrix product sums over i: [N * N, N] @ [N, I/N * O/N]
    entries = (rule.flatten(1).t() @ factor.flatten(1)).view(parts, parts, rows, columns)
    return entries.permute(1, 3, 0, 2).reshape(parts * columns, parts * rows)


class SharedWeights(NamedTuple):
    """The weights of all hypercomplex layers of an adapter that shares rules and factors."""

    down: torch.Tensor  # [D, H]
    up: torch.Tensor  # [H, D]


class SharedProducts:
    """Computes `SharedWeights`. Calls of models do it once and keep the result in their context, as they do with prefixes.

    Args:
        key: under which they keep it.
        pool: the shared parameters.
        keys: "down" and "up" -> names of the rules and of the factors there.
    """

    def __init__(self, key: str, pool: SharedDict, keys: dict[str, tuple[tuple[str, ...], tuple[str, ...]]]) -> None:
        self.key = key
        self.pool = pool
        self.keys = keys

    def states(self) -> list[SharedWeights]:
        """The weights, as `ForwardContext.states_of` asks for them."""
        made = {
            position: kronecker_sum(_product(self.pool, rules), _product(self.pool, factors))
            for position, (rules, factors) in self.keys.items()
        }
        return [SharedWeights(**made)]


def _product(owner: nn.Module, keys: tuple[str, ...]) -> torch.Tensor:
    """The parameter that `keys` names, or the matrix product of the two."""
    first: torch.Tensor = getattr(owner, keys[0])
    return first if len(keys) == 1 else torch.bmm(first, getattr(owner, keys[1]))


def rule_shapes(config: BnConfig) -> Shapes:
    """Names and shapes of the parameters that make up the first factors, the rules."""
    parts = config.phm_dim
    if config.factorized_phm_rule:
        return {"phm_rule_left": (parts, parts, 1), "phm_rule_right": (parts, 1, parts)}
    return {"phm_rule": (parts, parts, parts)}


def factor_shapes(config: BnConfig, in_features: int, out_features: int) -> Shapes:
    """Names and shapes of the parameters that make up the second factors of a layer.

    Raises:
        InvalidConfigError: the sizes are no multiples of `phm_dim`.
    """
    parts = config.phm_dim
    if in_features % parts or out_features % parts:
        raise InvalidConfigError(
            f"phm_dim={parts} must divide the widths of a hypercomplex layer, which are {in_features} and {out_features}. "
            "Choose another reduction_factor or phm_dim."
        )
    rows, columns = in_features // parts, out_features // parts
    if config.factorized_phm_W:
        return {"W_left": (parts, rows, config.phm_rank), "W_right": (parts, config.phm_rank, columns)}
    return {"W": (parts, rows, columns)}


def shared_key(key: str, position: str) -> str:
    """The name of a factor among shared parameters: "W_left" of the down-projection is "W_down_left"."""
    return key.replace("W", f"W_{position}", 1)


def share(config: BnConfig, pool: SharedDict, hidden_size: int, size: int, name: str = "") -> None:
    """Create what all layers of an adapter share, unless the pool has it from another member of a union.

    Args:
        pool: the shared parameters of the adapter.
        hidden_size: H of the layer.
        size: D, width of the bottleneck.
        name: of the adapter.

    Raises:
        InvalidConfigError: the pool has such parameters with other shapes.
    """
    shapes = dict(_shared_shapes(config, hidden_size, size))
    wrong = [key for key, shape in shapes.items() if key in pool and tuple(pool[key].shape) != shape]
    if wrong:
        raise InvalidConfigError(
            f"All layers share {', '.join(wrong)}, but need different shapes: {[tuple(pool[key].shape) for key in wrong]} "
            f"and {[shapes[key] for key in wrong]}. Use one width and one reduction_factor, or shared_W_phm=False."
        )
    new = {key: nn.Parameter(torch.empty(shape)) for key, shape in shapes.items() if key not in pool}
    with seeded(config.init_weights_seed):
        draw(config, new)
    pool.update(new)
    if config.shared_W_phm and config.shared_phm_rule:
        _compute_once(config, pool, name)
    if not config.learn_phm and config.shared_phm_rule:
        pool.freeze(tuple(rule_shapes(config)))


def _compute_once(config: BnConfig, pool: SharedDict, name: str) -> None:
    """Let calls compute, once for all layers, the weights whose factors are all shared."""
    factors = ("W_left", "W_right") if config.factorized_phm_W else ("W",)
    keys = {
        position: (tuple(rule_shapes(config)), tuple(shared_key(key, position) for key in factors))
        for position in SharedWeights._fields
    }
    key = ".".join((name, *keys["down"][0], *keys["down"][1]))
    pool.products[key] = SharedProducts(key, pool, keys)


def _shared_shapes(config: BnConfig, hidden_size: int, size: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    if config.shared_W_phm:
        for position, widths in (("down", (hidden_size, size)), ("up", (size, hidden_size))):
            for key, shape in factor_shapes(config, *widths).items():
                yield shared_key(key, position), shape
    if config.shared_phm_rule:
        yield from rule_shapes(config).items()


@torch.no_grad()
def draw(config: BnConfig, parameters: dict[str, nn.Parameter]) -> None:
    """Draw rules as `phm_c_init` says, and factors as `hypercomplex_nonlinearity` says."""
    for key, parameter in parameters.items():
        if key.startswith("phm_rule"):
            if config.phm_c_init == "uniform":
                parameter.uniform_(-1.0, 1.0)
            else:
                parameter.normal_(std=config.phm_init_range)
            continue
        for matrix in parameter:
            if config.hypercomplex_nonlinearity == "glorot-uniform":
                nn.init.xavier_uniform_(matrix)
            elif config.hypercomplex_nonlinearity == "normal":
                nn.init.normal_(matrix, std=config.phm_init_range)
            else:  # "glorot-normal", and "phm", which `adapters` draws in the same way
                nn.init.xavier_normal_(matrix)
