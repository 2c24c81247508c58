"""How the documentation is built: `tox run -e docs`, or `sphinx-build -W docs docs/_build/html`."""

from importlib.metadata import version as installed

project = "adapter-codegen"
author = "The adapter-codegen authors"
copyright = author
release = version = installed("adapter-codegen")

extensions = [
    "myst_parser",  # guides are Markdown; machine-written pages are reStructuredText
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings with Args, Returns and Raises
]
exclude_patterns = [
    "_build",
    "classes/models/overview.rst",  # a table, included by the index of models
    "classes/models/parts/*",  # tables, included by the pages of models made of several
]

html_theme = "furo"
html_title = "adapter-codegen"
html_static_path = ["_static"]
html_css_files = ["code.css"]

myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

default_role = "code"  # in docstrings, `name` is code, as in Markdown
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
toc_object_entries = False  # the table beside a page lists its sections, not every method
nitpicky = False  # upstream's classes have no inventory that could be read without the network
