"""What the words of a field's name say about it, and the small values that are worth trying.

Nothing here decides: a value is kept only if the model builds and runs with it (`search`). No model is named.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from transformers import PreTrainedConfig

from conformance.instances.fields import Path, attribute, nodes, own_fields, words

Kind = Literal[
    "token", "vocabulary", "depth", "heads", "head size", "experts", "image", "patch", "positions", "window", "count", "width", "other"
]  # fmt: skip

VOCABULARY = 99
NARROW = 16  # no stream is that narrow by default: it is what a book of codes holds
_TOKENS = {"token", "bos", "eos", "pad", "sep", "cls", "mask", "boi", "eoi", "boa", "eoa", "unk", "blank"}
_DEPTHS = {"layers", "attends", "layer", "depth", "depths", "blocks", "stages", "repeats"}
_NO_DEPTH = {"id", "ids", "index", "indices", "indexes", "norm", "scale", "types", "type", "init", "rope", "drop", "dropout",
             "feature", "interval", "freq", "frequency", "step", "size", "dim", "window", "period", "offset", "pattern", "every", "pool", "channels"}  # fmt: skip
_WIDTHS = {"size", "sizes", "dim", "dims", "width", "channels", "channel", "hidden", "model", "embd", "units", "features", "inner", "ff", "ffn",
           "rank", "filters", "embed", "intermediate", "embedding", "bottleneck", "d", "state", "expansion"}  # fmt: skip


@functools.cache
def kind(name: str) -> Kind:
    """By the words of `name`; the order of the questions matters."""
    said = words(name)
    has = set(said)
    last = said[-1] if said else ""
    if last in {"id", "ids", "idx", "index"} and has & _TOKENS:
        return "token"
    if has == {"num", "channels"} or "unit" in has:  # colours of images, books of codes; sides of windows
        return "other"
    if last in {"indices", "indexes", "index", "idx"}:  # places of layers
        return "other"
    if has & {"pos", "position"} and last in {"height", "width", "time"}:  # sides of a table of positions
        return "window"
    if said[:1] == ("d",) and has & {"latents", "latent"}:
        return "width"
    if has & {"vocab", "vocabulary", "vocabs"} and not has & {"type", "offset"}:
        return "vocabulary"
    if has & {"codebook"} and last == "size":
        return "vocabulary"
    if has & {"experts", "expert"} and not has & {"size", "dim", "capacity", "layer"}:
        return "experts"
    if (has & {"head", "kv"} and has & {"dim", "size", "channels"}) or name in {"d_kv", "rotary_dim", "d_head"}:
        return "head size"
    if has & {"heads", "head"} and not has & {"bias", "layers"}:
        return "heads"
    if has & _DEPTHS and not has & _NO_DEPTH:
        return "depth"
    if (
        has & {"image", "img", "input", "crop", "images", "spec"}
        and last in {"size", "sizes"}
        and "embedding" not in has
    ):
        return "image"
    if (
        has & {"patch", "patches"} and last in {"size", "sizes"} and not has & {"kernel", "hidden", "embed", "embeds"}
    ) or name == "patch_stride":
        return "patch"
    if has & {"position", "positions", "ctx"} or (has & {"max", "seq", "sequence", "context", "relative"} and has & {"length", "len", "distance", "positions", "size"}):  # fmt: skip
        return "positions"
    if has & {"window", "sliding", "chunk", "lookahead"} and not has & {"ratio"} and not has & {"bias"}:
        return "window"
    if (
        last in {"queries", "latents", "query", "codebooks", "quantizers", "buckets", "bins", "groups"}
        or has & {"queries", "bins"}
        or has == {"num", "frames"}
        or {"group", "tokens"} <= has
        or {"num", "query"} <= has
    ):
        return "count"
    if {"num", "frames"} == has or {"frames", "clip"} <= has:  # of a film: each has as many patches as an image
        return "count"
    if has & {"kernel", "stride", "strides", "padding", "kernels", "dilation"}:
        return "other"
    if has & _WIDTHS or last in {"dim", "width"}:
        return "width"
    return "other"


def integers(value: Any) -> list[int]:
    """The whole numbers of a field that is one, or a flat list of them; else none."""
    if isinstance(value, bool):
        return []
    if isinstance(value, int):
        return [value]
    if (
        isinstance(value, (list, tuple))
        and value
        and all(isinstance(entry, int) and not isinstance(entry, bool) for entry in value)
    ):
        return list(value)
    return []


def of_kind(config: PreTrainedConfig, *wanted: Kind) -> dict[Path, Any]:
    """The fields of these kinds that hold whole numbers."""
    return {
        (*path, name): value
        for path, node in nodes(config)
        for name, value in own_fields(node).items()
        if kind(name) in wanted and integers(value)
    }


def like(value: Any, numbers: Iterable[int]) -> Any:
    """`numbers` in the form of `value`: a number or a list."""
    small = list(numbers)
    return small if isinstance(value, (list, tuple)) else small[0]


def larger(value: Any, times: int) -> Any:
    """Each number of `value` as many times as large."""
    return like(value, (times * number for number in integers(value)))


def vocabulary(config: PreTrainedConfig, power: bool = False) -> dict[Path, Any]:
    """Vocabularies of different sizes become different."""
    fields = of_kind(config, "vocabulary")
    distinct = sorted(
        {number for value in fields.values() for number in integers(value) if number > VOCABULARY}, reverse=True
    )
    small = {
        number: 64 if power else VOCABULARY - 3 * place if VOCABULARY - 3 * place > 40 else 40
        for place, number in enumerate(distinct)
    }
    return {
        path: like(value, (small.get(number, number) for number in integers(value))) for path, value in fields.items()
    }


def smallest_vocabulary(fields: Mapping[Path, Any]) -> int:
    """Of those in `fields` that are none of a toy."""
    return min((n for value in fields.values() for n in integers(value) if n > 30), default=VOCABULARY)


def tokens(config: PreTrainedConfig, high: int = 0) -> dict[Path, Any]:
    """Special tokens beyond the smallest vocabulary move to its end; different ones stay different."""
    high = high or smallest_vocabulary(of_kind(config, "vocabulary"))
    fields = of_kind(config, "token")
    outside = sorted(
        {
            number
            for value in fields.values()
            for number in integers(value)
            if number >= high - 20 or (number < 0 and number != -1)
        }
    )
    taken = {number for value in fields.values() for number in integers(value)} - set(outside)
    free = [number for number in range(high - 1, 2, -1) if number not in taken]
    small = dict(zip(outside, free, strict=False))
    return {
        path: like(value, (small.get(number, number) for number in integers(value))) for path, value in fields.items()
    }


def heads(config: PreTrainedConfig) -> dict[Path, Any]:
    """Per config within: more heads than key heads, and a list of heads in ratio."""
    return {path: value for node, _ in nodes(config) for path, value in _heads_of(config, node).items()}


def _heads_of(config: PreTrainedConfig, node: Path) -> dict[Path, Any]:
    fields = {path: value for path, value in of_kind(config, "heads").items() if path[:-1] == node}
    small: dict[Path, Any] = {}
    single = sorted({value for value in fields.values() if isinstance(value, int) and value > 1}, reverse=True)
    table = {1: [4], 2: [4, 2], 3: [8, 4, 2]}.get(len(single), [8, 4, 2, 2, 2, 2, 2])
    chosen = {value: min(value, table[min(place, len(table) - 1)]) for place, value in enumerate(single)}
    for path, value in fields.items():
        if isinstance(value, int):
            small[path] = chosen.get(value, value)
        else:
            common = math.gcd(*value) or 1
            small[path] = [min(entry // common, 8) if len(set(value)) > 1 else min(entry, 4) for entry in value]
    return small


def head_sizes(config: PreTrainedConfig, most: int = 8) -> dict[Path, Any]:
    """In ratio: the smallest becomes 4 if that keeps the others small, else the largest becomes `most`."""
    small: dict[Path, Any] = {}
    for node, _ in nodes(config):
        fields = {p: v for p, v in of_kind(config, "head size").items() if p[:-1] == node}
        values = [number for value in fields.values() for number in integers(value) if number > 4]
        if not values:
            continue
        factor = 4 / min(values) if len(set(values)) > 1 and max(values) <= 4 * min(values) else most / max(values)
        for path, value in fields.items():
            small[path] = like(value, (_scaled(number, factor) for number in integers(value)))
    return small


def _scaled(number: int, factor: float, step: int = 4) -> int:
    if number <= step or factor >= 1:
        return number
    return min(number, max(step, round(number * factor / step) * step))


def widths(
    config: PreTrainedConfig, small_heads: Mapping[Path, Any], most: int = 8, only_heads: bool = False
) -> dict[Path, Any]:
    """Every width by the factor of its config; what was equal anywhere stays equal, what was different stays so."""
    known: dict[int, int] = {}
    mains: dict[int, int] = {}
    parts = []
    for node, own in nodes(config):
        fields = {p: v for p, v in of_kind(config, "width").items() if p[:-1] == node}
        counted = {p: v for p, v in of_kind(config, "heads").items() if p[:-1] == node}
        if not fields or (only_heads and not counted):
            continue
        main = _main_width(own, fields)
        factor = _factor(main, counted, small_heads, most * (1 + sum(1 for m in mains if m != main)))
        mains[main] = 1
        split = max([4, *(2 * integers(small_heads.get(path, value))[0] for path, value in counted.items())])
        if any(main in integers(value) for value in fields.values()):
            _kept_apart(main, factor, known, split)  # streams first: what else is as wide follows them
        parts.append((fields, factor))
    return {
        path: like(value, [_kept_apart(n, factor, known, 4) for n in integers(value)])
        for fields, factor in parts
        for path, value in fields.items()
    }


def _kept_apart(number: int, factor: float, known: dict[int, int], step: int) -> int:
    """`number` by `factor`, and further by `step` from what another became; heads split it evenly."""
    if number not in known:
        value = _scaled(number, factor)
        while value < number and value in {v for n, v in known.items() if n != number and v > 4}:
            value += step
        known[number] = min(value, number)
    return known[number]


def _main_width(node: PreTrainedConfig, fields: Mapping[Path, Any]) -> int:
    """The width of the stream, as far as one can say."""
    standard = attribute(node, "hidden_size")
    if isinstance(standard, int) and not isinstance(standard, bool):
        return standard
    for name in ("d_model", "embed_dim", "n_embd", "dim", "width"):
        value = attribute(node, name)
        if integers(value) and integers(value)[0] > NARROW:
            return integers(value)[0]
    return max((number for value in fields.values() for number in integers(value)[:1]), default=1)


def _factor(main: int, counted: Mapping[Path, Any], small_heads: Mapping[Path, Any], most: int) -> float:
    """So that the main width becomes heads x `most`."""
    pairs = [
        (integers(value)[0], integers(small_heads.get(path, value))[0])
        for path, value in counted.items()
        if integers(value)[0] > 0 and main % integers(value)[0] == 0
    ]
    if not pairs:
        return min(1.0, 4 * most / main) if main else 1.0
    before, after = max(pairs, key=lambda pair: pair[1])
    each = main // before
    return after * min(most, each) / main


def are_chosen(name: str) -> bool:
    """Whether it counts those experts of all that a token gets."""
    return kind(name) == "experts" and bool(set(words(name)) & {"per", "tok", "token", "selected", "top", "topk", "k"})


def experts(config: PreTrainedConfig) -> dict[Path, Any]:
    small: dict[Path, Any] = {}
    for path, value in of_kind(config, "experts").items():
        has = set(words(path[-1]))
        if are_chosen(path[-1]) or has & {"shared", "zero"}:
            small[path] = like(value, (min(n, 2) for n in integers(value)))
        else:
            small[path] = like(value, (min(n, 4) for n in integers(value)))
    for node, own in nodes(config):
        for name, value in own_fields(own).items():
            if name in {"n_group", "num_expert_group"} and isinstance(value, int):
                small[(*node, name)] = min(value, 2)
            if name in {"topk_group", "topk", "moe_topk", "moe_k"} and isinstance(value, int):
                small[(*node, name)] = min(value, 1 if "group" in name else 2)
    return small


def positions(config: PreTrainedConfig, most: int = 64) -> dict[Path, Any]:
    return {
        path: like(value, (min(n, most) for n in integers(value)))
        for path, value in of_kind(config, "positions").items()
    }


def windows(config: PreTrainedConfig, most: int = 4) -> dict[Path, Any]:
    """The smallest of a config becomes `most`; others stay so many times as wide."""
    small: dict[Path, Any] = {}
    for node, _ in nodes(config):
        fields = {path: value for path, value in of_kind(config, "window").items() if path[:-1] == node}
        factor = most / min((n for value in fields.values() for n in integers(value) if n > most), default=most)
        for path, value in fields.items():
            small[path] = like(value, (n if n <= most else max(most, round(n * factor)) for n in integers(value)))
    return small


def counts(config: PreTrainedConfig, most: int = 6) -> dict[Path, Any]:
    """At most `most`; of frames, pairs of which become one, an even number."""
    return {
        path: like(value, (min(n, most if "frames" not in path[-1] else 4) for n in integers(value)))
        for path, value in of_kind(config, "count").items()
    }


def images(config: PreTrainedConfig, image: int, patch: int) -> dict[Path, Any]:
    """Images of `image` pixels at their shorter side, and patches of at most `patch`."""
    small = {
        path: like(value, (n * min(image, min(integers(value))) // min(integers(value)) for n in integers(value)))
        for path, value in of_kind(config, "image").items()
        if min(integers(value)) > 0
    }
    small |= _bins(config, small)
    if patch:
        small |= {
            path: like(value, (min(n, patch) for n in integers(value)))
            for path, value in of_kind(config, "patch").items()
        }
    return small


def _bins(config: PreTrainedConfig, small: Mapping[Path, Any]) -> dict[Path, Any]:
    """A spectrum that is folded into a square has as many bins in ratio to its side as before."""
    return {
        (*path[:-1], name): max(1, value * small[path] // before)
        for path, before in of_kind(config, "image").items()
        if "spec" in words(path[-1]) and isinstance(before, int)
        for name, value in own_fields(dict(nodes(config))[path[:-1]]).items()
        if "bins" in words(name) and isinstance(value, int) and before % value == 0
    }


def grids(config: PreTrainedConfig, image: int) -> dict[Path, Any]:
    """Lists of sizes that are multiples of an image's are those of an image of `image` pixels."""
    return {
        path: [[number // one * image for number in pair] for pair in pairs]
        for path, pairs in _pairs(config)
        if (one := math.gcd(*(number for pair in pairs for number in pair))) > image
    }


def maps(config: PreTrainedConfig, patches: int, before: int) -> dict[Path, Any]:
    """Sizes of maps of features fit to an image of `patches` by as many, as they did to one of `before`."""
    small = {path: [[n * patches // before for n in pair] for pair in pairs]
             for path, pairs in _pairs(config) if {"feature", "sizes"} <= set(words(path[-1]))}  # fmt: skip
    return {path: pairs for path, pairs in small.items() if all(n for pair in pairs for n in pair)}


def _pairs(config: PreTrainedConfig) -> Iterator[tuple[Path, list[list[int]]]]:
    """Lists of pairs of whole numbers."""
    for path, node in nodes(config):
        for name, value in own_fields(node).items():
            pairs = [integers(entry) for entry in value] if isinstance(value, (list, tuple)) else []
            if pairs and all(len(pair) == 2 for pair in pairs):
                yield (*path, name), pairs


def depths(config: PreTrainedConfig, most: int = 2) -> dict[Path, Any]:
    factors = {
        (*path, name): 1.0
        for path, node in nodes(config)
        for name, value in own_fields(node).items()
        if isinstance(value, float) and value > 1 and {"depth", "coefficient"} <= set(words(name))
    }
    return factors | {
        path: like(value, (min(n, most) for n in integers(value))) for path, value in of_kind(config, "depth").items()
    }


def per_layer(config: PreTrainedConfig, changes: Mapping[Path, Any]) -> dict[Path, Any]:
    """What single layers have of their own, by the factor by which `changes` make what the others have smaller."""
    small: dict[Path, Any] = {}
    for node, inner in nodes(config):
        spec = vars(inner).get("_heterogeneity_spec")
        if spec is None:
            continue
        own = own_fields(inner)
        small[(*node, "per_layer_config")] = {
            str(layer): {
                name: _in_step(value, own.get(name), changes.get((*node, name))) for name, value in fields.items()
            }
            for layer, fields in spec.per_layer_overrides.items()
        }
    return small


def _in_step(value: Any, before: Any, after: Any) -> Any:
    """`value` by the factor from `before` to `after`; itself where these are no single numbers."""
    if not all(isinstance(number, int) and integers(number) and number > 0 for number in (value, before, after)):
        return value
    return max(1, round(value * after / before))


def rope_sections(config: PreTrainedConfig, head_size: Mapping[Path, int] | None = None) -> dict[Path, Any]:
    """Lists of rotary sections add up to half of the head's size, in ratio."""
    small: dict[Path, Any] = {}
    for node, own in nodes(config):
        rope = own_fields(own).get("rope_parameters")
        if not isinstance(rope, dict):
            continue
        size = attribute(own, "head_dim")
        if not isinstance(size, int):
            hidden, count = attribute(own, "hidden_size"), attribute(own, "num_attention_heads")
            size = hidden // count if isinstance(hidden, int) and isinstance(count, int) and count else None
        section = rope.get("mrope_section")
        if size and section:
            rotated = int(size * (rope.get("partial_rotary_factor") or attribute(own, "partial_rotary_factor") or 1.0))
            small[(*node, "rope_parameters", "mrope_section")] = in_ratio(section, rotated // 2)
    return small


def in_ratio(section: list[int], total: int) -> list[int]:
    """Whole numbers that add up to `total`, each at least 1, in the ratio of `section`."""
    if total < len(section):
        return section
    small = [max(1, round(entry * total / sum(section))) for entry in section]
    while sum(small) != total:
        place = small.index(max(small))
        small[place] += 1 if sum(small) < total else -1
    return small


def in_equal_ratio(section: list[int], total: int) -> list[int]:
    """As `in_ratio`, and what is equal in `section` stays equal; `section`, where no such numbers add up to `total`."""
    kinds = list(dict.fromkeys(section))
    tried = (
        [small[kinds.index(entry)] for entry in section]
        for small in itertools.product(range(1, total), repeat=len(kinds))
    )
    fitting = [each for each in tried if sum(each) == total]
    off = (sum(abs(n * sum(section) - m * total) for n, m in zip(each, section, strict=True)) for each in fitting)
    return min(zip(off, fitting, strict=True), default=(0, section))[1]


STREAM = ("embed_dim", "hidden_size", "d_model", "n_embd", "dim")  # names of the width of a stream


def of_tower(config: PreTrainedConfig) -> dict[str, Any]:
    """Fields of a tower that must be other than they are, where what it reads has two axes.

    Rotary embeddings of two axes take heads of a multiple of eight; tables of positions are squares; the streams of stages
    are divided by their heads and groups.
    """
    own = own_fields(config)
    whole = {name: value for name, value in own.items() if isinstance(value, int) and integers(value)}
    changes: dict[str, Any] = {}
    most = max((value for name, value in whole.items() if kind(name) == "heads"), default=0)
    stream = next((name for name in STREAM if integers(own.get(name))), None)
    if stream in whole and most and whole[stream] % (8 * most):
        changes[stream] = 8 * most
    elif stream and stream not in whole:
        counted = [v for name, v in own.items() if {"heads", "groups"} & set(words(name)) and len(integers(v)) > 1]
        factors = [math.lcm(*numbers) for numbers in zip(*counted, strict=False)]
        if len(factors) == len(own[stream]):
            changes[stream] = [-(-n // factor) * factor for n, factor in zip(own[stream], factors, strict=True)]
    for name, value in whole.items():
        if {"pos", "position"} & set(words(name)) and name.endswith(("width", "height")):
            stem, _, _ = name.rpartition("_")
            changes[name] = min(whole.get(f"{stem}_{axis}", value) for axis in ("width", "height"))
        if name == "num_patches" and math.isqrt(value) ** 2 != value:
            changes[name] = math.isqrt(value) ** 2
    return {name: value for name, value in changes.items() if value != own[name]}
