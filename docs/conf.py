"""How the documentation is built: `nox -s docs`, or ``sphinx-build -W docs build/docs``."""

import re
from importlib.metadata import version as version_of

project = "dmftcore"
author = "The dmftcore developers"
copyright = author
version = release = version_of("dmftcore")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
]

# The pages are read on their own in the repository too, which knows these two kinds of formulas.
myst_enable_extensions = ["dollarmath"]
myst_fence_as_directive = ["math"]
# Links to a heading of a page, checked when the pages are built.
myst_heading_anchors = 3

# A name between single backticks in a docstring links to what it names, where that is documented.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
autodoc_default_options = {"members": True}
numpydoc_show_class_members = False


def setup(app):
    app.connect("autodoc-process-docstring", escape_batch_axes)


def escape_batch_axes(app, what, name, obj, options, lines):
    """Shapes (*batch, T, T) read well in a docstring, where a star is the start of emphasis."""
    lines[:] = [re.sub(r"\*(?=batch|trailing|z\.shape)", r"\\*", line) for line in lines]


html_theme = "furo"
html_title = f"dmftcore {release}"
html_show_copyright = False
