"""The comments around every edit: a reader sees at once what is upstream's and what is ours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import libcst as cst

OPEN = "# >>> adapters"
CLOSE = "# <<< adapters"


@dataclass
class Member:
    """A statement of a block, and what was done to it."""

    statement: cst.BaseStatement
    inserted: Sequence[cst.BaseStatement] = ()  # in front of it
    replaced: bool = False  # something inside of it
    removed: bool = False  # taken out; an edit of the member before it stands for both

    @property
    def edited(self) -> bool:
        return bool(self.inserted) or self.replaced or self.removed


def marked_block(block: cst.IndentedBlock, members: Sequence[Member]) -> cst.IndentedBlock:
    """`block` with the edited members between marker comments."""
    body: list[cst.BaseStatement] = []
    pending: list[cst.EmptyLine] = []  # what must stand in front of the next statement
    for index, member in enumerate(members):
        if member.removed:
            continue
        lines = member_lines(member)
        body += [_led(lines[0], pending), *lines[1:]]
        follower = members[index + 1] if index + 1 < len(members) else None
        pending = _closing(member, follower)
    return block.with_changes(body=body, footer=[*pending, *block.footer])


def member_lines(member: Member) -> list[cst.BaseStatement]:
    """The statements of one member, with the opening comment, and where upstream's statement stays the closing one."""
    if not member.edited:
        return [member.statement]
    first = member.inserted[0] if member.inserted else member.statement
    if not member.inserted:
        return [_opened(first, _leading(first))]
    leading = _leading(member.statement)
    if member.replaced:
        return [_opened(first, leading), *member.inserted[1:], member.statement.with_changes(leading_lines=[])]
    blank = [line for line in leading if line.comment is None]
    comments = [line for line in leading if line.comment is not None]
    statement = member.statement.with_changes(leading_lines=[_comment(CLOSE), *comments])
    return [_opened(first, blank), *member.inserted[1:], statement]


def _closing(member: Member, follower: Member | None) -> list[cst.EmptyLine]:
    """The lines behind a member: comments of a statement that was taken out, and the closing comment."""
    if not member.replaced:
        return []
    kept = _comments(follower.statement) if follower is not None and follower.removed else []
    return [*kept, _comment(CLOSE)]


def _comments(statement: cst.BaseStatement) -> list[cst.EmptyLine]:
    lines = [line for line in _leading(statement) if line.comment is not None]
    if isinstance(statement, cst.SimpleStatementLine) and statement.trailing_whitespace.comment is not None:
        lines.append(cst.EmptyLine(comment=statement.trailing_whitespace.comment))
    return lines


def _leading(statement: cst.BaseStatement) -> list[cst.EmptyLine]:
    """Comments and blank lines in front of a statement."""
    assert isinstance(statement, cst.SimpleStatementLine | cst.BaseCompoundStatement), "there is no third kind"
    return list(statement.leading_lines)


def _opened(statement: cst.BaseStatement, leading: list[cst.EmptyLine]) -> cst.BaseStatement:
    return statement.with_changes(leading_lines=[*leading, _comment(OPEN)])


def _led(statement: cst.BaseStatement, pending: Sequence[cst.EmptyLine]) -> cst.BaseStatement:
    return statement.with_changes(leading_lines=[*pending, *_leading(statement)])


def _comment(text: str) -> cst.EmptyLine:
    return cst.EmptyLine(comment=cst.Comment(text))
