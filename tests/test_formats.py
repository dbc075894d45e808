"""Formats that other programs write, and tables as benchmarks distribute them: each is read as its
authors mean it.

Evidence: small files in each format with exact expectations, and the real SICK, STS benchmark and
GoEmotions where they are at hand, counted independently of the readers.
"""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from minibert import InputError
from tests.test_readers import error_of, lines, load, splits_of, write
from train.data.columns import from_fields, inputs_of
from train.data.examples import Answers, DataSet, Example
from train.data.fingerprint import fingerprint


def texts_and_labels(folder: Path | str, split: str = "train", **settings: Any) -> list[Any]:
    return [(e.text, e.second, e.labels) for e in splits_of(folder, **settings)[split]]


# Benchmarks as they are distributed


def test_the_real_sick(shared: Path) -> None:
    folder = shared / "data" / "sick"
    splits = splits_of(folder)
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 4500,
        "dev": 500,
        "test": 4927,
    }
    rows = (folder / "SICK_test_annotated.txt").read_bytes().decode().split("\r\n")[1:4928]
    for row, example in zip(rows, splits["test"], strict=True):
        number, first, second, score, judgment = row.split("\t")
        assert (example.text, example.second) == (first, second)
        assert example.labels == {
            "relatedness_score": float(score),
            "entailment_judgment": judgment,
        }
        assert example.id == int(number)


def test_the_real_sts_benchmark(shared: Path) -> None:
    folder = shared / "data" / "stsb"
    splits = splits_of(folder)
    assert {split: len(examples) for split, examples in splits.items()} == {
        "train": 5749,
        "dev": 1500,
    }
    content = (folder / "sts-train.csv").read_bytes().decode().replace("\r\n", "\n")
    rows = [line.split("\t") for line in content.split("\n") if line]
    assert [[e.labels["score"], e.text, e.second] for e in splits["train"]] == [
        [float(row[4]), *row[5:7]] for row in rows
    ]


def test_the_real_goemotions(shared: Path) -> None:
    folder = shared / "data" / "goemotions"
    examples = splits_of(folder)["test"]
    names = (folder / "labels.txt").read_text().split()
    rows = [line.split("\t") for line in (folder / "test.tsv").read_text().split("\n") if line]
    assert len(examples) == len(rows) == 5427
    for row, example in zip(rows, examples, strict=True):
        assert example.labels == {"label": {names[int(i)] for i in row[1].split(",")}}
        assert (example.text, example.id) == (row[0], row[2])
    # the same, by what the user can say of the file
    told = splits_of(
        folder,
        columns="text=1, label=2, id=3",
        header=False,
        quoted=False,
        multilabel=("label",),
    )
    assert [e.labels for e in told["test"]] == [e.labels for e in examples]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            'gj04\t1\t\tThe "sailors rode.\ngj04\t0\t*\tThey "rode\n',
            [('The "sailors rode.', None, {"label": "1"}), ('They "rode', None, {"label": "0"})],
        ),
        (
            '\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe "said\tShe\n',
            [('He "said', "She", {"Quality": "1"})],
        ),
        (
            "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n0\t1\t2\tWho?\tWhat?\t0\n9\t1\n",
            [("Who?", "What?", {"is_duplicate": "0"})],
        ),
        (
            "index\tquestion\tsentence\tlabel\n0\tWho?\tIt.\tentailment\n",
            [("Who?", "It.", {"label": "entailment"})],
        ),
        (
            'index\tsentence1\tsentence2\tlabel\n0\tA "x\tB\tnot_entailment\n',
            [('A "x', "B", {"label": "not_entailment"})],
        ),
        (
            "index\tpromptID\tpairID\tgenre\tsentence1\tsentence2\tlabel1\tgold_label\n"
            "0\t1\t1n\tfiction\tA\tB\tneutral\tneutral\n1\t2\t2n\tfiction\tC\tD\tneutral\t-\n",
            [("A", "B", {"gold_label": "neutral"}), ("C", "D", {})],
        ),
        (
            "index\tgenre\tfilename\tyear\told_index\tsource1\tsource2\tsentence1\tsentence2\tscore\n"
            "0\tmain\tf\t2012\t1\tnone\tnone\tA\tB\t5.000\n",
            [("A", "B", {"score": 5.0})],
        ),
        ("sentence\tlabel\nfine film\t1\n", [("fine film", None, {"label": "1"})]),
    ],
    ids=["CoLA", "MRPC", "QQP", "QNLI", "RTE", "MNLI", "STS-B", "SST-2"],
)
def test_glue_as_it_is_distributed(content: str, expected: list[Any], tmp_path: Path) -> None:
    assert texts_and_labels(write(tmp_path, train__tsv=content)) == expected


def test_glues_unlabelled_test_splits_are_left_out(tmp_path: Path) -> None:
    header = "index\tsentence1\tsentence2"
    train = [f"{i}\tA {i}\tB\t{'yes' if i % 2 else 'no'}" for i in range(20)]
    folder = write(
        tmp_path,
        train__tsv="\n".join([f"{header}\tlabel", *train]),
        test__tsv=f'{header}\n0\tA "lone\tB\n',
    )
    said: list[str] = []
    assert set(load(folder, said).splits) == {"train", "dev"}
    assert f"{folder}: 1 test example has no label and is left out" in said
    assert "read as RTE, WNLI or STS-B is distributed" in said


def test_swag(tmp_path: Path) -> None:
    header = "video-id,startphrase,sent1,sent2,gold-source,ending0,ending1,label"
    write(tmp_path, train__csv=f",{header}\n0,v,p,He left.,She,gold,runs.,eats.,1\n")
    (example,) = splits_of(tmp_path)["train"]
    assert (example.text, example.choices) == ("He left.", ("She runs.", "She eats."))
    assert example.labels == {"label": "1"}
    record = {"text": "Who?", "choices": ["a", "b"], "label": 2}
    with pytest.raises(InputError, match="label = 2 must be the right choice's number, 0 to 1"):
        from_fields(record, "here")


# Other programs


def test_doccano(tmp_path: Path) -> None:
    spans = {"id": 1, "text": "Ada met Bo", "label": [[0, 3, "PER"]], "Comments": []}
    entity = {"id": 5, "label": "PER", "start_offset": 8, "end_offset": 10}
    dicts = {"id": 2, "text": "Ada met Bo", "entities": [entity], "relations": [], "meta": {}}
    write(tmp_path, train__jsonl=lines(spans), test__jsonl=lines(dicts))
    splits = splits_of(tmp_path)
    assert splits["train"][0].labels["label"] == ("B-PER", "O", "O")
    assert splits["test"][0].labels["entities"] == ("O", "O", "B-PER")
    assert [splits[split][0].id for split in ("train", "test")] == [1, 2]
    classes = [{"text": f"film {i}", "label": ["pos" if i % 2 else "neg"]} for i in range(20)]
    file = write(tmp_path, classes__jsonl=lines(*classes)) / "classes.jsonl"
    assert [e.labels["label"] for e in splits_of(file)["train"][:2]] == ["neg", "pos"]
    several = splits_of(file, multilabel=("label",))["train"]
    assert [e.labels["label"] for e in several[:2]] == [{"neg"}, {"pos"}]


def test_label_studio(tmp_path: Path) -> None:
    def span(start: int, end: int) -> dict[str, Any]:
        value = {"start": start, "end": end, "text": "x", "labels": ["PER"]}
        return {"value": value, "from_name": "ner", "to_name": "text", "type": "labels"}

    mood = {"value": {"choices": ["glad"]}, "from_name": "mood", "type": "choices"}
    cancelled = {"was_cancelled": True, "result": []}
    tasks = [
        {
            "id": 7,
            "data": {"text": "Ada met Bo"},
            "annotations": [cancelled, {"result": [span(0, 3), span(8, 10), mood]}],
        },
        {"id": 8, "data": {"text": "nothing yet"}, "annotations": []},
    ]
    write(tmp_path, train__json=json.dumps(tasks))
    first, second = splits_of(tmp_path)["train"]
    assert first.labels == {"ner": ("B-PER", "O", "B-PER"), "mood": "glad"}
    assert (first.id, first.where) == (7, f"{tmp_path}/train.json, object 1")
    assert second.labels == {}
    tasks[0]["annotations"] = [{"result": [{"value": {"points": []}, "type": "polygon"}]}]
    write(tmp_path, train__json=json.dumps(tasks))
    assert "object 1: the result label of type 'polygon' is neither spans nor" in error_of(
        lambda: splits_of(tmp_path)
    )


def test_universal_dependencies(tmp_path: Path) -> None:
    content = (
        "# sent_id = 1\n# text = I don't go.\n1\tI\tI\tPRON\tPRP\t_\t4\tnsubj\t_\t_\n"
        "2-3\tdon't\t_\t_\t_\t_\t_\t_\t_\t_\n2\tdo\tdo\tAUX\tVBP\t_\t4\taux\t_\t_\n"
        "3\tn't\tnot\tPART\tRB\t_\t4\tadvmod\t_\t_\n4\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\t_\n"
        "4.1\tx\t_\t_\t_\t_\t_\t_\t_\t_\n5\t.\t.\tPUNCT\t.\t_\t4\tpunct\t_\t_\n\n"
        "# text = du pain\n1-2\tdu\t_\t_\t_\t_\t_\t_\t_\t_\n1\tde\tde\tADP\t_\t_\t3\tcase\t_\t_\n"
        "2\tle\tle\tDET\t_\t_\t3\tdet\t_\t_\n3\tpain\tpain\tNOUN\t_\t_\t0\troot\t_\t_\n"
    )
    (tmp_path / "en_x-ud-train.conllu").write_text(content)
    first, second = splits_of(tmp_path)["train"]
    assert first.words == ("I", "do", "n't", "go", ".")
    assert first.text == "I don't go."
    assert first.labels == {
        "upos": ("PRON", "AUX", "PART", "VERB", "PUNCT"),
        "xpos": ("PRP", "VBP", "RB", "VB", "."),
    }
    # "de le" does not stand in "du", so that the words are the text; nobody gave xpos
    assert (second.text, second.labels) == ("de le pain", {"upos": ("ADP", "DET", "NOUN")})
    (tmp_path / "en_x-ud-train.conllu").write_text("1 I I PRON\n")
    assert "line 1: 1 columns; CoNLL-U has 10" in error_of(lambda: splits_of(tmp_path))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("__label__a x y\n__label__b z\n", [("x y", {"label": "a"}), ("z", {"label": "b"})]),
        (
            "__label__a __label__b x\n__label__b z\n",
            [("x", {"label": {"a", "b"}}), ("z", {"label": {"b"}})],
        ),
        ("pos\tx\npos\ty\n", [("x", {"label": "pos"}), ("y", {"label": "pos"})]),
        ("x\tpos\ny\tpos\n", [("x", {"label": "pos"}), ("y", {"label": "pos"})]),
        ("text\tmood\nx y\tglad\n", [("x y", {"mood": "glad"})]),
        ("Anna B-PER\nleft O\n", [("Anna left", {"tags": ("B-PER", "O")})]),
    ],
)
def test_text_files_with_labels(content: str, expected: list[Any], tmp_path: Path) -> None:
    write(tmp_path, train__txt=content)
    assert [(e.text, e.labels) for e in splits_of(tmp_path)["train"]] == expected


def test_a_text_file_without_labels_is_refused(tmp_path: Path) -> None:
    write(tmp_path, train__txt="Just a text.\nAnd another.\n")
    message = f"{tmp_path}/train.txt: no labels are recognised. A .txt file is lines of a label"
    assert error_of(lambda: splits_of(tmp_path)).startswith(message)


def test_questions(tmp_path: Path) -> None:
    record = {
        "id": "q1",
        "title": "Ada",
        "question": "Who wrote?",
        "context": "Ada wrote.",
        "answers": {"text": ["Ada"], "answer_start": [0]},
    }
    none = record | {"answers": {"text": [], "answer_start": []}}
    (first, second) = splits_of(write(tmp_path, train__jsonl=lines(record, none)))["train"]
    assert first == Example(
        "Who wrote?",
        {"answer": Answers(("Ada",), (0,))},
        f"{tmp_path}/train.jsonl, line 1",
        second="Ada wrote.",
        id="q1",
    )
    assert second.labels == {"answer": Answers((), ())}
    wrong = record | {"answers": {"text": ["Ada"], "answer_start": [1]}}
    with pytest.raises(InputError, match="'Ada' does not stand at character 1 of the context"):
        from_fields(wrong, "here")
    assert inputs_of(record).keys() == {"id", "question", "context"}


# What the user says of a table


def test_columns_delimiter_and_encoding(tmp_path: Path) -> None:
    rows = "Meinung;Antwort;Urteil;Nr\nsch\xf6n;ja;gut;1\n"
    file = tmp_path / "data.csv"
    file.write_bytes(rows.encode("cp1252"))
    said = {"columns": "text=Meinung, text_b=Antwort, label=Urteil, id=Nr", "delimiter": ";"}
    (example,) = splits_of(file, encoding="cp1252", **said)["train"]
    assert (example.text, example.second, example.labels, example.id) == (
        "sch\xf6n",
        "ja",
        {"label": "gut"},
        1,
    )
    assert error_of(lambda: splits_of(file, **said)) == (
        f"{file}, line 2: not UTF-8 text (invalid start byte); if it is of another encoding, say "
        "which, as in --encoding cp1252 (of Windows), latin-1 or utf-16"
    )
    assert "encoding = 'klingon': there is no such encoding" in error_of(
        lambda: splits_of(file, encoding="klingon", **said)
    )
    file.write_bytes(rows.encode("utf-16"))
    assert "--encoding utf-16" in error_of(lambda: splits_of(file, **said))
    assert splits_of(file, encoding="utf-16", **said)["train"] == [example]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"columns": "text=tweet"}, "no column 'tweet', which --columns names; it has text, label"),
        ({"header": False}, "without a header, say which column is what, counting from 1"),
        ({"header": False, "columns": "text=one"}, "without a header, columns are numbered from 1"),
        ({"header": False, "columns": "text=1, label=4"}, "2 values, but --columns names column 4"),
        ({"delimiter": ";;"}, "delimiter = ';;': must be one character, or tab"),
        ({"multilabel": ("x=label",)}, "should read NAME or NAME=COLUMN,COLUMN"),
        ({"multilabel": ("x=label,b",)}, "multilabel = x: data has no column 'b'; it has label"),
    ],
)
def test_what_cannot_be_said_of_a_table(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    rows = "".join(f"film {i},{'pos' if i % 2 else 'neg'}\n" for i in range(20))
    file = write(tmp_path, data__csv=f"text,label\n{rows}") / "data.csv"
    assert message in error_of(lambda: load(file, **settings))


def test_a_column_of_a_table_is_no_list_of_words(tmp_path: Path) -> None:
    file = write(tmp_path, data__csv="text,tokens\na b,2\nc,1\n") / "data.csv"
    assert texts_and_labels(file) == [("a b", None, {"tokens": "2"}), ("c", None, {"tokens": "1"})]


# Several labels


def test_several_labels_from_cells_lists_and_columns(tmp_path: Path) -> None:
    cells = "text,t\nw,a; b\nx,b\ny,\n"
    file = write(tmp_path / "1", data__csv=cells) / "data.csv"
    assert texts_and_labels(file, multilabel=("t",)) == [
        ("w", None, {"t": {"a", "b"}}),
        ("x", None, {"t": {"b"}}),
        ("y", None, {}),  # unknown; an empty list would be none of them
    ]
    records = [{"text": "w", "t": ["a", "b"]}, {"text": "x", "t": []}, {"text": "y", "t": None}]
    file = write(tmp_path / "2", data__jsonl=lines(*records)) / "data.jsonl"
    assert [labels for _, _, labels in texts_and_labels(file)] == [
        {"t": {"a", "b"}},
        {"t": frozenset()},
        {},
    ]
    ones = [{"text": "w", "t": [1, 0, 1]}, {"text": "x", "t": [0, 0, 0]}]
    folder = write(tmp_path / "3", train__jsonl=lines(*ones))
    assert [labels for _, _, labels in texts_and_labels(folder)] == [
        {"t": {"0", "2"}},
        {"t": set()},
    ]
    write(folder, labels__txt="red\ngreen\nblue\n")
    assert texts_and_labels(folder)[0][2] == {"t": {"red", "blue"}}
    columns = "text,red,green,mood\nw,1,0,glad\nx,1,1,sad\ny,,1,sad\n"
    file = write(tmp_path / "4", data__csv=columns) / "data.csv"
    assert [labels for _, _, labels in texts_and_labels(file, multilabel=("t=red,green",))] == [
        {"t": {"red"}, "mood": "glad"},
        {"t": {"red", "green"}, "mood": "sad"},
        {"mood": "sad"},
    ]
    write(tmp_path / "4", data__csv="text,red,green\nw,2,0\n")
    assert error_of(lambda: splits_of(file, multilabel=("t=red,green",))) == (
        f"{file}, line 2: red = 2 must be 0 or 1, as t is made of it"
    )


# Fingerprints


def test_a_fingerprint_is_of_what_is_learnt() -> None:
    def of(*examples: Example) -> dict[str, Any]:
        return fingerprint([DataSet("d", {"train": list(examples), "dev": []})])

    first = Example("a", {"x": "b", "t": frozenset("pqr"), "s": 0.5}, "file, line 1")
    known = of(first)
    assert known == json.loads(json.dumps(known))
    assert known["labels"] == {"s": [], "t": ["p", "q", "r"], "x": ["b"]}
    assert known["sets"][0]["splits"]["train"]["examples"] == 1
    assert of(Example("a", dict(reversed(first.labels.items())), "elsewhere")) == known
    others = [
        of(first, first),
        of(Example("A", first.labels, "")),
        of(Example("a", {**first.labels, "s": 0.25}, "")),
        of(Example("a", {**first.labels, "t": frozenset("pq")}, "")),
        of(Example("a", first.labels, "", second="b")),
    ]
    assert Counter(str(other) for other in [known, *others]).most_common(1)[0][1] == 1
