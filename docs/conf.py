"""Settings of the site (`make site`). All it shows lies beside it: no other server is asked."""

from importlib import metadata

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

project = "segkit"
author = "The segkit authors"
copyright = "The segkit authors, MIT licence"
release = metadata.version("segkit")
language = "en"

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode"]
myst_enable_extensions = ["dollarmath", "deflist", "attrs_inline", "attrs_block"]
myst_heading_anchors = 3
exclude_patterns = ["figures/**"]  # shown by pages, no pages themselves
nb_execution_mode = "off"  # the lessons are shown as they were committed
nb_ipywidgets_js = {}  # its default fetches scripts from elsewhere
nb_merge_streams = True

default_role = "code"
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}

html_theme = "furo"
html_title = "segkit: the segmentation course that runs"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
html_copy_source = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"


def formula(self: HTML5Translator, node: nodes.Element) -> None:
    """Write a formula as MathML, which every browser draws without a script."""
    block = isinstance(node, nodes.math_block)
    self.body.append(convert(node.astext(), display="block" if block else "inline"))
    raise nodes.SkipNode


def escape_markup(
    app: Sphinx, what: str, name: str, thing: object, options: dict, lines: list
) -> None:
    """Read a docstring as plain text with lists: bars and stars in it are no markup."""
    ready, before = [], ""
    for line in lines:
        in_list = line.startswith(("- ", "  "))
        if line and before and in_list != before.startswith(("- ", "  ")):
            ready.append("")
        ready.append(line.replace("|", r"\|").replace("*", r"\*"))
        before = line
    lines[:] = ready


def for_everyone(app: Sphinx, page: str, template: str, context: dict, doctree: object) -> None:
    """Let keys scroll what is wider than the screen; say of which level a caption is."""
    body = context.get("body", "").replace("<pre>", '<pre tabindex="0">')
    wide = '<div class="math-wrapper'
    context["body"] = body.replace(wide, f'<div tabindex="0"{wide.removeprefix("<div")}')
    level = 'role="heading" aria-level="2"'
    tree = context.get("furo_navigation_tree", "")
    context["furo_navigation_tree"] = tree.replace('role="heading"', level)


def setup(app: Sphinx) -> None:
    """Tell Sphinx about the functions above."""
    app.connect("html-page-context", for_everyone, priority=900)  # after the theme's own
    app.connect("autodoc-process-docstring", escape_markup, priority=400)  # before napoleon
    app.add_html_math_renderer("mathml", (formula, None), (formula, None))
