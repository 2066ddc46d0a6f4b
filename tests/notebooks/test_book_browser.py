"""The book in a real browser, with no network: formulas, diagrams, widths, the console, and axe-core's findings.

It needs Chromium (Debian's, or another that is found) and playwright, which comes with the `book` extra and drives it.
"""

import json
from urllib.parse import quote

import make
import pytest
from book_site import chapter_names, formulas_of
from browsing import WIDTHS, Seen, served
from test_book import formulas_in

PAGES = ["index", "glossary", "api/index", "api/hwlimits.scheduling", "api/hwlimits.kernels.cuda", "search"]
PAGES += [f"chapters/{name}" for name in chapter_names()]


@pytest.fixture(scope="module")
def address(site):
    with served(site) as url:
        yield url


def wider_than_the_screen(page) -> list[str]:
    """What makes a page scroll sideways; what scrolls in a box of its own does not."""
    return page.evaluate("""() => {
        const width = document.documentElement.clientWidth;
        if (document.documentElement.scrollWidth <= width + 1) return [];
        return [...document.querySelectorAll(".bd-article *")]
            .filter(e => e.getBoundingClientRect().right > width + 1)
            .slice(0, 5).map(e => e.tagName + "." + e.className + ": " + e.textContent.trim().slice(0, 60));
    }""") or (["the page"] if page.evaluate("() => document.documentElement.scrollWidth > innerWidth + 1") else [])


def findings(page) -> list[str]:
    """What axe-core calls serious or critical."""
    page.add_script_tag(path=make.BUILD / "web" / "axe-core" / "axe.min.js")
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [
        f"{v['id']}: {v['help']}: {len(v['nodes'])}: {v['nodes'][0]['html'][:300]}"
        for v in found
        if v["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_shows_without_a_network(name, width, browser, address):
    seen = Seen(browser, f"{address}/{name}.html", width)
    with seen as page:
        formulas = formulas_of(name.split("/")[1], formulas_in) if name.startswith("chapters/") else 0
        assert page.locator(".math mjx-container svg").count() >= formulas
        assert page.locator(".math").count() == page.locator(".math:has(mjx-container svg)").count()
        assert page.locator("[data-mml-node=merror]").count() == 0
        assert wider_than_the_screen(page) == []
        broken = page.evaluate("""async () => {
            const images = [...document.images];
            images.forEach(i => i.loading = "eager");
            await Promise.all(images.map(i => i.decode().catch(() => 0)));
            return images.filter(i => !i.naturalWidth).map(i => i.src);
        }""")
        assert broken == []
        assert findings(page) == []
    assert seen.wrong == []
    assert {url for url in seen.asked if not url.startswith((address, "data:", "blob:"))} == set()


def test_the_diagram_is_drawn(browser, address):
    with Seen(browser, f"{address}/index.html") as page:
        assert page.locator("pre.mermaid svg").count() == 1
        shown = page.locator("pre.mermaid svg").text_content()
        assert "02 storage" in shown
        assert page.locator("pre.mermaid svg").bounding_box()["width"] > 300


@pytest.mark.parametrize(("word", "leads_to"), [("剪枝", "glossary.html"), ("roofline", "chapters/01_compute.html")])
def test_the_search_answers(word, leads_to, browser, address):
    with Seen(browser, f"{address}/search.html?q={quote(word)}") as page:
        page.locator("#search-results li").first.wait_for()
        page.wait_for_function("() => document.querySelector('#search-results .search-summary, #search-results p')")
        links = page.locator("#search-results a").evaluate_all("all => all.map(a => a.href)")
        assert any(leads_to in link for link in links)


def test_the_book_opens_from_a_folder(browser, site):
    seen = Seen(browser, (site / "index.html").as_uri())
    with seen as page:
        assert page.locator("pre.mermaid svg").count() == 1
    assert seen.wrong == []


@pytest.mark.parametrize("width", WIDTHS)
def test_these_checks_see_what_they_are_for(width, browser, tmp_path):
    """A page with every fault at once."""
    (tmp_path / "index.html").write_text(
        "<!doctype html><title>x</title><div class='bd-article'><p style='width:3000px;color:#999;background:#aaa'>wide"
        "</p><img src='gone.png'><a href='x'></a></div><script src='https://cdn.example.org/a.js'></script>"
        "<script>console.error('said')</script>"
    )
    with served(tmp_path) as url:
        seen = Seen(browser, url, width)
        with seen as page:
            assert len(wider_than_the_screen(page)) > 0
            kinds = {finding.split(":")[0] for finding in findings(page)}
            assert kinds >= {"image-alt", "link-name", "html-has-lang", "color-contrast"}
        text = json.dumps(seen.wrong)
        assert "said" in text
        assert "404" in text
        assert "failed: https://cdn.example.org/a.js" in text
        assert any("cdn.example.org" in url for url in seen.asked)
