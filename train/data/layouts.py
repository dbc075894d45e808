"""Tables of known benchmarks, laid out as they are distributed: separated by tabs, unquoted, and
some of them without a header."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Layout:
    """One benchmark's tables: which columns are what. All others are left out."""

    name: str
    columns: tuple[tuple[str, str], ...]  # a name of ours, and the file's column for it
    header: bool = True
    may_be_short: bool = False  # some lines lack columns, in the distributed file too
    several: str = ""  # the column with several labels, which are numbers with commas between

    def cleaned(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """A row's cells, several labels as a list, and without a label that stands for none."""
        return {
            name: [int(number) for number in str(cell).split(",") if number]
            if name == self.several
            else cell
            for name, cell in cells.items()
            if not (name == "gold_label" and cell == "-")  # no majority among the annotators
        }


# by their header's distinctive columns
HEADERS = (
    Layout("MRPC", (("text_a", "#1 String"), ("text_b", "#2 String"), ("Quality", "Quality"))),
    Layout(
        "QQP",
        (
            ("text_a", "question1"),
            ("text_b", "question2"),
            ("is_duplicate", "is_duplicate"),
            ("id", "id"),
        ),
        may_be_short=True,
    ),
    Layout(
        "QNLI",
        (("text_a", "question"), ("text_b", "sentence"), ("label", "label"), ("id", "index")),
    ),
    Layout(
        "MNLI",
        (
            ("text_a", "sentence1"),
            ("text_b", "sentence2"),
            ("gold_label", "gold_label"),
            ("id", "pairID"),
        ),
    ),
    Layout(
        "STS-B in GLUE",
        (("text_a", "sentence1"), ("text_b", "sentence2"), ("score", "score"), ("id", "index")),
    ),
    Layout(
        "RTE or WNLI",
        (("text_a", "sentence1"), ("text_b", "sentence2"), ("label", "label"), ("id", "index")),
    ),
    Layout(
        "SICK",
        (
            ("text_a", "sentence_A"),
            ("text_b", "sentence_B"),
            ("relatedness_score", "relatedness_score"),
            ("entailment_judgment", "entailment_judgment"),
            ("id", "pair_ID"),
        ),
    ),
)
COLA = Layout("CoLA", (("label", "2"), ("text", "4")), header=False)
STSB = Layout("STS-B", (("score", "5"), ("text_a", "6"), ("text_b", "7")), header=False)
GOEMOTIONS = Layout(
    "GoEmotions", (("text", "1"), ("label", "2"), ("id", "3")), header=False, several="2"
)


def layout_of(file: Path, text: str) -> Layout | None:
    """The benchmark whose table this is, if it is one's."""
    first = text[: text.find("\n")].rstrip("\r").split("\t")
    if re.fullmatch("sts-[a-z]+", file.stem) and len(first) >= 7:
        return STSB
    if len(first) == 4 and first[1] in ("0", "1") and first[2] in ("", "*"):
        return COLA
    if (
        len(first) == 3
        and re.fullmatch("[0-9]+(,[0-9]+)*", first[1])
        and (file.parent / "labels.txt").exists()
    ):
        return GOEMOTIONS
    return next((layout for layout in HEADERS if _columns(layout) <= set(first)), None)


def _columns(layout: Layout) -> set[str]:
    return {theirs for _, theirs in layout.columns}
