"""README.md: every block and every command in it runs as printed, on short data.

What needs weights that are not on this machine is skipped. The pip commands are what .ci/run runs.
"""

import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from minibert import InputError
from minibert.formats.hub import BERT_BASE, find_model
from tests.documents import ROOT, blocks
from tests.training import write_json_lines
from train.data import read

README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [
    line.strip()
    for block in blocks("README.md", "bash")
    for part in block.splitlines()
    for line in part.split("&&")
]
IN_TABLES = sorted(set(re.findall(r"^\|.*`(python -m [^`]+)`.*\|$", README, flags=re.MULTILINE)))
# What is run elsewhere: installing and all the tests by .ci/run, long measurements by hand.
ELSEWHERE = ("pip install", "python -m pytest", "python -m tools.benchmark", "python -m tools.fine")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would be: with a corpus and the data sets that the README names, but short."""
    folder = tmp_path_factory.mktemp("reader")
    newsroom = ROOT / "train" / "datasets" / "newsroom"
    for split in ("train", "dev", "test"):
        lines = (newsroom / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        short = folder / "ours" / "newsroom" / f"{split}.jsonl"
        short.parent.mkdir(parents=True, exist_ok=True)
        short.write_text("".join(lines[:48]), encoding="utf-8")
        write_snips(folder / "path" / "to" / "snips" / split)
    texts = [json.loads(line)["text"] for line in lines[:40]]
    (folder / "corpus.txt").write_text("\n".join(texts) + "\n", encoding="utf-8")
    (folder / "questions.jsonl").write_text('{"id": 7, "text": "Who won in Oslo?"}\n')
    data = folder / "path" / "to"
    for name in ("emotion", "sentiment"):
        write_tweeteval(data / name)
    write_sick(data / "sick")
    write_stsb(data / "stsb")
    write_goemotions(data / "goemotions")
    write_squad(data / "squad")
    write_swag(data / "swag")
    write_texts(data, texts)
    write_json_lines(
        data / "sentiment-data" / "train.jsonl",
        [{"text": f"{word} {i}", "label": label} for i in range(12) for word, label in MOODS],
    )
    return folder


FILES = ("seq.in", "seq.out", "label")


def write_snips(folder: Path) -> None:
    pairs = [("play some jazz", "O O B-genre", "PlayMusic"), ("rain in oslo", "O O B-city", "Rain")]
    folder.mkdir(parents=True)
    for name, column in zip(FILES, zip(*pairs * 8, strict=True), strict=True):
        (folder / name).write_text("\n".join(column) + "\n", encoding="utf-8")


def write_tweeteval(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "mapping.txt").write_text("0\tbad\n1\tgood\n", encoding="utf-8")
    for split in ("train", "val", "test"):
        texts = [f"{'what a great day' if i % 2 else 'how awful'} {i}\n" for i in range(16)]
        (folder / f"{split}_text.txt").write_text("".join(texts), encoding="utf-8")
        labels = "".join(f"{i % 2}\n" for i in range(16))
        (folder / f"{split}_labels.txt").write_text(labels, encoding="utf-8")


MOODS = (("what a great day", "good"), ("how awful", "bad"))
ONE, TWO, OTHER = "A man sleeps", "A man is asleep", "A dog runs in the snow"


def write_sick(folder: Path) -> None:
    head = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
    rows = [f"{i}\t{ONE} {i}\t{TWO}\t4.{i % 10}\tENTAILMENT" for i in range(8)]
    rows += [f"{8 + i}\t{ONE} {i}\t{OTHER}\t1.{i % 10}\tNEUTRAL" for i in range(8)]
    folder.mkdir(parents=True)
    for name in ("SICK_train", "SICK_trial", "SICK_test_annotated"):
        (folder / f"{name}.txt").write_text("\r\n".join([head, *rows]) + "\r\n")


def write_stsb(folder: Path) -> None:
    row = "main-captions\tMSRvid\t2012test\t{:04}\t{:.3f}\t{}\t{}\n"
    rows = [row.format(i, i % 6, f"{ONE} {i}", TWO if i % 2 else OTHER) for i in range(16)]
    folder.mkdir(parents=True)
    for split in ("train", "dev"):
        (folder / f"sts-{split}.csv").write_text("".join(rows))


def write_goemotions(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "labels.txt").write_text("joy\nanger\nneutral\n")
    rows = [f'what a "day {i}\t{(0, 1, "0,1", 2)[i % 4]}\te{i:05}\n' for i in range(16)]
    for split in ("train", "dev", "test"):
        (folder / f"{split}.tsv").write_text("".join(rows))


def write_squad(folder: Path) -> None:
    names = ("Eve", "Ann", "Bob", "Joe")
    paragraphs = [
        {
            "context": f"{name} sang in Oslo, and all were glad.",
            "qas": [
                {
                    "id": name,
                    "question": "Who sang?",
                    "answers": [{"text": name, "answer_start": 0}],
                }
            ],
        }
        for name in names
    ]
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        content = {"version": "1.1", "data": [{"title": "song", "paragraphs": paragraphs}]}
        (folder / f"{split}.json").write_text(json.dumps(content))


def write_swag(folder: Path) -> None:
    endings = ",".join(f"ending{i}" for i in range(4))
    head = f"video-id,fold-ind,startphrase,sent1,sent2,gold-source,{endings},label"
    row = "v{0},{0},{1} He,{1},He,gold,wakes up.,eats a car.,is a tree.,flies home.,0"
    folder.mkdir(parents=True)
    for split in ("train", "val"):
        rows = [row.format(i, f"{ONE} {i}.") for i in range(8)]
        (folder / f"{split}.csv").write_text("\n".join([head, *rows]) + "\n")


def write_texts(folder: Path, texts: list[str]) -> None:
    """Plain text in splits, a text a line, and pairs."""
    (folder / "text").mkdir()
    for split, chosen in (("train", texts[:24]), ("dev", texts[24:32]), ("test", texts[32:])):
        (folder / "text" / f"{split}.txt").write_text("\n\n".join(chosen), encoding="utf-8")
    (folder / "tweets.txt").write_text("\n".join(texts), encoding="utf-8")
    rows = [f'"What is {i}?","{i} is a number."' for i in range(12)]
    (folder / "pairs.csv").write_text("\n".join(["anchor,positive", *rows]))


def write_sentiment_model(folder: Path) -> None:
    """A head as transformers writes it, on MiniLM's encoder."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = find_model("minilm").path
    labels = {0: "bad", 1: "good"}
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=2, id2label=labels
    )
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)


@pytest.fixture
def reader(folder: Path, minilm: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """In that folder."""
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    yield folder
    torch.set_num_threads(threads)


def run(command: str, ours: Path = read.OURS) -> None:
    """A command as printed, in this process. It must end well. ours: the project's own data."""
    if BERT_BASE in README and "fill-mask" in command:
        needs_bert_base()
    _, _, program, *arguments = shlex.split(command)
    module = import_module(f"{program}.__main__" if program == "minibert" else program)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "OURS", ours)
        assert module.main(arguments) == 0, command


def needs_bert_base() -> None:
    try:
        find_model(BERT_BASE)
    except InputError:
        pytest.skip(f"the weights of {BERT_BASE} are not on this machine")


def test_python_blocks(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first block; what follows it may build on it."""
    names: dict[str, object] = {}
    first, *more = blocks("README.md", "python")
    exec(first, names)
    assert "(40, 384)" in capsys.readouterr().out
    assert names["vectors"].shape == (40, 384)  # type: ignore[attr-defined]
    for block in more:
        if BERT_BASE in block:
            needs_bert_base()
        if "open_run" not in block:  # which needs a run
            exec(block, names)


def test_commands_of_the_library(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [line for line in LINES if line.startswith("python -m minibert")]
    assert {shlex.split(command)[3] for command in commands} >= {"similarity", "encode", "inspect"}
    for command in commands:
        if "fill-mask" not in command:
            run(command)
    assert (reader / "vectors.npy").exists()
    assert "The cat sits on the mat  |  A kitten rests on a rug" in capsys.readouterr().out


def test_filling_masks(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [line for line in LINES if "fill-mask" in line and "runs/own" not in line]
    run(command)
    assert "capital" in capsys.readouterr().out


def test_commands_of_training(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the order of the README, since one predicts with what another has trained."""
    shutil.rmtree(reader / "runs", ignore_errors=True)
    write_sentiment_model(reader / "path" / "to" / "sentiment")
    commands = [line for line in LINES if line.startswith("python -m train") or "runs/" in line]
    assert len(commands) >= 5
    for command in dict.fromkeys(commands):
        run(command, reader / "ours")
    out = capsys.readouterr().out
    assert "Apple opens a laboratory in Nairobi\n  topic: " in out
    assert "sentiment-data" in {folder.name for folder in (reader / "runs").iterdir()}
    (block,) = [block for block in blocks("README.md", "python") if "open_run" in block]
    names: dict[str, Any] = {}
    exec(block, names)
    (topic,) = [task for task in names["run"].tasks if task.name == "topic"]
    assert capsys.readouterr().out.split()[0] in topic.labels


@pytest.mark.parametrize("command", IN_TABLES)
def test_commands_in_tables(command: str, reader: Path) -> None:
    if command.startswith(ELSEWHERE):
        pytest.skip("a long measurement, run by hand; tests/test_benchmark.py runs a short one")
    if command.startswith("python -m train"):
        run(command, reader / "ours")  # cut short
    else:
        run(command)


def test_every_command_is_run() -> None:
    known = ("python -m minibert", "python -m train", *ELSEWHERE)
    assert [line for line in LINES if not line.startswith(known)] == []


def test_the_sizes_of_the_two_files() -> None:
    """The first ten lines say which two files are all of BERT, and how long they are."""
    said = re.findall(r"\[(minibert/\w+\.py)\]\(\1\) \((\d+) lines\)", README)
    assert [name for name, _ in said] == ["minibert/model.py", "minibert/layout.py"]
    assert sum(int(count) for _, count in said) <= 400
    for name, count in said:
        assert len((ROOT / name).read_text(encoding="utf-8").splitlines()) == int(count)
        assert name in "".join(itertools.islice(README.splitlines(), 10))


def test_the_table_of_libraries_is_made_of_the_tests() -> None:
    """Each library has its test file there, which makes the same calls by the same words."""
    section = README.split("## Use it from")[1].split("\n## ")[0]
    rows = re.findall(r"^\| [^|]+ \| (.+) \| \[.+\]\((.+)\) \|$", section, flags=re.MULTILINE)
    files = [ROOT / "tests/test_sklearn.py", *(ROOT / "tests/ecosystem").glob("test_*.py")]
    assert sorted(ROOT / file for _, file in rows) == sorted(files)
    for passed, file in rows:
        test = "".join((ROOT / file).read_text(encoding="utf-8").split())
        assert all(call in test for call in re.findall(r"\w+\((?:\w+=)?", passed)), file


def test_links_lead_somewhere() -> None:
    for document in ("README.md", "CONTRIBUTING.md", "RESULTS.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#]+)\)", text):
            if "://" not in target:
                assert (ROOT / target).exists(), f"{document}: {target}"
