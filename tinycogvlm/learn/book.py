"""The course as a folder of HTML pages that need no network: `tinycogvlm learn book`.

Every page of lessons/ becomes one, and so does every file that such a page names: code of the package with numbered
lines, and what else is Markdown. Formulas become MathML, which browsers draw themselves.
"""
import html
import json
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from ..errors import UserError
from .course import lessons
from .markdown import PACKAGE, REMARK, meant, pages, slug

PAGES = (".md", ".py", ".cu", ".cuh")                       # what becomes a page if the course names it
MARK = '<meta name="generator" content="tinycogvlm learn book">'       # of the pages, and so of a folder that is a book
# {number of a first lesson: title}
PARTS = {0: "The course", 40: "CogVLM's relatives", 60: "Looking inside", 80: "CUDA"}
# What the converter of formulas does not know or spaces badly, and what to give it instead.
FORMULAS = ((r"\\(arg)\b", r"\\operatorname{\1}"), ("{aligned}", "{split}"), (r"\\_", "_"),
            (r"(\\(?:log|cos|sin|tanh))\s+(?![({])", r"\1\\,"), (r"(?<=[\w})])\s+(\\(?:log|cos|sin|tanh)\b)", r"\\,\1"))
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{mark}
<title>{title}</title>
<link rel="stylesheet" href="book.css">
<script defer src="book.js"></script>
</head>
<body>
<header>
<button id="menu" aria-expanded="false" aria-controls="side">Contents</button>
<a href="index.html">tinycogvlm, the course</a>
</header>
<div id="side">
<input id="search" type="search" placeholder="Search" aria-label="Search the course" autocomplete="off">
<ol id="found" hidden></ol>
<nav id="contents" aria-label="Contents">
{contents}
</nav>
</div>
<main class="{kind}">
{body}
<footer>{around}</footer>
</main>
</body>
</html>
"""


def write(folder):
    """Write the book -> its first page. Raises UserError if the folder holds anything but an older book."""
    first = folder / "index.html"
    is_book = first.is_file() and MARK.encode() in first.read_bytes()
    if folder.exists() and any(folder.iterdir()) and not is_book:
        raise UserError(f"{folder}: holds files that are not of a book; choose another folder: learn book --out FOLDER")
    for name, data in files().items():                      # the first page first: it says that this is a book
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
    return first


def files():
    """{name: text or bytes} of the book's files, index.html first"""
    book = Book()
    here = Path(__file__).parent
    return {**book.files(), **{name: (here / name).read_bytes() for name in ("book.css", "book.js")}}


@dataclass
class Page:
    """One file as a page. sections: [[anchor, heading, text]], what the search looks through."""
    path: Path
    name: str                                               # of the page's file
    title: str
    body: str = ""
    sections: list = field(default_factory=list)

    @property
    def is_code(self):
        return self.path.suffix != ".md"


class Book:
    """The pages, in the order of reading, and the pictures that they show."""

    def __init__(self):
        self.markdown, self.highlight = tools()
        self.markdown.add_render_rule("fence", fence)
        self.markdown.options["highlight"] = self.highlight
        self.course, self.pages, self.pictures = pages(), {}, {}
        for path in self.course:
            self.page(path)
        for path in self.course:
            self.fill(self.pages[path])
        for page in list(self.pages.values())[len(self.course):]:       # what the course has named
            self.fill(page)

    def page(self, path):
        """The page of a file, a new one if there is none"""
        if path not in self.pages:
            title = named(path) if path.suffix != ".md" else heading(path)
            self.pages[path] = Page(path, file_name(path), title)
        return self.pages[path]

    def fill(self, page):
        if page.is_code:
            lines = self.highlight(page.path.read_text(encoding="utf-8"), page.path.suffix[1:]).splitlines()
            numbered = "".join(f'<span id="L{i}">{line}</span>\n' for i, line in enumerate(lines, 1))
            page.body = f'<h1>{page.title}</h1>\n<pre class="code">{numbered}</pre>'
            return
        env = {}
        tokens = self.markdown.parse(page.path.read_text(encoding="utf-8"), env)
        self.rewrite(tokens, page)
        page.sections = sections(tokens)
        page.body = self.markdown.renderer.render(tokens, self.markdown.options, env)

    def rewrite(self, tokens, page):
        """Give headings names, and links and pictures the addresses that they have in the book."""
        taken = set()
        for token, after in zip(tokens, [*tokens[1:], None]):
            if token.type == "heading_open":
                token.attrs["id"] = unique(slug(after.content), taken)
            if token.type == "html_block":
                token.content = self.rewritten(token.content, page)
            unlinked = False                                # links do not stand in links
            for child in token.children or ():
                if child.type == "image":
                    child.attrs["src"] = self.address(child.attrs["src"], page) or ""
                elif child.type == "html_inline":
                    child.content = self.rewritten(child.content, page)
                elif child.type == "link_open":
                    address = self.address(child.attrs["href"], page)
                    child.attrs, unlinked = {"href": address} if address else {}, not address
                if unlinked and child.type in ("link_open", "link_close"):
                    child.tag = "span"

    def rewritten(self, text, page):
        """A piece of HTML in a page"""
        def attribute(found):
            address = self.address(html.unescape(found[2]), page)
            return f'{found[1]}="{html.escape(address)}"' if address else ""
        return re.sub(r'\b(src|href)="([^"]*)"', attribute, REMARK.sub("", text))

    def address(self, link, page):
        """Where a link leads in the book: to a page, a picture or the network; None if the book does not have it."""
        if re.match(r"\w+:", link):
            return link
        path, (_, hash_, anchor) = meant(page.path, link), link.partition("#")
        if path is None:
            return None
        if path.suffix in (".png", ".jpg", ".svg"):
            name = "pictures/" + flat(path)
            self.pictures[name] = path.read_bytes()
            return name
        if path not in self.pages and not (page.path in self.course and path.suffix in PAGES):
            return None
        found = self.page(path)
        return ("" if found is page and anchor else found.name) + hash_ + anchor

    def files(self):
        """{name: text or bytes}"""
        course = [self.pages[path] for path in self.course]
        index = [[page.name, page.title, *section] for page in course for section in page.sections]
        written = {page.name: PAGE.format(
            mark=MARK, title=html.escape(page.title), kind="of-code" if page.is_code else "of-text", body=page.body,
            contents=contents(course, page), around=around(course, page)) for page in self.pages.values()}
        return {**written, **self.pictures,
                "search.js": f"const SECTIONS = {json.dumps(index, ensure_ascii=False, separators=(',', ':'))};\n"}


# ----------------------------------------------------------------------------------------------------------- the parts

def tools():
    """A Markdown parser, and highlight(text, language) -> HTML. Raises UserError without the extra."""
    try:
        from latex2mathml.converter import convert
        from markdown_it import MarkdownIt
        from mdit_py_plugins.dollarmath import dollarmath_plugin
        from pygments import highlight
        from pygments.formatters import HtmlFormatter
        from pygments.lexers import get_lexer_by_name
    except ImportError as error:
        raise UserError(f"the book needs {error.name}: pip install 'tinycogvlm[book]'") from None
    languages = {"py": "python", "cu": "cuda", "cuh": "cuda", "": "text"}
    lexer = lru_cache(lambda language: get_lexer_by_name(languages.get(language, language), stripnl=False))
    formatter = HtmlFormatter(nowrap=True)

    def coloured(text, language):
        return highlight(text, lexer(language), formatter)

    def formula(text, options):
        for pattern, instead in FORMULAS:
            text = re.sub(pattern, instead, text)
        # A bar is a bracket here, |x|; what stands between two sides of a condition is \mid.
        return convert(text, display="block" if options["display_mode"] else "inline").replace(
            '<mo stretchy="false">&#x0007C;</mo>', '<mo stretchy="false" lspace="0" rspace="0">&#x0007C;</mo>')
    markdown = MarkdownIt("commonmark").enable("table").use(dollarmath_plugin, allow_space=False, renderer=formula)
    return markdown, coloured


def fence(renderer, tokens, i, options, env):
    """A block of code, what it prints, or a drawing"""
    language, before = tokens[i].info.strip(), tokens[i - 1] if i else None
    if language not in ("text", ""):
        kind = "code"
    else:
        kind = "output" if before and before.type == "fence" and before.info.strip() == "python" else "drawing"
    return f'<pre class="{kind}">{options["highlight"](tokens[i].content, language)}</pre>\n'


def sections(tokens):
    """[[anchor, heading, text]]; what code prints is left out"""
    found = []
    for before, token in zip(tokens, tokens[1:]):
        if before.type == "heading_open":
            found.append([before.attrs["id"], words(token), []])
        elif found and token.type == "inline":
            found[-1][2].append(words(token))
        elif found and token.type in ("code_block", "fence") and token.info.strip() != "text":
            found[-1][2].append(" ".join(token.content.split()))
    return [[anchor, title, " ".join(text)] for anchor, title, text in found]


def words(token):
    """The text of a paragraph or a heading"""
    return "".join(" " if child.type == "softbreak" else "" if child.type == "html_inline" else child.content
                   for child in token.children)


def contents(course, current):
    """The list of pages, with the headings of the current one"""
    lines, part = [], None
    for page in course:
        number = page.title[:2]
        now = max(first for first in PARTS if first <= int(number)) if number.isdigit() else None
        if now != part:
            lines.append(f"<h2>{html.escape(PARTS[now] if now is not None else 'Beside the lessons')}</h2>")
            part = now
        here = ' aria-current="page"' if page is current else ""
        lines.append(f'<a href="{page.name}"{here}>{html.escape(page.title)}</a>')
        if page is current:
            lines += [f'<a class="below" href="#{anchor}">{html.escape(title)}</a>'
                      for anchor, title, _ in page.sections[1:]]
    return "\n".join(lines)


def around(course, page):
    """Links to the pages before and after"""
    if page not in course:
        return ""
    i = course.index(page)
    beside = [("prev", other) for other in course[:i][-1:]] + [("next", other) for other in course[i + 1:][:1]]
    return "".join(f'<a rel="{side}" href="{other.name}">{html.escape(other.title)}</a>' for side, other in beside)


def heading(path):
    """The title of a Markdown file"""
    return re.search(r"^# (.*)", path.read_text(encoding="utf-8"), re.MULTILINE)[1]


def named(path):
    """A file's name from the top of the project"""
    folder = lessons()[0].folder.parent
    if path.is_relative_to(folder):
        return path.relative_to(folder).as_posix()
    return path.relative_to(PACKAGE.parent if path.is_relative_to(PACKAGE) else folder.parent).as_posix()


def flat(path):
    return named(path).replace("/", "_")


def file_name(path):
    """lessons/02_attention/README.md -> 02_attention.html, weights/tiny/README.md -> weights_tiny.html"""
    if path == pages()[0]:
        return "index.html"
    return re.sub(r"(_README)?\.md$", "", flat(path)) + ".html"


def unique(name, taken):
    """The name, or the name with a number, as GitHub does it"""
    found = next(found for i in range(len(taken) + 1) if (found := f"{name}-{i}" if i else name) not in taken)
    taken.add(found)
    return found
