"""After nbval has run: it ran every cell of every chapter, and skipped none.

pytest --nbval --junitxml=build/nbval.xml chapters/*.ipynb
pytest tests/notebooks/after_nbval.py
"""

import xml.etree.ElementTree as ElementTree

from chapters import CHAPTERS, ROOT, code, read


def test_nbval_ran_every_cell():
    suite = ElementTree.parse(ROOT / "build" / "nbval.xml").getroot().find("testsuite")
    assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "0")
    assert int(suite.get("tests")) == sum(len(code(read(path))) for path in CHAPTERS)
