"""Docstrings and comments -> HTML: Markdown's paragraphs, lists, tables and code; formulas; links
to papers, files and symbols."""

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from os.path import relpath
from pathlib import PurePosixPath
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.token import Token

from tools.annotate.formulas import to_mathml
from tools.annotate.source import ROOT, Source

AUTHORS = r"(?P<name>[A-Z]\w+)(?:\s+et\s+al\.|(?:,\s+[A-Z]\w+)*\s+and\s+[A-Z]\w+)?"
# A citation with the number of the paper, which stands behind the year or the section.
PAPER = re.compile(rf"{AUTHORS}\s+(?P<year>\d{{4}})(?:(?!\d{{4}})[^()])*\(?arXiv:(?P<id>[\d.]*\d)")
LINKED = re.compile(
    r"arXiv:(?P<id>\d[\d.]*\d)"
    rf"|{AUTHORS}(?:\s+(?P<year>\d{{4}})|(?=,\s+(?:section|figure)))"
    r"|(?P<file>\b[\w/]+\.py)\b"
)
# What follows a name that stands in another file.
OF_FILE = re.compile(r"\s+(?:of|in)\s+([\w/]+\.py)\b")

# A first author and a year, or "" for any year -> the numbers of their papers at arXiv.
Papers = Mapping[tuple[str, str], set[str]]


@dataclass(frozen=True)
class Prose:
    """Turns prose into HTML, with links into the other sources."""

    sources: Sequence[Source]

    @cached_property
    def own_papers(self) -> Mapping[str, Papers]:
        """What each file cites, by its path."""
        return {source.path: papers(p.prose for p in source.pieces) for source in self.sources}

    @cached_property
    def all_papers(self) -> Papers:
        """What any file cites, and the library's README."""
        texts = [piece.prose for source in self.sources for piece in source.pieces]
        return papers([*texts, (ROOT / "minibert/README.md").read_text(encoding="utf-8")])

    @cached_property
    def symbols(self) -> Mapping[str, list[tuple[Source, str]]]:
        """A name, or the end of a dotted one -> the definitions that it can mean."""
        found: dict[str, list[tuple[Source, str]]] = defaultdict(list)
        for source in self.sources:
            for name in source.definitions:
                for alias in (name, f"{source.module}.{name}"):
                    found[alias].append((source, name))
        return found

    @cached_property
    def files(self) -> Mapping[str, Source]:
        return {source.path: source for source in self.sources}

    def html(self, text: str, at: Source, scope: str = "", page: str | None = None) -> str:
        """The HTML of a docstring or comment of the file `at`.

        scope: the class or function that it belongs to. page: where it is shown, if not on the
        file's own page.
        """
        context = Context(self, at, scope, page or at.page)
        return str(MARKDOWN.render(one_row_each(text), vars(context)))

    def line(self, text: str, at: Source, page: str) -> str:
        """The same for a single sentence, without a paragraph around it."""
        return str(MARKDOWN.renderInline(text, vars(Context(self, at, "", page))))


@dataclass(frozen=True)
class Context:
    """Where some prose stands, and on which page it is shown: what links depend on."""

    prose: Prose
    at: Source
    scope: str
    page: str

    def symbol(self, name: str, following: str) -> str | None:
        """The address of what a name in backticks means, if it is one of ours: in the file that the
        text after it names, in the same class, in the same file, or the only one of that name."""
        named = OF_FILE.match(following)
        if named and (other := self.source(named[1])) and name in other.definitions:
            return f"{self.link(other)}#{name}"
        scope = self.scope
        for own in (f"{scope}.{name}", f"{scope.rpartition('.')[0]}.{name}", name):
            if own in self.at.definitions:
                return f"{self.link(self.at)}#{own}"
        found = self.prose.symbols.get(name, [])
        return f"{self.link(found[0][0])}#{found[0][1]}" if len(found) == 1 else None

    def source(self, name: str) -> Source | None:
        """The file of a name or path: beside this one, or in a folder above."""
        folders = PurePosixPath(self.at.path).parents
        paths = (str(folder / name) for folder in folders)
        return next((self.prose.files[path] for path in paths if path in self.prose.files), None)

    def file(self, name: str) -> str | None:
        """The address of a file's page."""
        target = self.source(name)
        return self.link(target) if target else None

    def link(self, target: Source) -> str:
        return "" if target.page == self.page else link(self.page, target.page)

    def paper(self, name: str | None, year: str) -> str | None:
        """The number of a paper that is cited by author and year: of the only such one in this
        file, else of the only one anywhere."""
        for known in (self.prose.own_papers[self.at.path], self.prose.all_papers):
            if name and len(numbers := known.get((name, year), set())) == 1:
                return next(iter(numbers))
        return None

    def text(self, text: str) -> str:
        """Plain text, escaped, with its links, and with arrows, which no line break divides."""
        parts, end = [], 0
        for match in LINKED.finditer(text):
            number = match["id"] or self.paper(match["name"], match["year"] or "")
            address = f"https://arxiv.org/abs/{number}" if number else None
            if match["file"]:
                address = self.file(match["file"])
            if address:
                parts += [escape(text[end : match.start()]), anchor(address, escape(match[0]))]
                end = match.end()
        html = "".join((*parts, escape(text[end:])))
        return html.replace("&lt;-&gt;", "↔").replace("-&gt;", "→")


def papers(texts: Iterable[str]) -> Papers:
    """The papers that some texts cite by author, year and number."""
    found: dict[tuple[str, str], set[str]] = defaultdict(set)
    for text in texts:
        for match in PAPER.finditer(one_row_each(text)):
            for year in (match["year"], ""):
                found[match["name"], year].add(match["id"])
    return found


def link(page: str, other: str) -> str:
    """The address of another page, as a page of the site names it."""
    return relpath(other, str(PurePosixPath(page).parent))


def anchor(address: str, inner: str) -> str:
    return f'<a href="{escape(address, quote=True)}">{inner}</a>'


def one_row_each(text: str) -> str:
    """Tables with one line for each row: a line with an empty first cell goes on with the row above
    it."""
    lines: list[str] = []
    for line in text.split("\n"):
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if line.strip().startswith("|") and len(cells) > 1 and not cells[0]:
            above = [cell.strip() for cell in lines.pop().strip().strip("|").split("|")]
            joined = (" ".join(pair).strip() for pair in zip(above, cells, strict=True))
            line = f"| {' | '.join(joined)} |"
        lines.append(line)
    return "\n".join(lines)


def render_text(tokens: Sequence[Token], i: int, _: Any, env: Mapping[str, Any]) -> str:
    return Context(**env).text(tokens[i].content)


def render_code(tokens: Sequence[Token], i: int, _: Any, env: Mapping[str, Any]) -> str:
    name, context = tokens[i].content, Context(**env)
    following = tokens[i + 1].content if i + 1 < len(tokens) else ""
    address = context.symbol(name, following) or context.file(name)
    code = f"<code>{escape(name)}</code>"
    return anchor(address, code) if address else code


def render_block(tokens: Sequence[Token], i: int, _: Any, env: Mapping[str, Any]) -> str:
    """An indented block: commands, which start with "python", or formulas, one a line."""
    block = tokens[i].content
    if block.startswith("python "):
        return f"<pre><code>{escape(block)}</code></pre>"
    return "".join(map(to_mathml, block.strip().split("\n")))


def markdown(rules: Iterable[str]) -> MarkdownIt:
    """Markdown with these rules alone: a `*` in prose is a shape, not emphasis."""
    reader = MarkdownIt("zero").enable(list(rules))
    reader.renderer.rules |= {  # type: ignore[attr-defined]
        "text": render_text,
        "code_inline": render_code,
        "code_block": render_block,
    }
    return reader


MARKDOWN = markdown(("table", "list", "code", "backticks"))
