"""readers.py: each format as the real files have it and as people get it wrong; no wrong input
passes or breaks.

Evidence: the real SNIPS and TweetEval where they are at hand, small files of every format with
exact expectations, data sets that the `datasets` library wrote itself, and an error with file, line
and value for each kind of mistake.
"""

import csv
import json
import random
import re
import socket
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from minibert import InputError
from minibert.files import escaped, read_lines
from train.data.columns import from_fields
from train.data.examples import DataSet, Example
from train.data.read import OURS, read_source
from train.data.reading import Reading
from train.data.settle import settle
from train.data.spans import span_tags
from train.data.splits import cut_dev
from train.data.words import WORD
from train.load import load_data
from train.settings import Settings
from train.tasks import classes_of, clean_labels
from train.tasks.classification import SentenceClassification
from train.tasks.tagging import TokenTagging

NEEDS = "needs text, or words, or text_a and text_b, or anchor and positive;"


def splits_of(path: Path | str, **settings: Any) -> dict[str, list[Example]]:
    """What the files say, before anything is left out, cut off or told."""
    reading = Reading.of(Settings(**settings), lambda _: None)
    (data,) = settle([read_source(str(path), reading)], reading)
    return {split: list(examples) for split, examples in data.splits.items()}


def write(folder: Path, **files: str) -> Path:
    """Files by their names, `__` standing for a dot and `___` for a folder."""
    for name, content in files.items():
        file = folder / name.replace("___", "/").replace("__", ".")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode())
    return folder


def lines(*records: Any) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def load(folder: Path | str, said: list[str] | None = None, **settings: Any) -> DataSet:
    announce = said.append if said is not None else lambda _: None
    (data,) = load_data(Settings(data=(str(folder),), **settings), announce)
    return data


def labels(examples: Any, name: str) -> list[Any]:
    return [example.labels[name] for example in examples]


def error_of(read: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        read()
    return str(caught.value)


# SNIPS


@pytest.fixture(scope="module")
def snips(shared: Path) -> DataSet:
    return load(shared / "data" / "snips")


def test_the_real_snips(snips: DataSet) -> None:
    assert {split: len(examples) for split, examples in snips.splits.items()} == {
        "train": 13084,
        "dev": 700,
        "test": 700,
    }
    train = snips.splits["train"]
    assert len(set(labels(train, "intent"))) == 7
    assert len({tag[2:] for tags in labels(train, "slots") for tag in tags} - {""}) == 39
    assert all(
        len(e.words or ()) == len(e.labels["slots"]) for es in snips.splits.values() for e in es
    )  # type: ignore[arg-type]
    assert len({tag for tags in labels(train, "slots") for tag in tags}) == 72
    first = (
        (Path(train[0].where.partition(",")[0]).parent / "seq.in")
        .read_text(encoding="utf-8")
        .split("\n")[0]
    )
    assert train[0].words == tuple(first.split())
    assert train[0].text == first.strip()


def test_snips_is_words_tags_and_an_intent(tmp_path: Path) -> None:
    folder = write(
        tmp_path,
        train___seq__in="play  jazz now \nadd\ttea \n",
        train___seq__out="O B-genre O \nO O \n",
        train___label="Play\nAdd \n",
        valid___seq__in="play\r\n",
        valid___seq__out="O\r\n",
        valid___label="Play",
    )
    data = load(folder)
    assert data.name == tmp_path.name
    assert data.splits["train"] == [
        Example(
            "play jazz now",
            {"intent": "Play", "slots": ("O", "B-genre", "O")},
            f"{folder}/train/seq.in, line 1",
            ("play", "jazz", "now"),
        ),
        Example(
            "add tea",
            {"intent": "Add", "slots": ("O", "O")},
            f"{folder}/train/seq.in, line 2",
            ("add", "tea"),
        ),
    ]
    assert data.splits["dev"][0].words == ("play",)


@pytest.mark.parametrize(
    ("words", "tags", "intents", "message"),
    [
        (
            "a\nb\n",
            "O\n",
            "x\ny\n",
            "files of unequal length: seq.in has 2 lines, seq.out 1, label 2",
        ),
        (
            "a\nb\n",
            "O\nO\n",
            "x\n",
            "files of unequal length: seq.in has 2 lines, seq.out 2, label 1",
        ),
        ("a\nb c\n", "O\nO\n", "x\ny\n", "seq.in, line 2: 2 words, but 1 tags in seq.out"),
        ("a\n\n", "O\n\n", "x\ny\n", "seq.in, line 2: a sentence without words"),
        ("a\nb\n", "O\nO\n", "x\n \n", "seq.in, line 2: a sentence without a label"),
    ],
)
def test_snips_gone_wrong(
    words: str, tags: str, intents: str, message: str, tmp_path: Path
) -> None:
    write(tmp_path, train___seq__in=words, train___seq__out=tags, train___label=intents)
    assert message in error_of(lambda: load(tmp_path))


def test_a_missing_file_of_snips_is_named(tmp_path: Path) -> None:
    write(tmp_path, train___seq__in="a\n", train___label="x\n")
    assert (
        error_of(lambda: load(tmp_path))
        == f"cannot read {tmp_path}/train/seq.out: No such file or directory"
    )


# TweetEval


def test_the_real_emotion(shared: Path) -> None:
    data = load(shared / "data" / "tweeteval" / "emotion")
    assert data.name == "emotion"
    assert {split: len(examples) for split, examples in data.splits.items()} == {
        "train": 3257,
        "dev": 374,
        "test": 1421,
    }
    assert {e.labels["emotion"] for es in data.splits.values() for e in es} == {
        "anger",
        "joy",
        "optimism",
        "sadness",
    }
    folder = shared / "data" / "tweeteval" / "emotion"
    texts = (folder / "test_text.txt").read_text(encoding="utf-8").split("\n")
    numbers = (folder / "test_labels.txt").read_text().split()
    names = dict(line.split("\t") for line in (folder / "mapping.txt").read_text().splitlines())
    assert [e.text for e in data.splits["test"]] == [text.strip() for text in texts[:1421]]
    assert labels(data.splits["test"], "emotion") == [names[number] for number in numbers]


def test_tweeteval_is_named_after_its_folder(tmp_path: Path) -> None:
    folder = write(
        tmp_path / "mood",
        mapping__txt="0\tsad\n1\t❤\t_red_heart_\n",
        train_text__txt="one\u2028still one \ntwo\n",
        train_labels__txt="1\n0\n",
        val_text__txt="three",
        val_labels__txt="0",
    )
    data = load(folder)
    assert [(e.text, e.labels, e.words) for e in data.splits["train"]] == [
        ("one\u2028still one", {"mood": "❤\t_red_heart_"}, None),
        ("two", {"mood": "sad"}, None),
    ]
    assert data.splits["train"][1].where == f"{folder}/train_text.txt, line 2"


@pytest.mark.parametrize(
    ("mapping", "texts", "numbers", "message"),
    [
        (
            "0\tsad\n",
            "a\nb\n",
            "0\n",
            "files of unequal length: train_text.txt has 2 lines, train_labels.txt 1",
        ),
        (
            "0\tsad\n",
            "a\nb\n",
            "0\n1\n",
            "train_labels.txt, line 2: '1' is no number of mapping.txt",
        ),
        ("0\tsad\n", "a\nb\n", "0\n\n", "train_labels.txt, line 2: '' is no number of mapping.txt"),
        ("0 sad\n", "a\n", "0\n", "mapping.txt, line 1: '0 sad' should read number, tab, name"),
        ("0\tsad\n", "a\n \n", "0\n0\n", "train_text.txt, line 2: a blank text"),
    ],
)
def test_tweeteval_gone_wrong(
    mapping: str, texts: str, numbers: str, message: str, tmp_path: Path
) -> None:
    write(tmp_path, mapping__txt=mapping, train_text__txt=texts, train_labels__txt=numbers)
    assert message in error_of(lambda: load(tmp_path))


# CoNLL


def test_conll_columns(tmp_path: Path) -> None:
    text = (
        "-DOCSTART- -X- -X- O\n\nEU NNP I-NP B-ORG\nrejects VBZ I-VP O\n \t \n"
        "Peter\tB-PER\nBlackburn\tI-PER \r\n"
        "\u00a0\n-DOCSTART- O\n\n\n10\u00a0000 O\n\u200b O\n\ufeff O"
    )
    file = write(tmp_path, news__conll=text) / "news.conll"
    examples = splits_of(file)["train"]
    assert [(e.words, e.labels["tags"], e.where) for e in examples] == [
        (("EU", "rejects"), ("B-ORG", "O"), f"{file}, line 3"),
        (("Peter", "Blackburn"), ("B-PER", "I-PER"), f"{file}, line 6"),
        # a no-break space is in a word
        (("10\u00a0000", "\u200b", "\ufeff"), ("O", "O", "O"), f"{file}, line 12"),
    ]
    assert examples[0].text == "EU rejects"


def test_a_conll_word_without_a_tag(tmp_path: Path) -> None:
    write(tmp_path, train__conll="a O\nb\n")
    assert error_of(lambda: load(tmp_path)) == (
        f"{tmp_path}/train.conll, line 2: 'b' has no tag; a line is a word, and its tag last"
    )


# Tags


def test_stray_inside_tags_are_repaired_counted_and_announced(tmp_path: Path) -> None:
    """All splits together tell that the tags are BIO."""
    train = "a B-PER\nb I-PER\nc I-ORG\nd I-ORG\ne O\nf I-ORG\n\ng I-PER\n"
    said: list[str] = []
    data = load(
        write(tmp_path, train__conll=train, dev__conll="a O\n", test__conll="a I-ORG\n"), said
    )
    assert labels(data.splits["train"], "tags") == [
        ("B-PER", "I-PER", "B-ORG", "I-ORG", "O", "B-ORG"),
        ("B-PER",),
    ]
    assert labels(data.splits["test"], "tags") == [("B-ORG",)]
    assert said == [
        f"{tmp_path}: tags: 4 tags I- that continued nothing were read as B-",
        "tags: train PER 2, ORG 1; dev none; test ORG 1",
    ]


def test_sound_tags_are_left_alone_and_nothing_is_said() -> None:
    tags = ("B-a", "I-a", "B-a", "B-b", "I-b", "I-b", "O", "B-a-b", "I-a-b")
    example = Example("x", {"t": tags, "kind": "I-a", "score": 0.5}, "here", ("x",) * 9)
    said: list[str] = []
    assert clean_labels([example], "source", said.append) == [example]
    assert said == []


# CSV and TSV

UNQUOTED = "if quotation marks are part of the texts, say --no-quoted"


@pytest.mark.parametrize("suffix", ["csv", "tsv"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_tables_with_quotes_commas_tabs_and_line_ends_inside(
    suffix: str, end: str, mark: str, tmp_path: Path
) -> None:
    rows = [
        ["text", "label", "note"],
        ['She said "no", twice', "a, b", "\ttab\t"],
        ["two\nlines", "c", ""],
        ["with\r\nreturn and \u2028 and \x0b", "d", "n"],
        ["last", "e", "  "],
    ]
    file = tmp_path / f"data.{suffix}"
    with file.open("w", encoding="utf-8", newline="") as stream:
        delimiter = "," if suffix == "csv" else "\t"
        writer = csv.writer(stream, delimiter=delimiter, lineterminator=end, quoting=csv.QUOTE_ALL)
        stream.write(mark)
        writer.writerows(rows[:3])
        stream.write(end)  # a blank line is nothing
        writer.writerows(rows[3:])
    examples = splits_of(file)["train"]
    assert [(e.text, e.labels) for e in examples] == [
        ('She said "no", twice', {"label": "a, b", "note": "tab"}),
        ("two\nlines", {"label": "c"}),
        ("with\r\nreturn and \u2028 and \x0b", {"label": "d", "note": "n"}),
        ("last", {"label": "e"}),
    ]
    assert [e.where for e in examples] == [f"{file}, line {n}" for n in (2, 3, 6, 8)]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: there must be the names of the columns"),
        (
            "phrase,label\na,b\n",
            "line 1: no column text (or text_a and text_b); it has phrase, label. Say which column "
            'is the text: --columns "text=COLUMN"; or that the first line is no header: '
            "--no-header",
        ),
        (
            "text;label\na;b\n",
            "line 1: no column text (or text_a and text_b); it has text;label; if ';' separates "
            "the columns, say so: --delimiter ';'",
        ),
        (
            "text_a,label\na,b\n",
            "line 1: no column text (or text_a and text_b); it has text_a, label. Say which column "
            'is the text: --columns "text=COLUMN"; or that the first line is no header: '
            "--no-header",
        ),
        (
            "text,label,label\na,b,c\n",
            "line 1: the column 'label' stands twice in text, label, label",
        ),
        ("text,label\na\n", "line 2: 1 values, but 2 columns in the header"),
        ('text,label\n"a\nb",x\nc,d,e\n', "line 4: 3 values, but 2 columns in the header"),
        ("text,label\n ,b\n", "line 2: a text must be a string that is not blank, not ' '"),
        (
            "text_a,text_b,score\na,,0.5\n",
            "line 2: a text must be a string that is not blank, not ''",
        ),
        ('text,label\n"a"b,c\n', f"line 2: ',' expected after '\"'; {UNQUOTED}"),
        ('text,label\na,b\n"c,d\n', f"line 3: unexpected end of data; {UNQUOTED}"),
    ],
)
def test_a_table_gone_wrong(content: str, message: str, tmp_path: Path) -> None:
    file = write(tmp_path, train__csv=content) / "train.csv"
    assert error_of(lambda: load(tmp_path)) == f"{file}, {message}"


def test_a_table_of_a_header_only_is_an_empty_split(tmp_path: Path) -> None:
    write(tmp_path, train__csv="text,label\n")
    assert error_of(lambda: load(tmp_path)) == f"--data {tmp_path}: its train split is empty"


def test_the_row_numbers_that_pandas_writes_are_no_task(tmp_path: Path) -> None:
    write(tmp_path, train__csv=",text,label,id\n0,a,x,7\n1,b,y,8\n")
    assert [e.labels for e in splits_of(tmp_path)["train"]] == [{"label": "x"}, {"label": "y"}]


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        (["4", "4.5", "-3"], [4.0, 4.5, -3.0]),  # numbers, one with a decimal point: scores
        (["4.0", ".5", "1e-05", "-2."], [4.0, 0.5, 1e-05, -2.0]),
        (["0", "1", "10"], ["0", "1", "10"]),  # whole numbers alone: names of classes
        (["007", "7", "-0"], ["007", "7", "-0"]),  # of which nothing is lost
        (["+4", "4"], ["+4", "4"]),
        (["1", "one"], ["1", "one"]),
        (["12345678901234567890", "3"], ["12345678901234567890", "3"]),
        (["2024-01-01", "1.2.3"], ["2024-01-01", "1.2.3"]),
        (["nan", "inf", "1,5", "٣"], ["nan", "inf", "1,5", "٣"]),
    ],
)
def test_what_is_a_score_and_what_is_a_class(
    cells: list[str], wanted: list[Any], tmp_path: Path
) -> None:
    rows = [["text", "x"], *(["a", cell] for cell in cells)]
    with (tmp_path / "train.csv").open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows(rows)
    found = labels(splits_of(tmp_path)["train"], "x")
    assert found == wanted
    assert [type(value) for value in found] == [type(value) for value in wanted]


def test_a_column_is_of_scores_in_all_splits_if_it_is_in_one(tmp_path: Path) -> None:
    write(
        tmp_path,
        train__csv="text,x\na,1\n",
        dev__csv="text,x\nb,2.5\n",
        test__jsonl=lines({"text": "c", "x": 3}),
    )
    assert {split: labels(es, "x") for split, es in splits_of(tmp_path).items()} == {
        "train": [1.0],
        "dev": [2.5],
        "test": [3.0],
    }
    only = write(tmp_path / "only", test__csv="text,x,y\na,1,1\n")
    assert splits_of(only)["test"][0].labels == {"x": "1", "y": "1"}
    assert splits_of(only, score=("x",))["test"][0].labels == {"x": 1.0, "y": "1"}


def test_a_text_beside_decimal_numbers_stays_a_text(tmp_path: Path) -> None:
    """... so that `build_tasks` can refuse the mixture, if the column is asked for at all."""
    write(tmp_path, train__csv="text,x\na,4.5\nb,n/a\nc,4\n")
    assert labels(splits_of(tmp_path)["train"], "x") == [4.5, "n/a", 4.0]


# JSON lines


def test_any_number_of_labels_of_all_kinds(tmp_path: Path) -> None:
    record = {
        "id": 7,
        "text": "Ada met Bo in Rome.",
        "topic": " travel ",
        "stars": 4.5,
        "people": [[0, 3, "person"], [8, 10, "person"]],
        "places": [[14, 18, "city"]],
        "events": [],
        "nothing": None,
        "blank": " ",
    }
    words = {"words": ["Ada", "met"], "topic": "x", "tags": ["B-p", "O"], "stars": 3}
    pair = {"text_a": "one", "text_b": "two", "likeness": -1}
    file = tmp_path / "train.jsonl"
    file.write_text(lines(record) + "\n  \n" + lines(words, pair), encoding="utf-8")
    first, second, third = splits_of(tmp_path)["train"]
    assert first == Example(
        "Ada met Bo in Rome.",
        {
            "topic": "travel",
            "stars": 4.5,
            "people": ("B-person", "O", "B-person", "O", "O", "O"),
            "places": ("O", "O", "O", "O", "B-city", "O"),
            "events": ("O",) * 6,
        },
        f"{file}, line 1",
        ("Ada", "met", "Bo", "in", "Rome", "."),
        id=7,
    )
    assert second == Example(
        "Ada met",
        {"topic": "x", "tags": ("B-p", "O"), "stars": 3.0},
        f"{file}, line 4",
        ("Ada", "met"),
    )
    assert third == Example("one", {"likeness": "-1"}, f"{file}, line 5", None, "two")


def settled(example: Example, **settings: Any) -> Example:
    """An example as the only one of its data."""
    reading = Reading.of(Settings(**settings), lambda _: None)
    (data,) = settle([DataSet("data", {"train": [example]})], reading)
    return data.splits["train"][0]


def read(record: dict[str, Any]) -> Example:
    """A record as the only one of its data."""
    return settled(from_fields(record, "here"))


def test_words_beside_a_text_keep_their_number_whatever_spans_there_are() -> None:
    record = {
        "text": "Don't  go to New-York!",
        "words": ["Don't", "go", "to", "New-York", "!"],
        "verbs": ["O", "B-v", "O", "O", "O"],
        "places": [[13, 21, "city"]],
        "none": [],
    }
    example = read(record)
    assert example.words == ("Don't", "go", "to", "New-York", "!")
    assert example.labels == {
        "verbs": ("O", "B-v", "O", "O", "O"),
        "places": ("O", "O", "O", "B-city", "O"),
        "none": ("O",) * 5,
    }
    assert "here: the word 'Rome' does not stand in the text after character 3" in error_of(
        lambda: read({"text": "Ada in Rom", "words": ["Ada", "Rome"], "e": []})
    )


def test_an_empty_list_is_no_entity_only_where_other_rows_hold_spans(tmp_path: Path) -> None:
    """Where they hold tags, it is a row without its tags, and not a row of O."""
    text = {"text": "Ada wrote", "words": ["Ada", "wrote"]}
    spans = [{"text": "Ada wrote", "e": [[0, 3, "name"]]}, {"text": "so so", "e": []}]
    found = load(write(tmp_path / "spans", train__jsonl=lines(*spans), dev__jsonl=lines(*spans)))
    assert [e.labels["e"] for e in found.splits["dev"]] == [("B-name", "O"), ("O", "O")]
    tags = [text | {"e": ["B-name", "O"]}, text | {"e": []}]
    folder = write(tmp_path / "tags", train__jsonl=lines(*tags), dev__jsonl=lines(tags[0]))
    message = f"{folder / 'train.jsonl'}, line 2: e has 0 tags for 2 words"
    assert error_of(lambda: load(folder)) == message
    tags = [text | {"e": ["B-name", "O"]}, {"text": "Ada wrote", "e": []}]
    folder = write(tmp_path / "bare", train__jsonl=lines(*tags), dev__jsonl=lines(tags[0]))
    message = f"{folder / 'train.jsonl'}, line 2: e is a list of texts; tags need words beside"
    assert error_of(lambda: load(folder)).startswith(message)


def test_a_string_of_digits_is_a_label_and_a_number_a_score() -> None:
    assert read({"text": "t", "version": "4.5", "score": 4.5}).labels == {
        "version": "4.5",
        "score": 4.5,
    }


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "not JSON (Expecting property name enclosed in double quotes at character 1)"),
        ("[1]", "must be an object with a text, not list"),
        ("null", "must be an object with a text, not NoneType"),
        ("[" * 100_000, "not JSON that can be read"),
        ('{"text": "a", "x": ' + "1" * 5000 + "}", "not JSON that can be read"),
        (r'{"text": "a\ud800"}', "holds half a surrogate pair, which is no character"),
        (r'{"text": "a", "x": "\udc00"}', "holds half a surrogate pair, which is no character"),
        (
            "{}",
            f"{NEEDS} it has nothing",
        ),
        (
            '{"wordlist": ["a"], "x": 1}',
            f"{NEEDS} it has wordlist, x",
        ),
        (
            '{"text": null, "x": 1}',
            f"{NEEDS} it has x",
        ),
        (
            '{"text_a": "a"}',
            f"{NEEDS} it has text_a",
        ),
        ('{"text": " "}', "a text must be a string that is not blank, not ' '"),
        ('{"text": 3}', "a text must be a string that is not blank, not 3"),
        (
            '{"text_a": "a", "text_b": ["b"]}',
            "a text must be a string that is not blank, not ['b']",
        ),
        ('{"text_a": "a", "text_b": ""}', "a text must be a string that is not blank, not ''"),
        ('{"words": "a b"}', "words must be a list of texts, none of them blank"),
        ('{"words": ["a", " "]}', "words must be a list of texts, none of them blank"),
        ('{"words": ["a", 1]}', "words must be a list of texts, none of them blank"),
        ('{"words": []}', "words must be a list of texts, none of them blank"),
        (
            '{"text": "a", "x": {"y": 1}}',
            "x = {'y': 1} is no label: a string, a number or a list is one",
        ),
        ('{"text": "a", "x": NaN}', "x = nan is not a finite number"),
        ('{"text": "a", "x": -Infinity}', "x = -inf is not a finite number"),
        ('{"text": "a", "x": 1e400}', "x = inf is not a finite number"),
        ('{"text": "a", "x": 1' + "0" * 400 + "}", "x = 1000"),
        ('{"words": ["a", "b"], "x": ["O"]}', "x has 1 tags for 2 words"),
        ('{"words": ["a"], "x": []}', "x has 0 tags for 1 words"),
        ('{"text": "a", "x": ["O", 1]}', "x has 'O', which should read [start, end, type]"),
        (
            '{"words": ["a"], "x": [[0, 1, "p"]]}',
            "x holds spans, which count characters of a text; here is no field",
        ),
        ('{"text": "a", "x": [["O"]]}', "x has ['O'], which should read [start, end, type]"),
        ('{"text": "a", "x": [[0, 1, "p"], 3]}', "x has 3, which should read [start, end, type]"),
        ('{"text": "a", "x": [[0, 1.0, "p"]]}', "x has [0, 1.0, 'p'], which should read"),
        ('{"text": "a", "x": [[false, 1, "p"]]}', "x has [False, 1, 'p'], which should read"),
        ('{"text": "a", "x": [[0, 1, " "]]}', "x has [0, 1, ' '], which should read"),
        (
            '{"text": "ab", "x": [[0, 3, "p"]]}',
            "x has [0, 3, 'p'], which is no part of a text of 2 characters",
        ),
        (
            '{"text": "ab", "x": [[-2, 2, "p"]]}',
            "x has [-2, 2, 'p'], which is no part of a text of 2 characters",
        ),
        (
            '{"text": "ab", "x": [[1, 1, "p"]]}',
            "x has [1, 1, 'p'], which is no part of a text of 2 characters",
        ),
        (
            '{"text": "ab", "x": [[2, 1, "p"]]}',
            "x has [2, 1, 'p'], which is no part of a text of 2 characters",
        ),
        (
            '{"text": "ab cd", "x": [[0, 1, "p"]]}',
            "x has [0, 1, 'p'], 'a': it must begin and end where words do",
        ),
        (
            '{"text": "ab cd", "x": [[1, 5, "p"]]}',
            "x has [1, 5, 'p'], 'b cd': it must begin and end where words do",
        ),
        (
            '{"text": "ab cd", "x": [[0, 3, "p"]]}',
            "x has [0, 3, 'p'], 'ab ': it must begin and end where words do",
        ),
        (
            '{"text": "ab cd", "x": [[2, 3, "p"]]}',
            "x has [2, 3, 'p'], ' ': it must begin and end where words do",
        ),
        (
            '{"text": "ab cd", "x": [[0, 5, "p"], [3, 5, "q"]]}',
            "x has [3, 5, 'q'], 'cd', which overlaps another entity",
        ),
    ],
)
def test_json_lines_gone_wrong(line: str, message: str, tmp_path: Path) -> None:
    file = (
        write(tmp_path, train__jsonl='{"text": "good", "x": "y"}\n\n' + line + "\n") / "train.jsonl"
    )
    assert error_of(lambda: load(tmp_path)).startswith(f"{file}, line 3: {message}")


def test_offsets_count_characters_also_beyond_ascii() -> None:
    text = "👩🏽‍🔬 Zoë (Zoe\u0308) in İzmir — 東京!"
    spans: list[Any] = [[5, 8, "p"], [10, 14, "p"], [19, 24, "l"], [27, 29, "l"]]
    assert [text[start:end] for start, end, _ in spans] == ["Zoë", "Zoe\u0308", "İzmir", "東京"]
    example = read({"text": text, "names": spans})
    tags = example.labels["names"]
    assert isinstance(tags, tuple)
    assert example.words is not None
    tagged = [(word, tag) for word, tag in zip(example.words, tags, strict=True) if tag != "O"]
    assert tagged == [("Zoë", "B-p"), ("Zoe\u0308", "B-p"), ("İzmir", "B-l"), ("東京", "B-l")]
    # nothing but white space is between words
    assert "".join(example.words) == "".join(text.split())


def test_spans_of_several_words() -> None:
    text = "a b-c d"
    places = [match.span() for match in WORD.finditer(text)]
    assert span_tags(text, places, [[2, 5, "x"]], "here", "e") == ("O", "B-x", "I-x", "I-x", "O")
    assert span_tags(text, places, [[2, 3, "x"], [3, 7, "x"]], "here", "e") == (
        "O",
        "B-x",
        "B-x",
        "I-x",
        "I-x",
    )


# Encodings and lines


@pytest.mark.parametrize(
    ("name", "content", "where"),
    [
        ("train.csv", "text,label\na,b\ncaf\u00e9,d\n", "train.csv, line 3"),
        ("train.jsonl", '{"text": "a", "x": "y"}\n{"text": "\u00e9"}\n', "train.jsonl, line 2"),
        ("train.conll", "\u00e9 O\n", "train.conll, line 1"),
        ("train/seq.in", "a\nb\n\u00e9\n", "train/seq.in, line 3"),
    ],
)
def test_a_byte_that_is_no_utf8_names_file_and_line(
    name: str, content: str, where: str, tmp_path: Path
) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes("\u20ac".join(["", ""]).encode() + content.encode("latin-1"))
    assert error_of(lambda: load(tmp_path)).startswith(f"{tmp_path}/{where}: not UTF-8 text")


def test_a_byte_order_mark_is_no_part_of_a_text(tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes("\ufeffa\r\n\ufeffb\u2028c".encode())
    assert read_lines(file) == ["a", "\ufeffb\u2028c"]
    write(tmp_path, train__jsonl="\ufeff" + lines({"text": "a", "x": "y"}))
    assert splits_of(tmp_path)["train"][0].text == "a"


# Splits


@pytest.mark.parametrize("name", ["dev", "val", "valid", "validation"])
@pytest.mark.parametrize("suffix", ["csv", "tsv", "jsonl", "conll"])
def test_the_names_of_the_dev_split(name: str, suffix: str, tmp_path: Path) -> None:
    content = {
        "csv": "text,x\na,y\n",
        "tsv": "text\tx\na\ty\n",
        "jsonl": lines({"text": "a", "x": "y"}),
    }
    for split in ("train", name):
        (tmp_path / f"{split}.{suffix}").write_text(content.get(suffix, "a O\n"))
    assert set(splits_of(tmp_path)) == {"train", "dev"}


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (
            {"train__csv": "", "train__jsonl": ""},
            "train.csv and train.jsonl are all there; which one is train?",
        ),
        (
            {"dev__csv": "", "valid__csv": ""},
            "dev.csv and valid.csv are all there; which one is dev?",
        ),
        (
            {"test___seq__in": "", "test__conll": ""},
            "test/seq.in and test.conll are all there; which one is test?",
        ),
        (
            {"val_text__txt": "", "dev__tsv": ""},
            "dev.tsv and val_text.txt are all there; which one is dev?",
        ),
    ],
)
def test_two_files_for_one_split_are_refused(
    files: dict[str, str], message: str, tmp_path: Path
) -> None:
    assert error_of(lambda: load(write(tmp_path, **files))) == f"{tmp_path}: {message}"


def test_a_missing_dev_split_is_cut_from_train_and_announced(tmp_path: Path) -> None:
    records = [{"text": f"text {i}", "x": "ab"[i % 2]} for i in range(95)]
    folder = write(tmp_path, train__jsonl=lines(*records))
    said: list[str] = []
    data = load(folder, said)
    assert said == [
        f"{folder}: no dev split, so 10 of the 95 train examples are cut off for it (seed 0)",
        "x: train a 43, b 42; dev a 5, b 5",
    ]
    train, dev = ([e.text for e in data.splits[split]] for split in ("train", "dev"))
    assert sorted(train + dev) == sorted(record["text"] for record in records)
    assert len(dev) == 10
    assert load(folder) == data
    assert [e.text for e in load(folder, said, seed=1).splits["dev"]] != dev
    assert dev != [record["text"] for record in records[:10]]


def test_the_last_example_of_a_label_stays_in_train() -> None:
    """A label that only dev has could not be learnt, and `build_tasks` would refuse a cut that is
    ours."""
    examples = [Example(f"a {i}", {"x": "common", "e": ("O",), "s": i / 2}, "") for i in range(30)]
    examples += [Example(f"b {i}", {"x": f"rare {i}", "s": 0.5}, "") for i in range(30)]
    examples += [
        Example(f"c {i}", {"e": ("O", f"B-type {i}", f"I-type {i}")}, "") for i in range(30)
    ]
    examples += [Example(f"d {i}", {"e": ("O", "B-two")}, "") for i in range(2)]
    kinds = {"x": SentenceClassification, "e": TokenTagging}
    for seed in range(20):
        train, dev = cut_dev(examples, seed, partial(classes_of, kinds=kinds))
        assert len(train) == 83
        assert len(dev) == 9
        assert {e.text[0] for e in dev} == {"a", "d"}
        assert sum(e.text[0] == "d" for e in dev) == 1
    train, dev = cut_dev(examples[30:], 0, partial(classes_of, kinds=kinds))
    assert [e.text[0] for e in dev] == ["d"]


def test_dev_has_a_tenth_of_each_class_and_copies_stay_together() -> None:
    """The classes' shares are counted; a rare class has one example; no text is on both sides."""
    draw = random.Random(0)
    names = ["many"] * 600 + ["some"] * 300 + ["few"] * 96 + ["rare"] * 4
    draw.shuffle(names)
    examples = [Example(f"text {i // 2}", {"x": name}, "") for i, name in enumerate(names)]
    devs = set()
    for seed in range(5):
        kinds = {"x": SentenceClassification}
        train, dev = cut_dev(examples, seed, partial(classes_of, kinds=kinds))
        counts = Counter(e.labels["x"] for e in dev)
        assert len(dev) == 100
        assert abs(counts["many"] - 60) <= 3
        assert abs(counts["some"] - 30) <= 3
        assert abs(counts["few"] - 10) <= 3
        assert counts["rare"] in (1, 2)
        assert not {e.text for e in train} & {e.text for e in dev}
        assert [e.where for e in train + dev] == [e.where for e in examples]
        devs.add(tuple(e.text for e in dev))
    assert len(devs) == 5


@pytest.mark.parametrize(
    "records",
    [
        [{"text": "a", "x": "y"}, {"text": "b", "x": "z"}],
        [{"text": "a", "x": "y"}, {"text": "a", "x": "z"}] * 5,  # copies of one text
    ],
)
def test_too_few_examples_to_cut_a_dev_split_from(records: list[Any], tmp_path: Path) -> None:
    write(tmp_path, train__jsonl=lines(*records))
    message = f"none can be cut from train: it has {len(records)} examples"
    assert message in error_of(lambda: load(tmp_path))


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_an_empty_split_is_refused(split: str, tmp_path: Path) -> None:
    files = {f"{name}__jsonl": lines({"text": "a", "x": "y"}) for name in ("train", "dev", "test")}
    write(tmp_path, **(files | {f"{split}__jsonl": "\n"}))
    assert error_of(lambda: load(tmp_path)) == f"--data {tmp_path}: its {split} split is empty"


def test_no_train_split(tmp_path: Path) -> None:
    write(tmp_path, test__conll="a O\n")
    assert error_of(lambda: load(tmp_path)) == f"--data {tmp_path}: no train split; it has test"


@pytest.mark.parametrize("name", ["absent", "~nobody-of-this-name/x", "a\0b", "x" * 5000])
def test_no_such_data(name: str) -> None:
    message = error_of(lambda: load(name))
    assert message.startswith(f"--data {escaped(name[:400])}")
    end = ": there is no such file or folder; the project's own data sets are newsroom, notebook"
    assert end in message


def test_a_folder_or_file_that_holds_no_data(tmp_path: Path) -> None:
    write(tmp_path, notes__txt="hello", readme__csv="text\n")
    assert error_of(lambda: load(tmp_path)).startswith(
        f"{tmp_path} has no data that is recognised. A split NAME (train"
    )
    assert error_of(lambda: load(tmp_path / "notes.txt")).startswith(
        f"{tmp_path}/notes.txt: no labels are recognised. A .txt file is lines of a label, a tab"
    )
    assert error_of(lambda: load(write(tmp_path, notes__docx="") / "notes.docx")) == (
        f"{tmp_path}/notes.docx: of a file, only .conll, .conllu, .csv, .tsv, .jsonl, .json, .txt "
        "can be read"
    )


def test_a_single_file_is_train_and_names_the_source(tmp_path: Path) -> None:
    rows = "".join(f"text {i},{'yz'[i % 2]}\n" for i in range(20))
    write(tmp_path, mood__csv="text,x\n" + rows)
    data = load(tmp_path / "mood.csv")
    assert data.name == "mood"
    assert [len(data.splits[split]) for split in ("train", "dev")] == [18, 2]


# The project's own data


def test_our_own_data_sets_go_by_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(write(tmp_path, newsroom___train__csv="text,x\na,y\n"))
    for name in ("newsroom", "notebook", "notebook-alpha"):
        data = load(name)
        assert data.name == name
        assert data.splits["train"][0].where.startswith(str(OURS / name))
    assert "has no data that is recognised" in error_of(lambda: load("."))
    assert list(splits_of("./newsroom")) == ["train"]


def test_the_notebooks_sentences() -> None:
    data, three = load("notebook"), load("notebook-alpha")
    texts = ["I love tres leches", "Something fun", "Transformers are powerful models for NLP!"]
    for split in ("train", "dev", "test"):
        assert [e.text for e in three.splits[split]] == texts
        assert [e.text for e in data.splits[split]][:3] == texts
        assert len(data.splits[split]) == 8
        for example in (*data.splits[split], *three.splits[split]):
            assert set(example.labels) == {"label", "tags"}
            assert example.words == tuple(example.text.split())


def test_the_package_carries_its_data_and_recipes() -> None:
    project = OURS.parents[1]
    settings = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    patterns = settings["tool"]["setuptools"]["package-data"]["train"]
    carried = {file for pattern in patterns for file in (project / "train").glob(pattern)}
    files = [
        file
        for folder in ("datasets", "recipes")
        for file in (project / "train" / folder).rglob("*")
    ]
    assert {file for file in files if file.is_file()} <= carried
    assert OURS / "newsroom" / "train.jsonl" in carried


# The Hub


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The `datasets` library with an empty cache."""
    library = pytest.importorskip("datasets", reason="the datasets library is not installed")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    shown = library.utils.are_progress_bars_disabled()
    library.disable_progress_bars()
    yield library
    if not shown:
        library.enable_progress_bars()


def test_a_folder_of_tables_through_the_datasets_library(hub: Any, tmp_path: Path) -> None:
    table = "text,label,score\n" + "".join(f"text {i},{i % 3},{i / 2}\n" for i in range(30))
    folder = write(tmp_path / "data", train__csv=table, validation__csv=table)
    through, direct = load(f"hub:{folder}"), load(folder)
    for split in ("train", "dev"):
        assert [(e.text, e.labels) for e in through.splits[split]] == [
            (e.text, e.labels) for e in direct.splits[split]
        ]
    assert through.splits["dev"][4].where == f"hub:{folder}, dev, row 4"
    assert through.name == "data"


def test_a_folder_of_json_lines_through_the_datasets_library(hub: Any, tmp_path: Path) -> None:
    records = [
        {"words": ["a", "b"], "tags": ["O", "B-x"], "kind": "k"},
        {"words": ["c"], "tags": ["I-x"], "kind": "l"},
    ]
    files = {f"{split}__jsonl": lines(*records) for split in ("train", "dev", "test")}
    folder = write(tmp_path / "data", **files)
    said: list[str] = []
    data = load(f"hub:{folder}", said)
    assert [(e.words, e.labels) for e in data.splits["test"]] == [
        (("a", "b"), {"tags": ("O", "B-x"), "kind": "k"}),
        (("c",), {"tags": ("B-x",), "kind": "l"}),
    ]
    assert said == [
        f"hub:{folder}: tags: 3 tags I- that continued nothing were read as B-",
        "tags: train x 2; dev x 2; test x 2",
        "kind: train k 1, l 1; dev k 1, l 1; test k 1, l 1",
        "2 of the 2 dev texts also stand in train",
        "2 of the 2 test texts also stand in train",
    ]


def test_classes_of_the_hub_are_read_by_their_names(hub: Any, tmp_path: Path) -> None:
    """The layout of CoNLL-2003 and GLUE there: tokens, and classes as numbers, -1 for none."""
    features = hub.Features(
        {
            "tokens": hub.Sequence(hub.Value("string")),
            "ner_tags": hub.Sequence(hub.ClassLabel(names=["O", "B-PER", "I-PER"])),
            "label": hub.ClassLabel(names=["neg", "pos"]),
            "stars": hub.Value("int64"),
        }
    )
    rows = [
        {"tokens": ["Ada", "Byron", "wrote"], "ner_tags": [1, 2, 0], "label": 1, "stars": 5},
        {"tokens": ["no"], "ner_tags": [0], "label": -1, "stars": 1},
        {"tokens": ["so"], "ner_tags": None, "label": None, "stars": None},
    ]
    for split in ("train", "validation"):
        data = hub.Dataset.from_list(rows, features=features)
        (tmp_path / "data").mkdir(exist_ok=True)
        data.to_parquet(tmp_path / "data" / f"{split}.parquet")
    splits = splits_of(f"hub:{tmp_path / 'data'}")
    assert set(splits) == {"train", "dev"}
    for examples in splits.values():
        assert [(e.words, e.labels) for e in examples] == [
            (
                ("Ada", "Byron", "wrote"),
                {"ner_tags": ("B-PER", "I-PER", "O"), "label": "pos", "stars": "5"},
            ),
            (("no",), {"ner_tags": ("O",), "stars": "1"}),
            (("so",), {}),
        ]


def test_pairs_of_the_hub(hub: Any, tmp_path: Path) -> None:
    rows = [
        {"sentence1": "a", "sentence2": "b", "score": 0.5},
        {"sentence1": "c", "sentence2": "d", "score": 1.0},
    ]
    (tmp_path / "data").mkdir()
    hub.Dataset.from_list(rows).to_parquet(tmp_path / "data" / "train.parquet")
    splits = splits_of(f"hub:{tmp_path / 'data'}")
    assert [(e.text, e.second, e.labels) for e in splits["train"]] == [
        ("a", "b", {"score": 0.5}),
        ("c", "d", {"score": 1.0}),
    ]


def test_without_the_datasets_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    assert error_of(lambda: load("hub:owner/name")) == (
        "hub:owner/name needs the datasets library: pip install datasets"
    )


def test_a_hub_that_cannot_be_reached(hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library tries again a few times; what it sleeps between is under a minute, and does not
    pass here."""
    import huggingface_hub

    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(hub.config, "HF_ENDPOINT", closed)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", closed)
    message = error_of(lambda: load("hub:owner/name/config"))
    assert re.fullmatch(r"hub:owner/name/config cannot be loaded: .*owner/name.*", message)
    assert sum(slept) < 60


@pytest.mark.parametrize(
    ("name", "path", "config"),
    [
        ("owner/name/config", "owner/name", "config"),
        ("owner/name", "owner/name", None),
        ("name", "name", None),
    ],
)
def test_the_parts_of_a_hub_name(
    name: str, path: str, config: str | None, hub: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def refuse(*arguments: Any) -> None:
        asked.append(arguments)
        raise RuntimeError

    monkeypatch.setattr(hub, "load_dataset", refuse)
    assert error_of(lambda: load(f"hub:{name}")) == f"hub:{name} cannot be loaded: RuntimeError"
    assert asked == [(path, config)]


def test_labels_are_counted_as_they_are_in_the_real_sentiment(shared: Path) -> None:
    """Tweets hold U+2028 and other separators that are no line ends; one too many would shift all
    labels."""
    examples = splits_of(shared / "data" / "tweeteval" / "sentiment")["test"]
    numbers = (shared / "data" / "tweeteval" / "sentiment" / "test_labels.txt").read_text().split()
    names = {"0": "negative", "1": "neutral", "2": "positive"}
    assert Counter(labels(examples, "sentiment")) == Counter(names[number] for number in numbers)
    assert len(examples) == 12284
