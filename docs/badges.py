"""The badges of README.md, as pictures that need no server: `python docs/badges.py` writes them into docs/_static/badges.

What they say is read from pyproject.toml and docs/figures.json; tests/test_figures.py says whether they are current.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "_static" / "badges"

CHARACTER = 6.6  # width of a character of Verdana at 11 pixels, on average
MARGIN = 7

SVG = """\
<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="20" role="img" aria-label="{label}: {value}">
<title>{label}: {value}</title>
<rect width="{width}" height="20" rx="3" fill="#1f6f54"/>
<path d="M3 0h{left}v20H3a3 3 0 0 1-3-3V3a3 3 0 0 1 3-3z" fill="#444"/>
<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11" text-anchor="middle">
<text x="{label_middle}" y="14">{label}</text>
<text x="{value_middle}" y="14">{value}</text>
</g>
</svg>
"""


def said() -> dict[str, tuple[str, str]]:
    """File name -> the two halves of the badge."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    models = json.loads((ROOT / "docs" / "figures.json").read_text(encoding="utf-8"))["models"]

    def setting(pattern: str) -> str:
        found = re.search(pattern, project, re.MULTILINE)
        assert found, f"pyproject.toml has no {pattern}"
        return found[1]

    return {
        "transformers": ("transformers", setting(r'"transformers>=(\d+\.\d+)')),
        "models": ("model types", f"{models['checked_in']} of {models['model_types']}"),
        "python": ("Python", setting(r'^requires-python = ">=([\d.]+)"') + "+"),
        "licence": ("licence", setting(r'^license = "([^"]+)"')),
    }


def drawn(label: str, value: str) -> str:
    left, right = (round(2 * MARGIN + CHARACTER * len(text)) for text in (label, value))
    return SVG.format(
        label=label,
        value=value,
        width=left + right,
        left=left - 3,
        label_middle=left / 2,
        value_middle=left + right / 2,
    )


def pictures() -> dict[Path, str]:
    """Path -> content of each badge."""
    return {FOLDER / f"{name}.svg": drawn(*halves) for name, halves in said().items()}


if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    for path, picture in pictures().items():
        path.write_text(picture, encoding="utf-8")
