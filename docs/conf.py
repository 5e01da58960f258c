"""Settings of Sphinx. The build needs no network, and neither does a reader: equations become MathML."""

import sys
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx

sys.path.insert(0, str(Path(__file__).parent))

import reference

project = "AFR-CLIP"
author = "the authors of AFR-CLIP's implementation"
copyright = f"2026, {author}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "AFR-CLIP"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
add_module_names = False
toc_object_entries_show_parents = "hide"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
maximum_signature_line_length = 88
python_use_unqualified_type_names = True


def to_mathml(equation: str, display: str = "inline") -> str:
    """Convert an equation; a command that the converter does not know would end up in the page as it stands."""
    mathml = convert(equation.replace(r"\arg", r"\mathrm{arg}\,"), display=display)
    if "\\" in mathml:
        msg = f"latex2mathml does not know a command of {equation!r}. Replace it in docs/conf.py."
        raise ValueError(msg)
    return mathml


def render_inline(translator, node: nodes.math) -> None:
    translator.body.append(to_mathml(node.astext()))
    raise nodes.SkipNode


def render_block(translator, node: nodes.math_block) -> None:
    equation = node.astext()
    if r"\\" in equation:
        equation = rf"\begin{{align*}}{equation}\end{{align*}}"
    translator.body.append(f'<div class="equation">{to_mathml(equation, display="block")}</div>')
    raise nodes.SkipNode


def setup(app: Sphinx) -> None:
    app.add_html_math_renderer("mathml", (render_inline, None), (render_block, None))
    app.connect("config-inited", lambda app, _: reference.write(Path(app.srcdir) / "reference" / "generated"))
