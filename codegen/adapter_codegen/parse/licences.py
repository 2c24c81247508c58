"""The licence of an upstream file, read from the comment at its top.

What is generated from a file is a changed copy of parts of it, and goes into a wheel with a licence of its own. So the licence of
every upstream file must be known, and be one that allows this. The words of a header are compared with the sentences of the
licences in `ALLOWED`; if any other words of it speak of a licence, the header is not understood, and the model is refused.

Where do I add a licence? An entry of `ALLOWED`, with the reason. A remark that changes nothing? An entry of `REMARKS`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Licence:
    """A licence whose files may be changed and distributed in one wheel with this project's own."""

    spdx: str  # its identifier in the SPDX list
    reason: str  # why that is allowed
    grant: tuple[str, ...]  # the sentences that put a file under it, all of them
    further: tuple[str, ...] = ()  # what else may stand beside them
    keeps_text: bool = False  # whether the licence wants its sentences in every copy; else the identifier is enough


ALLOWED = (
    Licence(
        spdx="Apache-2.0",
        reason="The licence of this project and of upstream's repository. Notices stay, and the change is stated.",
        grant=('Licensed under the Apache License, Version 2.0 (the "License")',),
        further=(
            "you may not use this file except in compliance with the License.",
            "You may obtain a copy of the License at http://www.apache.org/licenses/LICENSE-2.0",
            "Unless required by applicable law or agreed to in writing, software distributed under the License is distributed"
            ' on an "AS IS" BASIS, WITHOUT WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied.',
            "See the License for the specific language governing permissions and",
            "limitations under the License.",
        ),
    ),
    Licence(
        spdx="MIT",
        reason="Everything is allowed while its text and the copyright stay in every copy: generated forwards keep both.",
        grant=(
            "MIT License",
            "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated"
            ' documentation files (the "Software"), to deal in the Software without restriction, including without limitation'
            " the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and"
            " to permit persons to whom the Software is furnished to do so, subject to the following conditions:"
            " The above copyright notice and this permission notice shall be included in all copies or substantial portions"
            ' of the Software. THE SOFTWARE IS PROVIDED "AS IS", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING'
            " BUT NOT LIMITED TO THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN"
            " NO EVENT SHALL THE AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN"
            " AN ACTION OF CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR"
            " OTHER DEALINGS IN THE SOFTWARE.",
        ),
        keeps_text=True,
    ),
)
# Lines that speak of a licence and change nothing, each with the reason.
REMARKS: Mapping[str, str] = {
    "Original license: https://github.com/apple/ml-cvnets/blob/main/LICENSE": (
        "Where the ported code came from. That licence allows changed copies, and the file itself is put under Apache-2.0."
    ),
}
# Upstream's repository: the licence of a file that names none, and the copyright of one that names nobody.
REPOSITORY = "Apache-2.0"
REPOSITORY_COPYRIGHT = "Copyright 2018- The Hugging Face team. All rights reserved."

_SPDX = re.compile(r"SPDX-License-Identifier:\s*(.*\S)")
_COPYRIGHT = re.compile(r"copyright|\(c\)|©", re.IGNORECASE)
_ABOUT_LICENCES = re.compile(r"licen[cs]|non-?commercial|for research|not permitted|prohibited", re.IGNORECASE)
_FOR_TOOLS = re.compile(r"!|.*coding[:=]|\s*(ruff|flake8|isort|mypy|type|fmt|pylint):")  # comments that tools read
_BANNER_EDGE = re.compile(r"\W*🚨\W*")  # above and below the words that upstream's own converter puts on top
_DOCSTRING = re.compile(r"""\s*[rRuU]?(\"{3}|'{3})(.*?)\1""", re.DOTALL)
_WORD = re.compile(r"[^\s\"'“”(),;]+")


@dataclass(frozen=True)
class LicenceNotice:
    """What must be said about the licence wherever parts of a file are copied to."""

    spdx: str  # identifier of one of `ALLOWED`; "" = the header is not understood
    copyright: tuple[str, ...] = ()  # lines that name the holders, then other notices; without the sign of a comment
    text: tuple[str, ...] = ()  # the licence's own lines, where it wants them in every copy
    unknown: str = ""  # the line, or the names of licences, that is not understood; "" where all is

    def __post_init__(self) -> None:
        if bool(self.spdx) == bool(self.unknown):
            raise ValueError(f"a licence is understood or not: {self}")


def read_licence(text: str) -> LicenceNotice:
    """The licence of the file with this text."""
    top = list(_header_lines(text))
    stated = {match[1] for line in top if (match := _SPDX.search(line))}
    lines = [line for line in top if not _SPDX.search(line)]
    covered = {licence.spdx: _covered(lines, licence) for licence in ALLOWED}
    names = {*stated, *(spdx for spdx, words in covered.items() if words)} or {REPOSITORY}
    rest = [_left_over(line, index, covered.values()) for index, line in enumerate(lines)]
    about = (line for line, left in zip(lines, rest, strict=True) if _ABOUT_LICENCES.search(left))
    strange = next((line for line in about if line not in REMARKS), "")
    licence = next((licence for licence in ALLOWED if {licence.spdx} == names), None)
    if strange or licence is None:
        return LicenceNotice("", unknown=strange or " and ".join(sorted(names)))
    notices = tuple(line for line, left in zip(lines, rest, strict=True) if left)
    has_holder = any(map(_COPYRIGHT.search, notices))
    own_text = tuple(line for line, left in zip(lines, rest, strict=True) if not left)
    return LicenceNotice(
        licence.spdx,
        notices if has_holder else (REPOSITORY_COPYRIGHT, *notices),
        own_text if licence.keeps_text else (),
    )


def header(text: str) -> str:
    """The top of a file that may speak of its licence: all above the first statement, verbatim.

    A licence may also stand in the docstring of a module; other docstrings are no part of the header.
    """
    lines = text.splitlines()
    end = next((index for index, line in enumerate(lines) if line.strip() and not line.startswith("#")), len(lines))
    docstring = _DOCSTRING.match("\n".join(lines[end:]))
    in_docstring = docstring[0] if docstring and _ABOUT_LICENCES.search(docstring[2]) else ""
    return "\n".join([*lines[:end], in_docstring]).rstrip()


def _header_lines(text: str) -> Iterator[str]:
    """The lines of the header for people: without signs of comments, upstream's banner, and lines that are blank or for tools."""
    lines = [line.lstrip("#").strip().strip("\"'").strip() for line in header(text).splitlines()]
    yield from (line for line in _without_banner(lines) if line and not _FOR_TOOLS.match(line))


def _without_banner(lines: Sequence[str]) -> list[str]:
    edges = [index for index, line in enumerate(lines) if _BANNER_EDGE.fullmatch(line)]
    return [*lines[: edges[0]], *lines[edges[-1] + 1 :]] if len(edges) > 1 else list(lines)


def _covered(lines: Sequence[str], licence: Licence) -> frozenset[tuple[int, int]]:
    """Where the words of a licence stand: (line, word in the line). Nowhere, unless its whole grant is there."""
    places = [(line, at) for line, text in enumerate(lines) for at in range(len(_words(text)))]
    words = [word for text in lines for word in _words(text)]
    found: set[tuple[int, int]] = set()
    for sentence in (*licence.grant, *licence.further):
        wanted = _words(sentence)
        starts = [start for start in range(len(words)) if words[start : start + len(wanted)] == wanted]
        if not starts and sentence in licence.grant:
            return frozenset()
        found |= {place for start in starts for place in places[start : start + len(wanted)]}
    return frozenset(found)


def _left_over(line: str, index: int, covered: Iterable[frozenset[tuple[int, int]]]) -> str:
    """The line, without those of its words that are a licence's, if there are any such."""
    is_covered = [any((index, at) in places for places in covered) for at in range(len(_words(line)))]
    if not any(is_covered):
        return line
    return " ".join(word for word, known in zip(_words(line), is_covered, strict=True) if not known)


def _words(text: str) -> list[str]:
    """The words, whatever the line breaks, the case, the punctuation and the kind of quotes."""
    return [word.rstrip(".:").replace("https://", "http://") for word in _WORD.findall(text.lower())]
