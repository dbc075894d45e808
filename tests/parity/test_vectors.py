"""The losses of sentence vectors against those of sentence_transformers.losses.

Evidence: SentenceTransformer opens a small BERT with random weights, and tokenizes, pads and pools
the same texts in its own way. Loss and the gradients of all parameters agree, in float64 within
1e-9, in float32 (which the squared errors always have) within 1e-6; and the vectors of a finished
run's folder within 1e-6.
"""

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from torch import Tensor, nn

from minibert import SentenceEncoder
from minibert.formats.names import checkpoint_name
from tests.training import World, make_world, sentence, write_json_lines
from train.batches import collate, prepare
from train.data.examples import DataSet, Example, Negatives
from train.mixing import LossMixer
from train.model import JointModel
from train.run import train
from train.settings import Settings
from train.step import forward_backward
from train.tasks import build_tasks

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = [24, 10, 5]  # 24 is all that there is
CASES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "pairs": ("0 negatives", {}, losses.MultipleNegativesRankingLoss),
    "1 negative": ("1 negatives", {}, losses.MultipleNegativesRankingLoss),
    "2 negatives": (
        "2 negatives",
        {"scale": 30.0},
        lambda model: losses.MultipleNegativesRankingLoss(model, scale=30.0),
    ),
    "symmetric": (
        "2 negatives",
        {"symmetric": True},
        lambda model: losses.MultipleNegativesRankingLoss(
            model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
        ),
    ),
    "matryoshka": (
        "1 negatives",
        {"matryoshka": "5, 10"},
        lambda model: losses.MatryoshkaLoss(
            model, losses.MultipleNegativesRankingLoss(model), SIZES
        ),
    ),
    "matryoshka, named in full": (
        "0 negatives",
        {"matryoshka": "24, 10, 5", "symmetric": True},
        lambda model: losses.MatryoshkaLoss(
            model,
            losses.MultipleNegativesRankingLoss(
                model, directions=("query_to_doc", "doc_to_query"), partition_mode="per_direction"
            ),
            SIZES,
        ),
    ),
    "order": ("scores", {"vector_loss": "cosent"}, losses.CoSENTLoss),
    "order, matryoshka": (
        "scores",
        {"vector_loss": "cosent", "matryoshka": "10, 5", "scale": 7.0},
        lambda model: losses.MatryoshkaLoss(model, losses.CoSENTLoss(model, scale=7.0), SIZES),
    ),
    "squared error": ("scores", {}, losses.CosineSimilarityLoss),
    "classes": ("classes", {"pairs": "apart"}, lambda model: losses.SoftmaxLoss(model, 24, 3)),
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def folder(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model as both open it, its vectors not normalized."""
    made = tmp_path_factory.mktemp("model")
    SentenceEncoder.from_pretrained(world.model, pooling="mean").save_pretrained(made)
    return made


def draw(data: str, count: int = 7) -> tuple[list[Example], list[list[str]], Tensor]:
    """Examples; and the same as sentence-transformers takes them, in columns with labels."""
    dice = random.Random(1)
    texts: dict[str, None] = {}
    while len(texts) < 4 * count:
        texts[" ".join(sentence(dice)["words"])] = None
    columns = [list(texts)[i::4] for i in range(4)]
    if data.endswith("negatives"):
        used = columns[: 2 + int(data[0])]
        labels = [{"positive": Negatives(tuple(row[2:]))} for row in zip(*used, strict=True)]
        gold = torch.zeros(count)
    elif data == "scores":
        used, scores = columns[:2], [0.1, 0.9, 0.5, 0.5, 0.0, 1.0, 0.1]
        labels, gold = [{"score": score} for score in scores], torch.tensor(scores)
    else:
        used, classes = columns[:2], [0, 1, 2, 2, 1, 0, 2]
        labels, gold = [{"relation": f"class {c}"} for c in classes], torch.tensor(classes)
    rows = zip(*used, strict=True)
    examples = [
        Example(row[0], label, "", second=row[1]) for row, label in zip(rows, labels, strict=True)
    ]
    return examples, used, gold


def assert_gradients(ours: SentenceEncoder, theirs: SentenceTransformer, bound: float) -> None:
    """All parameters of both encoders have the same gradient."""
    wanted = dict(theirs[0].model.named_parameters())
    largest = 0.0
    for name, parameter in ours.bert.named_parameters():
        gradient = wanted[checkpoint_name(name)].grad
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=0, atol=bound, msg=name)
        largest = max(largest, float(parameter.grad.abs().max()))
    assert largest > 0.01


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradients(name: str, folder: Path) -> None:
    data, changes, their_loss = CASES[name]
    dtype = torch.float32 if name == "squared error" else torch.float64
    bound = 1e-6 if dtype == torch.float32 else 1e-9
    examples, columns, gold = draw(data)

    (task,) = build_tasks([DataSet("x", {"train": examples})], Settings(**changes))
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    model = JointModel(encoder.bert, [task]).to(dtype).eval()
    batch = collate(prepare(examples, encoder.tokenizer, [task]), [task])
    loss = task.loss(model, model(batch), batch) / task.count(batch)
    loss.backward()

    theirs = SentenceTransformer(str(folder), device="cpu").to(dtype).eval()
    criterion = their_loss(theirs)
    if data == "classes":
        criterion.classifier = nn.Linear(72, 3).to(dtype)
        with torch.no_grad():
            criterion.classifier.weight.copy_(model.heads["relation"].classifier.weight)
            criterion.classifier.bias.copy_(model.heads["relation"].classifier.bias)
    features = [theirs.preprocess(column) for column in columns]
    expected = criterion(features, gold if data == "classes" else gold.to(dtype))
    expected.backward()

    assert float(expected.detach()) > 0.01
    torch.testing.assert_close(loss, expected, rtol=0, atol=bound)
    assert_gradients(encoder, theirs, bound)
    if data == "classes":
        torch.testing.assert_close(
            model.heads["relation"].classifier.weight.grad,
            criterion.classifier.weight.grad,
            rtol=0,
            atol=bound,
        )


def test_they_open_what_a_run_leaves(world: World, tmp_path: Path) -> None:
    """Its vectors, whole and cut off to a size that was learnt."""
    examples, columns, _ = draw("2 negatives", 20)
    records = [
        {"anchor": a, "positive": p, "negative_1": n, "negative_2": o}
        for a, p, n, o in zip(*columns, strict=True)
    ]
    data = write_json_lines(tmp_path / "data.jsonl", records)
    train(world.settings(data, matryoshka="10", pooling="cls"), tmp_path / "run")
    ours = SentenceEncoder.from_pretrained(tmp_path / "run" / "model")
    assert ours.settings.pooling == "cls"
    texts = [example.text for example in examples]
    for size in (None, 10):
        theirs = SentenceTransformer(
            str(tmp_path / "run" / "model"), device="cpu", truncate_dim=size
        )
        expected = theirs.encode(texts)
        assert expected.shape == (20, size or 24)
        vectors = ours.encode(texts, truncate_dim=size)
        np.testing.assert_allclose(vectors, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("data", ["0 negatives", "2 negatives"])
def test_gradients_of_batches_in_pieces(data: str, folder: Path) -> None:
    """Both compute seven examples in pieces: of three sequences here, of three texts of a column
    there."""
    examples, columns, gold = draw(data)
    settings = Settings(mini_batch_size=3)
    tasks = build_tasks([DataSet("x", {"train": examples})], settings)
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    model = JointModel(encoder.bert, tasks).double().eval()
    batch = collate(prepare(examples, encoder.tokenizer, tasks), tasks)
    mixer = LossMixer(tasks, settings)
    found = forward_backward([batch], model, model, mixer, tasks, settings).means()

    theirs = SentenceTransformer(str(folder), device="cpu").double().eval()
    criterion = losses.CachedMultipleNegativesRankingLoss(theirs, mini_batch_size=3)
    expected = criterion([theirs.preprocess(column) for column in columns], gold)
    expected.backward()
    assert found["positive"] == pytest.approx(float(expected), rel=1e-9)
    assert_gradients(encoder, theirs, 1e-9)
