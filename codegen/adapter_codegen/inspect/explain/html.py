"""The outline of a plan as one page that needs no other file: no scripts, no fonts, no network."""

from __future__ import annotations

from jinja2 import Environment, PackageLoader, StrictUndefined

from adapter_codegen.inspect.explain.outline import Mark, Node


def page(root: Node) -> str:
    """The page. Everything that comes from upstream is escaped."""
    loader = PackageLoader("adapter_templates", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("explain.html.jinja").render(root=root, Mark=Mark)
