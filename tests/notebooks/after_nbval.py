"""After nbval has run: it ran every cell of every chapter, and skipped none.

The chapters run in two parts, each with a report of its own: the first chapter alone, then the others side by side.
"""

import xml.etree.ElementTree as ElementTree

from chapters import CHAPTERS, ROOT, code, read


def test_nbval_ran_every_cell():
    reports = [ROOT / "build" / f"nbval-{part}.xml" for part in ("first", "others")]
    suites = [ElementTree.parse(report).getroot().find("testsuite") for report in reports]
    for suite in suites:
        assert (suite.get("failures"), suite.get("errors"), suite.get("skipped")) == ("0", "0", "0")
    assert sum(int(suite.get("tests")) for suite in suites) == sum(len(code(read(path))) for path in CHAPTERS)
