"""A fence named mermaid becomes a diagram, which mermaid draws in the reader's browser from the site's own copy.

Its first line may be `:alt: ...`, what the diagram says to those who can't see it; without it the page is refused.
"""

from __future__ import annotations

from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.util.docutils import SphinxDirective


class Mermaid(SphinxDirective):
    """The text of a diagram, kept as it is, with its words for those who can't see it."""

    has_content = True
    option_spec = {"alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        if not self.options.get("alt", "").strip():
            raise self.error("a mermaid diagram needs a line ':alt: what it says to those who can not see it'")
        source = "\n".join(self.content)
        marked = "".join({"&": "&amp;", "<": "&lt;", ">": "&gt;"}.get(c, c) for c in source)
        alt = self.options["alt"].replace("&", "&amp;").replace('"', "&quot;")
        box = f'<div class="mermaid-figure" role="img" aria-label="{alt}"><pre class="mermaid">{marked}</pre></div>'
        return [nodes.raw("", box, format="html")]


def setup(app) -> dict:
    """For Sphinx."""
    app.add_directive("mermaid", Mermaid)
    return {"parallel_read_safe": True, "version": "1"}
