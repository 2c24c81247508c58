"""Reads the tables of upstream's auto modules: assignments of displays of strings, and ``.update`` of them.

The files hold 4,000 lines of nothing but such tables. A syntax tree of them takes libcst most of a second, which every
command would wait for; a scan for strings, names and brackets takes a fraction of that. Only strings, None, tuples, lists,
dicts, `OrderedDict` and names of earlier tables are understood. Anything else makes that one table unreadable, and asking
for it an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

Value = str | tuple["Value", ...] | dict[str, "Value"] | None

_TOKEN = re.compile(
    r"""(?P<string>[a-zA-Z]{0,2}(?:\"{3}.*?\"{3}|'{3}.*?'{3}|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'))"""
    r"|(?P<name>\w+)|(?P<layout>[ \t\f]+|\#[^\n]*|\\\n)|(?P<line>\n)|(?P<operator>\*\*|.)",
    re.DOTALL,
)


class _Token(NamedTuple):
    string: str
    position: int  # in the text


class UnreadableTable(Exception):
    """The table holds something that is not a display of strings; the argument is its line."""


def read_tables(
    text: str, known: Mapping[str, Mapping[str, Value] | UnreadableTable]
) -> dict[str, dict[str, Value] | UnreadableTable]:
    """The tables that a module assigns at its top level, by name.

    Args:
        text: the module.
        known: tables that it imports; it may update them or build on them.
    """
    tables: dict[str, dict[str, Value] | UnreadableTable] = {
        name: table if isinstance(table, UnreadableTable) else dict(table) for name, table in known.items()
    }
    for statement in _statements(text):
        _apply(text, statement, tables)
    return tables


def _statements(text: str) -> Iterator[list[_Token]]:
    """Logical lines that begin at column 0 with a name in capitals."""
    line: list[_Token] = []
    depth = 0
    for match in _TOKEN.finditer(text + "\n"):
        if match.lastgroup == "layout":
            continue
        if match.lastgroup == "line":
            if depth == 0:
                if line and line[0].string.isupper() and text[line[0].position - 1 : line[0].position] in {"", "\n"}:
                    yield line
                line = []
            continue
        line.append(_Token(match[0], match.start()))
        if match.lastgroup == "operator":
            depth += (match[0] in "([{") - (match[0] in ")]}")


def _apply(text: str, line: list[_Token], tables: dict[str, dict[str, Value] | UnreadableTable]) -> None:
    name = line[0].string
    words = [token.string for token in line]
    reader = _Reader(text, line, tables)
    if words[1:2] == ["="]:
        reader.position = 2
        tables[name] = reader.table()
    elif words[1:2] == [":"] and "=" in words:
        reader.position = words.index("=") + 1
        tables[name] = reader.table()
    elif words[1:4] == [".", "update", "("]:
        reader.position = 3
        update, table = reader.table(), tables.get(name)
        if isinstance(table, dict) and isinstance(update, dict):
            tables[name] = {**table, **update}
        else:
            tables[name] = reader.unreadable()


class _Reader:
    """A recursive descent over the tokens of one logical line."""

    def __init__(
        self, text: str, tokens: list[_Token], tables: Mapping[str, dict[str, Value] | UnreadableTable]
    ) -> None:
        self.text = text
        self.tokens = tokens
        self.tables = tables
        self.position = 0

    def table(self) -> dict[str, Value] | UnreadableTable:
        try:
            value = self._value()
            if self.position != len(self.tokens):
                raise self.unreadable()
            return self._pairs(value)
        except UnreadableTable as error:
            return error

    def unreadable(self) -> UnreadableTable:
        place = self.tokens[min(self.position, len(self.tokens) - 1)].position
        return UnreadableTable(self.text.count("\n", 0, place) + 1)

    def _peek(self) -> str:
        return self.tokens[self.position].string if self.position < len(self.tokens) else ""

    def _take(self, expected: str = "") -> str:
        found = self._peek()
        if not found or (expected and found != expected):
            raise self.unreadable()
        self.position += 1
        return found

    def _value(self) -> Value:
        token = self._peek()
        if token == "{":
            return self._dict()
        if token in {"(", "["}:
            return self._sequence({"(": ")", "[": "]"}[token])
        if token[:1] in {'"', "'"}:
            return self._string()
        return self._name()

    def _string(self) -> str:
        """One or more adjacent literals without prefix or escape: names need neither."""
        pieces: list[str] = []
        while self._peek()[:1] in {'"', "'"} and self._peek():
            if "\\" in self._peek() or self._peek()[:3] in {'"""', "'''"}:
                raise self.unreadable()
            pieces.append(self._take()[1:-1])
        if not pieces:
            raise self.unreadable()
        return "".join(pieces)

    def _sequence(self, closing: str) -> Value:
        self._take()
        values: list[Value] = []
        comma = closing == "]"
        while self._peek() != closing:
            if self._peek() == "*":
                self._take()
                values.extend(self._items())
            else:
                values.append(self._value())
            if self._peek() != closing:
                self._take(",")
                comma = True
        self._take(closing)
        return tuple(values) if comma or len(values) != 1 else values[0]  # ("a") is a string, ("a",) a tuple

    def _dict(self) -> dict[str, Value]:
        self._take("{")
        found: dict[str, Value] = {}
        while self._peek() != "}":
            if self._peek() == "**":
                self._take()
                found.update(self._pairs(self._value()))
            else:
                key = self._string()
                self._take(":")
                found[key] = self._value()
            if self._peek() != "}":
                self._take(",")
        self._take("}")
        return found

    def _name(self) -> Value:
        name = self._take()
        if name == "None":
            return None
        if name in {"OrderedDict", "dict"}:
            return self._constructor()
        table = self.tables.get(name)
        if not isinstance(table, dict):
            self.position -= 1
            raise self.unreadable()
        return dict(table)

    def _items(self) -> Iterator[Value]:
        """``*TABLE.items()`` or ``*list(TABLE.items())`` inside a list."""
        wrapped = self._peek() == "list"
        if wrapped:
            self._take()
            self._take("(")
        table = self._pairs(self._name())
        for expected in (".", "items", "(", ")", *((")",) if wrapped else ())):
            self._take(expected)
        yield from table.items()

    def _constructor(self) -> dict[str, Value]:
        """``OrderedDict([...], **more)``, also written ``OrderedDict[str, str]([...])``."""
        if self._peek() == "[":
            while self._take() != "]":
                pass
        self._take("(")
        found: dict[str, Value] = {}
        while self._peek() != ")":
            if self._peek() == "**":
                self._take()
            found.update(self._pairs(self._value()))
            if self._peek() != ")":
                self._take(",")
        self._take(")")
        return found

    def _pairs(self, value: Value) -> dict[str, Value]:
        if isinstance(value, dict):
            return value
        if not isinstance(value, tuple):
            raise self.unreadable()
        found: dict[str, Value] = {}
        for pair in value:
            if not isinstance(pair, tuple) or len(pair) != 2 or not isinstance(pair[0], str):
                raise self.unreadable()
            found[pair[0]] = pair[1]
        return found
