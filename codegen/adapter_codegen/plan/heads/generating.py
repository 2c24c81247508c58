"""What upstream's class with a head says itself of the steps of its generation: the inputs of a step, masks, positions of images.

An adapter model takes these methods over as they are (`Borrowed`), with those that they call. It can where they ask nothing of their
object but what an adapter model has too: its config, the base model under the same name, and what all models have; and fields that
``__init__`` takes out of the config as they are, which an adapter model looks up there (Qwen3-Omni's). A `generate` of its own is such a
method where it ends in upstream's, which is then that of the adapter model (Granite Speech, Janus). What a class derives from for its
generation, in a file of its own (Whisper's, for languages and long sounds), an adapter model derives from, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import libcst as cst

from adapter_codegen.model import Borrowed
from adapter_codegen.parse.facts import ClassFacts, FunctionFacts, ModuleFacts
from adapter_codegen.parse.module import parse_module
from adapter_codegen.parse.syntax import assignment, descendants, dotted_name, is_inherited, self_attribute, statements
from adapter_codegen.plan.flow.modules import local_class
from adapter_codegen.plan.heads.logits.factors import config_field
from adapter_codegen.plan.heads.unclear import Unclear
from adapter_codegen.upstream import Release

_OF_GENERATION = re.compile(r"(^|_)generat(e|ion)($|_)")  # names of methods that upstream's generation calls
_WHOLE = "generate"
_MIXIN = "GenerationMixin"  # upstream's, for all models
_PLAIN = frozenset({"staticmethod"})
_NO_GRAD = "torch.no_grad"  # wraps a method without changing what it computes; what is taken over is wrapped anew


def generation_of(release: Release, facts: ModuleFacts, class_name: str) -> ClassFacts | None:
    """What a class with a head derives from for its generation, where that stands in a file of its own (Whisper's); None = nothing."""
    for name in facts.classes[class_name].lineage[1:]:
        module, _, own = facts.origin(name).rpartition(".")
        path = module.removeprefix("transformers.").replace(".", "/") + ".py"
        if name in facts.classes or not module.startswith("transformers.models.") or not release.exists(path):
            continue
        found = parse_module(release.read(path), path).classes.get(own)
        if found is not None and _MIXIN in map(local_class, found.lineage):
            return found
    return None


def borrowed(
    facts: ModuleFacts, class_name: str, pretrained: str, base_attribute: str, generation: ClassFacts | None = None
) -> Borrowed:
    """What an adapter model takes over from a class with a head, mostly nothing.

    Args:
        pretrained: the class that the adapter model derives from.
        base_attribute: where the adapter model holds its base model.
        generation: see `generation_of`.

    Raises:
        Unclear: it cannot take over a step.
    """
    known = facts.classes[class_name]
    own = {name: function for name, function in known.functions.items() if not _inherits(facts, pretrained, function)}
    lent = {} if generation is None else dict(generation.functions)
    pending = [name for name in own if _OF_GENERATION.search(name)] + [*lent]
    of_config = _of_config(facts, known)
    set_by_init = {name for name, _ in _set_by_init(facts, known)} - {base_attribute, *of_config}
    found: set[str] = set()
    fields: set[str] = set()
    while pending:
        name = pending.pop()
        if name in found:
            continue
        found.add(name)
        step = own.get(name) or lent[name]
        if name in own:
            _check_taken(step)
        asked = set(_asked(step))
        foreign = sorted(asked & (set_by_init | {"forward"}))
        if foreign:
            said = f"A step of its generation, {name}, asks for what no adapter model has: {', '.join(foreign)}."
            raise Unclear(said, step.node.name if name in own else None)
        fields |= asked & of_config.keys()
        pending.extend(asked & own.keys())
    read = tuple((name, of_config[name]) for name in sorted(fields))
    return Borrowed(class_name, tuple(sorted(found & own.keys())), read, generation.name if generation else "")


def _check_taken(step: FunctionFacts) -> None:
    """Raises `Unclear` where a method cannot be taken over as it is."""
    if step.name == _WHOLE and not _goes_on(step):
        raise Unclear("It has a `generate` of its own.", step.node.name)
    if not _is_plain(step):
        raise Unclear(f"A step of its generation is wrapped: {step.name}.", step.node.name)


def _inherits(facts: ModuleFacts, pretrained: str, function: FunctionFacts) -> bool:
    """Whether the adapter model has a method anyway."""
    known = facts.classes.get(pretrained)
    return known is not None and known.functions.get(function.name) is function


def _set_by_init(facts: ModuleFacts, known: ClassFacts) -> Iterator[tuple[str, cst.BaseExpression]]:
    """Attributes that the class and its bases in the file set when they are built, with what they set them to."""
    for name in known.lineage:
        init = facts.classes[name].functions.get("__init__") if name in facts.classes else None
        for node in statements(init.node.body) if init is not None else ():
            targets, value = assignment(node) or ((), None)
            for attribute in filter(None, map(self_attribute, targets)):
                if value is not None:
                    yield attribute, value


def _of_config(facts: ModuleFacts, known: ClassFacts) -> dict[str, str]:
    """Attributes that are a field of the config and stay it -> the path of that: ``self.size = config.vision_config.size``."""
    inits = [facts.classes[name].functions.get("__init__") for name in known.lineage if name in facts.classes]
    is_other = any(init is not None and _binds(init, "config") for init in inits)
    pairs = (
        [] if is_other else [(name, config_field(dotted_name(value))) for name, value in _set_by_init(facts, known)]
    )
    written = [
        name
        for function in known.functions.values()
        for node in descendants(function.node)
        for name in map(self_attribute, _targets(node))
    ]
    return {name: path for name, path in pairs if path and written.count(name) == 1}


def _targets(node: cst.CSTNode) -> Sequence[cst.BaseExpression]:
    """What a statement writes to."""
    if isinstance(node, cst.AugAssign):
        return [node.target]
    return (assignment(node) or ((), None))[0]


def _binds(function: FunctionFacts, name: str) -> bool:
    """Whether a function gives one of its names another value."""
    return any(name in map(dotted_name, _targets(node)) for node in descendants(function.node))


def _is_plain(function: FunctionFacts) -> bool:
    """Whether a method is one without decorators, a static one, or one without gradients. Others may hide what they wrap, properties too."""
    wrapping = [decorator.decorator for decorator in function.node.decorators]
    return all(dotted_name(one) in _PLAIN or _is_no_grad(one) for one in wrapping) and len(wrapping) < 2


def _is_no_grad(decorator: cst.BaseExpression) -> bool:
    return isinstance(decorator, cst.Call) and dotted_name(decorator.func) == _NO_GRAD and not decorator.args


def _goes_on(function: FunctionFacts) -> bool:
    """Whether a `generate` gives what upstream's does in a way: ``return super().generate(...)``. It must not run the class itself, whose
    head is chosen by an argument that only upstream's `generate` hands on."""
    nodes = list(descendants(function.node))
    returned = [node.value for node in nodes if isinstance(node, cst.Return)]
    runs_itself = any(isinstance(node, cst.Call) and dotted_name(node.func) == "self" for node in nodes)
    return not runs_itself and any(
        isinstance(value, cst.Call) and is_inherited(value.func, _WHOLE) for value in returned
    )


def _asked(function: FunctionFacts) -> Iterator[str]:
    """Names of what a method reads of its object."""
    for node in descendants(function.node):
        if isinstance(node, cst.Attribute) and dotted_name(node.value) in ("self", "cls"):
            yield node.attr.value
