"""Command lines, and the files that they read, as strangers give them."""

import json
import os
import random
import sys
from argparse import ArgumentParser
from collections.abc import Callable
from contextlib import chdir, suppress
from dataclasses import fields
from pathlib import Path
from typing import Any

from minibert import __main__ as minibert
from minibert.files import InputError
from tools.faults.data import ANCHORS, FORMATS, SENTENCES, SIZES, TEXT, lines, write_files
from tools.faults.fuzz import Kind
from tools.faults.mutate import VALUES, mutate_json_lines, mutate_text
from tools.faults.small import write_small_encoder
from train import evaluate, mine, predict, run, vocabulary
from train.settings import Settings

PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "minibert": minibert.main,
    "run": run.main,
    "predict": predict.main,
    "evaluate": evaluate.main,
    "mine": mine.main,
    "vocabulary": vocabulary.main,
}
TRAIN = ("run", "--data", "data", "--model", SIZES, "--tokenizer", "model", "--device", "cpu")
SHORT = (*TRAIN, "--epochs", "1", "--max-steps", "1")
COMMANDS = (
    ("minibert", "encode", "--model", "model", "--input", "texts.txt", "--output", "out.npy"),
    ("minibert", "similarity", "--model", "model", "rain", "a day"),
    (*SHORT, "--output", "new"),
    ("predict", "trained", "rain in oslo"),
    ("predict", "trained", "--input", "texts.txt", "--json"),
    ("evaluate", "trained", "--data", "data", "--split", "train"),
    ("mine", "--data", "pairs/train.jsonl", "--model", "model", "-o", "mined.jsonl"),
    ("vocabulary", "text/train.txt", "--size", "60", "-o", "vocabulary"),
)
FEW_STEPS = ("epochs", "max_steps", "overfit_batch", "compare_single")  # these could train for long
# A path on the command line is the user's own, and leads anywhere. No argument can hold NUL, and
# half a surrogate pair stands for a byte that is not UTF-8.
ODD = [
    str(value).replace("\ud800", "\udcff")
    for value in VALUES
    if not (isinstance(value, int) and abs(value) >= 10**400)
    and not any(part in str(value) for part in ("/", "..", "\0"))
]


def call(program: str, *arguments: str) -> None:
    """Run a program. Raises InputError if it ends with an error, as it does for wrong input."""
    os.environ.setdefault("HF_TOKEN", "hf_none")  # else the user's own is read
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.modules["matplotlib"] = None  # type: ignore[assignment]  # its pictures take seconds
    try:
        code = PROGRAMS[program](list(arguments))
    except SystemExit as end:  # argparse ends so, after an error or --help
        code = end.code if isinstance(end.code, int) else 1
    if code == 2:
        raise InputError("exit status 2")
    assert code == 0, code


def write_everything(folder: Path) -> None:
    """An encoder, data of several kinds, and a finished run."""
    write_small_encoder(folder / "model")
    files = {"texts.txt": "\n".join(SENTENCES) + "\n", "text/train.txt": TEXT}
    files |= {"pairs/train.jsonl": ANCHORS, "records.jsonl": lines({"text": "rain", "id": 1})}
    write_files(folder, {**FORMATS["CSV"][0], **files})
    with chdir(folder):
        call(*SHORT, "--output", "trained")


def write_commands(folder: Path) -> None:
    """The same, with a file that says which program is called, and how."""
    write_everything(folder)
    (folder / "arguments.json").write_text(json.dumps(COMMANDS[0]))
    with suppress(InputError):  # when it is first used, the Hub's library looks at the system
        call("minibert", "inspect", "0")


def options_of(command: tuple[str, ...]) -> list[str]:
    """The options of a program."""
    if command[0] == "run":
        names = [f.name.replace("_", "-") for f in fields(Settings) if f.name not in FEW_STEPS]
        return [f"--{name}" for name in (*names, "recipe", "resume")]
    makers: dict[str, Callable[[], Any]] = {
        "minibert": minibert.parser,
        "predict": predict.parser,
        "mine": mine.parser,
        "vocabulary": vocabulary.parser,
    }
    if command[0] not in makers:
        return ["--data", "--text", "--split", "--json"]
    parser: ArgumentParser = makers[command[0]]()
    if command[0] == "minibert":
        commands = next(a for a in parser._actions if isinstance(a.choices, dict))
        parser = commands.choices.get(command[1], parser)  # type: ignore[union-attr]
    return [name for action in parser._actions for name in action.option_strings]


def mutate_arguments(content: bytes, dice: random.Random) -> bytes:
    """One of the commands, with an option more or a word changed."""
    command = list(dice.choice(COMMANDS))
    match dice.randrange(4):
        case 0:
            command[dice.randrange(1, len(command))] = dice.choice(ODD)
        case 1:
            command += [dice.choice(ODD)]
        case _:
            command += [dice.choice(options_of(tuple(command))), dice.choice(ODD)]
    return json.dumps(command).encode()


def use_commands(folder: Path) -> None:
    with chdir(folder):
        call(*json.loads((folder / "arguments.json").read_bytes()))


def use_predict(folder: Path) -> None:
    """Predict texts, one a line."""
    call("predict", str(folder / "trained"), "--input", str(folder / "texts.txt"))


def use_records(folder: Path) -> None:
    """Predict JSON lines."""
    call("predict", str(folder / "trained"), "--input", str(folder / "records.jsonl"), "--json")


def use_mine(folder: Path) -> None:
    pairs, output = folder / "pairs/train.jsonl", folder / "mined.jsonl"
    call("mine", "--data", str(pairs), "--model", str(folder / "model"), "-o", str(output))


def use_vocabulary(folder: Path) -> None:
    made = folder / "vocabulary"
    call("vocabulary", str(folder / "text/train.txt"), "--size", "60", "-o", str(made))


KINDS = (
    Kind("command lines", write_commands, {"arguments.json": mutate_arguments}, use_commands),
    Kind("texts to predict", write_everything, {"texts.txt": mutate_text}, use_predict),
    Kind("records to predict", write_everything, {"records.jsonl": mutate_json_lines}, use_records),
    Kind("pairs to mine", write_everything, {"pairs/train.jsonl": mutate_json_lines}, use_mine),
    Kind("vocabulary", write_everything, {"text/train.txt": mutate_text}, use_vocabulary),
)
