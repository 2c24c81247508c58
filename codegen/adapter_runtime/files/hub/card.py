"""Adapter cards: the README of a repository, with metadata by which the hub finds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import jinja2

from adapter_runtime.files import heads as head_files

if TYPE_CHECKING:
    from adapter_runtime.model.api import ModelAdaptersMixin

# The tag by which the hub, `adapters` and this library list adapters.
LIBRARY_TAG = "adapter-transformers"
TEXTS = ("architecture_training", "results", "citation")
_METADATA = ("tags", "language", "license", "metrics")


@dataclass(frozen=True)
class CardOptions:
    """What a card says."""

    repo_id: str
    adapter: str  # the name of the adapter, or the setup in words
    load_function: str  # "load_adapter" or "load_adapter_setup"
    model_name: str  # of the base model on the hub; "" where it has none
    model_type: str
    has_flexible_heads: bool  # whether the snippet loads into a class with flexible heads, or into upstream's own
    model_class: str
    method: str  # the architecture of the adapter, for the reader
    head: str  # the type of the head beside it, in words; "" where there is none
    datasets: tuple[str, ...]
    extra: Mapping[str, Any]  # tags, language, license, metrics and texts

    @classmethod
    def of(
        cls,
        model: ModelAdaptersMixin,
        adapter: str,
        load_function: str,
        repo_id: str,
        datasets_tag: str | None,
        extra: Mapping[str, Any],
    ) -> CardOptions:
        """Facts about `model`, and what the caller adds.

        Raises:
            TypeError: an option that cards do not have.
        """
        unknown = sorted(extra.keys() - {*_METADATA, *TEXTS})
        if unknown:
            raise TypeError(f"A card has no {', '.join(unknown)}. It has: {', '.join((*_METADATA, *TEXTS))}.")
        configs = model.adapters_config.adapters
        return cls(
            repo_id=repo_id,
            adapter=adapter,
            load_function=load_function,
            model_name=model.config.name_or_path or "",
            model_type=model.config.model_type,
            has_flexible_heads=head_files.is_flexible(model),
            model_class=head_files.upstream_class_name(model),
            method=type(configs[adapter]).__name__ if adapter in configs else "",
            head=head_files.head_type_of(model, adapter),
            datasets=(datasets_tag,) if datasets_tag is not None else (),
            extra=extra,
        )

    def metadata(self) -> dict[str, Any]:
        """The YAML header: lists where there can be several, nothing that is not known."""
        found: dict[str, Any] = {
            "tags": [LIBRARY_TAG, self.model_type, *_as_list(self.extra.get("tags"))],
            "base_model": self.model_name,
            "datasets": list(self.datasets),
            "language": _as_list(self.extra.get("language")),
            "license": self.extra.get("license"),
            "metrics": _as_list(self.extra.get("metrics")),
        }
        found["tags"] = list(dict.fromkeys(found["tags"]))
        return {name: value for name, value in found.items() if value}


def render_card(card: CardOptions) -> str:
    """The text of ``README.md``."""
    texts = {name: card.extra.get(name) for name in TEXTS}
    return _template().render(card=card, metadata=card.metadata(), **texts)


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("adapter_runtime", "files/hub"),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # Markdown, not HTML
    )
    environment.filters["yaml"] = _yaml
    return environment.get_template("card.md.jinja")


def _yaml(value: object) -> str:
    """A scalar in YAML: every JSON string is one, whatever characters it has."""
    return json.dumps(value, ensure_ascii=False)


def _as_list(value: Any) -> list[Any]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
