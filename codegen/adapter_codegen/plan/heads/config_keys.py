"""Under which names a config class keeps what the runtime reads from every config.

The runtime asks for four values by the names that most configs give them. Where a config has such a field, or maps the name
onto one of its own (``attribute_map``), nothing is to be said. Elsewhere the field is found by its use: which field of the
config the token embedding, the attention and the dropout modules are built with.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import libcst as cst

from adapter_codegen.parse.automappings import ModelEntry
from adapter_codegen.parse.facts import ClassFacts, ModuleFacts, Submodule
from adapter_codegen.parse.module import parse_module
from adapter_codegen.parse.syntax import (
    assignment,
    descendants,
    dotted_name,
    literal_keys,
    self_attribute,
    statements,
)
from adapter_codegen.plan.flow.kinds import Kind, Kinds
from adapter_codegen.plan.stream.lists.stacks import HasAttention
from adapter_codegen.upstream import Release

_SUB_CONFIGS = ("sub_configs_defaults", "sub_configs")
KEYS = ("num_attention_heads", "hidden_size", "hidden_dropout_prob", "attention_probs_dropout_prob")


def plan_config_keys(
    release: Release, entry: ModelEntry, facts: ModuleFacts, has_attention: HasAttention
) -> tuple[tuple[str, str], ...]:
    """Our name -> the config's own, for those of `KEYS` that the config class neither has nor maps."""
    if not entry.config_path:
        return ()
    config = parse_module(release.read(entry.config_path), entry.config_path)
    fields = dict(_fields(release, config, entry.config_class))
    uses = _Uses(facts, has_attention, entry.base_class)
    numbers = {name for name, may_be_number in fields.items() if may_be_number}
    found = ((key, uses.field_for(key, numbers)) for key in KEYS if key not in fields)
    return tuple((key, name) for key, name in found if name)


def states_width(release: Release, entry: ModelEntry, keys: tuple[tuple[str, str], ...]) -> bool:
    """Whether a config says how wide hidden states are, in one number: images go through stages of several widths (PVT).

    Where it holds others, one of these may.

    Args:
        keys: what `plan_config_keys` gives.
    """
    if not entry.config_path or "hidden_size" in dict(keys):
        return True
    config = parse_module(release.read(entry.config_path), entry.config_path)
    if any(name in _SUB_CONFIGS for name in config.classes[entry.config_class].attributes):
        return True
    return dict(_fields(release, config, entry.config_class)).get("hidden_size", False)


def _fields(release: Release, module: ModuleFacts, class_name: str) -> Iterator[tuple[str, bool]]:
    """Names that a config answers to: its fields, the names it maps onto them, and those of its bases.

    Each with whether its annotation, if there is one, allows for a number: `vision_config` is a config.
    """
    known = module.classes.get(class_name)
    for name in known.lineage if known else ():
        if name in module.classes:
            one = module.classes[name]
            body = statements(one.node.body)
            mapped = literal_keys(one.attributes.get("attribute_map"))
            others = (*mapped, *one.functions, *_computed(one))
            yield from ((other, True) for other in others)
            annotated = (node for node in body if isinstance(node, cst.AnnAssign))
            yield from ((dotted_name(node.target), _allows_number(node.annotation)) for node in annotated)
            continue
        package, _, base = module.origin(name).removeprefix("transformers.").rpartition(".")
        path = package.replace(".", "/") + ".py"
        if package.startswith("models.") and release.exists(path):
            yield from _fields(release, parse_module(release.read(path), path), base)


def _allows_number(annotation: cst.Annotation) -> bool:
    """``int``, ``float | None``; neither ``bool``, ``list[int]`` nor the class of a config."""
    alternatives = [annotation.annotation]
    while alternatives:
        one = alternatives.pop()
        if isinstance(one, cst.BinaryOperation):
            alternatives += (one.left, one.right)
        elif dotted_name(one) in ("int", "float"):
            return True
    return False


def _computed(known: ClassFacts) -> Iterator[str]:
    """Fields that the config works out when it is built: ``self.hidden_size = int(...)``."""
    for name in ("__post_init__", "__init__"):
        function = known.functions.get(name)
        for node in statements(function.node.body) if function else ():
            yield from (self_attribute(target) for target in (assignment(node) or ((), None))[0])


class _Uses:
    """Which fields of the config the modules of a file are built with."""

    def __init__(self, facts: ModuleFacts, has_attention: HasAttention, base_class: str) -> None:
        self.facts = facts
        self.base_class = base_class
        self.kinds = Kinds(facts)
        self._fields_read: dict[str, tuple[str, ...]] = {}
        self.cores = [known for known in facts.classes.values() if self._is_core(known, has_attention)]
        self.others = [known for known in facts.classes.values() if known not in self.cores]

    def _is_core(self, known: ClassFacts, has_attention: HasAttention) -> bool:
        inner = (name for submodule in known.submodules.values() for name in submodule.classes)
        return has_attention(known.name) and not any(map(has_attention, inner))

    def field_for(self, key: str, fields: set[str]) -> str:
        candidates = [name for name in self._candidates(key) if name in fields]
        return candidates[0] if candidates else ""

    def _candidates(self, key: str) -> Iterator[str]:
        if key == "hidden_size":
            yield from self._sizes()
        elif key == "num_attention_heads":
            yield from self._named(self.cores, "heads", without=("key", "kv"))
        elif key == "attention_probs_dropout_prob":
            yield from self._named(self.cores, "att", "drop")
            yield from self._named(self.cores, "drop")
            yield from self._named(self.others, "att", "drop")
        else:
            # What says that it is of hidden states comes before what else drops: features before the layers, tokens of experts.
            yield from self._named((*self.others, *self.cores), "hidden", "drop")
            yield from self._named(self.others, "drop", without=("att", "classif", "act", "layer", "path"))
            yield from self._named(self.cores, "drop", without=("att",))
            yield from self._named(self.cores, "drop")

    def _sizes(self) -> Iterator[str]:
        """Width of the token embedding; where there is none, of a norm: of the base model, as a decoder of maps behind it has its own."""
        for kind, position in ((Kind.EMBEDDING, 1), (Kind.NORM, 0)):
            for submodule in self._inside(self.base_class):
                if self.kinds.of(submodule.classes) is kind and len(submodule.arguments) > position:
                    yield from _config_names([submodule.arguments[position]])

    def _inside(self, class_name: str) -> Iterator[Submodule]:
        """What an object of a class holds, at any depth, in the order of the file."""
        held, wanted = set[str](), [class_name]
        while wanted:
            known = self.facts.classes.get(name := wanted.pop())
            if known is not None and name not in held:
                held.add(name)
                wanted += (inner for submodule in known.submodules.values() for inner in submodule.classes)
        for name, known in self.facts.classes.items():
            if name in held:
                yield from known.submodules.values()

    def _named(self, classes: Iterable[ClassFacts], *parts: str, without: tuple[str, ...] = ()) -> Iterator[str]:
        """Fields read in an ``__init__`` of these classes whose names say what they hold."""
        for known in classes:
            for name in self._read(known):
                if all(part in name for part in parts) and not any(part in name for part in without):
                    yield name

    def _read(self, known: ClassFacts) -> tuple[str, ...]:
        """The fields that the ``__init__`` of a class reads; looked up once, for it is asked for by every key."""
        if known.name not in self._fields_read:
            init = known.functions.get("__init__")
            self._fields_read[known.name] = tuple(_config_names([init.node])) if init else ()
        return self._fields_read[known.name]


def _config_names(nodes: Iterable[cst.CSTNode]) -> Iterator[str]:
    """``hidden_size`` of every ``config.hidden_size`` or ``self.config.hidden_size``, in order; nothing of ``config.text.size``."""
    for node in nodes:
        reads = [inner for inner in descendants(node) if isinstance(inner, cst.Attribute)]
        parts = {id(read.value) for read in reads}
        yield from dict.fromkeys(
            read.attr.value
            for read in reads
            if dotted_name(read.value).rpartition(".")[2] == "config" and id(read) not in parts
        )
