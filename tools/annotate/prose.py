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


@dataclass(frozen=True)
class Prose:
    """Turns prose into HTML, with links into the other sources."""

    sources: Sequence[Source]

    @cached_property
    def papers(self) -> Mapping[tuple[str, str], str]:
        """A first author and a year -> the paper's number at arXiv. The year may be "" where a name
        has one paper."""
        found: dict[tuple[str, str], str] = {}
        of_name: dict[str, set[str]] = defaultdict(set)
        references = (ROOT / "README.md").read_text(encoding="utf-8")
        for text in (*(source.text for source in self.sources), references):
            for match in PAPER.finditer(text):
                found[match["name"], match["year"]] = match["id"]
                of_name[match["name"]].add(match["id"])
        return found | {(name, ""): ids.pop() for name, ids in of_name.items() if len(ids) == 1}

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

    def html(self, text: str, source: Source, scope: str = "") -> str:
        """The HTML of a docstring or comment of `source`. scope: the class or function that it
        belongs to."""
        return str(MARKDOWN.render(one_row_each(text), {"prose": self, "at": source, "in": scope}))

    def find_symbol(self, name: str, source: Source, scope: str) -> str | None:
        """The address of what a name in backticks means, if it is one of ours: in the same class,
        in the same file, or the only one of that name."""
        for own in (f"{scope}.{name}", f"{scope.rpartition('.')[0]}.{name}", name):
            if own in source.definitions:
                return f"#{own}"
        found = self.symbols.get(name, [])
        if len(found) != 1:
            return None
        target, own = found[0]
        return f"{link(source.page, target.page)}#{own}"

    def find_file(self, name: str, source: Source) -> str | None:
        """The address of a file's page: beside `source`, or by its whole path."""
        beside = str(PurePosixPath(source.path).parent / name)
        target = self.files.get(beside) or self.files.get(name)
        return link(source.page, target.page) if target else None

    def text(self, text: str, source: Source) -> str:
        """Plain text, escaped, with its links."""
        parts, end = [], 0
        for match in LINKED.finditer(text):
            number = match["id"] or self.papers.get((match["name"] or "", match["year"] or ""))
            address = f"https://arxiv.org/abs/{number}" if number else None
            if match["file"]:
                address = self.find_file(match["file"], source)
            if address:
                parts += [escape(text[end : match.start()]), anchor(address, escape(match[0]))]
                end = match.end()
        return "".join((*parts, escape(text[end:])))


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
    return str(env["prose"].text(tokens[i].content, env["at"]))


def render_code(tokens: Sequence[Token], i: int, _: Any, env: Mapping[str, Any]) -> str:
    name = tokens[i].content
    found = env["prose"].find_symbol(name, env["at"], env["in"])
    found = found or env["prose"].find_file(name, env["at"])
    code = f"<code>{escape(name)}</code>"
    return anchor(found, code) if found else code


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
