"""Sphinx, for the book: `make book` stages what is read here (book/make.py) and calls it.

Everything that a page loads lies in the site: MathJax, mermaid, their fonts, the theme's. The notebooks are shown as
they were executed. The course's public home is that of pyproject.toml (`make home`), or what HWLIMITS_HOME names in its
place; without one there are no buttons for Colab and Binder, which fetch a chapter from there.
"""

import os
import sys
import tomllib
from pathlib import Path

BOOK = Path(__file__).resolve().parent
sys.path.insert(0, str(BOOK))

project = "hwlimits"
author = "The hwlimits contributors"
copyright = "The hwlimits contributors; text CC BY 4.0, code BSD-3-Clause"
extensions = ["myst_nb", "sphinx.ext.autodoc", "docstrings", "mermaid_directive"]
exclude_patterns = ["_static", "labs"]  # labs are fetched, not read
suppress_warnings = ["config.cache"]  # nothing is built from a cache

nb_execution_mode = "off"
nb_merge_streams = True
nb_render_markdown_format = "myst"  # what code prints as Markdown has tables and formulas, too
nb_ipywidgets_js = {}  # they come from elsewhere, and a chapter shows each widget as a figure and a table too
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist", "smartquotes"]
myst_dmath_double_inline = True
myst_heading_anchors = 3
myst_fence_as_directive = ["mermaid"]

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "ignore-module-all": True}
add_module_names = False
toc_object_entries_show_parents = "hide"

mathjax_path = "web/mathjax/tex-svg.js"
mathjax4_config = {
    "loader": {"paths": {"fonts": "[mathjax]/.."}},
    # For those who listen: MathML beside each formula. MathJax's speech fetches files, which a folder does not allow.
    "options": {
        "menuOptions": {"settings": {"assistiveMml": True, "enrich": False, "speech": False, "braille": False}}
    },
}

html_theme = "sphinx_book_theme"
html_title = "hwlimits: how hardware limits shape AI models"
html_static_path = ["_static"]  # book/make.py gives the staged one
html_favicon = "_static/favicon.svg"  # a browser asks for one
html_css_files = ["book.css"]
html_js_files = [("book.js", {"defer": "defer"})]  # it loads mermaid where there is a diagram
html_show_sphinx = False
html_context = {"default_mode": "auto"}
html_theme_options = {"show_navbar_depth": 1, "use_fullscreen_button": False}

urls = tomllib.loads((BOOK.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"].get("urls", {})
home = os.environ.get("HWLIMITS_HOME", urls.get("Repository", "")).rstrip("/")
if home:
    html_theme_options |= {
        "repository_url": home,
        "repository_branch": "main",
        "use_repository_button": True,
        "launch_buttons": {
            "colab_url": "https://colab.research.google.com",
            "binderhub_url": "https://mybinder.org",
            "notebook_interface": "jupyterlab",
        },
    }
