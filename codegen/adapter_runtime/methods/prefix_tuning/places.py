"""Where prefixes stand: in the attentions of a model. Their parameters are those of the whole model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from typing import TypeAlias

from torch import nn
from transformers import PreTrainedModel

from adapter_runtime.call.context import ComputedOnce
from adapter_runtime.contract.protocol import AdaptedBaseModel, AdaptedLayer
from adapter_runtime.contract.widths import has_in_width, has_out_width, in_width, out_width
from adapter_runtime.errors import UnsupportedMethodError
from adapter_runtime.methods.common.gates import check_gates
from adapter_runtime.methods.common.groups import evaluated, groups_of
from adapter_runtime.methods.common.projections import module_of
from adapter_runtime.methods.placing import Wish, layers_without
from adapter_runtime.methods.prefix_tuning.config import PrefixTuningConfig
from adapter_runtime.methods.prefix_tuning.layer import AttentionAdaptersMixin, PrefixTuningLayer
from adapter_runtime.methods.prefix_tuning.module import PrefixShape, PrefixTuning, PrefixTuningPool
from adapter_runtime.roles import AttentionRoles

_Place: TypeAlias = "tuple[AdaptedLayer, AttentionRoles, PrefixTuningLayer]"

ATTRIBUTE = "prefix_tuning"  # of base models, which holds the prefixes; a part of keys in files


def prepare_model(model: AdaptedBaseModel) -> None:
    """Give a base model room for prefixes."""
    model.add_module(ATTRIBUTE, PrefixTuningPool())


def pool_of(model: AdaptedBaseModel) -> PrefixTuningPool:
    """The prefixes of a base model."""
    pool = model.get_submodule(ATTRIBUTE)
    assert isinstance(pool, PrefixTuningPool)
    return pool


def prefixes_of(model: AdaptedBaseModel, name: str) -> dict[str, PrefixTuning]:
    """The prefixes of an adapter by kind of attention: "self_prefix", "cross_prefix", "encoder_prefix"; see `_names`."""
    held = pool_of(model).prefix_tunings
    group = held[name] if name in held else nn.ModuleDict()
    assert isinstance(group, nn.ModuleDict)
    return {kind: tuning for kind, tuning in group.items() if isinstance(tuning, PrefixTuning)}


def computed_once(model: AdaptedBaseModel, name: str) -> Iterator[ComputedOnce]:
    """A call computes the prefixes of all layers at once."""
    yield from prefixes_of(model, name).values()


def prepare_layer(layer: AdaptedLayer, index: int, self_location: str) -> None:
    """Give the attentions of a layer room for prefixes."""
    for roles, core in layer.adapted_attentions():
        if isinstance(core, AttentionAdaptersMixin):
            location = "cross" if roles.kind == "cross" else self_location
            core.init_prefix_tuning(index, f"{location}_prefix")


def is_claimed(module: nn.Module) -> bool | None:
    """Whether a layer has given this module room for prefixes; None where it is of no such class."""
    return "prefix_tuning" in module._modules if isinstance(module, AttentionAdaptersMixin) else None


def prefix_layers(layer: AdaptedLayer) -> Iterator[tuple[AttentionRoles, PrefixTuningLayer]]:
    """The places of prefixes in a layer."""
    for roles, core in layer.adapted_attentions():
        if isinstance(core, AttentionAdaptersMixin):
            yield roles, core.prefix_tuning


def wishes(model: AdaptedBaseModel, config: PrefixTuningConfig) -> Collection[Wish]:
    """Prefixes in every self-attention, and in every cross-attention. No option says so: both are what a config means."""
    inside = model.encoder_inside()
    encoder = set() if inside is None else set(inside.modules())
    found: dict[str, set[int]] = {"self": set(), "cross": set()}
    lacking: dict[str, set[int]] = {"self": set(), "cross": set()}
    for index, layer in layers_without(model, config.leave_out):
        cores = [(roles.kind, isinstance(core, AttentionAdaptersMixin)) for roles, core in layer.adapted_attentions()]
        if layer.get_submodule("") in encoder and not config.encoder_prefix:
            continue
        for kind, has_room in cores or [("self", False)]:  # a mixer in the place of an attention holds no prefix
            if kind == "self" or config.cross_prefix:
                (found if has_room else lacking)[kind].add(index)
    return [
        Wish(f"a prefix in {kind}-attention", False, frozenset(found[kind]), frozenset(lacking[kind]))
        for kind in found
    ]


def place(model: AdaptedBaseModel, name: str, config: PrefixTuningConfig) -> int:
    """Create an adapter. Returns how many attentions it has a prefix in."""
    places = _wanted(model, config)
    if not places:
        return 0
    group = pool_of(model).prefix_tunings[name] = nn.ModuleDict()
    for location, found in places.items():
        width = found[0][0].stream_width()
        shapes = [prefix_shape(layer, roles) for layer, roles, _ in found]
        first = found[0][0].adapter_layer_index  # attentions of several parts have the same location
        tuning = PrefixTuning(config, width, shapes, key=f"{name}.{location}.{first}")
        group[location] = tuning
        for position, (layer, roles, host) in enumerate(found):
            host.place(name, tuning, position, gate_width(layer, roles) if config.use_gating else None)
    return sum(map(len, places.values()))


def count_places(model: AdaptedBaseModel, config: PrefixTuningConfig) -> int:
    """How many attentions an adapter has a prefix in.

    Raises:
        UnsupportedMethodError: one of them, or its layer, does not tell its widths, or cannot have a gate.
    """
    places = [place for found in _wanted(model, config).values() for place in found]
    for layer, roles, _ in places:
        layer.stream_width()
        prefix_shape(layer, roles)
    if config.use_gating:
        check_gates(model, (host.layer_index for _, _, host in places))
    return len(places)


def _wanted(model: AdaptedBaseModel, config: PrefixTuningConfig) -> dict[str, list[_Place]]:
    """The attentions that `config` asks for, by the names of their prefixes."""
    wanted = {"self_prefix": True, "encoder_prefix": config.encoder_prefix, "cross_prefix": config.cross_prefix}
    names = _names(model)
    places: dict[str, list[_Place]] = {}
    for _, layer in layers_without(model, config.leave_out):
        for roles, host in prefix_layers(layer):
            if wanted[host.location_key]:
                places.setdefault(names[host], []).append((layer, roles, host))
    return places


def _names(model: AdaptedBaseModel) -> dict[PrefixTuningLayer, str]:
    """What the prefixes of each attention are called: by its location; where models of several types have such attentions, by type too.

    GIT, with a model of images beside layers of its own, has "git_self_prefix" and "git_vision_model_self_prefix": an MLP that computes
    the prefixes of one is as wide as that one.
    """
    model_types = _model_types(model.get_submodule(""))
    types = {
        host: (host.location_key, model_types[layer.get_submodule("")])
        for _, layer in model.adapted_layers()
        for _, host in prefix_layers(layer)
    }
    known = Counter(location for location, _ in set(types.values()))
    return {
        host: location if known[location] == 1 else f"{model_type}_{location}"
        for host, (location, model_type) in types.items()
    }


def _model_types(model: nn.Module) -> dict[nn.Module, str]:
    """Module -> the model type of the innermost of the models, in each other, that hold it."""
    models = [module for module in model.modules() if isinstance(module, PreTrainedModel)]  # from the outermost on
    return {module: held.config.model_type for held in models for module in held.modules()}


# Widths, from the modules of the very layer: configs do not know about grouped, latent or varying heads


def prefix_shape(layer: AdaptedLayer, roles: AttentionRoles) -> PrefixShape:
    """Heads and widths of the keys and values of one attention.

    Raises:
        UnsupportedMethodError: the modules of the layer do not tell them.
    """
    core = module_of(layer, roles.core)
    keys, values = _key_value_sizes(layer, roles)
    width = _head_width(layer, roles, core)
    if roles.key and roles.key == roles.value and (groups := groups_of(layer, roles)) is not None:
        # A group is a head, where something else stands beside its part of the keys.
        if isinstance(width, int) and width > groups.sizes["k"]:
            return PrefixShape(groups.count, width, groups.sizes["v"])
    if not width or keys % width:
        raise _unknown_width(core, roles, width, keys)
    heads = keys // width
    return PrefixShape(heads, width, values // heads)


def _head_width(layer: AdaptedLayer, roles: AttentionRoles, core: nn.Module) -> int | None:
    projection = layer.module_at(roles.fused or roles.key)
    names = {} if projection is None else {"outputs": out_width(projection)}
    return evaluated(roles.head_dim, names, core) if roles.head_dim else None


def _unknown_width(core: nn.Module, roles: AttentionRoles, width: object, keys: int) -> UnsupportedMethodError:
    return UnsupportedMethodError(
        f"Prefix tuning: {type(core).__name__} does not tell the width of a key head (attribute "
        f"{roles.head_dim!r} is {width!r}, all keys are {keys} wide)."
    )


def _key_value_sizes(layer: AdaptedLayer, roles: AttentionRoles) -> tuple[int, int]:
    if roles.key and roles.value and roles.key != roles.value:
        keys, values = layer.module_at(roles.key), layer.module_at(roles.value)
        if keys is None:
            return _shared_sizes(layer, roles)
        beside = sum(out_width(module_of(layer, path)) for path in roles.value_beside)
        # Without a projection of values, keys are values too.
        return out_width(keys), out_width(keys if values is None else values) + beside
    if (roles.fused or roles.key) and (groups := groups_of(layer, roles)) is not None:
        return groups.count * groups.sizes["k"], groups.count * groups.sizes["v"]
    raise _no_keys(layer)


def _shared_sizes(layer: AdaptedLayer, roles: AttentionRoles) -> tuple[int, int]:
    """Of a layer that reads the keys and values of an earlier one (Gemma 3n): its own queries and outputs tell them.

    `num_key_value_groups`, how many queries share a key, is what upstream's attention functions read of each core.
    """
    queries, output = layer.module_at(roles.query), layer.module_at(roles.output)
    groups = getattr(module_of(layer, roles.core), "num_key_value_groups", None)
    if queries is None or output is None or not isinstance(groups, int):
        raise _no_keys(layer)
    return out_width(queries) // groups, in_width(output) // groups


def gate_width(layer: AdaptedLayer, roles: AttentionRoles) -> int:
    """Width of what a gate reads: of the hidden states that the queries are projected from, by the first of several projections in line.

    These are those of the stream, but where a layer begins with others (the first one of Fun-ASR's encoder).
    """
    stream = layer.stream_width()
    paths = (roles.fused, roles.query, *roles.query_alternatives)
    query = next((module for path in paths if path and (module := layer.module_at(path)) is not None), None)
    if query is None or not has_in_width(query) or _leads(module_of(layer, roles.core), stream, in_width(query)):
        return stream
    return in_width(query)


def _leads(core: nn.Module, stream: int, width: int) -> bool:
    """Whether a projection in an attention makes states of `width` of the stream, as low-rank queries have it (DeepSeek-V3's q_a_proj)."""
    found = (module for module in core.modules() if has_in_width(module) and has_out_width(module))
    return any(in_width(module) == stream and out_width(module) == width for module in found)


def _no_keys(layer: AdaptedLayer) -> UnsupportedMethodError:
    return UnsupportedMethodError(f"Prefix tuning: {type(layer).__name__} has no projection of its own for keys.")
