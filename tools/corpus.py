"""Text to learn from, out of Debian's packages.

python -m tools.corpus prose -o FOLDER [--wikitext FOLDER]: English prose from the documentation of
Linux, Python, Perl, PostgreSQL, Apache and git, and from An Anarchist FAQ, as FOLDER/train.txt. A
block is a section: its paragraphs are lines, and a blank line ends it. Sections are shuffled, so
the beginning of the file is a fair sample of it. --wikitext names a folder with WikiText-2's
valid.txt and test.txt, which become dev.txt and test.txt: text of another kind, to measure on.

python -m tools.corpus wordnet -o FILE.csv: pairs that mean the same, out of WordNet. The anchor is
the definition of a sense, the positive an example of its use.
"""

import argparse
import csv
import io
import random
import re
import sys
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from itertools import groupby
from pathlib import Path

from minibert.files import InputError, read_lines, read_text, write_text
from minibert.program import run_program

SHARE = Path("/usr/share")
# Debian's packages, and their English pages below /usr/share.
PAGES = {
    "linux-doc-6.1": "doc/linux-doc-6.1/html/**/*.html",
    "python3.11-doc": "doc/python3.11/html/**/*.html",
    "perl-doc": "perl/5.*.*/pod/*.pod",
    "postgresql-doc-15": "doc/postgresql-doc-15/html/*.html",
    "apache2-doc": "doc/apache2-doc/manual/en/**/*.html",
    "git-doc": "doc/git-doc/**/*.html",
    "anarchism": "doc/anarchism/html/*.html",
}
WORDNET = {"wordnet-base": "wordnet/data.*"}
FEWEST_WORDS = 12  # of a paragraph: shorter ones are mostly menus, headings and cells of tables
HEADINGS = {"h1", "h2", "h3", "h4", "h5", "h6"}
BLOCKS = {"p", "div", "li", "dt", "dd", "td", "th", "blockquote", "pre"} | HEADINGS
NOT_TEXT = {"head", "script", "style", "pre"} | HEADINGS

Section = list[str]  # its paragraphs, each of them one line


class Page(HTMLParser):
    """The sections of a page of HTML. A heading begins a section, and is not part of it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.sections: list[Section] = [[]]
        self.paragraph: list[str] = []
        self.ignored = ""  # the open tag whose content is no text
        self.feed(html)
        self.close()
        self.end_paragraph()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        if tag in BLOCKS:
            self.end_paragraph()
        if tag in HEADINGS:
            self.sections.append([])
        if not self.ignored and tag in NOT_TEXT:
            self.ignored = tag

    def handle_endtag(self, tag: str) -> None:
        if tag in BLOCKS:
            self.end_paragraph()
        if tag == self.ignored:
            self.ignored = ""

    def handle_data(self, data: str) -> None:
        if not self.ignored:
            self.paragraph.append(data)

    def end_paragraph(self) -> None:
        self.sections[-1].append("".join(self.paragraph))
        self.paragraph = []


def pod_sections(pod: str) -> Iterator[Section]:
    """The sections of a page in Perl's format (perlpod). A line =head begins one."""
    for part in re.split(r"^=head.*$", pod, flags=re.MULTILINE):
        paragraphs = re.split(r"\n\s*\n", part)
        # What begins with a space is code, and what begins with = a command.
        yield [plain_pod(text) for text in paragraphs if text and text[0] not in " \t="]


def plain_pod(text: str) -> str:
    """A paragraph without its marks: B<bold>, L<what is read|what is linked>, E<gt>."""
    text = re.sub(r"[XZ]<[^<>]*>", "", text).replace("E<gt>", ">").replace("E<lt>", "<")
    text = re.sub(r"[A-Z]<{2,}\s+(.+?)\s+>{2,}", r"\1", text, flags=re.DOTALL)
    count = 1
    while count:  # marks may stand in marks: the inner ones go first
        text, count = re.subn(r"[A-Z]<([^<>|]*)(?:\|[^<>]*)?>", r"\1", text)
    return text


def files_of(packages: dict[str, str], share: Path) -> Iterator[Path]:
    """The packages' files. Raises InputError, naming what to install, if a package has none."""
    found = {name: sorted(share.glob(pattern)) for name, pattern in packages.items()}
    if missing := [name for name, files in found.items() if not files]:
        raise InputError(
            f"no files of {', '.join(missing)} in {share}: apt-get install {' '.join(missing)}"
        )
    for files in found.values():
        yield from files


def sections_of(file: Path) -> Iterable[Section]:
    text = read_text(file)
    return pod_sections(text) if file.suffix == ".pod" else Page(text).sections


def is_prose(paragraph: str) -> bool:
    """Long enough, and of letters: not a menu, a signature of a function, or another script."""
    letters = len(re.findall(r"[A-Za-z ]", paragraph))
    return len(paragraph.split()) >= FEWEST_WORDS and letters >= 0.85 * len(paragraph)


def clean(sections: Iterable[Section]) -> Iterator[Section]:
    """The sections' paragraphs of prose, with single spaces, each of them once."""
    seen = set()
    for section in sections:
        kept = []
        for paragraph in section:
            text = " ".join(paragraph.replace("¶", "").split())
            if text not in seen and is_prose(text):
                seen.add(text)
                kept.append(text)
        if kept:
            yield kept


def wikitext_sections(file: Path) -> Iterator[Section]:
    """The sections of WikiText-2's text: all of it but its headings, lines " = Heading = "."""
    lines = [line.strip() for line in read_lines(file) if line.strip()]
    for is_heading, paragraphs in groupby(lines, lambda line: line[0] == line[-1] == "="):
        if not is_heading:
            yield [plain_wikitext(paragraph) for paragraph in paragraphs]


def plain_wikitext(paragraph: str) -> str:
    """The text as people write it. Rare words, <unk> there, become BERT's own token [UNK]."""
    text = re.sub(r" @(.)@ ", r"\1", paragraph.replace("<unk>", "[UNK]"))  # " @-@ " is a hyphen
    text = re.sub(r'" (.*?) "', r'"\1"', text)
    return re.sub(r"(?<=[(\[]) | (?=[,.;:!?%)\]]|'s\b|n't\b)", "", text)


def write_sections(file: Path, sections: Iterable[Section]) -> None:
    blocks = ["".join(f"{paragraph}\n" for paragraph in section) for section in sections]
    random.Random(0).shuffle(blocks)
    write_text(file, "\n".join(blocks))
    print(f"{file}: {len(blocks):,} sections, {file.stat().st_size / 1e6:.1f} MB")


def write_prose(folder: Path, wikitext: Path | None, share: Path = SHARE) -> None:
    """Write train.txt, and from WikiText-2 dev.txt and test.txt. Raises InputError, naming what to
    install, if a package is missing."""
    files = files_of(PAGES, share)
    write_sections(folder / "train.txt", clean(s for file in files for s in sections_of(file)))
    if wikitext is not None:
        for name, split in (("valid.txt", "dev.txt"), ("test.txt", "test.txt")):
            write_sections(folder / split, wikitext_sections(wikitext / name))


def wordnet_pairs(file: Path) -> Iterator[tuple[str, str]]:
    """The definition and each example of the senses in a file of WordNet (wndb(5WN))."""
    for line in read_lines(file):
        # Lines of the licence begin with a space. A gloss is: definition; "example"; "example"
        definition, _, examples = line.partition(" | ")[2].partition('"')
        for example in re.findall(r'([^"]+)"', examples)[::2]:
            yield definition.strip(" ;"), example.strip()


def write_wordnet(file: Path, share: Path = SHARE) -> None:
    """Write the pairs as a CSV file with a header. Raises InputError, naming what to install, if
    the package is missing."""
    found = (pair for file in files_of(WORDNET, share) for pair in wordnet_pairs(file))
    pairs = [pair for pair in dict.fromkeys(found) if all(pair)]
    random.Random(0).shuffle(pairs)
    table = io.StringIO()
    csv.writer(table, lineterminator="\n").writerows([("anchor", "positive"), *pairs])
    write_text(file, table.getvalue())
    print(f"{file}: {len(pairs):,} pairs, {file.stat().st_size / 1e6:.1f} MB")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.corpus",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="prose|wordnet")
    prose = kinds.add_parser("prose")
    prose.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    prose.add_argument("--wikitext", type=Path, metavar="FOLDER")
    wordnet = kinds.add_parser("wordnet")
    wordnet.add_argument("-o", "--output", type=Path, required=True, metavar="FILE.csv")
    options = parser.parse_args(arguments)
    if options.kind == "prose":
        return run_program(lambda: write_prose(options.output, options.wikitext))
    return run_program(lambda: write_wordnet(options.output))


if __name__ == "__main__":
    sys.exit(main())
