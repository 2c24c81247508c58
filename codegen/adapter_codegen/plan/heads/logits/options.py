"""What the modules of a chain, and what stands around them, are as options of a flexible head.

Where upstream's config decides, the option goes by its name with ``_key``, and says which field does: ``norm_eps_key``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import libcst as cst

from adapter_codegen.parse.facts import Submodule
from adapter_codegen.parse.syntax import dotted_name, literal_string
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.heads.logits.chain import Link, Step
from adapter_codegen.plan.heads.logits.factors import config_field

Options = dict[str, object]
_DEFAULT_EPS = 1e-5  # torch's
_OUR_EPS = "layer_norm_eps"  # the fields that flexible heads read by themselves
_EMBEDDING = "embedding_size"
_LITERALS = frozenset({"True", "False"})


@dataclass(frozen=True)
class Surroundings:
    """What a head does before its first and behind its last projection."""

    options: Options
    offset: str = ""  # path of a parameter that is added to the logits
    buffer: str = ""  # path of a buffer that is added to them


def surroundings(links: Sequence[Link], is_language_model: bool) -> Surroundings | None:
    """None where something stands around the projections that no flexible head does."""
    places = [index for index, link in enumerate(links) if link.step is Step.LINEAR]
    if not places:
        return None
    before, after = links[: places[0]], [link for link in links[places[-1] + 1 :] if link.step is not Step.DROPOUT]
    inside = [link.step for link in links[places[0] : places[-1]]]
    if {*inside} & {Step.SCALE, Step.CAP, Step.CUT, Step.OFFSET, Step.BUFFER}:
        return None
    if {link.step for link in before} - {Step.DROPOUT, Step.SCALE} or (before and after and not is_language_model):
        return None
    if not is_language_model and (after or any(link.step is Step.SCALE for link in before)):
        return None
    return _read(before, after)


def _read(before: Sequence[Link], after: Sequence[Link]) -> Surroundings | None:
    """In the order: an offset, factors, a limit; behind the offset, it is the same whether logits are cut before or after."""
    rest, offset, buffer = list(after), "", ""
    if rest and rest[0].step in {Step.OFFSET, Step.BUFFER}:
        link = rest.pop(0)
        offset, buffer = (link.path, "") if link.step is Step.OFFSET else ("", link.path)
    cuts = [link.key for link in rest if link.step is Step.CUT]
    if len(cuts) > 1:
        return None
    options: Options = {"kept_tokens_key": cuts[0]} if cuts else {}
    rest = [link for link in rest if link.step is not Step.CUT]
    if rest and rest[-1].step is Step.CAP:
        options["softcap_key"] = rest.pop().key
    scales = {"input_factors": [link for link in before if link.step is Step.SCALE], "logit_factors": rest}
    for name, links in scales.items():
        if any(link.step is not Step.SCALE or (link.key and len(links) > 1) for link in links):
            return None
        if links:
            terms = [[base, power] for link in links for base, power in link.terms]
            options[name] = {"terms": terms, **({"flag": links[0].key} if links[0].key else {})}
    return Surroundings(options, offset, buffer)


def read_bias(link: Link) -> Options | None:
    """Whether a projection has a bias; None where that is not clear."""
    return _flag("bias", _argument(link.submodule, "bias", 2))


def hidden_options(links: Sequence[Link]) -> Options | None:
    """Of the projections but the last, which all have a bias, as in flexible heads, or all by one field of the config."""
    found = [_flag("hidden_bias", _argument(link.submodule, "bias", 2)) for link in links]
    if not found or any(options != found[0] for options in found) or found[0] is None:
        return None if found else {}
    if found[0].get("hidden_bias") is False and "hidden_bias_key" not in found[0]:
        return None
    return {} if found[0] == {"hidden_bias": True} else found[0]


def width_options(links: Sequence[Link]) -> Options | None:
    """Of what comes out of the projections but the last; None where one of several widths goes in, which has no name of its own."""
    if isinstance(_argument(links[0].submodule, "in_features", 0), cst.Subscript):
        return None  # ``config.hidden_sizes[-1]``
    inner = [
        (_field(_argument(link.submodule, "in_features", 0)), _field(_argument(link.submodule, "out_features", 1)))
        for link in links[:-1]
    ]
    named = {out for given, out in inner if given and out not in ("", given, _EMBEDDING)}
    return {"embedding_size_key": named.pop()} if len(named) == 1 else None if named else {}


def norm_options(links: Sequence[Link]) -> Options | None:
    """Of the norm between projections."""
    if not links:
        return {}
    submodule = links[0].submodule
    if submodule is None or [local_class(name) for name in submodule.classes] != ["LayerNorm"]:
        return None
    bias, eps = _flag("norm_bias", _argument(submodule, "bias", 3)), _argument(submodule, "eps", 1)
    if bias is None:
        return None
    options = {} if bias == {"norm_bias": True} else bias
    key = _field(eps)
    if key:
        return options if key == _OUR_EPS else {**options, "norm_eps_key": key}
    if eps is None:
        return {**options, "norm_eps": _DEFAULT_EPS}
    return {**options, "norm_eps": float(eps.value)} if isinstance(eps, cst.Float) else None


def _argument(submodule: Submodule | None, name: str, position: int) -> cst.BaseExpression | None:
    """An argument of the construction, by keyword or position."""
    arguments = submodule.arguments if submodule is not None else ()
    for argument in arguments:
        if argument.keyword is not None and argument.keyword.value == name:
            return argument.value
    positional = [argument.value for argument in arguments if argument.keyword is None]
    return positional[position] if len(positional) > position else None


def _flag(name: str, value: cst.BaseExpression | None) -> Options | None:
    """A switch whose default in torch is True; ``getattr(config, "bias", True)`` is a field that only some configs have."""
    key, default = _field(value), True
    if isinstance(value, cst.Call) and dotted_name(value.func) == "getattr" and len(value.args) == 3:
        owner, field, otherwise = (argument.value for argument in value.args)
        key = config_field(f"{dotted_name(owner)}.{literal_string(field) or ''}")
        default = dotted_name(otherwise) != "False"
        if not key or dotted_name(otherwise) not in _LITERALS:
            return None
    if value is None or dotted_name(value) in _LITERALS:
        return {name: dotted_name(value) != "False"}
    return {f"{name}_key": key, name: default} if key else None


def _field(value: cst.BaseExpression | None) -> str:
    """The field of the config that an argument names; "" where it is something else."""
    return config_field(dotted_name(value))
