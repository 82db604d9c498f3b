"""How Sphinx builds the site: `make docs`."""

import pathlib
import re
import sys

import jax
import numpy as np
import optax
from docutils import nodes
from latex2mathml.converter import convert
from sphinx.addnodes import pending_xref
from sphinx.domains.python import PyObject
from sphinx.util import logging
from sphinx.util.typing import stringify_annotation

DOCS = pathlib.Path(__file__).parent
sys.path.insert(0, str(DOCS))

import reference

import stabjax
from stabjax._types import Number

logger = logging.getLogger(__name__)

project = "stabjax"
author = "The stabjax developers"
copyright = author
release = stabjax.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
exclude_patterns = ["build", "**/.ipynb_checkpoints"]
html_theme = "sphinx_book_theme"
html_title = "stabjax"
html_theme_options = {"navbar_persistent": [], "show_toc_level": 2}
highlight_language = "none"  # of formulas
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

# A name in single backticks links to its page, and is code otherwise.
default_role = "py:obj"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 70  # longer ones have one parameter per line
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_attr_annotations = False  # types are in the signature
napoleon_preprocess_types = False
copybutton_prompt_text = r">>> |\.\.\. "
copybutton_prompt_is_regexp = True


# Types in signatures, and the aliases that replace them, in this order.
ALIASES = {
    stringify_annotation(optax.Params, "smart"): "ArrayTree",
    stringify_annotation(jax.typing.ArrayLike, "smart"): "ArrayLike",
    stringify_annotation(np.typing.ArrayLike, "smart"): "ArrayLike",
    stringify_annotation(Number, "smart"): "Number",
    "~collections.abc.Callable[[Number], Number]": "Schedule",
}


def convert_docstring(app, what, name, obj, options, lines):
    if what != "module":
        reference.to_rst(lines)


def shorten_signature(app, what, name, obj, options, signature, returned):
    constants = getattr(obj, "__globals__", {})
    return tuple(
        text and reference.shortened(text, ALIASES, constants)
        for text in (signature, returned)
    )


def skip_fields(app, what, name, obj, skip, options):
    """Fields of a named tuple stand in the docstring of its class."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def write_pages(app):
    reference.write(DOCS / "api")


def link_names(app, doctree):
    """Links names in backticks to their pages, in Markdown as in docstrings."""
    pages = reference.pages()
    for literal in list(doctree.findall(nodes.literal)):
        target = pages.get(literal.astext().removesuffix("()"))
        if target and not isinstance(literal.parent, nodes.reference | pending_xref):
            options = dict(refdomain="py", reftype="obj", reftarget=target)
            link = pending_xref("", literal.deepcopy(), refexplicit=True, **options)
            literal.replace_self(link)


def mathml(self, node):
    """Formulas as MathML, which browsers show without a script or the network."""
    display = "block" if isinstance(node, nodes.math_block) else "inline"
    formula = convert(node.astext(), display=display)
    # The converter keeps the text of what it does not know, such as `aligned`.
    if re.search(r"<mi>(&|\\\w+)</mi>", formula):
        logger.warning("formula is not supported: %s", node.astext(), location=node)
    self.body.append(formula)
    raise nodes.SkipNode


def setup(app):
    for field in PyObject.doc_field_types:
        if field.name == "variable":
            field.label = "Attributes"
    app.connect("autodoc-process-docstring", convert_docstring, priority=100)
    app.connect("autodoc-process-signature", shorten_signature)
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("builder-inited", write_pages)
    app.connect("doctree-read", link_names)
    app.add_node(nodes.math, override=True, html=(mathml, None))
    app.add_node(nodes.math_block, override=True, html=(mathml, None))
