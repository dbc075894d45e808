"""Data, recipes and command lines, as strangers give them."""

import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tools.faults.fuzz import Kind
from tools.faults.mutate import (
    Mutator,
    mutate_json,
    mutate_json_lines,
    mutate_text,
    mutate_toml,
)
from tools.faults.small import write_small_encoder
from train.report import overview
from train.settings import Settings
from train.settings_file import read_settings
from train.setup import assemble

SIZES = "num_hidden_layers=1, hidden_size=16, num_attention_heads=2, intermediate_size=24"


def lines(*records: Any) -> str:
    """JSON lines."""
    return "".join(json.dumps(record) + "\n" for record in records)


SENTENCES = ("rain in oslo", "the good film", "a bad song", "new york today", "anna plays", "a day")
CONLL = "".join(
    f"{word}\tNN\t{tag}\n" if word else "\n"
    for word, tag in (
        *(("Rain", "O"), ("in", "O"), ("Oslo", "B-place"), ("", "")),
        *(("Anna", "B-name"), ("plays", "O"), ("", "")),
        *(("New", "B-place"), ("York", "I-place"), ("day", "O"), ("", "")),
    )
)
CONLLU = "".join(
    f"# text = {text}\n"
    + "".join(
        f"{i}\t{word}\t_\t{'NOUN' if i % 2 else 'VERB'}\t_\t_\t0\t_\t_\t_\n"
        for i, word in enumerate(text.split(), start=1)
    )
    + "\n"
    for text in SENTENCES
)
TABLE = "text,label,score,topics\n" + "".join(
    f"\"{text}, said\",{'good' if i % 2 else 'bad'},{i / 4},\"['a', '{'bc'[i % 2]}']\"\n"
    for i, text in enumerate(SENTENCES)
)
PAIRS = "sentence1\tsentence2\tlabel\tscore\n" + "".join(
    f"{text}\t{other}\t{i % 2}\t{i / 2}\n"
    for i, (text, other) in enumerate(zip(SENTENCES, SENTENCES[::-1], strict=True))
)
TAGGED = lines(
    {"words": ["Rain", "in", "Oslo"], "tags": ["O", "O", "B-place"], "intent": "ask", "id": 1},
    {"words": ["Anna", "plays"], "tags": ["B-name", "O"], "intent": "tell", "topics": ["a", "b"]},
    {"words": ["a", "day"], "tags": ["O", "O"], "intent": "ask"},
)
SPANS = lines(
    {"text": "Rain in Oslo", "entities": [[8, 12, "place"]], "label": True},
    {"text": "Anna plays", "entities": [{"start": 0, "end": 4, "label": "name"}], "label": False},
    {"text": "a day", "entities": [], "label": True},
)
DOCCANO = lines(
    {"id": 1, "text": "Rain in Oslo", "label": [[8, 12, "place"]], "Comments": []},
    {"id": 2, "text": "Anna plays", "label": [[0, 4, "name"]], "Comments": []},
    {"id": 3, "text": "a day", "label": [], "Comments": []},
)
RECORDS = json.dumps([{"text": text, "label": i % 2} for i, text in enumerate(SENTENCES)])


def paragraph(text: str) -> dict[str, Any]:
    """A text of SQuAD with two questions, of which it answers the first."""
    answer = {"text": text.split()[0], "answer_start": 0}
    questions = (
        {"id": text, "question": "the day?", "answers": [answer]},
        {"question": "a film?", "is_impossible": True, "answers": []},
    )
    return {"context": text, "qas": questions}


SQUAD = json.dumps({"data": [{"title": "Oslo", "paragraphs": list(map(paragraph, SENTENCES))}]})
LABEL_STUDIO = json.dumps(
    [
        {
            "id": i,
            "data": {"text": text},
            "annotations": [
                {
                    "result": [
                        {
                            "from_name": "label",
                            "type": "labels",
                            "value": {"start": 0, "end": len(text.split()[0]), "labels": ["x"]},
                        },
                        {"from_name": "mood", "value": {"choices": [("good", "bad")[i % 2]]}},
                    ]
                }
            ],
        }
        for i, text in enumerate(SENTENCES)
    ]
)
CHOICES = lines(
    *(
        {"text": text, "choices": ["a day", text], "label": i % 2}
        for i, text in enumerate(SENTENCES)
    )
)
ANCHORS = lines(
    *(
        {"anchor": text, "positive": f"{text} today", "negatives": ["bad rain", "a day"]}
        for text in SENTENCES
    )
)
TEXT = "".join(f"{text}.\n{text}, {text}!\n\n" for text in SENTENCES)


def everywhere(name: str, content: str) -> dict[str, str]:
    """The same content as train and dev split."""
    return {f"data/train{name}": content, f"data/dev{name}": content}


FORMATS: Mapping[str, tuple[dict[str, str], Mutator, Mapping[str, Any]]] = {
    "CoNLL": (everywhere(".conll", CONLL), mutate_text, {}),
    "CoNLL, columns": (
        everywhere(".conll", CONLL),
        mutate_text,
        {"columns": "words=1, pos=2, tags=3"},
    ),
    "CoNLL-U": ({"data/train.conllu": CONLLU}, mutate_text, {}),
    "CSV": ({"data/train.csv": TABLE}, mutate_text, {}),
    "CSV, columns": (
        {"data/train.csv": TABLE},
        mutate_text,
        {"columns": "text=1, label=2, topics=4", "header": False, "multilabel": ("topics",)},
    ),
    "TSV": ({"data/train.tsv": PAIRS}, mutate_text, {"score": ("score",)}),
    "JSON lines": (everywhere(".jsonl", TAGGED), mutate_json_lines, {}),
    "spans": (everywhere(".jsonl", SPANS), mutate_json_lines, {}),
    "doccano": (everywhere(".jsonl", DOCCANO), mutate_json_lines, {}),
    "choices": ({"data/train.jsonl": CHOICES}, mutate_json_lines, {}),
    "anchors": ({"data/train.jsonl": ANCHORS}, mutate_json_lines, {}),
    "JSON": ({"data/train.json": RECORDS}, mutate_json, {}),
    "SQuAD": ({"data/train-v1.1.json": SQUAD}, mutate_json, {}),
    "Label Studio": (everywhere(".json", LABEL_STUDIO), mutate_json, {}),
    "SNIPS": (
        {
            "data/train/seq.in": "Rain in Oslo\nAnna plays\na day\n",
            "data/train/seq.out": "O O B-place\nB-name O\nO O\n",
            "data/train/label": "ask\ntell\nask\n",
        },
        mutate_text,
        {},
    ),
    "TweetEval": (
        {
            "data/mapping.txt": "0\tbad\n1\tgood\n",
            "data/train_text.txt": "\n".join(SENTENCES) + "\n",
            "data/train_labels.txt": "0\n1\n" * 3,
        },
        mutate_text,
        {},
    ),
    "GoEmotions": (
        {
            "data/train.tsv": "".join(f"{t}\t{i % 3},3\tid{i}\n" for i, t in enumerate(SENTENCES)),
            "data/emotions.txt": "joy\nfear\nlove\nneutral\n",
        },
        mutate_text,
        {},
    ),
    "CoLA": (
        {"data/train.tsv": "".join(f"x\t{i % 2}\t\t{t}\n" for i, t in enumerate(SENTENCES))},
        mutate_text,
        {},
    ),
    "STS-B": (
        {
            "data/sts-train.csv": "".join(
                f"g\tf\ty\t{i:04}\t{i / 2}\t{t}\ta day\n" for i, t in enumerate(SENTENCES)
            )
        },
        mutate_text,
        {},
    ),
    "fastText": (
        {
            "data/train.txt": "".join(
                f"__label__{'ab'[i % 2]} {text}\n" for i, text in enumerate(SENTENCES)
            )
        },
        mutate_text,
        {},
    ),
    "labelled lines": (
        {"data/train.txt": "".join(f"{'ab'[i % 2]}\t{t}\n" for i, t in enumerate(SENTENCES))},
        mutate_text,
        {},
    ),
    "BEIR": (
        {
            "data/corpus.jsonl": lines(
                *({"_id": f"d{i}", "title": "a", "text": t} for i, t in enumerate(SENTENCES))
            ),
            "data/queries.jsonl": lines({"_id": "q1", "text": "a"}, {"_id": "q2", "text": "day"}),
            "data/qrels/dev.tsv": "query-id\tcorpus-id\tscore\nq1\td1\t1\nq2\td5\t2\nq2\td0\t0\n",
        },
        mutate_text,
        {"dev_data": ("data",)},
    ),
    "plain text": (
        {"data/train.txt": TEXT, "data/dev.txt": TEXT},
        mutate_text,
        {"text": ("data",), "objectives": "masked, next"},
    ),
}


def write_files(folder: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8", newline="")


def write_data(folder: Path, files: Mapping[str, str]) -> None:
    """Data, a tokenizer, and anchors to train on where the data is only measured."""
    write_small_encoder(folder / "model")
    write_files(folder, {**files, "pairs/train.jsonl": ANCHORS})


def read_as_training(folder: Path, changes: Mapping[str, Any]) -> None:
    """Set up a run on the data in a folder, up to its first step."""
    at = str(folder / "data")
    paths: dict[str, Any] = {"data": (at,)}
    if "text" in changes:
        paths = {"data": (), "text": (at,)}
    elif "dev_data" in changes:
        paths = {"data": (str(folder / "pairs"),), "dev_data": (at,)}
    tempfile.tempdir = str(folder)  # where the tokens of plain text go
    try:
        set_up(Settings(**{"model": SIZES, "tokenizer": str(folder / "model"), **changes, **paths}))
    finally:
        tempfile.tempdir = None


def set_up(settings: Settings) -> None:
    """Set up a run, and print what it begins with."""
    parts = assemble(replace(settings, device="cpu"))
    print(overview(parts, None))


def format_kind(name: str) -> Kind:
    files, mutator, changes = FORMATS[name]
    return Kind(
        name,
        partial(write_data, files=files),
        dict.fromkeys(files, mutator),
        partial(read_as_training, changes=changes),
    )


def write_recipe(folder: Path) -> None:
    """Data, and a recipe with every setting that is not a path."""
    write_data(folder, FORMATS["CSV"][0])
    paths = ("data", "text", "dev_data", "model", "tokenizer", "revision", "output", "device")
    (folder / "recipe.toml").write_text(Settings(model=SIZES).toml(without=paths))


def read_recipe(folder: Path) -> None:
    """Set up a run as a recipe says, but on the data in the folder: paths in a recipe are the
    user's own, and lead anywhere."""
    settings = Settings(**read_settings(folder / "recipe.toml"))
    at = (str(folder / "data"),)
    tokenizer = str(folder / "model")
    set_up(
        replace(
            settings,
            data=at,
            text=(),
            dev_data=(),
            model=SIZES,
            tokenizer=tokenizer,
            revision=None,
            output=None,
        )
    )


KINDS = (
    *map(format_kind, FORMATS),
    Kind("recipe", write_recipe, {"recipe.toml": mutate_toml}, read_recipe),
)
