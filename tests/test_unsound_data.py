"""Data, recipes and command lines from strangers: a result, or an error that says what is wrong and
where. Names and labels never become paths, and never control a terminal.

Evidence: fixed cases of each kind of tools/faults, and each fault that these found, in its smallest
form.
"""

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from minibert.files import CONTROLS, InputError, json_text, one_line
from tests.training import World, make_world, write_json_lines, write_model
from tools.faults import commands, data
from tools.faults.fuzz import SOUND, Fuzzer, Kind
from train.analysis import confusion_matrix
from train.command_line import run_folder
from train.data.read import read_source
from train.data.reading import Reading
from train.data.spans import span_tags
from train.load import load_data
from train.markup import write_page
from train.predict import as_lines, stream
from train.report import table
from train.run import train
from train.saved import folder_name, load_run
from train.settings import Settings
from train.settings_file import read_settings
from train.setup import assemble
from train.unlabelled import from_lines

ROOT = Path(__file__).parents[1]
CASES = 12  # of each kind


def kinds() -> tuple[Kind, ...]:
    return (*data.KINDS, *commands.KINDS)


@pytest.fixture(scope="module")
def fuzzer() -> Iterator[Fuzzer]:
    with Fuzzer(kinds) as made:
        yield made


@pytest.mark.parametrize("kind", [kind.name for kind in kinds()])
def test_changed_files_are_read_or_refused(kind: str, fuzzer: Fuzzer) -> None:
    faults = [one for one in fuzzer.outcomes(kind, CASES) if one.what not in SOUND]
    assert not faults


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def refusal(folder: Path, file: str, content: str, **settings: Any) -> str:
    """The message with which a data file is refused."""
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    (folder / file).write_text(content, encoding="utf-8", newline="")
    told: list[str] = []
    with pytest.raises(InputError) as caught:
        load_data(Settings(data=(str(folder / file),), **settings), told.append)
    return str(caught.value).replace(str(folder), "")


RECIPES = {
    "x = " + "[" * 3000: "not TOML",
    "seed = " + "9" * 5000: "not TOML",
    f"lr = {10**400}": "a number may be from",
    "seed = 0x" + "f" * 5000: "a number may be from",
    "tasks = [0x" + "f" * 5000 + "]": "must be a list of texts",
    "freeze = 0x" + "f" * 5000: "a number may be from",
    'columns = "text=' + "9" * 5000 + '"\nheader = false': "columns are numbered from 1",
    'columns = "text=99999999"\nheader = false': "10,000 columns",
    "k" * 100_000 + " = 1": "there is no setting",
}


@pytest.mark.parametrize(("recipe", "message"), RECIPES.items(), ids=range(len(RECIPES)))
def test_a_recipe_of_huge_things_is_refused(recipe: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(recipe)
    with pytest.raises(InputError) as caught:
        Reading.of(Settings(**read_settings(tmp_path / "r.toml")), print)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 1200


def test_numbers_inside_of_settings_may_be_huge(world: World) -> None:
    """A range of layers, an epoch, a size: none is counted up to, or written out."""
    huge = "9" * 5000
    for changes in (
        {"freeze": "layers.0-999999999999"},
        {"unfreeze": f"{huge}: layers.0", "freeze": "backbone"},
        {"matryoshka": huge},
        {"model": f"hidden_size={huge}", "tokenizer": str(world.model)},
    ):
        source = world.pairs if "matryoshka" in changes else world.sentences
        with pytest.raises(InputError):
            assemble(world.settings(source, **changes))


NO_RESULTS = "object 1: the results"
STUDIO = {"data": {"text": "a b"}, "annotations": [{"result": [{}]}]}
REFUSED = [
    ("a.json", json.dumps([STUDIO | {"annotations": 7}]), {}, "object 1: annotations must be a"),
    (
        "a.json",
        json.dumps([STUDIO | {"annotations": [{"result": 7}]}]),
        {},
        NO_RESULTS,
    ),
    (
        "a.json",
        json.dumps([STUDIO | {"annotations": [{"result": [{"from_name": 3.5}]}]}]),
        {},
        NO_RESULTS,
    ),
    (
        "a.csv",
        "text,x\na," + "9" * 400 + "\nb,1\n",
        {"score": ("x",)},
        "line 2: x = '9999",
    ),
    ("a.csv", ",".join(["text", *map(str, range(10_001))]) + "\n", {}, "line 1: 10,002 columns"),
    ("a.conll", "a" * 100_000, {}, "line 1: 'aaa"),
    ("a.jsonl", "[" * 100_000, {}, "line 1: not JSON"),
    ("a.jsonl", '{"text": "' + "a" * 1_000_000, {}, "line 1: not JSON"),
    ("a.csv", "text,label\n+2AA-,x\n", {"encoding": "utf-7"}, "line 2: not utf-7 text"),
]


@pytest.mark.parametrize(("file", "content", "settings", "message"), REFUSED)
def test_refused_by_file_and_line(
    file: str, content: str, settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    found = refusal(tmp_path, file, content, **settings)
    assert message in found
    assert len(found) < 1200
    assert not CONTROLS.search(found)


def test_a_field_of_spans_and_numbers(world: World, tmp_path: Path) -> None:
    records = [{"text": f"a {i}", "x": 0.5 if i else [[0, 1, "b"]]} for i in range(9)]
    for split in ("train", "dev"):
        write_json_lines(tmp_path / f"{split}.jsonl", records)
    with pytest.raises(InputError, match="line 1"):
        assemble(world.settings(tmp_path), announce=lambda _: None)


def test_several_labels_that_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "emotions.txt").write_text("joy\nfear\n")
    found = refusal(tmp_path, "train.tsv", "a\t0,1\tid1\nb\tg\tid2\n")
    assert found.startswith("/train.tsv, line 2: 'g' should be the numbers of labels")


def test_lists_of_one_name_among_numbers(tmp_path: Path) -> None:
    rows = [{"text": f"film {i}", "label": i % 2 if i % 3 else [str(i % 2)]} for i in range(30)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    (data,) = load_data(Settings(data=(str(tmp_path / "a.json"),)), lambda _: None)
    found = {example.labels["label"] for split in data.splits.values() for example in split}
    assert found == {"0", "1"}


def test_a_cell_with_a_list_of_a_huge_number_is_a_text(tmp_path: Path) -> None:
    cell = f"[1 {'9' * 5000}]"
    (tmp_path / "a.csv").write_text(f"text,label\na,{cell}\n")
    (example,) = read_source(str(tmp_path / "a.csv")).splits["train"]
    assert example.labels == {"label": cell}


def test_numbers_of_thousands_of_digits_among_several_labels(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(
        "text,x\n" + "".join(f"t{i},1; {'9' * 5000}\n" for i in range(3)) + "z,2\nz,3\n"
    )
    settings = Settings(data=(str(tmp_path / "a.csv"),), multilabel=("x",))
    (data,) = load_data(settings, lambda _: None)
    assert {"1", "9" * 5000} in [e.labels["x"] for e in data.splits["train"]]


def test_more_fields_than_a_run_can_learn(tmp_path: Path) -> None:
    records = [{"text": f"a {i}"} | {f"x{k}": i % 2 for k in range(1001)} for i in range(4)]
    content = "".join(json.dumps(record) + "\n" for record in records)
    assert "has 1,001 fields that could be tasks" in refusal(tmp_path, "a.jsonl", content)


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1b[2J", "\u202ea", "x" * 201, "a\tb"])
def test_names_that_no_task_can_have(name: str, world: World, tmp_path: Path) -> None:
    records = [{"text": f"a {i}", name: "ab"[i % 2]} for i in range(4)]
    write_json_lines(tmp_path / "train.jsonl", records)
    with pytest.raises(InputError, match="a task cannot be named") as caught:
        assemble(world.settings(tmp_path), announce=lambda _: None)
    assert not CONTROLS.search(str(caught.value))


def test_two_tasks_never_share_a_head(world: World, tmp_path: Path) -> None:
    records = [{"text": f"a {i}", "a.b": "ab"[i % 2], "a:b": "ab"[i % 2]} for i in range(4)]
    write_json_lines(tmp_path / "train.jsonl", records)
    with pytest.raises(InputError, match="a task cannot be named 'a:b'"):
        assemble(world.settings(tmp_path), announce=lambda _: None)


ODD = ("../x", "a/b", "\x1b[31mred", "two\nlines", "=1+1", "| a |", "```", "\u202edlog")


@pytest.mark.usefixtures("with_pictures")
def test_odd_labels_in_all_that_a_run_writes_and_prints(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Labels and texts come back exactly, and no file is named by them."""
    records = [{"text": f"film {i} {ODD[i % 8]}", "..": ODD[i % 8]} for i in range(32)]
    for split in ("train", "dev"):
        write_json_lines(tmp_path / "data" / f"{split}.jsonl", records)
    model = str(write_model(tmp_path / "model", pooler=True))
    settings = world.settings(tmp_path / "data", epochs=1, pooling="pooler", model=model)
    train(settings, tmp_path / "run")
    run = load_run(tmp_path / "run")
    assert set(run.tasks[0].labels) == set(ODD)
    lines = (tmp_path / "run/predictions.jsonl").read_text(encoding="utf-8").split("\n")[:-1]
    assert [json.loads(line)["text"] for line in lines] == [one["text"] for one in records]
    for given, found in stream(run, from_lines([f"a {ODD[2]}"], run.splitting, run.tasks)):
        print(as_lines(given, found, run.tasks, top=8))
    report = (tmp_path / "run/report.html").read_text(encoding="utf-8")
    printed = "".join(capsys.readouterr())
    assert not CONTROLS.search(printed + report)
    assert "two\\nlines" in printed
    assert "two\nlines" in report
    assert os.listdir(tmp_path / "run/transformers") == ["%2E."]
    assert sorted(os.listdir(tmp_path)) == ["data", "model", "run"]


@pytest.mark.parametrize("name", ["..", ".", "a/b", "a\\b", "a%2Fb", "C:x", ".hidden", "ok.label"])
def test_folders_of_tasks_are_inside_and_differ(name: str, tmp_path: Path) -> None:
    folder = tmp_path / folder_name(name)
    assert folder.parent == folder.resolve().parent == tmp_path
    assert folder_name("a/b") != folder_name("a%2Fb")


@pytest.mark.parametrize("name", [".", "..", "a\x1b[2J", "a\nb", "film"])
def test_the_folder_of_a_run_is_in_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here" / name).mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(tmp_path / "here")
    with run_folder(Settings(data=(name,)), None) as folder:
        assert folder.resolve().parent == tmp_path / "here/runs"
    assert one_line(folder.name) == folder.name


def test_a_table_is_as_high_as_it_has_rows() -> None:
    assert table([("a\nb", "c"), ("\x1b[2J", "1")]).count("\n") == 1


def test_json_for_a_terminal_means_the_same() -> None:
    content = {"text": "".join(map(chr, range(0x2100))) + "\ud800"}
    line = json_text(content)
    assert not CONTROLS.search(line)
    assert json.loads(line) == content


def test_a_heading_of_a_report_is_text(tmp_path: Path) -> None:
    write_page(tmp_path / "r.html", "run", "", {"<img> & </main>": ""})
    text = (tmp_path / "r.html").read_text(encoding="utf-8")
    assert text.count("&lt;img&gt; &amp; &lt;/main&gt;") == 2  # in the navigation, and above it
    assert "<img>" not in text


def test_no_matrix_of_a_hundred_thousand_classes() -> None:
    assert confusion_matrix([(str(i), str(i + 1)) for i in range(100_000)]) is None


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    """A link is followed, as people link to large data. A pipe would wait, a device never end."""
    (tmp_path / "real.csv").write_text("text,label\na,b\n")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked/train.csv").symlink_to(tmp_path / "real.csv")
    assert len(read_source(str(tmp_path / "linked")).splits["train"]) == 1
    (tmp_path / "device").mkdir()
    (tmp_path / "device/train.csv").symlink_to("/dev/zero")
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe/train.csv")
    for name in ("device", "pipe"):
        with pytest.raises(InputError, match="is a pipe or a device"):
            read_source(str(tmp_path / name))


def test_many_spans_in_a_long_text() -> None:
    """Looked up, and not searched from the beginning: 10 ** 10 comparisons would take an hour."""
    words = [(2 * i, 2 * i + 1) for i in range(100_000)]
    spans = [[start, end, "x"] for start, end in words]
    assert set(span_tags("a " * 100_000, words, spans, "here", "x")) == {"B-x"}


def test_no_table_is_written_that_a_spreadsheet_opens() -> None:
    """So no label that begins with = is a formula: what is written is JSON, TOML and Markdown."""
    sources = [file for package in ("minibert", "train") for file in (ROOT / package).rglob("*.py")]
    assert len(sources) > 100
    for file in sources:
        assert not re.search(r"csv\.(w|DictW)riter|to_csv|savetxt", file.read_text("utf-8")), file
