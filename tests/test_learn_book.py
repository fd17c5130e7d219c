"""The course as a book: where its links lead, what its blocks become; no network is needed, nothing overwritten."""
import html
import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest

from browser import FOUND, Browser
from tinycogvlm.errors import UserError
from tinycogvlm.learn import book, markdown
from tinycogvlm.learn.course import FOLDER
from tinycogvlm.learn.markdown import PACKAGE, meant, pages

INDEX = """\
# The course

[first](00_one/README.md), [its part](00_one/README.md#again-and-again), [code](../tinycogvlm/errors.py#L1),
[map](map.md), [project](../README.md#start), [elsewhere](https://example.org/a), [nothing](../docs/none.md)
"""
LESSON = """\
# 00 One & two

Six<!--= 2 * 3 --> and $x_i \\arg\\max_k |y|$, ![a &-dog](dog.png)

$$\\begin{aligned} a &= b \\\\ c &= \\log d \\end{aligned}$$

## Again *and* again

```python
print("<b>")
```

```text
<b> printed
```

```text
a <drawing>
```

## Again and again

```console
$ tinycogvlm learn
```

<details><summary>See <a href="../map.md">map</a></summary>

    indented < zebra

</details>
"""


@pytest.fixture
def extra():
    """Skips a test without the packages of the extra `book`"""
    for package in ("markdown_it", "mdit_py_plugins", "latex2mathml", "pygments"):
        pytest.importorskip(package)


@pytest.fixture
def small(extra, tmp_path, monkeypatch):
    """A course of three pages in tmp_path/lessons -> its folder"""
    folder = tmp_path / "lessons"
    (folder / "00_one").mkdir(parents=True)
    (folder / "README.md").write_text(INDEX)
    (folder / "00_one" / "README.md").write_text(LESSON)
    (folder / "00_one" / "dog.png").write_bytes(b"a dog")
    (folder / "map.md").write_text("# Map\n\n[back](README.md)\n")
    (tmp_path / "README.md").write_text("# Project\n\n## Start\n\n[lessons](lessons/README.md) [other](docs/other.md)\n"
                                        '<a href="setup.py"><img src="lessons/00_one/dog.png"></a>\n')
    (tmp_path / "setup.py").write_text("")
    course = [folder / "README.md", folder / "00_one" / "README.md", folder / "map.md"]
    for module in (book, markdown):
        monkeypatch.setattr(module, "lessons", lambda: [SimpleNamespace(folder=folder / "00_one")])
    monkeypatch.setattr(book, "pages", lambda: course)
    return folder


class Links(HTMLParser):
    """addresses: of links, pictures, scripts and styles, by tag; names: the ids"""

    def __init__(self, text):
        super().__init__()
        self.addresses, self.names = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.addresses += [(tag, attributes[key]) for key in ("href", "src") if key in attributes]
        if "id" in attributes:
            assert attributes["id"] not in self.names, f"two of {attributes['id']}"
            self.names.add(attributes["id"])


def check_links(files):
    """Every address is one of the book's, with what it names there; the network only where a reader clicks."""
    parsed = {name: Links(text) for name, text in files.items() if name.endswith(".html")}
    for name, page in parsed.items():
        for tag, address in page.addresses:
            if re.match(r"\w+:", address):
                assert tag == "a" and address.startswith("http"), (name, address)
                continue
            target, _, anchor = address.partition("#")
            assert (target or name) in files, (name, address)
            assert not anchor or anchor in parsed[target or name].names, (name, address)


def test_every_address_is_in_the_book(small):
    files = book.files()
    check_links(files)
    assert list(files) == ["index.html", "00_one.html", "map.html", "tinycogvlm_errors.py.html", "README.html",
                           "pictures/00_one_dog.png", "search.js", "book.css", "book.js"]
    assert files["pictures/00_one_dog.png"] == b"a dog"


def test_links_lead_to_the_pages_of_the_book(small):
    text = book.files()["index.html"]
    for link in ('<a href="00_one.html">first</a>', '<a href="00_one.html#again-and-again">its part</a>',
                 '<a href="tinycogvlm_errors.py.html#L1">code</a>', '<a href="README.html#start">project</a>',
                 '<a href="https://example.org/a">elsewhere</a>', "<span>nothing</span>"):
        assert link in text, link


def test_a_page_beside_the_course_brings_no_others(small):
    text = book.files()["README.html"]
    assert '<a href="index.html">lessons</a> <span>other</span>' in text
    assert '<img src="pictures/00_one_dog.png">' in text and "setup.py" not in text


def test_code_what_it_prints_and_drawings_are_told_apart(small):
    text = book.files()["00_one.html"]
    assert re.search(r'<pre class="code"><span class="nb">print</span>.*&lt;b&gt;', text)
    assert '<pre class="output">&lt;b&gt; printed\n</pre>' in text
    assert '<pre class="drawing">a &lt;drawing&gt;\n</pre>' in text
    assert '<span class="gp">$ </span>' in text
    assert "2 * 3" not in text, text[text.index("2 * 3") - 200:][:300]
    assert "<title>00 One &amp; two</title>" in text and 'alt="a &amp;-dog"' in text


def test_headings_have_the_names_that_github_gives_them(small):
    assert {"00-one--two", "again-and-again", "again-and-again-1"} <= Links(book.files()["00_one.html"]).names


def test_code_of_the_package_has_its_lines(small):
    text = book.files()["tinycogvlm_errors.py.html"]
    lines = (PACKAGE / "errors.py").read_text().splitlines()
    shown = dict(re.findall(r'<span id="L(\d+)">(.*)</span>\n', text))
    assert len(shown) == len(lines)
    assert [html.unescape(re.sub("<.*?>", "", shown[str(i)])) for i in (1, 4)] == [lines[0], lines[3]]


def test_the_search_has_sections_with_their_code(small):
    text = book.files()["search.js"]
    assert text.count('"00_one.html"') == 3 and '"again-and-again-1"' in text
    assert "print(\\\"<b>\\\")" in text and "zebra" in text and "printed" not in text


def test_the_contents_show_where_one_is(small):
    text = book.files()["00_one.html"]
    assert '<h2>The course</h2>\n<a href="00_one.html" aria-current="page">00 One &amp; two</a>' in text
    assert '<a class="below" href="#again-and-again">Again and again</a>' in text
    assert '<a rel="prev" href="index.html">The course</a><a rel="next" href="map.html">Map</a>' in text


def test_formulas_become_mathml(small):
    text = book.files()["00_one.html"]
    assert text.count("<math ") == 2 and "<mtable" in text and "<mo>arg</mo>" in text
    assert '<mi>log</mi><mspace width="0.167em" /><mi>d</mi>' in text
    assert '<mo stretchy="false" lspace="0" rspace="0">&#x0007C;</mo><mi>y</mi>' in text


def test_every_formula_of_the_course_is_understood(extra):
    """None leaves a command of TeX, or a dollar, in the text."""
    parser, _ = book.tools()
    for path in pages():
        shown = re.sub(r"<(pre|code)\b.*?</\1>", "", parser.render(path.read_text(encoding="utf-8")), flags=re.DOTALL)
        assert not re.findall(r".{30}\$.{30}", shown) and not re.findall(r">[^<]*\\.*?<", shown), path
        assert "&amp;" not in "".join(re.findall("<math.*?</math>", shown, re.DOTALL))


def test_a_book_is_written_again_and_nothing_else_is_overwritten(small, tmp_path):
    out = tmp_path / "out" / "book"
    first = book.write(out)
    assert first == out / "index.html" and (out / "pictures" / "00_one_dog.png").read_bytes() == b"a dog"
    (small / "map.md").write_text("# Another map\n")
    book.write(out)
    assert "Another map" in (out / "map.html").read_text(encoding="utf-8")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "index.html").write_text("<title>my own</title>")
    with pytest.raises(UserError, match="holds files that are not of a book; choose another folder"):
        book.write(tmp_path / "site")
    assert (tmp_path / "site" / "index.html").read_text() == "<title>my own</title>"
    assert [path.name for path in (tmp_path / "site").iterdir()] == ["index.html"]


def test_where_the_command_writes(small, learn):
    done = learn("book")
    assert done.code == 0 and f"{Path(FOLDER, 'book', 'index.html')} is the course" in done.out
    assert "elsewhere" in learn("book --out elsewhere").out and Path("elsewhere", "book.css").exists()


def test_without_the_extra(learn, monkeypatch):
    monkeypatch.setitem(sys.modules, "latex2mathml.converter", None)
    with pytest.raises(UserError, match=r"the book needs latex2mathml.*: pip install 'tinycogvlm\[book\]'"):
        learn("book")
    assert not Path(FOLDER, "book").exists()


def test_links_of_an_installed_package(monkeypatch, tmp_path):
    """Its lessons stand inside it, so that no file lies where their links go."""
    folder = PACKAGE / "lessons" / "00_one"
    monkeypatch.setattr(markdown, "lessons", lambda: [SimpleNamespace(folder=folder)])
    assert meant(folder / "README.md", "../../tinycogvlm/nn/ops.py#L3") == PACKAGE / "nn" / "ops.py"
    assert meant(folder / "README.md", "../../docs/none.md") is None


@pytest.mark.slow
def test_the_whole_course(extra):
    files = book.files()
    check_links(files)
    assert {path.name for path in pages()[0].parent.glob("*.md")} <= {path.name for path in pages()}
    for path in pages():
        assert f'href="{book.file_name(path)}"' in files["index.html"]
    text = "".join(text for name, text in files.items() if name.endswith(".html"))
    lost = set(re.findall(r"<span>(.*?)</span>", "".join(files[book.file_name(path)] for path in pages())))
    assert not lost and text.count('class="output"') > 300


@pytest.mark.skipif(FOUND is None or sys.platform == "win32", reason="no Chromium: apt install chromium-headless-shell")
def test_the_search_of_a_page_opened_as_a_file(small, tmp_path):
    first = book.write(tmp_path / "book")
    with Browser(390, 800) as browser:
        browser.open(first.as_uri())
        browser.until("document.querySelector('#menu') && document.readyState == 'complete'")
        browser.click("#menu")
        browser.click("#search")
        browser.type("ZEBRA ind")
        browser.until("document.querySelectorAll('#found a').length")
        assert browser.run("[...document.querySelectorAll('#found a')].map(a => a.getAttribute('href'))") == [
            "00_one.html#again-and-again-1"]
        marks = browser.run("[...document.querySelectorAll('#found mark')].map(mark => mark.textContent)")
        assert marks == ["ind", "zebra"]
        browser.press("Escape")
        assert browser.run("document.querySelector('#found').hidden && !document.querySelector('#contents').hidden")
        assert browser.run("document.documentElement.scrollWidth") <= 390 and not browser.console
