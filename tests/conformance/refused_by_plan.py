"""The model types that the tool refuses before anything can be tried: what the page says of them is planned once, and kept in a file."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

FILE = Path(__file__).with_name("refused_by_plan.json")


def planned_anew(tried: Collection[str]) -> dict[str, str]:
    """Model type -> the plan's reason, of all of upstream's that are refused. Takes a minute.

    Args:
        tried: those that have results, which say more.
    """
    from adapter_codegen.emit.manifest import EMPTY
    from adapter_codegen.inspect.listing import Status, listing, plan_entries
    from adapter_codegen.parse import read_auto_mappings
    from adapter_codegen.upstream import open_release

    release = open_release()
    entries = [one for one in listing(read_auto_mappings(release), EMPTY) if one.model_type not in tried]
    planned = plan_entries(release, entries, EMPTY)
    return {one.model_type: one.reason for one in planned if one.status is Status.REFUSED}


def write(reasons: Mapping[str, str], release: str) -> None:
    content = {"transformers": release, "refused": dict(sorted(reasons.items()))}
    FILE.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read() -> dict[str, str]:
    """Model type -> the plan's reason, as it was when the page was written last."""
    reasons: dict[str, str] = json.loads(FILE.read_text(encoding="utf-8"))["refused"]
    return reasons
