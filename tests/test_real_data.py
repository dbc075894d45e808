"""Files as people's tools really write them: each is read as what it means, or refused with a
message that says what to do.

Evidence: small files in the form of each tool, with exact expectations.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from minibert import InputError
from minibert.formats.tensors import read_tensors
from tests.training import write_json_lines, write_model
from train.data.examples import DataSet
from train.load import load_data
from train.run import train
from train.settings import Settings


def load(file: Path, said: list[str] | None = None, **settings: Any) -> DataSet:
    announce = said.append if said is not None else lambda _: None
    (data,) = load_data(Settings(data=(str(file),), **settings), announce)
    return data


def labels(data: DataSet, name: str) -> dict[str, Any]:
    """Each text's label, of all splits."""
    return {e.text: e.labels[name] for split in data.splits.values() for e in split}


def write(file: Path, content: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content, encoding="utf-8")
    return file


def test_booleans_are_classes_and_several_of_them_labels(tmp_path: Path) -> None:
    records = [{"text": f"t {i}", "toxic": i % 2 == 0, "threat": i % 3 == 0} for i in range(24)]
    file = write_json_lines(tmp_path / "a.jsonl", records)
    assert set(labels(load(file, tasks=("toxic",)), "toxic").values()) == {"true", "false"}
    values = labels(load(file, multilabel=("x=toxic,threat",)), "x")
    assert [values[f"t {i}"] for i in range(4)] == [
        {"toxic", "threat"},
        set(),
        {"toxic"},
        {"threat"},
    ]
    table = "".join(
        f"t {i},{i % 2 == 0},{i % 3 == 0}\n" for i in range(24)
    )  # as pandas writes them
    file = write(tmp_path / "a.csv", "text,toxic,threat\n" + table)
    assert labels(load(file, multilabel=("x=toxic,threat",)), "x") == values


@pytest.mark.parametrize("kind", [bool, float])
def test_lists_of_ones_may_be_true_and_false_or_have_a_point(kind: Any, tmp_path: Path) -> None:
    records = [{"text": f"t {i}", "x": [kind(i % 2 == 0), kind(i % 3 == 0)]} for i in range(24)]
    values = labels(load(write_json_lines(tmp_path / "a.jsonl", records)), "x")
    assert [values[f"t {i}"] for i in range(4)] == [{"0", "1"}, set(), {"0"}, {"1"}]


def test_a_label_of_several_without_an_example_is_told(tmp_path: Path) -> None:
    rows = "".join(f"t {i},{i % 2},0,{int(i % 4 == 0)}\n" for i in range(24))
    said: list[str] = []
    file = write(tmp_path / "a.csv", "text,toxic,severe,threat\n" + rows)
    load(file, said, multilabel=("x=toxic,severe,threat",))
    told = "no training example of a has {}, which therefore cannot be learnt"
    assert said[0] == "x: " + told.format("severe")
    lists = [{"text": f"t {i}", "y": [i % 2, int(i % 3 == 0), 0]} for i in range(24)]
    said.clear()
    load(write_json_lines(tmp_path / "a.jsonl", lists), said)
    assert said[0] == "y: " + told.format("2")


# JSON


def test_json_lines_in_a_json_file(tmp_path: Path) -> None:
    records = [{"text": f"t {i}", "label": "ab"[i % 2]} for i in range(20)]
    expected = {f"t {i}": "ab"[i % 2] for i in range(20)}
    assert labels(load(write_json_lines(tmp_path / "a.json", records)), "label") == expected
    for content in (records, {"version": 1, "data": records}):
        assert labels(load(write(tmp_path / "b.json", json.dumps(content))), "label") == expected
    file = write(tmp_path / "c.json", json.dumps({"text": {"0": "a"}, "label": {"0": "b"}}))
    with pytest.raises(InputError, match="must hold a list of objects"):
        load(file)


@pytest.mark.parametrize("form", ["lines", "dictionaries", "paragraphs", "data"])
def test_questions_as_tools_write_them(form: str, tmp_path: Path) -> None:
    answer = {"text": ["Oslo"], "answer_start": [0]}
    flat = [
        {"id": str(i), "context": f"Oslo is {i}", "question": f"q {i}", "answers": answer}
        for i in range(20)
    ]
    listed = [{**one, "answers": [{"text": "Oslo", "answer_start": 0}]} for one in flat]
    content: dict[str, Any] = {
        "lines": flat,
        "dictionaries": listed,
        "data": {"data": flat},
        "paragraphs": [
            {"context": one["context"], "qas": [{k: v for k, v in one.items() if k != "context"}]}
            for one in listed
        ],
    }
    data = load(write(tmp_path / "a.json", json.dumps(content[form])))
    assert {(e.text, e.second) for split in data.splits.values() for e in split} == {
        (f"q {i}", f"Oslo is {i}") for i in range(20)
    }


# Label Studio


def task(i: int, *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    annotation = {"id": 1, "was_cancelled": False, "result": list(results)}
    return {"id": i, "data": {"text": f"Anna {i}"}, "annotations": [annotation]} | more


def test_label_studios_texts_without_a_span_and_without_an_annotation(tmp_path: Path) -> None:
    value = {"start": 0, "end": 4, "text": "Anna", "labels": ["PER"]}
    span = {"from_name": "ner", "to_name": "text", "type": "labels", "value": value}
    relation = {"type": "relation", "from_id": "x", "to_id": "y"}
    tasks = [task(i, span, relation) for i in range(20)]
    tasks += [task(20), task(21, annotations=[]), task(22, annotations=None)]
    tasks += [task(23, annotations=[None]), task(24, annotations=[{"result": None}])]
    tasks += [{"data": {"text": "Anna 25", "ner": "x"}, "predictions": [{"result": [span]}]}]
    tasks += [task(26, span, data={"text": "Anna 26", "ner": "x"})]
    file = write(tmp_path / "a.json", json.dumps(tasks[:25] + tasks[26:]))
    said: list[str] = []
    found = labels(load(file, said), "ner")
    assert found["Anna 3"] == found["Anna 26"] == ("B-PER", "O")
    assert found["Anna 20"] == found["Anna 24"] == ("O", "O")  # annotated, without a name
    assert "Anna 21" not in found
    assert f"{file}: 3 train examples have no label and are left out" in said


def test_what_label_studio_says_of_the_work_is_no_label(tmp_path: Path) -> None:
    records = [
        {
            "text": f"t {i}",
            "sentiment": "ab"[i % 2],
            "annotator": i % 3,
            "annotation_id": i,
            "created_at": f"2024-{i % 9}",
            "lead_time": 1.5 + i,
        }
        for i in range(20)
    ]
    data = load(write(tmp_path / "a.json", json.dumps(records)))
    assert {name for e in data.splits["train"] for name in e.labels} == {"sentiment"}


# Benchmarks


def test_files_beside_those_that_are_read(tmp_path: Path) -> None:
    """MRPC as the GLUE script leaves it, SQuAD under its own names, GoEmotions with its names."""
    header = "Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n"
    rows = header + "".join(f'{i % 2}\t1\t2\t"a {i}\tb\n' for i in range(20))
    for name in ("msr_paraphrase_train.txt", "train.tsv", "dev.tsv"):
        write(tmp_path / "MRPC" / name, rows)
    assert len(load(tmp_path / "MRPC").splits["train"]) == 20
    question = {"id": "q", "question": "q", "answers": [{"text": "Oslo", "answer_start": 0}]}
    paragraph = {"context": "Oslo is there", "qas": [question]}
    for name in ("train-v1.1.json", "dev-v1.1.json"):
        write(tmp_path / "squad" / name, json.dumps({"data": [{"paragraphs": [paragraph]}]}))
    assert len(load(tmp_path / "squad").splits["dev"]) == 1
    for name in ("train", "dev"):
        rows = "".join(f'My "fav {i}\t{("0", "1", "0,2")[i % 3]}\te{i}\n' for i in range(9))
        write(tmp_path / "goemotions" / f"{name}.tsv", rows)
    write(tmp_path / "goemotions/emotions.txt", "joy\nfear\nlove\n")
    assert labels(load(tmp_path / "goemotions"), "label")['My "fav 2'] == {"joy", "love"}


# Tables


@pytest.mark.parametrize("form", ["python", "json", "numpy"])
def test_lists_in_a_tables_cells(form: str, tmp_path: Path) -> None:
    lists = [["joy"], ["anger", "joy"], ["fear"], []]
    written = {
        "python": [str(names) for names in lists],
        "json": [json.dumps(names).replace('"', '""') for names in lists],
        "numpy": [str(names).replace(",", "") for names in lists],
    }[form]
    rows = "".join(f'{i},"{written[i % 4]}"\n' for i in range(24))
    found = labels(load(write(tmp_path / "a.csv", "text,labels\n" + rows)), "labels")
    assert [found[str(i)] for i in range(4)] == [set(names) for names in lists]
    rows = "".join(f"\"['Anna', 'left', '{i}']\",\"['B-PER', 'O', 'O']\"\n" for i in range(20))
    rows = rows.replace(",'", "'") if form == "numpy" else rows
    data = load(write(tmp_path / "b.csv", "tokens,ner_tags\n" + rows))
    assert data.splits["train"][0].words == ("Anna", "left", "0")
    assert data.splits["train"][0].labels["ner_tags"] == ("B-PER", "O", "O")


def test_brackets_that_hold_no_list_are_a_name(tmp_path: Path) -> None:
    names = ("[music]", "[1, 'a]", "[]]", "[" * 5000 + "]")
    rows = "".join(f't {i},"{names[i % 4]}"\n' for i in range(40))
    assert set(labels(load(write(tmp_path / "a.csv", "text,x\n" + rows)), "x").values()) == {*names}


def test_a_text_that_is_a_number_is_a_text_under_any_name(tmp_path: Path) -> None:
    rows = "".join(f"{i},{'ab'[i % 2]}\n" for i in range(20))
    data = load(write(tmp_path / "a.csv", "review,label\n" + rows))
    assert labels(data, "label") == {str(i): "ab"[i % 2] for i in range(20)}
    rows = "".join(f"How many {i}?,{i},{i + 1},{i % 2}\n" for i in range(20))
    data = load(write(tmp_path / "b.csv", "question,choice0,choice1,label\n" + rows))
    assert data.splits["train"][0].choices == ("0", "1")


def test_scores_written_as_texts(tmp_path: Path) -> None:
    rows = "".join(f"t {i};{i % 5},{i % 10}\n" for i in range(20))
    file = write(tmp_path / "a.csv", "text;score\n" + rows)
    found = labels(load(file, delimiter=";", score=("score",)), "score")
    assert [found[f"t {i}"] for i in range(3)] == [0.0, 1.1, 2.2]
    file = write(tmp_path / "b.csv", "text,score\na,1\nb,good\n")
    with pytest.raises(InputError, match=r"b\.csv, line 3: score = 'good' is no finite number"):
        load(file, score=("score",))


def test_names_in_settings_that_no_data_has(tmp_path: Path) -> None:
    rows = "".join(f"t {i},{i % 2}\n" for i in range(20))
    file = write(tmp_path / "a.csv", "text,label\n" + rows)
    with pytest.raises(InputError, match="columns: mood=mod: no row has a value"):
        load(file, columns="text=text, mood=mod")
    with pytest.raises(InputError, match=r"classes = z\.label: the data has no such field"):
        load(file, classes=("z.label",))
    load(file, classes=("a.label",))


def test_one_of_several_data_sets_must_have_a_named_column(tmp_path: Path) -> None:
    """Where the others have a text of their own."""
    for name, column in (("a", "text"), ("b", "body")):
        rows = [{column: f"t {i}", "label": i % 2} for i in range(20)]
        write_json_lines(tmp_path / f"{name}.jsonl", rows)
    both = (str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl"))
    sets = load_data(Settings(data=both, columns="text=body"), lambda _: None)
    assert [len(data.splits["train"]) for data in sets] == [18, 18]
    with pytest.raises(InputError, match="columns: text=body: no row has a value"):
        load(tmp_path / "a.jsonl", columns="text=body")


def test_a_column_of_splits_is_no_task(tmp_path: Path) -> None:
    rows = "".join(f"t {i},{('TRAIN', 'TEST')[i % 2]},{i % 2}\n" for i in range(20))
    said: list[str] = []
    load(write(tmp_path / "a.csv", "text,set,label\n" + rows), said)
    assert said[0].startswith("left out, as no task: set (names of splits)")


# What is not asked for


def test_with_tasks_named_other_fields_may_be_anything(tmp_path: Path) -> None:
    relation = {"id": 1, "from_id": 1, "to_id": 2, "type": "x"}
    entity = {"id": 1, "label": "PER", "start_offset": 0, "end_offset": 4}
    records = [
        {"text": f"Anna {i}", "entities": [entity], "relations": [relation], "meta": {"a": 1}}
        for i in range(20)
    ]
    file = write_json_lines(tmp_path / "a.jsonl", records)
    with pytest.raises(InputError, match=r"relations has .*; --tasks NAME reads the named labels"):
        load(file)
    assert labels(load(file, tasks=("entities",)), "entities")["Anna 1"] == ("B-PER", "O")
    comment = {"from_name": "t", "type": "textarea", "value": {"text": ["free"]}}
    choices = [
        {"from_name": "mood", "type": "choices", "value": {"choices": ["ab"[i % 2]]}}
        for i in range(20)
    ]
    tasks = [task(i, choice, comment) for i, choice in enumerate(choices)]
    file = write(tmp_path / "b.json", json.dumps(tasks))
    with pytest.raises(InputError, match="'textarea' is neither spans nor choices; --tasks"):
        load(file)
    assert labels(load(file, tasks=("mood",)), "mood")["Anna 3"] == "b"


# Words in columns


def test_text_files_of_words_with_tags_of_any_scheme(tmp_path: Path) -> None:
    for between in (" ", "\t"):
        rows = "".join(
            f"the{between}DT\ndog{i}{between}NN\nruns{between}VBZ\n\n" for i in range(20)
        )
        data = load(write(tmp_path / "a.txt", rows))
        assert data.splits["train"][0].words == ("the", "dog0", "runs")
        assert data.splits["train"][0].labels == {"tags": ("DT", "NN", "VBZ")}


def test_blank_lines_between_texts_do_not_make_them_words(tmp_path: Path) -> None:
    rows = "".join(f"{('good', 'bad')[i % 2]}\tword{i}\n\n" for i in range(20))
    found = labels(load(write(tmp_path / "a.txt", rows)), "label")
    assert found["word3"] == "bad"


def test_a_dev_split_without_labels_is_as_none(tmp_path: Path) -> None:
    rows = "".join(f"t {i},{'ab'[i % 2]}\n" for i in range(20))
    write(tmp_path / "train.csv", "text,label\n" + rows)
    write(tmp_path / "dev.csv", "text\na\nb\n")
    said: list[str] = []
    data = load(tmp_path, said)
    assert [len(data.splits[split]) for split in ("train", "dev")] == [18, 2]
    assert said[0] == f"{tmp_path}: 2 dev examples have no label and are left out"


def test_two_columns_of_tags_are_told(tmp_path: Path) -> None:
    rows = "".join(f"1\tAnna{i}\tB-PER\tO\n2\tsaw\tO\tB-X\n\n" for i in range(20))
    said: list[str] = []
    file = write(tmp_path / "a.conll", rows)
    load(file, said)
    assert said[1] == (
        "columns 3 and 4 hold tags; column 4 is read. To read others, name all: "
        '--columns "words=2, tags=3"'
    )
    found = labels(load(file, columns="words=2, tags=3"), "tags")
    assert found["Anna3 saw"] == ("B-PER", "O")
    with pytest.raises(InputError, match=r"text=2: .* has words in columns; say words=2"):
        load(file, columns="text=2, tags=3")


def test_the_right_choices_number_is_no_score(tmp_path: Path) -> None:
    rows = "".join(f"How {i}?,a,b,{i % 2}\n" for i in range(20))
    said: list[str] = []
    load(write(tmp_path / "a.csv", "question,choice0,choice1,label\n" + rows), said)
    assert said[-1] == "label: train 18; dev 2"


# Several data sets


@pytest.mark.parametrize("loss", ["uncertainty", "fixed"])
def test_losses_of_tasks_with_dotted_names(loss: str, tmp_path: Path) -> None:
    model = write_model(tmp_path / "model")
    for name in ("x", "y"):
        rows = "".join(f"play {name} {i},{'ab'[i % 2]}\n" for i in range(16))
        write(tmp_path / name / "train.csv", "text,label\n" + rows)
    settings = Settings(
        data=(str(tmp_path / "x"), str(tmp_path / "y")),
        model=str(model),
        device="cpu",
        epochs=1,
        loss=loss,
        loss_weights="x.label=0.7, y.label=0.3" if loss == "fixed" else "",
    )
    run = tmp_path / "run"
    run.mkdir()
    metrics = train(settings, run)
    assert {"x.label", "y.label"} <= metrics.keys()
    state = read_tensors(max((run / "checkpoints").iterdir()) / "tensors.safetensors")
    learnt = sum("log_variances" in name for name in state)
    assert (learnt > 0) == (loss == "uncertainty")
