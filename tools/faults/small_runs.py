"""Small data of every kind of task, and runs that learn from it."""

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tools.faults.small import write_small_encoder

FILLERS = ["the", "a", "in", "to", "with", "new", "day", "song"]
MOODS = {"good": "good", "bad": "bad", "play": "film"}  # a word -> the class that it makes
CITIES = ["oslo", "rome", "york"]


def words(dice: random.Random) -> list[str]:
    """A sentence of 4 to 9 words, with one of MOODS and one of CITIES."""
    made = [dice.choice(sorted(MOODS)), dice.choice(CITIES)]
    made += dice.choices(FILLERS, k=dice.randint(2, 7))
    return dice.sample(made, len(made))


def mood(text: list[str]) -> str:
    return next(MOODS[word] for word in text if word in MOODS)


def tagged(dice: random.Random) -> dict[str, Any]:
    """A class, entities, and a tag for each word."""
    text = words(dice)
    slots = ["B-city" if word in CITIES else "O" for word in text]
    lengths = ["long" if len(word) > 3 else "short" for word in text]
    return {"words": text, "intent": mood(text), "slots": slots, "lengths": lengths}


def labelled(dice: random.Random) -> dict[str, Any]:
    """Several labels, and a score."""
    text = words(dice)
    topics = sorted({word for word in text if word in ("song", "day")})
    return {"text": " ".join(text), "topics": topics, "score": float(len(text))}


def pair(dice: random.Random) -> dict[str, Any]:
    """Two texts with a class, read together and apart, and with two scores."""
    first, second = words(dice), words(dice)
    is_same = mood(first) == mood(second)
    same, value = ("no", "yes")[is_same], (0.1, 0.9)[is_same]
    texts = {"text_a": " ".join(first), "text_b": " ".join(second)}
    return texts | {"together": same, "apart": same, "cosine": value, "rating": value}


def question(dice: random.Random) -> dict[str, Any]:
    text = words(dice)
    answer = next(word for word in text if word in CITIES)
    context = " ".join(text)
    answers = {"text": [answer], "answer_start": [context.index(answer)]}
    return {"question": "in", "context": context, "answers": answers}


def choice(dice: random.Random) -> dict[str, Any]:
    several = [" ".join(words(dice)) for _ in range(dice.choice((2, 3)))]
    return {"text": "the film", "choices": several, "label": dice.randrange(2)}


def anchored(dice: random.Random) -> dict[str, Any]:
    anchor, positive = (" ".join(words(dice)) for _ in range(2))
    return {"anchor": anchor, "positive": positive}


RECORDS: Mapping[str, Callable[[random.Random], dict[str, Any]]] = {
    "tagged": tagged,
    "labelled": labelled,
    "pairs": pair,
    "questions": question,
    "choices": choice,
    "anchors": anchored,
}


def write_lines(file: Path, lines: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def write_data(folder: Path, size: int = 12) -> None:
    """A folder for each kind of record, with `size` records to train on; plain text; a search
    collection; and a small encoder."""
    dice = random.Random(3)
    for name, make in RECORDS.items():
        for split, count in (("train", size), ("dev", 5), ("test", 5)):
            lines = [json.dumps(make(dice)) for _ in range(count)]
            write_lines(folder / name / f"{split}.jsonl", lines)
    for split, count in (("train", 3 * size), ("dev", 9), ("test", 9)):
        lines = ["" if i % 3 == 2 else " ".join(words(dice)) for i in range(count)]
        write_lines(folder / "text" / f"{split}.txt", lines)
    texts = {name: [" ".join(words(dice)) for _ in range(4)] for name in ("corpus", "queries")}
    for name, found in texts.items():
        lines = [json.dumps({"_id": f"{name}{i}", "text": text}) for i, text in enumerate(found)]
        write_lines(folder / "search" / f"{name}.jsonl", lines)
    judged = [f"queries{i}\tcorpus{i}\t1" for i in range(4)]
    write_lines(folder / "search/qrels/dev.tsv", ["query-id\tcorpus-id\tscore", *judged])
    write_small_encoder(folder / "encoder")


# Between them, these have every kind of task, accumulation, layers that are frozen and learn later,
# the prefix cache in memory and as a file, batches in pieces, and a comparison with single tasks.
RUNS: Mapping[str, tuple[list[str], dict[str, Any]]] = {
    "labels": (
        ["tagged", "labelled"],
        {"accumulate": 2, "loss": "uncertainty", "sampling": "temperature", "dropout": 0.2},
    ),
    "pairs": (
        ["pairs", "questions", "choices"],
        {"pairs": "apart=apart, rating=together", "stride": 2, "freeze": "embeddings"},
    ),
    "thawing": (
        ["tagged"],
        {"freeze": "backbone", "unfreeze": "2: layers.1", "accumulate": 2, "cache_mib": 0,
         "group_by_length": True, "patience": 3},
    ),
    "text": (["text"], {"objectives": "masked, next", "whole_words": True, "max_length": 16}),
    "vectors": (
        ["anchors", "text", "search"],
        {"objectives": "simcse", "mini_batch_size": 3, "freeze": "layers.0", "max_steps": 5},
    ),
    "order": (["pairs"], {"tasks": "cosine", "vector_loss": "cosent", "precision": "auto"}),
    "compared": (["tagged"], {"compare_single": True, "epochs": 1, "keep": 2}),
}  # fmt: skip


def arguments(name: str, data: Path) -> list[str]:
    """The command line of one of RUNS, on the CPU. Its folder is `run`."""
    flags = {"text": "--text", "search": "--dev-data"}
    sources, changes = RUNS[name]
    settings = {"model": data / "encoder", "device": "cpu", "output": "run", "epochs": 2}
    settings |= {"batch_size": 4, "lr": 1e-3, "head_lr": 1e-2, "eval_steps": 2, "save_steps": 2}
    found = [part for s in sources for part in (flags.get(s, "--data"), str(data / s))]
    for key, value in (settings | changes).items():
        flag = f"--{key.replace('_', '-')}"
        found += [flag] if value is True else [flag, str(value)]
    return found
