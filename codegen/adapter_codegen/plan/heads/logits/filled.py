"""Arguments that a class with a head makes for its base model where a call gives none, which no flexible head does.

Longformer's heads attend from the first token, or from the question, unless they are told from where. Their weights on a plain head would
compute something else. What a decoder reads where labels are given is no such argument: it is taken over (`shifting`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from adapter_codegen.plan.flow.values import How, Op, Value, ancestors, same_tensor
from adapter_codegen.plan.flow.walks import CASTS, VIEWS, called

_OF_DECODERS = "decoder_"


def fills_in(values: Sequence[Value], base: str) -> tuple[str, ...]:
    """The arguments of the base model at the path `base` that the class around it makes of others where they are not given."""
    calls = [value for value in values if value.op is Op.SUBMODULE and value.path == base and not value.frame.depth]
    found = {name for call in calls for name, value in call.keywords if name and _is_filled_in(value)}
    return tuple(sorted(name for name in found if not name.startswith(_OF_DECODERS)))


def _is_filled_in(value: Value) -> bool:
    choices = list(_choices(value))
    given = {id(choice) for choice in choices if _is_input(choice)}
    made = [choice for choice in choices if not _is_input(choice) and choice.op is not Op.CONSTANT]
    return bool(given) and any(
        any(_is_input(one) and id(one) not in given for one in ancestors(choice).values()) for choice in made
    )


def _choices(value: Value) -> Iterator[Value]:
    """What a value may be, in another form as it may be, and before any of its elements was written."""
    todo, seen = [value], set[int]()
    while todo:
        value = same_tensor(todo.pop())
        if id(value) in seen or value.is_none:
            continue
        seen.add(id(value))
        if value.op is Op.JOIN:
            todo += value.inputs
        elif value.inputs and (called(value, *VIEWS, *CASTS) or value.how is How.ITEM_ASSIGNMENT):
            todo.append(value.inputs[0])
        else:
            yield value


def _is_input(value: Value) -> bool:
    return value.op is Op.PARAMETER and not value.frame.depth and not value.name.startswith("*")
