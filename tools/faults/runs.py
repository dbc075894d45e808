"""The files of training: a run that is resumed, and a finished one that predicts."""

import json
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from unittest import mock

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from minibert.files import sha256
from minibert.formats.tensors import digest
from tools.faults.fuzz import Kind
from tools.faults.mutate import (
    Mutator,
    mutate_json,
    mutate_json_lines,
    mutate_safetensors,
    mutate_text,
    mutate_toml,
)
from tools.faults.small import TEXTS, write_small_encoder
from train.evaluate import evaluate
from train.predict import predict_texts
from train.run import train
from train.saved import load_run
from train.settings import Settings
from train.settings_file import read_settings
from train.state import sha256_of

RUN = Path("run")
CHECKPOINT = "run/checkpoints/step-00000004"
RESULTS = ("model/model.safetensors", "heads.safetensors", "predictions.jsonl")
MOODS = {"good": "good", "bad": "bad", "play": "good", "rain": "bad"}


def write_data(folder: Path) -> None:
    """Sentences with a class, tags and a number each."""
    dice = random.Random(1)
    fillers = ("the", "a", "film", "song", "day", "in", "with")
    folder.mkdir()
    for split, count in (("train", 12), ("dev", 6), ("test", 4)):
        lines = []
        for i in range(count):
            first = [*MOODS][i % 4]
            words = [first, *dice.sample(fillers, 4), dice.choice(("oslo", "rome"))]
            tags = ["O"] * 5 + ["B-place"]
            labels = {"mood": MOODS[first], "tags": tags, "stars": i % 4 + 0.5}
            lines.append(json.dumps({"words": words, **labels}) + "\n")
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")


@contextmanager
def at_work(folder: Path) -> Iterator[None]:
    """In a folder, so that settings can name paths in it; nothing is printed, and no pictures are
    drawn, which is slow."""
    without_pictures = mock.patch("train.run.draw_pictures", return_value=[])
    with chdir(folder), without_pictures, redirect_stdout(StringIO()):
        yield


def write_finished(folder: Path) -> None:
    """Data, a model, and a finished run of six steps, with all its checkpoints."""
    write_data(folder / "data")
    write_small_encoder(folder / "start")
    settings = Settings(
        data=("data",),
        model="start",
        epochs=2,
        batch_size=4,
        save_steps=2,
        keep=9,
        eval_steps=2,
        patience=4,
        device="cpu",
        dropout=0.1,
        lr=1e-2,
        head_lr=1e-1,
        monitor="loss",
    )
    with at_work(folder):
        train(settings, RUN)


def write_interrupted(folder: Path) -> None:
    """The same as it was after its fourth step; "expected" is what it ended in."""
    write_finished(folder)
    (folder / "expected").write_text(results(folder / RUN))
    shutil.rmtree(folder / "run/checkpoints/step-00000006")
    (folder / RUN / "metrics.json").unlink()


def results(run: Path) -> str:
    """What a run computed, in a few lines."""
    metrics = json.loads((run / "metrics.json").read_text())
    del metrics["seconds"]
    return "\n".join([*(sha256(run / name) for name in RESULTS), sha256_of(metrics)])


def resume(folder: Path) -> None:
    """Go on with a run to its end, whatever that is."""
    with at_work(folder):
        train(Settings(**read_settings(RUN / "settings.toml")), RUN, resume=True)


def resume_exactly(folder: Path) -> None:
    """The same, and it must end as the run that nothing interrupted."""
    resume(folder)
    if results(folder / RUN) != (folder / "expected").read_text():
        raise AssertionError("the run was resumed, and ended in another result")
    for line in (folder / RUN / "log.jsonl").read_bytes().split(b"\n")[:-1]:
        json.loads(line)


def use_finished(folder: Path) -> None:
    """Predict and evaluate with a finished run."""
    with at_work(folder):
        predict_texts(load_run(RUN), [text for text in TEXTS if text])
        evaluate(str(RUN), "data", "test")


def sealed_state(content: bytes, dice: random.Random) -> bytes:
    """A state.json that was changed, with a SHA-256 that says nothing of it."""
    changed = mutate_json(content, dice)
    try:
        document = json.loads(changed)
        del document["sha256"]
        return json.dumps(document | {"sha256": sha256_of(document)}).encode()
    except (ValueError, RecursionError, TypeError, KeyError):
        return changed


def sealed_tensors(content: bytes, dice: random.Random) -> bytes:
    """A checkpoint's tensors.safetensors, one of whose tensors was changed, and the SHA-256 too."""
    try:
        tensors = load(content)
    except SafetensorError:
        return content
    name, other = dice.choice(sorted(tensors)), dice.choice(sorted(tensors))
    changes: tuple[Callable[[Tensor], Tensor], ...] = (
        lambda t: t.to(dice.choice((torch.float16, torch.int64, torch.bool, torch.complex64))),
        lambda t: t.flatten()[: t.numel() // 2],
        lambda t: torch.cat([t.flatten(), t.flatten()]),
        lambda t: t.unsqueeze(0),
        lambda t: t.reshape(-1)[:0],
        lambda t: torch.full_like(t, dice.choice((0, 1, 255))),
        lambda t: (t.float() * dice.choice((-1, 1e30, torch.nan, torch.inf))).to(t.dtype),
        lambda t: noise(t, dice),
        lambda t: tensors[other],
    )
    changed = dice.choice(changes)(tensors[name]).contiguous().clone()
    match dice.randrange(6):
        case 0:
            del tensors[name]
        case 1:
            tensors[f"{name}{dice.choice(('x', '.', '.step', chr(0)))}"] = changed
        case _:
            tensors[name] = changed
    return save(tensors, {"sha256": digest(tensors)})


def noise(tensor: Tensor, dice: random.Random) -> Tensor:
    """Random bytes of a tensor's shape and type."""
    content = bytearray(dice.randbytes(tensor.nbytes))
    return torch.frombuffer(content, dtype=tensor.dtype).reshape(tensor.shape)


def resumed(
    name: str, mutator: Mutator, *files: str, use: Callable[[Path], object] = resume_exactly
) -> Kind:
    """Some files of an interrupted run are changed, and it is resumed."""
    return Kind(name, write_interrupted, dict.fromkeys(files, mutator), use)


KINDS = (
    resumed("state.json", mutate_json, f"{CHECKPOINT}/state.json"),
    resumed("state.json, sealed", sealed_state, f"{CHECKPOINT}/state.json", use=resume),
    resumed("checkpoint", mutate_safetensors, f"{CHECKPOINT}/tensors.safetensors"),
    resumed("checkpoint, sealed", sealed_tensors, f"{CHECKPOINT}/tensors.safetensors", use=resume),
    resumed("log.jsonl", mutate_json_lines, "run/log.jsonl"),
    resumed("settings.toml", mutate_toml, "run/settings.toml"),
    resumed("resumed data", mutate_text, *(f"data/{s}.jsonl" for s in ("train", "dev", "test"))),
    resumed("resumed model", mutate_json, "start/config.json", "start/tokenizer.json"),
    Kind(
        "finished run",
        write_finished,
        {
            "run/tasks.json": mutate_json,
            "run/heads.safetensors": mutate_safetensors,
            "run/metrics.json": mutate_json,
            "run/settings.toml": mutate_toml,
            "run/model/config.json": mutate_json,
        },
        use_finished,
    ),
)
