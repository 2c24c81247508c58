"""Sizes of dimensions, in a normal form: sums of products of attributes of a module, and of ``outputs``.

`outputs` is how many outputs the projection has. A division that leaves a rest, as far as the text shows, is a factor of its own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from operator import mul

from adapter_codegen.plan.flow.layout import integer
from adapter_codegen.plan.flow.values import Op, Value, same_tensor

Factors = tuple[
    str, ...
]  # of a product: attributes ("head_dim", "config.num_heads"), "outputs", divisions ("(a // b)"); sorted


@dataclass(frozen=True)
class Size:
    """A sum of products: equal to another one where both texts compute the same from the same."""

    terms: tuple[tuple[Factors, int], ...]  # each product and how often it is added; sorted

    @property
    def number(self) -> int | None:
        """The size, if it is a number."""
        if not self.terms:
            return 0
        return self.terms[0][1] if [factors for factors, _ in self.terms] == [()] else None

    def __add__(self, other: Size) -> Size:
        return _sum((*self.terms, *other.terms))

    def __sub__(self, other: Size) -> Size:
        return self + other * number(-1)

    def __mul__(self, other: Size) -> Size:
        return _sum(
            (tuple(sorted(one + two)), count * times) for one, count in self.terms for two, times in other.terms
        )

    def __floordiv__(self, other: Size) -> Size:
        parts = [_divided(term, other) for term in self.terms]
        exact = [part for part in parts if part is not None]
        return _sum(exact) if len(exact) == len(parts) else of_name(f"({_factor(self)} // {_factor(other)})")

    def __str__(self) -> str:
        """As Python."""
        text = ""
        for factors, count in sorted(self.terms, key=lambda term: term[1] < 0):
            shown = [str(abs(count)), *factors] if abs(count) != 1 or not factors else factors
            text += (" - " if text and count < 0 else "-" if count < 0 else " + " if text else "") + " * ".join(shown)
        return text.removeprefix("(").removesuffix(")") if _is_in_brackets(text) else text or "0"


def number(value: int) -> Size:
    return _sum([((), value)])


def of_name(name: str) -> Size:
    return Size((((name,), 1),))


OUTPUTS = of_name("outputs")


def product(sizes: Iterable[Size | None]) -> Size | None:
    """None where one of them is not known."""
    known = list(sizes)
    return reduce(mul, [size for size in known if size is not None], number(1)) if None not in known else None


def size_of(value: Value, path: str) -> Size | None:
    """What an argument of a view or a cut states, in terms of the module at `path`; None where it is anything else."""
    value = same_tensor(value)
    if (literal := integer(value)) is not None:
        return number(literal)
    if value.op is Op.ATTRIBUTE:
        name = stated_size(value, path)
        return of_name(name) if name else None
    if value.op is Op.JOIN:
        found = {size_of(choice, path) for choice in value.inputs}
        return found.pop() if len(found) == 1 else None
    if value.op is not Op.BINARY or value.operator not in _OPERATIONS:
        return None
    left, right = (size_of(operand, path) for operand in value.inputs)
    if left is None or right is None or (value.operator == "//" and right.number == 0):
        return None
    return _OPERATIONS[value.operator](left, right)


def stated_size(size: Value, path: str | None = None) -> str:
    """``self.head_dim`` or ``self.config.head_dim``, as a path from the module; "" for anything else.

    Args:
        path: of the only module whose attribute it may be. None = any.
    """
    size = same_tensor(size)
    if size.op is not Op.ATTRIBUTE:
        return ""
    base = same_tensor(size.inputs[0])
    if base.op is Op.SELF:
        return size.name if path in (None, base.path) else ""
    inner = stated_size(base, path)
    return f"{inner}.{size.name}" if inner else ""


_OPERATIONS = {"+": Size.__add__, "-": Size.__sub__, "*": Size.__mul__, "//": Size.__floordiv__}


def _sum(terms: Iterable[tuple[Factors, int]]) -> Size:
    total: dict[Factors, int] = {}
    for factors, count in terms:
        total[factors] = total.get(factors, 0) + count
    return Size(tuple(sorted((factors, count) for factors, count in total.items() if count)))


def _divided(term: tuple[Factors, int], by: Size) -> tuple[Factors, int] | None:
    """A product by another one that is part of it."""
    if len(by.terms) != 1:
        return None
    (divisor, number_of), (factors, count) = by.terms[0], term
    left = list(factors)
    for factor in divisor:
        if factor not in left:
            return None
        left.remove(factor)
    return (tuple(left), count // number_of) if number_of > 0 and count % number_of == 0 else None


def _factor(size: Size) -> str:
    """In brackets, unless it is one name, number or division."""
    (factors, count), *others = size.terms or (((), 0),)
    is_one = not others and (not factors or (len(factors) == 1 and count == 1))
    return (factors[0] if factors else str(count)) if is_one else f"({size})"


def _is_in_brackets(text: str) -> bool:
    """Whether the first bracket is closed by the last character."""
    depth = 0
    for place, character in enumerate(text):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return place == len(text) - 1 and text.startswith("(")
    return False
