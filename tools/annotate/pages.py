"""The pages of the site: one for each file, and the index."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from inspect import getdoc
from pathlib import Path

from pygments.lexers import PythonLexer
from pygments.token import Comment, Keyword, Name, Number, String, _TokenType

from minibert.encoder import SentenceEncoder
from tools.annotate.diagram import draw
from tools.annotate.example import TEXTS, Watched, batch
from tools.annotate.guide import GLOSSARY, QUESTIONS, Part, Place, in_order, minutes
from tools.annotate.prose import Prose, anchor, link
from tools.annotate.source import Piece, Source, find_place
from tools.exercises import EXERCISES

HERE = Path(__file__).parent
INDEX, STYLE = "index.html", "style.css"
# Which tokens are coloured, and as what.
COLOURS: tuple[tuple[_TokenType, str], ...] = (
    (Keyword, "k"),
    (Name.Function, "d"),
    (Name.Class, "d"),
    (String, "s"),
    (Number, "n"),
    (Comment, "c"),
)


@dataclass(frozen=True)
class Site:
    """All pages. watched: what each shape comment stood for in the example, by file and line."""

    sources: Sequence[Source]
    encoder: SentenceEncoder
    watched: Mapping[tuple[str, int], Watched]

    @cached_property
    def prose(self) -> Prose:
        return Prose(self.sources)

    @cached_property
    def parts(self) -> list[tuple[Part, Sequence[Source]]]:
        return list(in_order(self.sources))

    @cached_property
    def order(self) -> list[Source]:
        return [source for _, files in self.parts for source in files]

    @cached_property
    def pages(self) -> dict[str, str]:
        """Every page, by its path within the site."""
        found = {INDEX: self.index(), STYLE: (HERE / STYLE).read_text(encoding="utf-8")}
        return found | {source.page: self.file(source) for source in self.sources}

    def address(self, place: Place) -> str:
        """The link from the index to a place."""
        source, row = find_place(self.sources, place.symbol, place.containing)
        name = place.symbol.removeprefix(source.module).removeprefix(".")
        anchor_name = f"L{row}" if place.containing else name
        return f"{source.page}#{anchor_name}" if anchor_name else source.page

    def shape(self, place: Place) -> str:
        """The shape in the example of what a place's line made."""
        source, row = find_place(self.sources, place.symbol, place.containing)
        seen = self.watched.get((source.path, row))
        return seen.text_of_shape() if seen else ""

    def index(self) -> str:
        bert = self.encoder.bert
        ids, _, lengths = batch(self.encoder)
        first = Place("minibert.tokenizer.Tokenizer.tokenize")
        shapes = {first: f"{tuple(ids.shape)} int64"}
        picture = draw(
            lambda place: shapes.get(place) or self.shape(place), self.address, len(bert.layers)
        )
        example = " and ".join(f"“{escape(text)}”" for text in TEXTS)
        reading = "".join(self.part(i) for i in range(len(self.parts)))
        questions = "".join(
            f"<li>{anchor(self.address(place), escape(text))}</li>" for text, place in QUESTIONS
        )
        terms = "".join(
            f"<dt>{anchor(self.address(place), escape(term))}</dt><dd>{escape(about)}</dd>"
            for term, about, place in GLOSSARY
        )
        exercises = "".join(self.exercise(i, title) for i, title in enumerate(EXERCISES, start=1))
        return page(
            "minibert, annotated",
            STYLE,
            f"""<main class="index">
<h1>minibert, annotated</h1>
<p>BERT, written by hand in plain PyTorch, to be read. Each page has a file's code on the right and
its reasons on the left: the docstrings and comments of the source itself. Beside each shape comment
stands what it was in a real run: {example}, through {len(bert.layers)} layers of
{bert.config.hidden_size} numbers. A line which these two sentences do not reach has the sizes of
<code>tools/check_shapes.py</code>, marked with &lowast;.</p>
<div class="beside">
<section aria-labelledby="read"><h2 id="read">Read in this order</h2>{reading}</section>
<figure>{picture}<figcaption>The encoder, with the shapes of the two sentences of
{lengths[0]} and {lengths[1]} tokens, padded. Each box leads to its line.</figcaption></figure>
</div>
<section aria-labelledby="questions"><h2 id="questions">Questions</h2><ul>{questions}</ul></section>
<section aria-labelledby="exercises"><h2 id="exercises">Exercises</h2>
<p>Think of an answer first. The command runs one.</p>
<ol class="exercises">{exercises}</ol></section>
<section aria-labelledby="terms"><h2 id="terms">Glossary</h2><p>Each term leads to the line that
computes it.</p><dl>{terms}</dl></section>
</main>""",
        )

    def part(self, number: int) -> str:
        """A part of the reading order, with its files."""
        part, files = self.parts[number]
        whole = sum(map(minutes, files))
        rows = "".join(
            f"<tr><th scope='row'>{anchor(source.page, source.path.replace('/', '/<wbr>'))}</th>"
            f"<td>{self.prose.line(source.summary, source, INDEX)}</td>"
            f"<td class='number'>{max(1, round(minutes(source)))}</td></tr>"
            for source in files
        )
        table = (
            f"<table><thead><tr><th>file</th><th>what is in it</th><th class='number'>minutes</th>"
            f"</tr></thead><tbody>{rows}</tbody></table>"
        )
        is_open = " open" if number < 3 else ""
        return (
            f"<details{is_open}><summary><b>{number + 1}. {escape(part.title)}</b> "
            f"<span class='number'>{round(whole)} min</span><br>{escape(part.about)}</summary>"
            f"{table}</details>"
        )

    def exercise(self, number: int, title: str) -> str:
        function = EXERCISES[title]
        place = Place(f"tools.exercises.{function.__name__}")
        source, _ = find_place(self.sources, place.symbol)
        question = (getdoc(function) or "").partition("\n\n")[0]
        return (
            f"<li><h3>{escape(title)}</h3>{self.prose.html(question, source, page=INDEX)}"
            f"<p><code>python -m tools.exercises {number}</code> · "
            f"{anchor(self.address(place), 'the answer')}</p></li>"
        )

    def file(self, source: Source) -> str:
        code = highlighted(source.text)
        sections = "".join(self.section(source, piece, code) for piece in source.pieces)
        here = self.order.index(source)
        links = [anchor(link(source.page, INDEX), "Index")]
        for label, i in (("Before", here - 1), ("Next", here + 1)):
            if 0 <= i < len(self.order):
                other = self.order[i]
                links.append(f"{label}: {anchor(link(source.page, other.page), other.path)}")
        spans = "".join(f"<span>{one}</span>" for one in links)
        navigation = f'<nav aria-label="Files">{spans}</nav>'
        return page(
            source.path,
            link(source.page, STYLE),
            f"{navigation}<main><h1>{escape(source.path)}</h1>{sections}</main>{navigation}",
        )

    def section(self, source: Source, piece: Piece, code: Sequence[str]) -> str:
        """A piece of a file: its prose, and the code beside it."""
        title, identity = "", ""
        if piece.name:
            level = 2 + piece.name.count(".")
            identity = f' id="{piece.name}"'
            title = f"<h{level}>{anchor(f'#{piece.name}', escape(piece.name))}</h{level}>"
        prose = self.prose.html(piece.prose, source, piece.name) if piece.prose else ""
        lines = "".join(self.line(source, row, code[row - 1]) for row in piece.rows)
        code_html = f"<pre><code>{lines}</code></pre>" if lines else ""
        return (
            f'<section{identity}><div class="prose">{title}{prose}</div>'
            f'<div class="code">{code_html}</div></section>'
        )

    def line(self, source: Source, row: int, code: str) -> str:
        """A line of code, and below it what its shape comment stood for."""
        seen, run = self.watched.get((source.path, row)), ""
        if seen and seen.shape:
            indent = len(source.lines[row - 1]) - len(source.lines[row - 1].lstrip())
            values = f" <i>{seen.values}</i>" if seen.is_example and seen.values else ""
            mark = "" if seen.is_example else "&lowast;"
            run = (
                f'<span class="run" style="--indent: {indent}ch">→ '
                f"{seen.text_of_shape()}{mark}{values}</span>"
            )
        return f'<span class="line" id="L{row}" data-row="{row}">{code or " "}\n</span>{run}'


def highlighted(text: str) -> list[str]:
    """The lines of a file as HTML, with what is coloured in spans, and links to papers."""
    parts = []
    for kind, value in PythonLexer(stripnl=False).get_tokens(text):
        name = next((name for tokens, name in COLOURS if kind in tokens), "")
        lines = [escape(line, quote=False) for line in value.split("\n")]
        parts.append(
            "\n".join(
                f'<span class="{name}">{line}</span>' if name and line else line for line in lines
            )
        )
    linked = re.sub(
        r"arXiv:(\d[\d.]*\d)", r'<a href="https://arxiv.org/abs/\1">\g<0></a>', "".join(parts)
    )
    return linked.split("\n")


def page(title: str, style: str, body: str) -> str:
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{escape(title)}</title>
<link rel="stylesheet" href="{escape(style, quote=True)}">
</head>
<body>
{body}
</body>
</html>
"""
