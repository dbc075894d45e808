"""How a page of HTML is written that needs nothing beside it: its tables, pictures and sections."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from minibert.files import escaped, read_text, write_text
from train.pictures import palette_css
from train.report import Rows, numeric

Pictures = Mapping[tuple[str, str], str]  # SVG, by what it shows and of which task


def write_page(file: Path, title: str, summary: str, sections: Mapping[str, str]) -> None:
    """Write one page. sections: HTML, by headings that are plain text."""
    links = "".join(
        f'<li><a href="#s{i}">{html(heading)}</a></li>' for i, heading in enumerate(sections)
    )
    body = "".join(
        f'<section id="s{i}"><h2>{html(heading)}</h2>{text}</section>\n'
        for i, (heading, text) in enumerate(sections.items())
    )
    style = palette_css() + read_text(Path(__file__).with_name("report.css"))
    write_text(
        file,
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{html(title)}</h1>\n<p>{html(summary)}</p>\n"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav></header>\n'
        f"<main>\n{body}</main>\n</body>\n</html>\n",
    )


def html(text: str) -> str:
    """A text as HTML shows it. Control characters and marks of direction are written as escapes, as
    in a terminal. HTML shows a tab as a space."""
    return escape(escaped(text.replace("\t", " ")))


def table_html(rows: Rows, caption: str = "", shares: Sequence[Sequence[float]] = ()) -> str:
    """Rows as a table. shares: how dark each cell is, 0 to 1, but for the first of each row."""
    head, *body = rows
    kinds = [' class="number"' if is_number else ' class="text"' for is_number in numeric(rows)]
    lines = []
    for i, row in enumerate(body):
        cells = [f'<th scope="row">{html(row[0])}</th>']
        for j, cell in enumerate(row[1:]):
            kind = kinds[j + 1]
            if shares:
                kind = f' style="--share:{shares[i][j]:.2f}"'
            cells.append(f"<td{kind}>{html(cell)}</td>")
        lines.append(f"<tr>{''.join(cells)}</tr>")
    heads = (f'<th scope="col"{kind}>{html(h)}</th>' for h, kind in zip(head, kinds, strict=True))
    return (
        '<div class="scroll" tabindex="0" role="group">'
        f"<table{' class=heat' if shares else ''}>"
        + (f"<caption>{html(caption)}</caption>" if caption else "")
        + f"<thead><tr>{''.join(heads)}</tr></thead>\n<tbody>{chr(10).join(lines)}</tbody>"
        "</table></div>\n"
    )


def folded(summary: str, text: str) -> str:
    """What opens on a click or a key."""
    return f"<details><summary>{html(summary)}</summary>{text}</details>\n"


def figures_html(pictures: Pictures, captions: Mapping[tuple[str, str], str]) -> str:
    """Those of some pictures that there are, beside each other, each with its caption."""
    found = [
        f'<figure role="img" aria-label="{html(text)}">{pictures[key]}'
        f"<figcaption>{html(text)}</figcaption></figure>"
        for key, text in captions.items()
        if key in pictures
    ]
    return f'<div class="pictures">{"".join(found)}</div>\n' if found else ""
