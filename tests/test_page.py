"""The report of a run, report.html: read back by an HTML parser, and held against the files beside
it.

Evidence: metrics.json, predictions.jsonl, log.jsonl and the data's own files.
"""

import json
import os
import re
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from minibert.files import escaped
from minibert.program import Interrupted
from tests.training import World, log_of, make_world, metrics_of, write_json_lines
from train import pictures
from train.batches import Item
from train.checkpoint import Progress
from train.data.examples import Answers, Example
from train.journal import Journal
from train.page import mistake_html
from train.pictures import LIGHT, MOST_POINTS, binned, draw_pictures
from train.run import train
from train.setup import assemble
from train.tasks.answers import AnswerPrediction, Candidate
from train.tasks.question_answering import QuestionAnswering
from train.tasks.records import Prediction
from train.tasks.tagging import TokenTagging

pytestmark = pytest.mark.usefixtures("with_pictures")

VOID = {"meta", "br"}


class Tree(HTMLParser):
    """The elements of a page. Raises AssertionError where an end tag is not that of the element
    that is open."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.builder = ElementTree.TreeBuilder()
        self.open: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open
        self.root = self.builder.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        if tag in VOID:
            self.builder.end(tag)
        else:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.builder.start(tag, {name: value or "" for name, value in attrs})
        self.builder.end(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.builder.end(tag)

    def handle_data(self, data: str) -> None:
        if self.open:
            self.builder.data(data)


def page_of(run: Path) -> ElementTree.Element:
    return Tree((run / "report.html").read_text(encoding="utf-8")).root


def said(element: ElementTree.Element) -> str:
    return "".join(element.itertext())


def sections(page: ElementTree.Element) -> dict[str, ElementTree.Element]:
    return {said(section.find("h2")): section for section in page.iter("section")}  # type: ignore[arg-type]


def tables(section: ElementTree.Element) -> list[list[list[str]]]:
    """The rows of each table; the first is the head."""
    return [[[said(cell) for cell in row] for row in t.iter("tr")] for t in section.iter("table")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


CHANGES: dict[str, Any] = {
    "freeze": "embeddings",
    "unfreeze": "2: embeddings",
    "log_gradients": True,
    "layer_decay": 0.5,
}


@pytest.fixture(scope="module")
def run(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three tasks of two data sets, two epochs."""
    pytest.importorskip("matplotlib")
    folder = tmp_path_factory.mktemp("whole") / "run"
    train(world.settings(world.sentences, world.scores, **CHANGES), folder)
    return folder


@pytest.fixture(scope="module")
def page(run: Path) -> ElementTree.Element:
    return page_of(run)


@pytest.fixture(scope="module")
def predictions(run: Path) -> list[dict[str, Any]]:
    lines = (run / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


# The page as a page


def test_the_page_needs_nothing_beside_it(run: Path, page: ElementTree.Element) -> None:
    """No address but those of its own sections, no script, and no name twice."""
    text = (run / "report.html").read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>\n")
    without_namespaces = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text)
    assert "http" not in without_namespaces
    assert not re.search(r"url\((?!#)|@import|<script|<img|<link|\bon\w+=", without_namespaces)
    elements = list(page.iter())
    ids = [e.get("id") for e in elements if e.get("id")]
    of_page = [name for name in ids if re.fullmatch(r"s\d+", name or "")]
    assert len(of_page) == len(set(of_page)) == len(list(page.iter("section")))
    links = [e.get("href") for e in page.iter("a")]
    assert links == [f"#{name}" for name in of_page]
    inside = {value for e in elements for key, value in e.items() if key in ("href", "xlink:href")}
    assert {value.removeprefix("#") for value in inside} <= set(ids)
    assert page.get("lang") == "en"


def test_the_sections_are_named_in_the_table_of_contents(page: ElementTree.Element) -> None:
    found = list(sections(page))
    assert [said(link) for link in page.iter("a")] == found
    assert found == [
        *("Results", "Curves", "intent on test", "slots on test", "score on test", "Settings"),
        *("Data", "Learning rates and freezing", "Gradients of the tasks", "Time and memory"),
    ]


# The numbers


def test_the_results_are_those_of_the_metrics(run: Path, page: ElementTree.Element) -> None:
    (rows,) = tables(sections(page)["Results"])
    metrics = metrics_of(run)
    assert rows[0] == ["", "dev", "test"]
    found = {row[0]: row[1:] for row in rows[1:]}
    for name, key, text in (
        ("intent accuracy", ("intent", "accuracy"), "{:.2%}"),
        ("slots f1", ("slots", "f1"), "{:.2%}"),
        ("score spearman", ("score", "spearman"), "{:.4f}"),
        ("score loss", ("score", "loss"), "{:.4f}"),
    ):
        values = [metrics[split][key[0]][key[1]] for split in ("dev", "test")]
        assert found[name] == [text.format(value).removesuffix("%") for value in values]
    assert f"step {metrics['best_step']} of {metrics['steps']}" in said(sections(page)["Results"])


def test_the_curves_stand_there_as_numbers(run: Path, page: ElementTree.Element) -> None:
    (rows,) = tables(sections(page)["Curves"])
    history = metrics_of(run)["history"]
    assert len(rows) == 1 + len(history) == 3
    for row, entry in zip(rows[1:], history, strict=True):
        of_row = dict(zip(rows[0], row, strict=True))
        assert of_row["step"] == str(entry["step"])
        assert of_row["slots train loss"] == f"{entry['loss']['slots']:.4f}"
        assert of_row["slots loss"] == f"{entry['dev']['slots']['loss']:.4f}"
        assert of_row["slots f1"] == f"{entry['dev']['slots']['f1'] * 100:.2f}"


def test_labels_and_confusions_are_those_of_the_predictions(
    page: ElementTree.Element, predictions: list[dict[str, Any]]
) -> None:
    pairs = [(p["intent"]["gold"], p["intent"]["predicted"]) for p in predictions if "intent" in p]
    labels, confusions = tables(sections(page)["intent on test"])[:2]
    assert {row[0]: row[-1] for row in labels[1:]} == {
        label: str(count) for label, count in Counter(gold for gold, _ in pairs).items()
    } | {row[0]: "0" for row in labels[1:] if row[-1] == "0"}
    counts = Counter(pairs)
    for gold, *cells in confusions[1:]:
        assert cells == [str(counts[gold, predicted]) for predicted in confusions[0][1:]]
    shares = [
        float(cell.get("style", "").partition("--share:")[2])
        for cell in sections(page)["intent on test"].iter("td")
        if "--share" in cell.get("style", "")
    ]
    numbers = [[int(cell) for cell in row[1:]] for row in confusions[1:]]
    expected = [n / max(sum(row), 1) for row in numbers for n in row]
    assert shares == pytest.approx(expected, abs=0.005)


def test_the_worst_mistakes_show_their_parts(
    page: ElementTree.Element, predictions: list[dict[str, Any]]
) -> None:
    """What is marked as right are the entities of the gold tags; what the prediction lacks stands
    out."""
    entries = list(sections(page)["slots on test"].iter("li"))
    wrong = [
        p for p in predictions if "slots" in p and p["slots"]["gold"] != p["slots"]["predicted"]
    ]
    assert len(entries) == min(10, len(wrong)) > 0
    for entry in entries:
        right, predicted = list(entry.iter("dd"))
        marks = [(m.text, said(m.find("small"))) for m in right.iter("mark")]  # type: ignore[arg-type]
        where = said(list(entry.iter("p"))[-1])
        record = predictions[int(where.rpartition("/test.jsonl, line ")[2]) - 1]
        tags, words = record["slots"]["gold"], record["words"]
        starts = [i for i, tag in enumerate(tags) if tag.startswith("B-")]
        assert [kind for _, kind in marks] == [tags[i][2:] for i in starts]
        assert [str(t).split()[0] for t, _ in marks] == [words[i] for i in starts]
        plain = {said(m) for m in right.iter("mark") if not m.get("class")}
        assert plain == {said(m) for m in predicted.iter("mark") if not m.get("class")}


def test_settings_that_differ_come_first(world: World, page: ElementTree.Element) -> None:
    changed, kept = tables(sections(page)["Settings"])
    settings = world.settings(world.sentences, world.scores, **CHANGES)
    found = {row[0]: row[1] for row in changed[1:]}
    assert found.keys() == {
        *("data", "model", "device", "epochs", "batch_size", "lr", "head_lr"),
        *CHANGES,
    }
    assert found["data"] == ", ".join(settings.data)
    assert found["log_gradients"] == "true"
    assert {row[0]: row[2] for row in changed[1:]}["epochs"] == "5"
    rest = {row[0]: row[1] for row in kept[1:]}
    assert rest["dropout"] == ""
    assert rest["seed"] == "0"
    assert not found.keys() & rest.keys()


def test_the_data_is_counted(world: World, page: ElementTree.Element) -> None:
    sizes, intents, _ = tables(sections(page)["Data"])
    counted = [["44", "12", "12"], ["26", "8", "8"], ["70", "20", "20"]]
    assert [row[1:] for row in sizes[1:]] == counted
    lines = (world.sentences / "train.jsonl").read_text(encoding="utf-8").splitlines()
    counts = Counter(json.loads(line)["intent"] for line in lines)
    assert {row[0]: row[1] for row in intents[1:]} == {k: str(v) for k, v in counts.items()}
    numbers = [int(row[1]) for row in intents[1:]]
    assert numbers == sorted(numbers, reverse=True)


def test_rates_and_gradients(run: Path, page: ElementTree.Element) -> None:
    (units,) = tables(sections(page)["Learning rates and freezing"])
    found = {row[0]: row for row in units[1:]}
    assert found["embeddings"][2] == "learns from epoch 2"
    assert [float(found[f"layers.{i}"][3]) for i in range(3)] == [2.5e-4, 5e-4, 1e-3]
    (rows,) = tables(sections(page)["Gradients of the tasks"])
    assert [row[0] for row in rows[1:]] == ["intent, slots"]  # of one batch, which both have
    cosines = [e[k] for e in log_of(run) if (k := "gradient_cosine.intent.slots") in e]
    assert float(rows[1][1]) == pytest.approx(sum(cosines) / len(cosines), abs=0.0005)
    assert rows[1][3] == str(len(cosines))


def test_seconds_and_memory(run: Path, page: ElementTree.Element) -> None:
    """The page cannot tell how long it takes to write itself, so its sum is below that of the
    metrics."""
    (rows,) = tables(sections(page)["Time and memory"])
    seconds = {row[0]: float(row[1].replace(",", "")) for row in rows[1:]}
    total = seconds.pop("in all")
    assert seconds.keys() >= {"loading", "training", "evaluation on dev", "checkpoints", "saving"}
    assert sum(seconds.values()) == pytest.approx(total, abs=0.4)
    assert 0 < total <= metrics_of(run)["seconds"] + 0.1
    if sys.platform != "win32":
        assert re.search(r"held at most [\d,]+ MiB of memory", said(page))


# What any text may hold

ODD = '</p></style><script>alert(1)</script><!-- <b>&amp; "quoted" \u2028 \u202e \x07 $x_$'
NAME = "a<i>&$x_$\u9898"


def test_texts_labels_and_names_cannot_write_html(world: World, tmp_path: Path) -> None:
    """They come back from the parser as they are, but for what controls how they are shown."""
    records = [{"text": f"play {i} {ODD}", NAME: ("x<y", "</td>")[i % 2]} for i in range(12)]
    data = write_json_lines(tmp_path / "data.jsonl", records)
    train(world.settings(data, epochs=1, lr=1e-9, head_lr=1e-8), tmp_path / "<run>&")
    page = page_of(tmp_path / "<run>&")
    assert {e.tag for e in page.iter()} & {"script", "i", "b"} == set()
    assert said(page.find("head/title")) == "<run>&: report"  # type: ignore[arg-type]
    found = sections(page)[f"{NAME} on dev"]
    assert {row[0] for row in tables(found)[0][1:]} <= {"x<y", "</td>"}
    texts = [said(p) for p in found.iter("p") if p.get("dir")]
    assert texts
    assert {t.split(" ", 2)[2] for t in texts} == {escaped(ODD)}
    pytest.importorskip("matplotlib")
    drawn = [said(text).strip() for text in page.iter("text")]
    assert f"head.{NAME}" in drawn


# Pictures


def test_the_pictures_show_the_log_and_the_history(
    world: World, run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each curve's points, from the figures before they become SVG."""
    monkeypatch.setattr(pictures, "as_svg", lambda figure: figure)
    metrics, log = metrics_of(run), log_of(run)
    parts = assemble(world.settings(world.sentences, world.scores, **CHANGES))
    progress = Progress(history=metrics["history"], best_step=metrics["best_step"])
    found: Any = draw_pictures(parts, progress, log, {})

    def lines(what: str, task: str = "") -> dict[str, list[tuple[float, float]]]:
        (axes,) = found[what, task].axes
        return {line.get_label(): list(map(tuple, line.get_xydata())) for line in axes.lines}

    history = metrics["history"]
    loss = lines("loss", "intent")
    steps = [e for e in log if "norm" in e]
    assert loss["train"] == [
        (e["step"], e["loss"]["intent"]) for e in steps if "intent" in e["loss"]
    ]
    assert loss["dev"] == [(e["step"], e["dev"]["intent"]["loss"]) for e in history]
    assert loss["best step"][0][0] == metrics["best_step"]
    metric = lines("metric", "intent")["dev"]
    assert metric == [(e["step"], e["dev"]["intent"]["accuracy"] * 100) for e in history]
    rates = lines("rates")
    assert rates.keys() == {
        *("embeddings", "layers.0", "layers.1", "layers.2"),
        "head.intent to head.score",
    }
    assert max(y for _, y in rates["layers.1"]) == pytest.approx(5e-4)
    second = next(e["step"] for e in steps if e["epoch"] == 2)
    assert rates["embeddings"][0][0] == second  # frozen until then
    assert rates["layers.2"][0][0] == 1
    assert rates["layers.2"][4] == (5, pytest.approx(steps[4]["rate"] * 1e-3))


def test_long_curves_are_means_of_as_many_steps() -> None:
    points = [(step, float(step % 2)) for step in range(1, 10 * MOST_POINTS + 1)]
    found = binned([*points, (10**6, None)])
    assert len(found) == MOST_POINTS
    assert found[0] == (10, 0.5)
    assert found[-1] == (10 * MOST_POINTS, 0.5)
    assert binned([(1, None), (2, 3.0)]) == [(2, 3.0)]
    assert binned([]) == []


def test_pictures_take_their_colours_from_the_page(page: ElementTree.Element) -> None:
    drawn = list(page.iter("svg"))
    assert len(drawn) == 3 * 2 + 2 + 2  # losses and metrics, calibrations, rates and gradients
    for svg in drawn:
        styles = " ".join(e.get("style", "") for e in svg.iter())
        assert "var(--ink)" in styles
        assert not [color for color in LIGHT.values() if color in styles]
    figures = [f for f in page.iter("figure") if f.find("svg") is not None]
    assert all(f.get("aria-label") == said(f.find("figcaption")) for f in figures)  # type: ignore[arg-type]
    assert len(figures) == len(drawn)


def test_drawing_leaves_the_programs_own_style(world: World, run: Path) -> None:
    """And is not changed by it: a notebook with dark figures gets the same page."""
    matplotlib = pytest.importorskip("matplotlib")
    parts = assemble(world.settings(world.sentences, world.scores))
    metrics, log = metrics_of(run), log_of(run)
    progress = Progress(history=metrics["history"], best_step=metrics["best_step"])
    expected = draw_pictures(parts, progress, log, {})
    with matplotlib.rc_context({"text.color": "red", "lines.linewidth": 9, "axes.grid": True}):
        backend, before = matplotlib.get_backend(), dict(matplotlib.rcParams)
        assert draw_pictures(parts, progress, log, {}) == expected
        assert dict(matplotlib.rcParams) == before
        assert matplotlib.get_backend() == backend
    assert expected


def test_without_matplotlib_the_page_says_what_would_draw(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    train(world.settings(epochs=1), tmp_path / "run")
    page = page_of(tmp_path / "run")
    assert not list(page.iter("svg"))
    assert "pip install matplotlib" in said(sections(page)["Pictures"])
    assert len(tables(sections(page)["intent on test"])) == 3  # labels, confusions, calibration


# Runs that do not go straight to their end


def test_the_report_of_a_resumed_run_is_that_of_the_whole(
    world: World, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Interrupted in epoch 1, it has the same page, pictures and all, but for the seconds."""
    settings = world.settings(world.sentences, world.scores, **CHANGES)
    note = Journal.note_step

    def stopping(journal: Journal, *given: Any) -> None:
        note(journal, *given)
        if journal.progress.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Journal, "note_step", stopping)
        with pytest.raises(Interrupted):
            train(settings, tmp_path / "run")
    train(settings, tmp_path / "run", resume=True)
    ends = [
        (folder / "report.html").read_text(encoding="utf-8").partition("<h2>Time and memory")[0]
        for folder in (run, tmp_path / "run")
    ]
    assert ends[0] == ends[1]


def test_a_run_that_learns_nothing_has_a_report(world: World, tmp_path: Path) -> None:
    train(world.settings(freeze="all"), tmp_path / "run")
    found = sections(page_of(tmp_path / "run"))
    assert "Nothing was trained." in said(found["Results"])
    assert "Curves" not in found


# Mistakes


def fragment(text: str) -> ElementTree.Element:
    return Tree(text).root


def marked(element: ElementTree.Element) -> Iterator[tuple[str, str, str | None]]:
    """Each mark's text, its kind, and which side alone has it."""
    for mark in element.iter("mark"):
        yield mark.text or "", said(mark.find("small")), mark.get("class")  # type: ignore[arg-type]


def test_an_answer_is_marked_in_its_text() -> None:
    """Of a long text, what is around both answers; the second right answer overlaps the first."""
    text = "word " * 100 + "Eve <sang> here, and Ann wrote it. " + "word " * 100
    start = text.index("Eve")
    gold = Answers(("Eve <sang>", "Eve"), (start, start))
    found = Answers(("Ann",), (text.index("Ann"),))
    example = Example("Who?", {"answer": gold}, "file, line 7", second=text)
    entry = fragment(
        mistake_html(QuestionAnswering("answer"), Item(example, (), 0), _answer(found))
    )
    right, predicted = entry.iter("dd")
    assert list(marked(right)) == [("Eve", "answer", "right")]
    assert list(marked(predicted)) == [("Ann", "answer", "predicted")]
    assert said(right).startswith("... ")
    assert len(said(right)) < 450
    assert [said(p) for p in entry.iter("p")] == ["Who?", "file, line 7"]


def _answer(label: Answers) -> Prediction:
    candidate = Candidate(label.texts[0], label.starts[0], label.starts[0] + 3, 0.5)
    return AnswerPrediction(label, 0.5, candidates=(candidate,))


def test_tags_of_words_that_do_not_stand_in_the_text_are_told_in_words() -> None:
    task = TokenTagging("slots", ("O", "B-x", "I-x"))
    example = Example("flyto", {"slots": ("O", "B-x")}, "line 1", words=("fly", "rome"))
    prediction = Prediction(("B-x", "O"), (0.5, 0.5))
    entry = fragment(mistake_html(task, Item(example, (), 0), prediction))
    assert [said(dd) for dd in entry.iter("dd")] == ["x = rome", "x: fly (0.50)"]
    assert not list(entry.iter("mark"))
    assert said(next(entry.iter("p"))) == "flyto"
