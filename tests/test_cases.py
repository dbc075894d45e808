"""Data that real people have, and what went wrong with it once: each case is read rightly now, or
refused by name.

Evidence: the cases' own inputs, and what a reader of them would expect; the numbers are counted by
hand.
"""

import json
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from minibert import InputError
from tests.training import World, make_world, write_json_lines
from train.batches import prepare
from train.data.examples import DataSet, Example
from train.data.read import read_source
from train.data.splits import cut_dev
from train.data.words import split_text, word_splitting
from train.evaluation import predict as predict_items
from train.load import load_data, load_split
from train.run import main as run_main
from train.run import train
from train.saved import load_run
from train.settings import Settings
from train.tasks import build_tasks
from train.tasks.base import Task
from train.unlabelled import from_lines

FILMS = [f"film {i} {'good' if i % 2 else 'bad'}" for i in range(40)]
MOODS = ["pos" if i % 2 else "neg" for i in range(40)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def table(file: Path, header: str, *columns: Any) -> Path:
    """A CSV file of some columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    file.write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    return file


def load(*paths: Path | str, **settings: Any) -> tuple[list[DataSet], list[Task], list[str]]:
    """The data sets, their tasks, and what the user was told."""
    said: list[str] = []
    all_settings = Settings(data=tuple(map(str, paths)), **settings)
    sets = load_data(all_settings, said.append)
    return sets, build_tasks(sets, all_settings), said


def refused(*paths: Path | str, **settings: Any) -> str:
    with pytest.raises(InputError) as caught:
        load(*paths, **settings)
    return str(caught.value)


def counts(examples: Any, name: str) -> Counter[Any]:
    return Counter(e.labels[name] for e in examples if name in e.labels)


@pytest.mark.parametrize("name", ["tweet_id", "Unnamed: 0", "title", "url"])
def test_w1_a_column_that_names_the_rows_is_no_task(name: str, tmp_path: Path) -> None:
    values = [f"{name} {i}" for i in range(40)] if name in ("title", "url") else list(range(40))
    file = table(tmp_path / "w1.csv", f"text,label,{name}", FILMS, MOODS, values)
    (data,), tasks, said = load(file)
    assert [task.name for task in tasks] == ["label"]
    assert counts(data.splits["train"], "label") == {"pos": 18, "neg": 18}
    assert counts(data.splits["dev"], "label") == {"pos": 2, "neg": 2}
    reason = "40 different values in 40 rows" if name in ("title", "url") else "names of rows"
    assert f"left out, as no task: {name} ({reason}); --tasks NAME learns one" in said

    # it can still be asked for, and the label alone, of which nothing is left out then
    (data,), tasks, said = load(file, tasks=("label",))
    assert [task.name for task in tasks] == ["label"]
    assert not any("left out" in text for text in said)
    assert "none can be cut from train: it has 40 examples" in refused(file, tasks=(name,))
    only = table(tmp_path / "only.csv", f"text,{name}", FILMS, values)
    assert refused(only) == f"the data has nothing to learn: {name} ({reason})"


@pytest.mark.parametrize("name", ["idx", "index", "guid", "pair_ID", "promptID"])
def test_w2_numbers_of_rows_are_not_learnt(name: str, tmp_path: Path) -> None:
    """They count from 0 in each split, so that dev's values all occur in train."""
    for split, n in (("train", 40), ("dev", 8)):
        numbers = range(n)
        table(tmp_path / f"{split}.csv", f"text,label,{name}", FILMS[:n], MOODS[:n], numbers)
    (data,), tasks, said = load(tmp_path)
    assert [task.name for task in tasks] == ["label"]
    assert all(set(e.labels) == {"label"} for split in data.splits.values() for e in split)
    assert f"left out, as no task: {name} (names of rows); --tasks NAME learns one" in said


def test_w3_a_column_that_is_not_trained_does_not_change_the_cut(tmp_path: Path) -> None:
    texts = [f"review {i}" for i in range(200)]
    moods = ["pos" if i % 2 else "neg" for i in range(200)]
    authors = ["staff" if i % 10 == 1 else f"user{i}" for i in range(200)]
    file = table(tmp_path / "w3.csv", "text,label,author", texts, moods, authors)
    for settings in ({"tasks": ("label",)}, {}):
        (data,), _, _ = load(file, **settings)
        assert counts(data.splits["dev"], "label") == {"pos": 10, "neg": 10}
        assert sum(int(e.text.split()[1]) % 10 != 1 for e in data.splits["dev"]) > 0


def test_w4_whole_numbers_with_a_point_are_scores_and_classes_if_the_user_says_so(
    tmp_path: Path,
) -> None:
    file = table(tmp_path / "w4.csv", "text,label", FILMS, [float(i % 2) for i in range(40)])
    (data,), tasks, said = load(file)
    assert tasks[0].is_number
    note = "label (scores, though all are whole; --classes label would make them classes): train"
    assert any(text.startswith(note) for text in said)
    (data,), tasks, _ = load(file, classes=("label",))
    assert tasks[0].labels == ("0", "1")

    # one field is one thing in all splits
    table(tmp_path / "b" / "train.csv", "text,label", FILMS, [i % 2 for i in range(40)])
    table(tmp_path / "b" / "dev.csv", "text,label", FILMS[:8], [float(i % 2) for i in range(8)])
    (data,), tasks, _ = load(tmp_path / "b")
    assert tasks[0].is_number
    (data,), tasks, _ = load(tmp_path / "b", classes=("label",))
    assert counts(data.splits["train"], "label") == {"0": 20, "1": 20}
    assert counts(data.splits["dev"], "label") == {"0": 4, "1": 4}

    stars = table(tmp_path / "stars.csv", "text,stars", FILMS, [i % 5 for i in range(40)])
    (data,), tasks, said = load(stars)
    assert tasks[0].labels == ("0", "1", "2", "3", "4")
    assert any(
        text.startswith("stars (numbers, read as classes; --score stars would") for text in said
    )
    (data,), tasks, _ = load(stars, score=("stars",))
    assert tasks[0].is_number
    assert refused(stars, score=("star",)) == (
        "score = star: the data has no such field; it has stars"
    )
    assert refused(stars, score=("stars",), classes=("stars",)) == (
        "'stars' is in classes and in score: which is it?"
    )


def test_w5_two_data_sets_have_a_head_each(tmp_path: Path) -> None:
    for name, texts, values in (
        ("a", FILMS, [i % 2 for i in range(40)]),
        ("b", ["stocks", "soccer", "vote", "goal"], [2, 1, 0, 1]),
    ):
        for split in ("train", "dev"):
            table(tmp_path / name / f"{split}.csv", "text,label", texts, values)
    a, b = tmp_path / "a", tmp_path / "b"
    _, tasks, _ = load(a, b)
    assert {task.name: task.labels for task in tasks} == {
        "a.label": ("0", "1"),
        "b.label": ("0", "1", "2"),
    }
    _, tasks, _ = load(f"films={a}", f"news={b}")
    assert [task.name for task in tasks] == ["films.label", "news.label"]
    sets, tasks, _ = load(a, b, share=("label",))
    assert {task.name: task.labels for task in tasks} == {"label": ("0", "1", "2")}
    assert [len(data.splits["train"]) for data in sets] == [40, 4]
    sets, tasks, _ = load(a, b, tasks=("b.label",))
    assert [(data.name, len(data.splits["train"])) for data in sets] == [("b", 4)]
    _, tasks, _ = load(a, b, score=("label",), classes=("a.label",), pooling="mean, b.label=cls")
    assert [task.is_number for task in tasks] == [False, True]

    # other data is read by the same names
    _, tasks, _ = load(a, b)
    own = Settings(data=(str(a), str(b)))
    assert len(load_split(str(a), "dev", own, tasks)) == 40
    assert len(load_split(f"b={a}", "dev", own, tasks)) == 40
    with pytest.raises(InputError, match=r"is its label that of a\.label or b\.label\? Say which"):
        load_split(str(a / "dev.csv"), "dev", own, tasks)

    assert (
        refused(a, b, share=("mood",)) == "share = mood: the data has no such label; it has label"
    )
    assert refused(a, b, tasks=("label",)) == "tasks = label: the data's tasks are a.label, b.label"
    again = table(tmp_path / "other" / "a" / "train.csv", "text,label", FILMS, MOODS).parent
    assert refused(a, again) == (
        "two data sets are called a, and both have the label label: give them names, --data "
        "NAME=PATH, or make it one task, --share LABEL"
    )
    assert "should read NAME=PATH" in refused(f"a.b={a}")


def conll(file: Path, sentence: str, times: int = 8) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text((sentence + "\n") * times, encoding="utf-8")
    return file


@pytest.mark.parametrize(
    "sentence",
    [
        "1\tAnna\tB-PER\n2\tsaw\tO\n3\tOslo\tB-LOC\n",
        "0 Anna B-PER\n1 saw O\n2 Oslo B-LOC\n",
        "B-PER Anna NNP\nO saw VBD\nB-LOC Oslo NNP\n",
        "Anna B-PER NNP\nsaw O VBD\nOslo B-LOC NNP\n",
    ],
)
def test_w7_columns_are_recognised_in_any_order(sentence: str, tmp_path: Path) -> None:
    for split in ("train", "dev"):
        conll(tmp_path / f"{split}.conll", sentence)
    (data,), _, said = load(tmp_path)
    assert data.splits["train"][0].words == ("Anna", "saw", "Oslo")
    assert data.splits["train"][0].labels == {"tags": ("B-PER", "O", "B-LOC")}
    assert any("column" in text for text in said)


def test_w7_the_user_can_name_the_columns(tmp_path: Path) -> None:
    file = conll(tmp_path / "x.conll", "x Anna NNP B-PER\ny saw VBD O\nz Oslo NNP B-LOC\n")
    conll(file, file.read_text() + "\nz Bo NNP B-PER\n", 4)
    (data,), _, _ = load(file, columns="words=2, pos=3, ner=4", tasks=("ner",))
    assert data.splits["train"][0].labels == {
        "pos": ("NNP", "VBD", "NNP"),
        "ner": ("B-PER", "O", "B-LOC"),
    }
    assert refused(file, columns="words=2, tags=5") == (
        f"columns: tags=5: {file} has no such column; its columns are numbered from 1 to 4"
    )


def test_w8_only_tabs_separate_where_there_are_tabs(tmp_path: Path) -> None:
    for split in ("train", "dev"):
        conll(tmp_path / f"{split}.conll", "Anna\tB-PER\nleft\tO\nNew York City\tB-LOC\n")
    (data,), _, _ = load(tmp_path)
    assert data.splits["train"][0].words == ("Anna", "left", "New York City")
    assert data.splits["train"][0].labels == {"tags": ("B-PER", "O", "B-LOC")}


def test_w11_one_class_teaches_nothing(tmp_path: Path) -> None:
    file = table(tmp_path / "w11.csv", "text,label", FILMS, ["pos"] * 40)
    assert refused(file) == "the data has nothing to learn: label (only 'pos')"
    assert refused(file, tasks=("label",)) == "label: there is nothing to learn: only 'pos'"
    outside = conll(tmp_path / "w11.conll", "Anna O\nleft O\n")
    assert refused(outside) == "the data has nothing to learn: tags (only 'O')"
    both = table(tmp_path / "both.csv", "text,label,lang", FILMS, MOODS, ["en"] * 40)
    _, tasks, said = load(both)
    assert [task.name for task in tasks] == ["label"]
    assert "left out, as no task: lang (only 'en')" in said


def json_lines(file: Path, *records: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def test_w14_messages_say_what_to_do(tmp_path: Path) -> None:
    record = {"words": ["Anna", "left"], "ner_tags": [1, 0]}
    for split in ("train", "dev"):
        json_lines(tmp_path / f"{split}.jsonl", record, record | {"words": ["Bo", "left"]})
    assert refused(tmp_path) == (
        f"{tmp_path}/train.jsonl, line 1: ner_tags holds the numbers of tags, and what they mean "
        "is not said: write names (O, B-type, I-type), or put the names into labels.txt beside the "
        "data, one a line, the first for 0"
    )
    (tmp_path / "labels.txt").write_text("O\nB-PER\nI-PER\n")
    (data,), _, said = load(tmp_path)
    assert data.splits["train"][0].labels == {"ner_tags": ("B-PER", "O")}
    assert f"{tmp_path.name}: a file beside the data names the numbers of ner_tags" in said

    # tokens beside a text are its words, in files as on the Hub
    tokens = {"text": "Anna left", "tokens": ["Anna", "left"], "ner_tags": ["B-PER", "O"]}
    (data,), _, said = load(
        json_lines(tmp_path / "t.jsonl", *[tokens | {"text": f"Anna left {i}"} for i in range(20)])
    )
    assert data.splits["train"][0].words == ("Anna", "left")
    assert "tokens is read as words" in said

    comments = "# id 5 domain=en\nAnna B-PER\nleft O\n# O\n"
    for split in ("train", "dev"):
        conll(tmp_path / "c" / f"{split}.conll", comments)
    (data,), _, said = load(tmp_path / "c")
    assert data.splits["train"][0].words == ("Anna", "left", "#")
    assert f"{tmp_path}/c/train.conll: 8 comment lines (# ...) are left out" in said


def test_w16_copies_stay_on_one_side_and_are_told(tmp_path: Path) -> None:
    texts = [f"text {i % 20}" for i in range(200)]
    moods = ["pos" if i % 3 else "neg" for i in range(200)]
    (data,), _, said = load(table(tmp_path / "w16.csv", "text,label", texts, moods))
    train, dev = ({e.text for e in data.splits[split]} for split in ("train", "dev"))
    assert not train & dev
    assert len(dev) == 2
    assert len(data.splits["dev"]) == 20
    assert not any("also stand in train" in text for text in said)

    table(tmp_path / "w" / "train.csv", "text,label", texts, moods)
    table(tmp_path / "w" / "dev.csv", "text,label", ["text 3", "text 3", "new"], ["pos"] * 3)
    _, _, said = load(tmp_path / "w")
    assert "2 of the 3 dev texts also stand in train" in said


def test_w16_questions_of_one_text_stay_on_one_side(tmp_path: Path) -> None:
    records = [
        {
            "question": f"who is number {i}?",
            "context": f"Context {i // 5} names Ada.",
            "answers": {
                "text": ["Ada"],
                "answer_start": [f"Context {i // 5} names Ada.".find("Ada")],
            },
        }
        for i in range(100)
    ]
    file = json_lines(tmp_path / "qa.jsonl", *records)

    train, dev = cut_dev(read_source(str(file)).splits["train"], 0, lambda _: ())
    assert len(dev) == 10
    assert not {e.second for e in train} & {e.second for e in dev}


def test_w17_rows_without_a_label_are_counted_and_nan_gets_a_word(tmp_path: Path) -> None:
    labels = MOODS[:24] + [""] * 8 + ["nan"] * 8
    file = table(tmp_path / "w17.csv", "text,label", FILMS, labels)
    (data,), _, said = load(file)
    assert f"{file}: 8 train examples have no label and are left out" in said
    assert counts(data.splits["train"], "label") + counts(data.splits["dev"], "label") == {
        "pos": 12,
        "neg": 12,
        "nan": 8,
    }
    (line,) = [text for text in said if text.startswith("label: train")]
    assert line == "label: train neg 11, pos 11, nan 7; dev nan 1, neg 1, pos 1"
    assert any("7 train examples have the label 'nan', which is learnt like any" in s for s in said)


def test_labels_that_train_lacks_are_told_and_count_as_errors(world: World, tmp_path: Path) -> None:
    """As ATIS has them in its test split."""
    rows = ["play the songs", "fly to rome", "rain in oslo"] * 8
    names = ["music", "travel", "weather"] * 8
    for split, more in (("train", []), ("dev", []), ("test", ["meal", "meal", "quantity"])):
        table(
            tmp_path / "d" / f"{split}.csv",
            "text,intent",
            [*rows, *rows[: len(more)]],
            [*names, *more],
        )
    _, tasks, said = load(tmp_path / "d")
    assert tasks[0].labels == ("music", "travel", "weather")
    message = "intent: 3 labels of test are not in train, and count as errors: meal 2, quantity 1"
    assert message in said
    settings = world.settings(tmp_path / "d", epochs=1)
    metrics = train(settings, tmp_path / "run")
    assert metrics["intent"]["accuracy"] <= 24 / 27
    run = load_run(tmp_path / "run")
    told: list[str] = []
    examples = load_split(str(tmp_path / "d"), "test", run.settings, run.tasks, told.append)
    assert len(examples) == 27
    assert told == [
        "intent: 3 labels of test are not in train, and count as errors: meal 2, quantity 1"
    ]
    # another kind of value is refused as ever
    table(tmp_path / "d" / "test.csv", "text,intent", ["a"], ["0.5"])
    assert "intent" in refused(tmp_path / "d")


def test_w17b_runs_that_start_together_have_a_folder_each(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.toml").write_text(world.settings(epochs=1).toml())

    def run(seed: int) -> int:
        return run_main(["--recipe", "recipe.toml", "--seed", str(seed)])

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run, range(3))) == [0, 0, 0]
    folders = [tmp_path / "runs" / name for name in ("sentences", "sentences-2", "sentences-3")]
    assert {load_run(folder).settings.seed for folder in folders} == {0, 1, 2}
    assert all((folder / "metrics.json").exists() for folder in folders)


@pytest.mark.usefixtures("with_pictures")
def test_w20_a_run_leaves_the_notebooks_plots_alone(world: World, tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    before = matplotlib.get_backend()
    matplotlib.use("svg")
    try:
        train(world.settings(epochs=1), tmp_path / "run")
        assert matplotlib.get_backend() == "svg"
    finally:
        matplotlib.use(before)
    assert "<svg" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


def test_w22_raw_text_is_split_as_the_columns_are() -> None:
    """Newsroom's own words as columns: the split of its raw texts is theirs again."""
    (data,) = load_data(Settings(), lambda _: None)
    columns = DataSet(
        "columns",
        {
            "train": [
                Example(" ".join(e.words or ()), {}, "", e.words) for e in data.splits["train"]
            ]
        },
    )
    splitting = word_splitting([columns])
    assert splitting == "punctuation"
    assert split_text("Anna Berg lives in Oslo.", splitting)[-2:] == ["Oslo", "."]
    test = data.splits["test"]
    assert [tuple(split_text(e.text, splitting)) for e in test] == [e.words for e in test]


@pytest.mark.parametrize(
    ("words", "splitting", "text", "expected"),
    [
        (["Anna", "left", "."], "punctuation", "Oslo's U.S. (x).", "Oslo ' s U . S . ( x ) ."),
        (
            ["well-known", "U.S.A", "."],
            "edges",
            "a well-known (U.S.A).",
            "a well-known ( U.S.A ) .",
        ),
        (["Oslo.", "Berg,", "x"], "whitespace", "in Oslo. now", "in Oslo. now"),
        (["我", "爱", "北", "京", "A"], "characters", "我爱 北京。", "我 爱 北 京 。"),
        # words of several characters, which no rule finds
        (["我们", "爱", "北京", "。"], "punctuation", "我们 爱", "我们 爱"),
        (["हिन्दी", "में", "।"], "punctuation", "हिन्दी। में", "हिन्दी । में"),
        (["नि\u200dम", "."], "punctuation", "नि\u200dम.", "नि\u200dम ."),
        (["x-y", "❤️"], "edges", "❤️❤️x-y!", "❤️ ❤️ x-y !"),
    ],
)
def test_w22_the_finest_splitting_that_leaves_words_whole(
    words: list[str], splitting: str, text: str, expected: str
) -> None:
    example = Example(" ".join(words), {}, "", tuple(words))
    assert word_splitting([DataSet("x", {"train": [example] * 20})]) == splitting
    assert list(split_text(text, splitting)) == expected.split()


def test_w22_a_language_without_spaces_is_predicted_from_raw_text(
    world: World, tmp_path: Path
) -> None:
    for split in ("train", "dev"):
        conll(tmp_path / "zh" / f"{split}.conll", "我 O\n爱 O\n北 B-LOC\n京 I-LOC\n。 O\n")
    train(world.settings(tmp_path / "zh", epochs=1), tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert run.splitting == "characters"
    (given,) = from_lines(["我爱北京。"], run.splitting, run.tasks)
    example = given.example
    assert example.words == ("我", "爱", "北", "京", "。")
    (item,) = prepare([example], run.encoder.tokenizer, run.tasks)
    (found,) = predict_items(run.model, run.tasks, [item])
    assert len(found["tags"].label) == 5
    (data,), _, _ = load(tmp_path / "zh")
    assert data.splits["train"][0].text == "我爱北京。"


def test_choices_beside_data_without_a_label(tmp_path: Path) -> None:
    """The numbers of choices are no classes; and a data set that teaches nothing is named."""
    record = {"text": "it rains", "choices": ["so we stay", "so we swim"]}
    choices, other = tmp_path / "choices.jsonl", tmp_path / "other.jsonl"
    write_json_lines(
        choices, [record | {"text": f"it rains {i}", "label": i % 2} for i in range(20)]
    )
    write_json_lines(other, [{"text": f"text {i}"} for i in range(20)])
    sets, tasks, said = load(choices, other)
    assert [data.name for data in sets] == ["choices"]
    assert [task.kind for task in tasks] == ["choice"]
    assert any(text.startswith("label: train ") for text in said)
    assert f"{other} is left out: it has no label of label" in said
