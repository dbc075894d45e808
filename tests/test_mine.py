"""mine.py: the negatives are those of sentence-transformers' mine_hard_negatives, and those that
all cosines tell."""

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from sentence_transformers import SentenceTransformer
from sentence_transformers.util import mine_hard_negatives

from minibert import SentenceEncoder
from minibert.files import InputError
from tests.training import VOCABULARY, sentence, write_json_lines, write_model
from train import mine as module
from train.data.read import read_source
from train.mine import Choice, Margin, main, mine, parse_choice


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny encoder, as sentence-transformers opens it too."""
    folder = tmp_path_factory.mktemp("model")
    SentenceEncoder.from_pretrained(write_model(folder / "bert"), pooling="mean").save_pretrained(
        folder / "encoder"
    )
    return folder / "encoder"


def pairs(count: int = 60) -> list[tuple[str, str]]:
    """Some anchors have two positives, and some positives belong to two anchors."""
    dice = random.Random(2)
    made = [(text(dice), text(dice)) for _ in range(count)]
    made += [(made[i][0], text(dice)) for i in range(0, count, 4)]
    made += [(text(dice), made[i][1]) for i in range(0, count, 5)]
    return made


def text(dice: random.Random) -> str:
    return " ".join(sentence(dice)["words"])


@pytest.mark.parametrize(
    ("choice", "theirs"),
    [
        (Choice(3, 1, 100, Margin(0.0)), {"absolute_margin": 0.0}),
        (Choice(3, 1, 100, Margin(0.05)), {"absolute_margin": 0.05}),
        (Choice(4, 1, 100, Margin(0.05, is_share=True)), {"relative_margin": 0.05}),
        (Choice(2, 6, 12, Margin(-9.0)), {"range_min": 5}),  # no margin
    ],
)
def test_negatives_are_as_in_sentence_transformers(
    model: Path, choice: Choice, theirs: Mapping[str, Any]
) -> None:
    """Which ranks as we do where there is either a first rank or a margin. With both, theirs counts
    ranks among the texts that the margin has left; its last rank may be a few further down."""
    made = pairs()
    found = {
        (one.anchor, one.positive): list(one.negatives)
        for one in mine(made, SentenceEncoder.from_pretrained(model), choice)
    }
    assert found.keys() == set(made)
    data = mine_hard_negatives(
        Dataset.from_dict(dict(zip(("anchor", "positive"), zip(*made, strict=True), strict=True))),
        SentenceTransformer(str(model), device="cpu"),
        num_negatives=choice.count,
        range_max=choice.last,
        verbose=False,
        **theirs,
    )
    wanted: dict[tuple[str, str], list[str]] = {pair: [] for pair in found}
    for row in data:
        wanted[row["anchor"], row["positive"]].append(row["negative"])
    assert found == wanted
    assert len({len(negatives) for negatives in found.values()}) > 1 or "range_min" in theirs


def test_negatives_are_those_that_all_cosines_tell(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of anchors, where some anchors are positives of others."""
    monkeypatch.setattr(module, "ANCHORS", 7)
    made = pairs()
    made += [(made[i][1], made[i][0]) for i in range(0, 20, 2)]
    encoder = SentenceEncoder.from_pretrained(model)
    positives: dict[str, set[str]] = {}
    for anchor, positive in made:
        positives.setdefault(anchor, set()).add(positive)
    corpus = list(dict.fromkeys(positive for _, positive in made))
    vectors = dict(
        zip(
            every := list(dict.fromkeys([*positives, *corpus])),
            encoder.encode(every, normalize=True),
            strict=True,
        )
    )
    choice = Choice(3, 4, 25, Margin(0.02))
    for one in mine(made, encoder, choice):
        cosine = {text: float(vectors[one.anchor] @ vectors[text]) for text in corpus}
        others = [t for t in corpus if t not in positives[one.anchor] and t != one.anchor]
        ranked = sorted(others, key=lambda text: -cosine[text])[3:25]
        least = min(cosine[text] for text in positives[one.anchor])
        wanted = [text for text in ranked if cosine[text] <= least - 0.02][:3]
        assert list(one.negatives) == wanted
        assert list(one.negatives.values()) == pytest.approx([cosine[t] for t in wanted], abs=1e-6)
        assert one.cosine == pytest.approx(cosine[one.positive], abs=1e-6)


def test_the_command_writes_lines_and_says_how_many(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From a table with its own names of columns."""
    made = pairs()
    table = tmp_path / "pairs.csv"
    table.write_text("".join(f"{a},{b}\n" for a, b in [("query", "answer"), *made]))
    output = tmp_path / "mined.jsonl"
    arguments = ["--data", str(table), "--model", str(model), "-o", str(output), "--count", "3"]
    arguments += ["--columns", "text_a=query, text_b=answer", "--range", "1..30"]
    assert main(arguments) == 0
    records = [json.loads(line) for line in output.read_text().splitlines()]
    wanted = [
        {"anchor": one.anchor, "positive": one.positive, "negatives": list(one.negatives)}
        for one in mine(
            made, SentenceEncoder.from_pretrained(model), Choice(3, 1, 30, Margin(0.05, True))
        )
    ]
    assert records == wanted
    read = read_source(str(output)).splits["train"]
    assert [(e.text, e.second) for e in read] == [(r["anchor"], r["positive"]) for r in wanted]
    assert [list(e.labels["positive"].texts) for e in read] == [r["negatives"] for r in wanted]
    out = capsys.readouterr().out
    for count in range(4):
        having = sum(len(record["negatives"]) == count for record in records)
        assert (f"{having} pairs have {count}\n" in out) is (having > 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--range", "0..9"), "--range 0..9: should read as 10..100, the first at least 1"),
        (("--range", "9"), "--range 9: should read as 10..100"),
        (("--range", "5..7", "--count", "4"), "--count 4: must be from 1 to 3"),
        (("--margin", "-1"), "--margin -1: should read as 0.05 or 5%"),
        (("--margin", "five"), "--margin five: should read as 0.05 or 5%"),
        (("-o", "mined.txt"), "--output mined.txt: the name must end in .jsonl"),
        (("--columns", "text=anchor"), "line 1: not a pair. Say which columns are"),
        (("--columns", "text_a=anchor"), "line 1: needs text"),
        (("--columns", "anchor=query"), "columns: anchor=query: no row has a value"),
    ],
)
def test_what_cannot_be_used_is_named(
    options: tuple[str, ...],
    message: str,
    model: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = write_json_lines(tmp_path / "pairs.jsonl", [{"anchor": "a", "positive": "b"}])
    arguments = ["--data", str(data), "--model", str(model), "-o", str(tmp_path / "mined.jsonl")]
    assert main([*arguments, *options]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [data]


def test_a_file_that_is_there_is_not_replaced(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may be a split of the data, which has no path of its own where it is a folder, or is
    given a name."""
    file = write_json_lines(tmp_path / "train.jsonl", [{"anchor": "a", "positive": "b"}])
    before = file.read_text()
    for data in (str(file), str(tmp_path), f"pairs={tmp_path}", "newsroom"):
        assert main(["--data", data, "--model", str(model), "-o", str(file)]) == 2
        assert f"{file} exists already: delete it, or name another" in capsys.readouterr().err
    assert file.read_text() == before


def test_a_margin_of_a_negative_cosine_asks_for_less_too() -> None:
    """5 % of its size below it, not above."""
    assert Margin.parse("5%").below(-0.5) == pytest.approx(-0.525)
    assert Margin.parse("5%").below(0.5) == pytest.approx(0.475)
    assert Margin.parse("0.1").below(-0.5) == pytest.approx(-0.6)
    assert parse_choice(2, "3..9", ".5%") == Choice(2, 3, 9, Margin(0.005, True))
    with pytest.raises(InputError):
        Margin.parse("%")


def test_what_else_the_pairs_have_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Scores, say, of which the low ones are of no positives."""
    told = "Every pair counts as an anchor and its positive"
    for record, names in (
        ({"text_a": "a", "text_b": "b", "score": 0.5}, "score"),
        ({"anchor": "a", "positive": "b", "negative": "c", "topic": "d"}, "negatives, topic"),
    ):
        file = write_json_lines(tmp_path / "pairs.jsonl", [record])
        assert module.read_pairs(str(file), "") == [("a", "b")]
        assert f"not read: {names}. {told}" in capsys.readouterr().out
    module.read_pairs(
        str(write_json_lines(tmp_path / "a.jsonl", [{"anchor": "a", "positive": "b"}])), ""
    )
    assert not capsys.readouterr().out


def test_vectors_that_are_not_finite_are_refused(model: Path) -> None:
    """They have no order, and would leave negatives out at random."""
    encoder = SentenceEncoder.from_pretrained(model)
    with torch.no_grad():
        next(encoder.bert.parameters())[VOCABULARY.index("oslo")] = torch.nan
    with pytest.raises(InputError, match="vectors are not finite"):
        list(
            mine([("in oslo", "rome"), ("paris", "the rain")], encoder, Choice(1, 1, 9, Margin(0)))
        )
