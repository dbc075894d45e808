"""The README and the guides: every block and every command in them runs as printed, on short data.

What needs weights that are not on this machine is skipped. The pip commands are what .ci/run runs.
"""

import importlib.util
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from minibert import Bert, InputError, SentenceEncoder
from minibert.formats.hub import BERT_BASE, find_model
from minibert.tokenizer import Tokenizer
from tests.documents import ROOT, blocks
from tests.training import write_json_lines
from tools import fidelity
from train.data import read

pytestmark = pytest.mark.usefixtures("with_pictures")

README = (ROOT / "README.md").read_text(encoding="utf-8")
GUIDES = ("minibert/README.md", "train/README.md", "tests/ecosystem/README.md")
IN_TABLES = sorted(set(re.findall(r"^\|.*`(python -m [^`]+)`.*\|$", README, flags=re.MULTILINE)))
PREDICT = 'python -m train.predict runs/newsroom "Eve Arnold wins the Oslo Cup"'
# What is run elsewhere: installing and all the tests by .ci/run, the site by test_annotate.py.
ELSEWHERE = (
    "torchrun",  # tests/test_distributed.py
    "pip install",
    "python -m pytest",
    "python -m tools.annotate",
    "python -m minibert encode --ray",  # tests/test_ray.py
)


def commands_of(document: str) -> list[str]:
    """The commands of its blocks, each once, in the order in which they are printed."""
    lines = [line for block in blocks(document, "bash") for line in block.splitlines()]
    return list(dict.fromkeys(part.strip() for line in lines for part in line.split("&&")))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a reader would be: with a corpus and the data sets that the README names, but short."""
    folder = tmp_path_factory.mktemp("reader")
    newsroom = ROOT / "train" / "datasets" / "newsroom"
    for split in ("train", "dev", "test"):
        lines = (newsroom / f"{split}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        short = folder / "ours" / "newsroom" / f"{split}.jsonl"
        short.parent.mkdir(parents=True, exist_ok=True)
        short.write_text("".join(lines[:24]), encoding="utf-8")
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
    write_texts(folder, texts)
    write_tables(folder)
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


def write_tables(folder: Path) -> None:
    """One of each, as a reader may have them: what is learnt stands in columns of their own."""
    rated = [(f"{text} {i}", mood) for i in range(12) for text, mood in MOODS]
    moods = [f"{text},{mood}" for text, mood in rated]
    (folder / "reviews.csv").write_text("\n".join(["text,mood", *moods]))
    stars = [f"{text},{len(mood)}" for text, mood in rated]
    (folder / "tweets.csv").write_text("\n".join(["tweet,stars", *stars]))
    about = [f"{ONE} {i},{('price', 'service', 'price;service')[i % 3]}" for i in range(24)]
    (folder / "comments.csv").write_text("\n".join(["text,about", *about]))
    pairs = [
        f"{ONE} {i},{other},{label}"
        for i in range(12)
        for other, label in ((TWO, "same"), (OTHER, "other"))
    ]
    (folder / "pairs.csv").write_text("\n".join(["text_a,text_b,label", *pairs]))
    (folder / "words.conll").write_text(
        "\n\n".join([f"rain O\nin O\n{city} B-city" for city in ("oslo", "rome")] * 8)
    )
    shutil.copy(folder / "path/to/squad/train.json", folder / "questions.json")


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
    """In that folder, with somebody's model in it."""
    monkeypatch.chdir(folder)
    threads = torch.get_num_threads()
    if not (folder / "path/to/model").exists():
        write_sentiment_model(folder / "path/to/model")
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture
def small_minilm(reader: Path, minilm: Path) -> Iterator[None]:
    """A folder "minilm", which goes before MiniLM: its tokenizer, and as many layers, but narrow
    ones with random weights. MiniLM itself is trained by the README's commands."""
    real = SentenceEncoder.from_pretrained(minilm, device="cpu")
    narrow = replace(real.bert.config, hidden_size=48, intermediate_size=96)
    SentenceEncoder(Bert(narrow), real.tokenizer, real.settings).save_pretrained(reader / "minilm")
    yield
    shutil.rmtree(reader / "minilm")


def run(command: str, ours: Path) -> None:
    """A command as printed, in this process. It must end well. ours: the project's own data."""
    _, _, program, *arguments = shlex.split(command, comments=True)
    spec = importlib.util.find_spec(program)
    assert spec is not None, command
    module = import_module(f"{program}.__main__" if spec.submodule_search_locations else program)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "OURS", ours)
        assert module.main(arguments) == 0, command


def has_bert_base() -> bool:
    try:
        find_model(BERT_BASE)
    except InputError:
        return False
    return True


needs_bert_base = pytest.mark.skipif(
    not has_bert_base(), reason=f"the weights of {BERT_BASE} are not on this machine"
)


def fills_masks_with_bert_base(command: str) -> bool:
    return "fill-mask" in command and "--model" not in command


def run_all(document: str, ours: Path) -> None:
    """All commands of a document, since one uses what another has left."""
    for made in ("runs", "vocabulary"):
        shutil.rmtree(made, ignore_errors=True)
    for command in commands_of(document):
        if not command.startswith(ELSEWHERE) and not fills_masks_with_bert_base(command):
            run(command, ours)


def test_commands_of_the_readme(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all("README.md", reader / "ours")
    assert PREDICT in " ".join(README.split())
    run(PREDICT, reader / "ours")
    out = capsys.readouterr().out
    assert "The cat sits on the mat  |  A kitten rests on a rug" in out
    assert (reader / "vectors.npy").exists()
    assert (reader / "page.html").exists()
    of_training, of_predicting = blocks("README.md", "text")
    assert set(without_numbers(of_training)) <= set(without_numbers(out))
    text, topic, _ = of_predicting.splitlines()
    assert f"{text}\n{topic.partition(':')[0]}: " in out


def without_numbers(text: str) -> list[str]:
    """Its lines, however large the numbers in them are."""
    return [" ".join(re.sub(r"[\d.]+", "0", line).split()) for line in text.splitlines()]


def test_commands_of_the_library(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all("minibert/README.md", reader / "ours")
    assert "The cat sits on the mat  |  A kitten rests on a rug" in capsys.readouterr().out
    assert (reader / "bits.npy").exists()


@needs_bert_base
def test_filling_masks(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = filter(fills_masks_with_bert_base, commands_of("minibert/README.md"))
    run(command, reader / "ours")
    assert "capital" in capsys.readouterr().out


@pytest.mark.usefixtures("small_minilm")
def test_commands_of_training(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_all("train/README.md", reader / "ours")
    assert "sentiment-data" in {folder.name for folder in (reader / "runs").iterdir()}
    (block,) = blocks("train/README.md", "python")
    names: dict[str, Any] = {}
    capsys.readouterr()
    exec(block, names)
    (topic,) = [task for task in names["run"].tasks if task.name == "topic"]
    assert capsys.readouterr().out.split()[0] in topic.labels


def test_python_blocks_of_the_readme(reader: Path) -> None:
    names: dict[str, Any] = {}
    vectors, keywords = blocks("README.md", "python")
    exec(vectors, names)
    assert names["vectors"].shape == (2, 384)
    pytest.importorskip("keybert", reason="KeyBERT is not installed")
    exec(keywords, names)
    found = {word for word, _ in names["keywords"]}
    assert found
    assert found <= {"eve", "arnold", "wins", "oslo", "cup"}


def test_python_blocks_of_the_library(reader: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, Any] = {}
    exec(blocks("minibert/README.md", "python")[0], names)
    assert "(40, 384)" in capsys.readouterr().out
    assert names["vectors"].shape == (40, 384)


@needs_bert_base
def test_the_whole_of_bert_base(reader: Path) -> None:
    names: dict[str, Any] = {}
    for block in blocks("minibert/README.md", "python"):
        exec(block, names)
    assert names["words"].shape == (1, 4, 30_522)


def test_the_block_for_other_libraries(reader: Path) -> None:
    names: dict[str, Any] = {}
    exec(*blocks("tests/ecosystem/README.md", "python"), names)
    assert names["model"].encode("a sentence").shape == (384,)
    assert (reader / "folder/modules.json").exists()


@pytest.mark.parametrize("command", IN_TABLES)
def test_commands_in_tables(command: str, reader: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All claims, on fewer texts and steps than the table in RESULTS.md."""
    monkeypatch.setattr(fidelity, "TEXTS", 20)
    monkeypatch.setattr(fidelity, "STEPS", 20)
    if command.startswith(ELSEWHERE):
        pytest.skip("all tests are run by .ci/run")
    run(command, read.OURS)


def test_every_command_is_run() -> None:
    known = ("python -m minibert", "python -m train", "python -m tools.explore", *ELSEWHERE)
    for document in ("README.md", *GUIDES):
        assert [line for line in commands_of(document) if not line.startswith(known)] == []


def test_five_minutes() -> None:
    """The README is short, and so is each block of it that a reader pastes."""
    assert len(README.splitlines()) <= 150
    pasted = blocks("README.md", "bash") + blocks("README.md", "python")
    assert len(pasted) >= 10
    assert all(len(block.splitlines()) <= 5 for block in pasted)


def test_results_are_those_of_the_other_file() -> None:
    """Each figure of the README stands in RESULTS.md."""
    results = (ROOT / "RESULTS.md").read_text(encoding="utf-8")
    section = README.split("## Results")[1]
    figures = re.findall(r"\d+\.\d+", section)
    assert len(figures) >= 10
    assert [figure for figure in figures if figure not in results] == []


def test_the_picture(minilm: Path) -> None:
    """It is one file, for light and dark; its word pieces are those of the sentence."""
    text = (ROOT / "tools/bert.svg").read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert "prefers-color-scheme: dark" in text
    assert "href" not in text
    space = "{http://www.w3.org/2000/svg}"
    pieces = [e.text for e in root.iter(f"{space}text") if e.get("class") == "token middle"]
    said = root.findtext(f"{space}desc") or ""
    (sentence,) = re.findall('"(.+)"', said)
    tokenizer = Tokenizer.from_folder(minilm)
    (tokens,) = tokenizer.encode([sentence])
    assert pieces == [tokenizer.backend.id_to_token(i) for i in tokens.ids]


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
    folder = ROOT / "tests/ecosystem"
    text = (folder / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| [^|]+ \| (.+) \| \[.+\]\((.+)\) \|$", text, flags=re.MULTILINE)
    files = [ROOT / "tests/test_sklearn.py", *folder.glob("test_*.py")]
    assert sorted((folder / file).resolve() for _, file in rows) == sorted(files)
    for passed, file in rows:
        test = "".join((folder / file).read_text(encoding="utf-8").split())
        assert all(call in test for call in re.findall(r"\w+\((?:\w+=)?", passed)), file


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md", "RESULTS.md", *GUIDES])
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#]+)\)", text):
        if "://" not in target:
            assert (ROOT / document).parent.joinpath(target).exists(), target
