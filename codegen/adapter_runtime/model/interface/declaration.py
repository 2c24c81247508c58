"""What the author of an interface writes down: where the modules are that adapters need."""

from __future__ import annotations

import enum
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from typing_extensions import Unpack

from adapter_runtime.contract.config import AdapterConfig
from adapter_runtime.contract.values import Json
from adapter_runtime.errors import AdapterFileError, InvalidConfigError, nearest
from adapter_runtime.files.documents import Document
from adapter_runtime.files.formats.interface import CacheOptions, find_interface_file
from adapter_runtime.files.names import INTERFACE_FILE
from adapter_runtime.methods.table import METHODS, methods_of


class AdapterMethod(str, enum.Enum):
    """Families of methods that an interface can offer. A member equals its name as a string."""

    bottleneck = "bottleneck"
    prefix_tuning = "prefix_tuning"  # never offered by an interface: it needs edited attention code
    lora = "lora"
    prompt_tuning = "prompt_tuning"
    reft = "reft"
    invertible = "invertible"

    @staticmethod
    def get_from_config(config: AdapterConfig) -> list[str]:
        """The families that a model must offer for `config`, in alphabetical order."""
        return sorted(methods_of(config))


OFFERED = tuple(name for name, spec in METHODS.items() if not spec.interface_refusal)
_OPTIONAL = (
    "layer_cross_attn",
    "attn_o_proj",
    "attn_k_proj",
    "attn_q_proj",
    "attn_v_proj",
    "attn_qkv_proj",
    "layer_pre_self_attn",
    "layer_pre_cross_attn",
    "layer_pre_ffn",
    "layer_ln_1",
    "layer_ln_2",
    "base_model",
)


@dataclass(frozen=True)
class AdapterModelInterface:
    """The names of the modules of a model that adapters need. Every path is dotted.

    Paths that begin with ``model_`` start at the base model, those with ``layer_`` at one of its layers, and those with
    ``attn_`` at each attention of a layer. None stands for what the model does not have.

    Args:
        adapter_methods: which families the model shall offer, of "bottleneck", "lora", "reft", "prompt_tuning" and
            "invertible".
        model_embeddings: the module whose output enters the first layer.
        model_layers: the list of layers.
        layer_self_attn: the self-attention.
        layer_cross_attn: the cross-attention.
        attn_o_proj: the projection after the attention. Bottlenecks of attentions act on its output.
        layer_intermediate_proj: the projection into the feed-forward block.
        layer_output_proj: the projection out of it. Bottlenecks after the block act on its output.
        attn_k_proj, attn_q_proj, attn_v_proj: projections of keys, queries and values, all three or none.
        attn_qkv_proj: one projection in place of the three. Its outputs are all queries, then all keys, then all values.
        layer_pre_self_attn: a module whose input is the residual stream before the self-attention.
        layer_pre_cross_attn: a module whose input is the residual stream before the cross-attention.
        layer_pre_ffn: a module whose input is the residual stream before the feed-forward block.
        layer_ln_1: a norm that bottlenecks of the self-attention apply to the sum of their input and the residual.
        layer_ln_2: a norm that bottlenecks after the feed-forward block apply to the sum of their input and the residual.
        base_model: attribute of the model that holds the base model; None = as its class says (``base_model_prefix``).

    Raises:
        InvalidConfigError: a method is unknown, a required name is missing, or projections are given by halves.
    """

    adapter_methods: Sequence[str]  # kept as a tuple of plain strings
    model_embeddings: str
    model_layers: str
    layer_self_attn: str
    layer_cross_attn: str | None
    attn_o_proj: str | None
    layer_intermediate_proj: str
    layer_output_proj: str
    attn_k_proj: str | None = None
    attn_q_proj: str | None = None
    attn_v_proj: str | None = None
    attn_qkv_proj: str | None = None
    layer_pre_self_attn: str | None = None
    layer_pre_cross_attn: str | None = None
    layer_pre_ffn: str | None = None
    layer_ln_1: str | None = None
    layer_ln_2: str | None = None
    base_model: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "adapter_methods", _checked_methods(self.adapter_methods))
        for name, value in self.to_dict().items():
            if name == "adapter_methods" or (value is None and name in _OPTIONAL):
                continue
            if not isinstance(value, str) or not value:
                raise InvalidConfigError(
                    f"AdapterModelInterface: {name} is {value!r}. It must be the path of a module."
                )
        self._check_projections()

    def _check_projections(self) -> None:
        paths = self.to_dict()
        separate = [name for name in ("attn_q_proj", "attn_k_proj", "attn_v_proj") if paths[name] is not None]
        if self.attn_qkv_proj is not None and separate:
            raise InvalidConfigError(
                f"AdapterModelInterface: attn_qkv_proj and {', '.join(separate)} are given. Give the one projection, or "
                "the three, whichever the model has."
            )
        if self.attn_qkv_proj is None and len(separate) < 3:
            missing = sorted({"attn_q_proj", "attn_k_proj", "attn_v_proj"} - set(separate))
            raise InvalidConfigError(
                f"AdapterModelInterface: {', '.join(missing)} not given. Give the paths of all three projections, or that "
                "of the one that they are fused into: attn_qkv_proj."
            )

    def to_dict(self) -> dict[str, Json]:
        """All fields by name, as in ``adapter_interface.json``."""
        return {**asdict(self), "adapter_methods": list(self.adapter_methods)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AdapterModelInterface:
        """The interface with these fields.

        Raises:
            InvalidConfigError: a field is unknown or missing.
        """
        known = [field.name for field in fields(cls)]
        for name in values:
            if name not in known:
                raise InvalidConfigError(f"AdapterModelInterface has no field {name!r}. {nearest(str(name), known)}")
        missing = [name for name in known[: known.index("attn_k_proj")] if name not in values]
        if missing:
            raise InvalidConfigError(f"AdapterModelInterface: {', '.join(missing)} not given.")
        return cls(**values)

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Interface:
        """What the ``adapter_interface.json`` of a folder, or of a repository of the hub, says; see `read_interface`."""
        return read_interface(folder)

    def differences(self, other: AdapterModelInterface) -> list[str]:
        """The fields, but for the methods offered, that `other` has other values of."""
        mine, theirs = self.to_dict(), other.to_dict()
        return [name for name in mine if name not in ("adapter_methods", "base_model") and mine[name] != theirs[name]]


# A model made of several models has an interface for each, by the path of the part from the base model.
Interface = AdapterModelInterface | Mapping[str, AdapterModelInterface]


def by_part(interface: Interface) -> dict[str, AdapterModelInterface]:
    """The interfaces of all parts by their path; "" is the base model itself.

    Raises:
        InvalidConfigError: it is neither an interface nor a mapping to interfaces.
    """
    parts = {"": interface} if isinstance(interface, AdapterModelInterface) else interface
    if not isinstance(parts, Mapping) or not parts:
        raise InvalidConfigError(
            f"interface={interface!r} is no AdapterModelInterface, and no mapping from paths of submodels to such."
        )
    for path, part in parts.items():
        if not isinstance(path, str) or not isinstance(part, AdapterModelInterface):
            raise InvalidConfigError(f"interface[{path!r}] is {part!r}. It must be an AdapterModelInterface.")
    return dict(parts)


def read_interface(source: str | os.PathLike[str], **options: Unpack[CacheOptions]) -> Interface:
    """The interface that a folder, or a repository of the hub, holds.

    Args:
        options: of ``from_pretrained``: revision, token, cache_dir ...

    Raises:
        AdapterFileError: there is none, or the file is damaged.
    """
    interface = find_interface(source, **options)
    if interface is None:
        raise AdapterFileError(
            f"{source} has no {INTERFACE_FILE}. It is written beside adapters of models with an interface."
        )
    return interface


def find_interface(source: str | os.PathLike[str], **options: Unpack[CacheOptions]) -> Interface | None:
    """As `read_interface`; None where there is no such file."""
    file = find_interface_file(source, **options)
    return None if file is None else parse_interface(file.path, file.document)


def parse_interface(path: Path, document: Document) -> Interface:
    """The interface that the file `path` holds.

    Raises:
        AdapterFileError: its fields are not those of an interface.
    """
    try:
        if "interfaces" in document:
            return {part: _of_fields(fields) for part, fields in _object(document["interfaces"]).items()}
        return _of_fields(document.get("interface"))
    except InvalidConfigError as error:
        raise AdapterFileError(f"{path}: {error}") from error


def _of_fields(stored: Json) -> AdapterModelInterface:
    return AdapterModelInterface.from_dict(_object(stored))


def _object(value: Json) -> Document:
    if not isinstance(value, Mapping):
        raise InvalidConfigError(f"An object with the fields of an interface was expected, not {value!r}.")
    return value


def _checked_methods(methods: Iterable[str]) -> tuple[str, ...]:
    """The methods as plain strings."""
    if isinstance(methods, str):
        raise InvalidConfigError(f"AdapterModelInterface: adapter_methods is the string {methods!r}. Give a list.")
    given = [method.value if isinstance(method, AdapterMethod) else method for method in methods]
    for method in given:
        if method in METHODS and METHODS[method].interface_refusal:
            raise InvalidConfigError(f"AdapterModelInterface: {METHODS[method].interface_refusal}")
        if method not in OFFERED:
            raise InvalidConfigError(
                f"AdapterModelInterface: there is no method {method!r}. {nearest(str(method), OFFERED)}"
            )
    if not given:
        raise InvalidConfigError("AdapterModelInterface: adapter_methods is empty. Name at least one method.")
    return tuple(given)
