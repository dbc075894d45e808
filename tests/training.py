"""What the training tests share: a tiny BERT with random weights in a folder, and tiny data that it
can learn.

Sentences of 4 to 11 words, some of them of two pieces: an intent follows from one word, the slots
from others. Pairs have the cosine that they should have, and some sentences a score. All of it is
drawn with fixed seeds.
"""

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minibert import Bert, BertConfig
from minibert.files import sha256
from minibert.formats.tensors import read_tensors
from minibert.precision import computes_bfloat16
from tools.parity import shake
from train.batches import Item
from train.checkpoint import checkpoints
from train.settings import Settings
from train.setup import Parts, assemble
from train.step import StepLosses, forward_backward

TRIGGERS = {
    "music": ("play", "sing", "hear"),
    "travel": ("fly", "drive", "walk"),
    "weather": ("rain", "snow", "sun"),
}
PLACES = (("oslo",), ("rome",), ("paris",), ("new", "york"), ("san", "juan"))
NAMES = (("ann",), ("bob",), ("eve",), ("joe", "doe"))
FILLERS = ("the", "a", "to", "in", "on", "with", "my", "please", "now", "some", "days", "songs")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PIECES = ("day", "song", "##s", "##ing", ".", ",", "?")  # "days" is "day" and "##s"
VOCABULARY = (
    *SPECIAL,
    *(word for words in TRIGGERS.values() for word in words),
    *dict.fromkeys(word for words in (*PLACES, *NAMES) for word in words),
    *FILLERS[:-2],
    *PIECES,
)

needs_bfloat16 = pytest.mark.skipif(
    not computes_bfloat16(), reason="this processor has no products of bfloat16 numbers"
)


def sentence(dice: random.Random) -> dict[str, Any]:
    """One sentence with its intent and slots, as a line of a JSON lines file."""
    intent = dice.choice(sorted(TRIGGERS))
    parts: list[tuple[tuple[str, ...], str]] = [((dice.choice(TRIGGERS[intent]),), "")]
    parts += [((dice.choice(FILLERS),), "") for _ in range(dice.randint(3, 8))]
    if dice.random() < 0.7:
        parts.append((dice.choice(PLACES), "place"))
    if dice.random() < 0.5:
        parts.append((dice.choice(NAMES), "name"))
    dice.shuffle(parts)
    words = [word for part, _ in parts for word in part]
    tags = [
        f"{'I' if i else 'B'}-{kind}" if kind else "O"
        for part, kind in parts
        for i in range(len(part))
    ]
    return {"words": words, "intent": intent, "slots": tags}


def pair(dice: random.Random) -> dict[str, Any]:
    """Two sentences with the cosine that they should have: 0.9 if of one intent, else 0.1."""
    first, second = sentence(dice), sentence(dice)
    cosine = 0.9 if first["intent"] == second["intent"] else 0.1
    return {
        "text_a": " ".join(first["words"]),
        "text_b": " ".join(second["words"]),
        "cosine": cosine,
    }


def scored(dice: random.Random) -> dict[str, Any]:
    """A sentence with a number: how many of its words are part of a name or place."""
    made = sentence(dice)
    return {
        "text": " ".join(made["words"]),
        "score": float(sum(tag != "O" for tag in made["slots"])),
    }


def write_json_lines(file: Path, records: Iterable[Mapping[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return file


def write_splits(folder: Path, make: Any, train: int, other: int) -> Path:
    """train.jsonl, dev.jsonl and test.jsonl, with so many records of a kind."""
    dice = random.Random(1)
    for split, count in (("train", train), ("dev", other), ("test", other)):
        write_json_lines(folder / f"{split}.jsonl", [make(dice) for _ in range(count)])
    return folder


def write_model(folder: Path, pooler: bool = False) -> Path:
    """A BERT with hidden size 24, three layers and random weights, in the files of a checkpoint;
    dropout is 0.1."""
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=24,
        num_hidden_layers=3,
        num_attention_heads=3,
        intermediate_size=32,
        max_position_embeddings=32,
        initializer_range=0.1,
    )
    torch.manual_seed(7)
    shake(Bert(config, pooler=pooler), 0.02).save_pretrained(folder)
    (folder / "vocab.txt").write_text(
        "".join(f"{token}\n" for token in VOCABULARY), encoding="utf-8"
    )
    return folder


@dataclass(frozen=True)
class World:
    """The folders of a tiny model and of tiny data."""

    model: Path
    sentences: Path  # tasks intent and slots: 44 train, which is six batches of at most eight
    pairs: Path  # task cosine: 26 train
    scores: Path  # task score: 26 train

    def settings(self, *data: Path, **changes: Any) -> Settings:
        """Settings of a short run on the CPU, on the sentences if no data is named."""
        short: dict[str, Any] = {
            "data": tuple(map(str, data or (self.sentences,))),
            "model": str(self.model),
            "device": "cpu",
            "epochs": 2,
            "batch_size": 8,
            "lr": 1e-3,
            "head_lr": 1e-2,
        }
        return Settings(**(short | changes))


def make_world(folder: Path) -> World:
    return World(
        write_model(folder / "tiny-bert"),
        write_splits(folder / "sentences", sentence, 44, 12),
        write_splits(folder / "pairs", pair, 26, 8),
        write_splits(folder / "scores", scored, 26, 8),
    )


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of all parameters."""
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}


def differing(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> set[str]:
    """The names of the tensors that are not equal bit for bit."""
    assert first.keys() == second.keys()
    return {name for name, tensor in first.items() if not torch.equal(tensor, second[name])}


def trained(run: Path) -> dict[str, Tensor]:
    """The weights that a finished run left, by the names in its JointModel."""
    bert = Bert.from_pretrained(run / "model")
    return {f"bert.{name}": tensor for name, tensor in weights(bert).items()} | {
        f"heads.{name}": tensor for name, tensor in read_tensors(run / "heads.safetensors").items()
    }


def log_of(run: Path) -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def metrics_of(run: Path) -> dict[str, Any]:
    return json.loads((run / "metrics.json").read_text(encoding="utf-8"))


def outcome(run: Path) -> dict[str, Any]:
    """All that a finished run computed: equal for two runs only if they are bit for bit the same.

    The weights (as the files' digests), losses, metrics and predictions; the last checkpoint too,
    with the optimizer, the random generators and the best weights. Only the time that it took is
    left out.
    """
    result: dict[str, Any] = {
        name: sha256(run / name)
        for name in ("model/model.safetensors", "heads.safetensors", "predictions.jsonl")
    }
    result["metrics"] = {key: value for key, value in metrics_of(run).items() if key != "seconds"}
    if found := checkpoints(run):
        result["log"] = (run / "log.jsonl").read_text(encoding="utf-8")
        result["checkpoint"] = found[-1].name, sha256(found[-1] / "tensors.safetensors")
        progress = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))["progress"]
        result["progress"] = {key: value for key, value in progress.items() if key != "seconds"}
    return result


def step(parts: Parts, batches: Sequence[Sequence[Item]]) -> tuple[dict[str, Tensor], StepLosses]:
    """The gradients that a step of these batches leaves, by name, and its losses."""
    for module in (parts.model, parts.mixer):
        module.zero_grad()
    found = forward_backward(
        [parts.batch(b) for b in batches],
        parts.model,
        parts.model,
        parts.mixer,
        parts.tasks,
        parts.settings,
    )
    named = {**dict(parts.model.named_parameters()), **dict(parts.mixer.named_parameters())}
    return {name: p.grad.clone() for name, p in named.items() if p.grad is not None}, found


def assert_same(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> None:
    """Equal up to a share of the largest gradient of all."""
    assert first.keys() == second.keys()
    largest = max(float(gradient.abs().max()) for gradient in second.values())
    assert largest > 1e-3  # else this compares nothing
    for name, gradient in first.items():
        assert float((gradient - second[name]).abs().max()) < tolerance * largest, name


def assert_near(first: dict[str, Tensor], second: dict[str, Tensor], bound: float) -> None:
    """Each tensor's difference has at most this share of its norm. Left out is the key's bias: it
    adds the same to all scores of a query, so its gradient is 0 but for rounding."""
    assert first.keys() == second.keys()
    compared = [name for name in second if not name.endswith("attention.key.bias")]
    errors = {n: float((first[n] - second[n]).norm() / second[n].norm()) for n in compared}
    assert max(errors.values()) <= bound, max(errors.items(), key=lambda item: item[1])


def assemble_exact(settings: Settings) -> Parts:
    """In float64 and without dropout, with weights of the losses that are not at their start."""
    parts = assemble(settings, dtype=torch.float64)
    for i, parameter in enumerate(parts.mixer.parameters()):
        torch.nn.init.constant_(parameter, 0.3 * i - 0.2)
    return parts


def every_kind(world: World, folder: Path, **changes: Any) -> tuple[Parts, list[Item]]:
    """Seven kinds of tasks on one encoder, in float64 and without dropout, and items of them all in
    disorder; some texts are in several windows."""

    def pairs(dice: random.Random) -> dict[str, Any]:
        record = pair(dice)
        same = ("other", "same")[record.pop("cosine") > 0.5]
        return record | {"together": same, "apart": same}

    def texts(dice: random.Random) -> dict[str, Any]:
        made = sentence(dice)
        found = sorted({tag[2:] for tag in made["slots"] if tag != "O"})
        return {"text": " ".join(made["words"]), "topics": found}

    def questions(dice: random.Random) -> dict[str, Any]:
        words = sentence(dice)["words"]
        answers = {"text": [words[0]], "answer_start": [0]}
        return {"question": "sing", "context": " ".join(words), "answers": answers}

    def choices(dice: random.Random) -> dict[str, Any]:
        several = [" ".join(sentence(dice)["words"]) for _ in range(dice.choice((2, 4)))]
        return {"text": "please", "choices": several, "label": dice.randrange(2)}

    made = {"pairs": pairs, "texts": texts, "questions": questions, "choices": choices}
    folders = [write_splits(folder / name, make, 7, 2) for name, make in made.items()]
    given: dict[str, Any] = {"dropout": 0.0, "stride": 3, "max_length": 10}
    given |= {"pairs": "apart=apart", "class_weights": "topics=auto, together=same:3"}
    parts = assemble_exact(world.settings(world.sentences, *folders, **(given | changes)))
    kinds = ["sentence", "tokens", "pair", "pair apart", "multilabel", "question", "choice"]
    assert [task.kind for task in parts.tasks] == kinds
    items = [item for source in parts.sources for item in source[:9]]
    assert any(len(item.parts_of.get("topics", ())) > 1 for item in items)
    random.Random(0).shuffle(items)
    return parts, items
