"""Tables of known benchmarks, laid out as they are distributed: separated by tabs, unquoted, and
some of them without a header."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from minibert.files import InputError
from train.parse import parse_whole


@dataclass(frozen=True)
class Layout:
    """One benchmark's tables: which columns are what. All others are left out."""

    name: str
    columns: tuple[tuple[str, str], ...]  # a name of ours, and the file's column for it
    header: bool = True
    labels: tuple[str, ...] = ()  # which of the columns may be missing
    may_be_short: bool = False  # some lines lack columns, in the distributed file too
    several: str = ""  # the column with several labels, which are numbers with commas between

    def cleaned(self, cells: Mapping[str, Any], where: str) -> dict[str, Any]:
        """A row's cells, several labels as a list, and without a label that stands for none. Raises
        InputError, saying where, for several labels that are no numbers."""
        return {
            name: _numbers(str(cell), where) if name == self.several else cell
            for name, cell in cells.items()
            if not (name == "gold_label" and cell == "-")  # no majority among the annotators
        }


def _numbers(cell: str, where: str) -> list[int]:
    """The numbers of several labels, with commas between."""
    found = [parse_whole(part) for part in cell.split(",") if part]
    numbers = [number for number in found if number is not None]
    if len(numbers) < len(found):
        raise InputError(f"{where}: {cell!r:.80} should be the numbers of labels, as 3,17")
    return numbers


# Recognised by the columns of their headers, all but the label's, which test splits lack.
HEADERS = (
    Layout(
        "MRPC",
        (("text_a", "#1 String"), ("text_b", "#2 String"), ("Quality", "Quality")),
        labels=("Quality",),
    ),
    Layout(
        "QQP",
        (
            *(("text_a", "question1"), ("text_b", "question2")),
            *(("is_duplicate", "is_duplicate"), ("id", "id")),
        ),
        labels=("is_duplicate",),
        may_be_short=True,
    ),
    Layout(
        "QNLI",
        (("text_a", "question"), ("text_b", "sentence"), ("label", "label"), ("id", "index")),
        labels=("label",),
    ),
    Layout(
        "MNLI",
        (
            *(("text_a", "sentence1"), ("text_b", "sentence2")),
            *(("gold_label", "gold_label"), ("id", "pairID")),
        ),
        labels=("gold_label",),
    ),
    Layout(
        "RTE, WNLI or STS-B",
        (
            *(("text_a", "sentence1"), ("text_b", "sentence2")),
            *(("label", "label"), ("score", "score"), ("id", "index")),
        ),
        labels=("label", "score"),
    ),
    Layout(
        "SICK",
        (
            *(("text_a", "sentence_A"), ("text_b", "sentence_B"), ("id", "pair_ID")),
            ("relatedness_score", "relatedness_score"),
            ("entailment_judgment", "entailment_judgment"),
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
        and any((file.parent / name).exists() for name in ("labels.txt", "emotions.txt"))
    ):
        return GOEMOTIONS
    for layout in HEADERS:
        columns = tuple((ours, theirs) for ours, theirs in layout.columns if theirs in first)
        missing = {theirs for _, theirs in layout.columns} - set(first)
        if missing <= set(layout.labels):
            return replace(layout, columns=columns)
    return None
