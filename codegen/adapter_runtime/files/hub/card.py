"""Adapter cards: the README of a repository, with metadata by which the hub finds it.

A card is filled in with `string.Template`, so that pushing an adapter needs no template engine where a model only serves.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from string import Template
from typing import TypeAlias

from adapter_runtime.contract.protocol import AdaptedModel
from adapter_runtime.files import heads as head_files

# The tag by which the hub, `adapters` and this library list adapters.
LIBRARY_TAG = "adapter-transformers"
# Sections that the caller may fill in: option -> title.
SECTIONS = {
    "architecture_training": "Architecture and training",
    "results": "Evaluation results",
    "citation": "Citation",
}
_METADATA = ("tags", "language", "license", "metrics")

CardValue: TypeAlias = str | list[str] | None  # of one option: a word or a text, several, or nothing

# ``$name`` stands for what `render_card` puts there. Values are put in as they are, so a ``$`` in them is only a character.
_CARD = Template("""\
---
$metadata
---

# Adapter `$repo_id`$for_model

$what

## Usage

It was written by the adapter runtime of adapter-codegen, in the file format of the library
[Adapters](https://github.com/Adapter-Hub/adapters), and can be loaded by both.

```
pip install adapter-codegen
```

```python
$snippet
```

$sections
""")
_FLEXIBLE = Template("""\
from adapter_models import AutoAdapterModel

model = AutoAdapterModel.from_pretrained("$base")""")
_STATIC = Template("""\
from transformers import $model_class

from adapter_models import init

model = $model_class.from_pretrained("$base")
init(model)""")
_LOADING = {
    "load_adapter": 'adapter_name = model.load_adapter("$repo_id", set_active=True)',
    "load_adapter_setup": 'adapter_setup, head_setup = model.load_adapter_setup("$repo_id", set_active=True)',
}


@dataclass(frozen=True)
class CardOptions:
    """What a card says."""

    repo_id: str
    adapter: str  # the name of the adapter, or the setup in words
    load_function: str  # "load_adapter" or "load_adapter_setup"
    model_name: str  # of the base model on the hub; "" where it has none
    model_type: str
    is_adapter_model: bool  # whether the snippet loads into the class of `AutoAdapterModel`, or into upstream's own
    model_class: str
    method: str  # the architecture of the adapter, for the reader
    head: str  # the type of the head beside it, in words; "" where there is none
    datasets: tuple[str, ...]
    extra: Mapping[str, CardValue]  # tags, language, license, metrics and texts

    @classmethod
    def of(
        cls,
        model: AdaptedModel,
        adapter: str,
        load_function: str,
        repo_id: str,
        datasets_tag: str | None,
        extra: Mapping[str, CardValue],
    ) -> CardOptions:
        """Facts about `model`, and what the caller adds.

        Raises:
            TypeError: an option that cards do not have.
        """
        unknown = sorted(extra.keys() - {*_METADATA, *SECTIONS})
        if unknown:
            raise TypeError(f"A card has no {', '.join(unknown)}. It has: {', '.join((*_METADATA, *SECTIONS))}.")
        configs = model.adapters_config.adapters
        return cls(
            repo_id=repo_id,
            adapter=adapter,
            load_function=load_function,
            model_name=model.config.name_or_path or "",
            model_type=model.config.model_type,
            is_adapter_model=model.is_adapter_model,
            model_class=head_files.upstream_class_name(model),
            method=type(configs[adapter]).__name__ if adapter in configs else "",
            head=head_files.head_type_of(model, adapter),
            datasets=(datasets_tag,) if datasets_tag is not None else (),
            extra=extra,
        )

    def metadata(self) -> dict[str, str | list[str]]:
        """The YAML header: lists where there can be several, nothing that is not known."""
        tags = [LIBRARY_TAG, self.model_type, *_as_list(self.extra.get("tags"))]
        found: dict[str, str | list[str] | None] = {
            "tags": list(dict.fromkeys(tags)),
            "base_model": self.model_name,
            "datasets": list(self.datasets),
            "language": _as_list(self.extra.get("language")),
            "license": self.extra.get("license"),
            "metrics": _as_list(self.extra.get("metrics")),
        }
        return {name: value for name, value in found.items() if value}


def render_card(card: CardOptions) -> str:
    """The text of ``README.md``."""
    return _CARD.substitute(
        metadata="\n".join(_yaml(card.metadata())),
        repo_id=card.repo_id,
        for_model=f" for `{card.model_name}`" if card.model_name else "",
        what=_what(card),
        snippet=_snippet(card),
        sections="\n\n".join(
            f"## {title}\n\n{card.extra.get(option) or '<!-- Add some description here -->'}"
            for option, title in SECTIONS.items()
        ),
    )


def _what(card: CardOptions) -> str:
    """The sentence that says what is in the repository."""
    if card.load_function == "load_adapter":
        subject = f"The adapter `{card.adapter}`" + (f" (`{card.method}`)" if card.method else "")
    else:
        subject = f"The adapter setup `{card.adapter}`"
    datasets = "".join(
        f", trained on the dataset [{name}](https://huggingface.co/datasets/{name}/)" for name in card.datasets
    )
    head = f", with a head for {card.head}" if card.head else ""
    return f"{subject} for models of type `{card.model_type}`{datasets}{head}."


def _snippet(card: CardOptions) -> str:
    """Code that loads what is in the repository."""
    model = _FLEXIBLE if card.is_adapter_model else _STATIC
    return "\n".join(
        [
            model.substitute(model_class=card.model_class, base=card.model_name or "<the base model>"),
            Template(_LOADING[card.load_function]).substitute(repo_id=card.repo_id),
        ]
    )


def _yaml(metadata: Mapping[str, str | list[str]]) -> Iterator[str]:
    """Lines of YAML. Scalars are written as JSON strings, which YAML reads whatever characters they have."""
    for name, value in metadata.items():
        if isinstance(value, str):
            yield f"{name}: {_scalar(value)}"
        else:
            yield f"{name}:"
            yield from (f"- {_scalar(item)}" for item in value)


def _scalar(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _as_list(value: CardValue) -> list[str]:
    if value is None:
        return []
    return [value] if isinstance(value, str) else list(value)
