"""Sphinx, for the pages for teachers. They have no formulas: those would be drawn by a script from elsewhere."""

project = "hwlimits: labs, for teachers"
extensions = ["myst_parser"]
html_theme = "sphinx_book_theme"
html_title = "hwlimits labs"
html_copy_source = False
html_show_sphinx = False
