"""python -m tools.fidelity: how far our numbers are from everything independent that can be had
here, in one table.

First what others recorded (tools/golden.py), then peers run side by side with us. Texts are
newsroom's, so it runs anywhere. Only a claim whose model or peer is not on this machine, or whose
precision the processor lacks, is not run.
The exit status is 1 if any other claim does not hold, or ends in an error.
"""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from minibert.encoder import SentenceEncoder
from minibert.files import replacing
from minibert.formats.hub import MINILM
from minibert.model import Bert
from minibert.precision import computes_bfloat16, processor
from tools.golden import RECORDS, MissingWeightsError, encoder, folder_of
from tools.parity import (
    Batch,
    both,
    differences,
    half_precision_errors,
    head_differences,
    newsroom_batch,
    our_attentions,
    our_states,
    random_model_differences,
    their_attentions,
    their_states,
    worst,
)
from tools.pretraining_parity import our_schooling, small_schooling, their_schooling
from tools.training_parity import (
    Course,
    Lesson,
    loss_difference,
    newsroom,
    our_course,
    padded,
    parameter_difference,
    their_course,
    write_small_model,
)
from train.load import load_data
from train.report import table
from train.settings import Settings

if TYPE_CHECKING:
    from transformers import BertModel

PACKAGES = ("torch", "transformers", "sentence-transformers", "tokenizers")
PEERS = ("transformers", "sentence_transformers")
TEXTS = 60  # that MiniLM reads
STEPS = 200  # of pre-training


class NoBfloat16Error(Exception):
    """PyTorch does not multiply in bfloat16 on this processor."""


@dataclass(frozen=True)
class Claim:
    """That a difference is within a tolerance. `measure` raises MissingWeightsError if the model
    is not on this machine, and NoBfloat16Error if the processor cannot compute it."""

    claim: str
    reference: str
    tolerance: float
    measure: Callable[[], float]
    recorded: int = 0  # how many numbers, if others recorded them


@dataclass(frozen=True)
class Result:
    """What came of a claim."""

    claim: Claim
    difference: float | None = None
    error: str = ""  # why there is no difference
    missing: str = ""  # why it was not run

    @property
    def verdict(self) -> str:
        if self.missing:
            return "not run"
        passed = self.difference is not None and self.difference <= self.claim.tolerance
        return "passed" if passed else "FAILED"  # NaN is within no tolerance

    @property
    def row(self) -> tuple[str, ...]:
        found = "" if self.difference is None else f"{self.difference:.2g}"
        return (
            self.claim.claim,
            self.claim.reference,
            found,
            f"{self.claim.tolerance:g}",
            ": ".join(filter(None, [self.verdict, self.error or self.missing])),
        )


def check(claim: Claim) -> Result:
    print(claim.claim, file=sys.stderr)
    try:
        return Result(claim, claim.measure())
    except (MissingWeightsError, NoBfloat16Error) as error:
        return Result(claim, missing=str(error))
    except ModuleNotFoundError as error:
        if error.name in PEERS:
            return Result(claim, missing=f"{error.name} is not installed")
        return Result(claim, error=in_a_line(error))
    except Exception as error:
        return Result(claim, error=in_a_line(error))


def in_a_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]


def recorded_claims() -> list[Claim]:
    """What others wrote down. A claim is named after the model and what its numbers are."""

    def measure(difference: Callable[[Path], float], model: str) -> float:
        return difference(folder_of(model))

    return [
        Claim(
            f"{record.model.partition('/')[2]}: {record.what}",
            record.source,
            record.tolerance,
            partial(measure, record.difference, record.model),
            record.count,
        )
        for record in RECORDS
    ]


@cache
def minilm() -> tuple[Path, SentenceEncoder, Bert, "BertModel"]:
    """MiniLM's folder, our encoder, our model, and transformers' of the weights as we save them."""
    folder = folder_of(MINILM)
    with TemporaryDirectory() as saved:
        return folder, encoder(folder), *both(Bert.from_pretrained(folder), Path(saved))


@cache
def texts() -> list[str]:
    """Sentences of newsroom's test split: every third alone, the others joined to the next 2 to
    12."""
    newsroom = load_data(Settings(), lambda _: None)[0].splits
    sentences = [example.text for example in newsroom["test"]]
    return [
        sentences[i] if i % 3 == 0 else " ".join(sentences[i : i + 2 + i % 11])
        for i in range(TEXTS)
    ]


@cache
def batches() -> list[Batch]:
    """The texts in batches of six, each with short and long ones."""
    ids = [torch.tensor(tokens.ids) for tokens in minilm()[1].tokenizer.encode(texts(), "silent")]
    ids.sort(key=len)
    return [Batch(ids[start::10]) for start in range(10)]


@cache
def expected_states() -> list[list[Tensor]]:
    with torch.inference_mode():
        return [their_states(minilm()[3], batch) for batch in batches()]


@cache
def state_differences(packed: bool, fast: bool = False) -> list[float]:
    """The largest difference after the embeddings and after each layer, over all batches.

    fast: of the model in a SentenceEncoder, whose linear layers are those of minibert/linear.py.
    """
    _, ours, bert, _ = minilm()
    with torch.inference_mode():
        found = [our_states(ours.bert if fast else bert, batch, packed) for batch in batches()]
    pairs = zip(found, expected_states(), strict=True)
    return [worst(layer) for layer in zip(*(differences(x, y) for x, y in pairs), strict=True)]


def state_difference(packed: bool, place: int) -> float:
    return state_differences(packed)[place]


@torch.inference_mode()
def look_difference() -> float:
    _, _, ours, theirs = minilm()
    return worst(
        d
        for b in batches()[:3]
        for d in differences(our_attentions(ours, b), their_attentions(theirs, b))
    )


@cache
def random_differences() -> tuple[float, float]:
    """Over ten random models: of hidden states, and of gradients."""
    with TemporaryDirectory() as folder:
        found = [random_model_differences(number, Path(folder)) for number in range(10)]
    return worst(values for values, _ in found), worst(slopes for _, slopes in found)


def pretraining_difference() -> float:
    with TemporaryDirectory() as folder:
        return worst(head_differences(number, Path(folder)) for number in range(10))


@cache
def our_vectors(precision: str = "float32") -> Tensor:
    encoder = SentenceEncoder.from_pretrained(minilm()[0], device="cpu", precision=precision)
    return torch.from_numpy(encoder.encode(texts(), truncation="silent"))


@cache
def their_vectors() -> Tensor:
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(minilm()[0]), device="cpu")
    return peer.encode(texts(), convert_to_tensor=True)


def vector_difference() -> float:
    return worst(differences([our_vectors()], [their_vectors()]))


def bfloat16_distance(float32_vectors: Callable[[], Tensor]) -> float:
    """1 - the lowest cosine of vectors with products in bfloat16 to others of the same texts."""
    if not computes_bfloat16():
        raise NoBfloat16Error(f"PyTorch does not multiply in bfloat16 here: {processor()}")
    # In float64: 1 - 0.9999 would have three digits in float32.
    pairs = our_vectors("bfloat16").double(), float32_vectors().double()
    return 1 - torch.cosine_similarity(*pairs).min().item()


def round_trip_difference() -> float:
    """Our vectors, and those of what sentence-transformers saved of what we saved."""
    from sentence_transformers import SentenceTransformer

    first = SentenceEncoder.from_pretrained(minilm()[0], device="cpu")
    with TemporaryDirectory() as ours, TemporaryDirectory() as theirs:
        first.save_pretrained(ours)
        SentenceTransformer(ours, device="cpu").save_pretrained(theirs)
        second = SentenceEncoder.from_pretrained(theirs, device="cpu")
        vectors = [
            torch.from_numpy(each.encode(texts(), truncation="silent")) for each in (first, second)
        ]
    return worst(differences(vectors[:1], vectors[1:]))


def wrong_ids() -> float:
    """How many of newsroom's thousand sentences have other token ids."""
    from transformers import AutoTokenizer

    folder, ours, _, _ = minilm()
    sentences = [
        example.text
        for split in load_data(Settings(), lambda _: None)[0].splits.values()
        for example in split
    ]
    expected = AutoTokenizer.from_pretrained(folder)(sentences)["input_ids"]
    return float(
        sum(t.ids != ids for t, ids in zip(ours.tokenizer.encode(sentences), expected, strict=True))
    )


@cache
def small_courses() -> list[Course]:
    """Thirty steps of a small model in float64: transformers', and ours packed, padded and
    accumulated."""
    examples = newsroom(100)
    with TemporaryDirectory() as folder:
        write_small_model(Path(folder), examples)
        lesson = Lesson(
            Path(folder), examples, 30, Settings(batch_size=8, lr=1e-2, head_lr=1e-2), torch.float64
        )
        ours = [our_course(lesson), our_course(lesson, padded), our_course(lesson, accumulate=3)]
        return [their_course(lesson), *ours]


def small_training_difference(difference: Callable[[Course, Course], float]) -> float:
    theirs, *ours = small_courses()
    return worst(difference(course, theirs) for course in ours)


def minilm_training_difference() -> float:
    lesson = Lesson(minilm()[0], newsroom(40), 5, Settings(batch_size=4), torch.float32)
    return loss_difference(our_course(lesson), their_course(lesson))


@cache
def schoolings(dtype: torch.dtype) -> list[tuple[Course, Course]]:
    """STEPS steps of a small model's pre-training: ours and transformers', with masked words
    alone, and with next sentences too and gradients accumulated."""
    found = []
    for objectives, changes in (
        ("masked", {}),
        ("masked, next", {"batch_size": 3, "accumulate": 3}),
    ):
        with TemporaryDirectory() as folder:
            schooling = small_schooling(Path(folder), objectives, STEPS, dtype, **changes)
            found.append((our_schooling(schooling), their_schooling(schooling)))
    return found


def schooling_difference(
    difference: Callable[[Course, Course], float], dtype: torch.dtype = torch.float64
) -> float:
    return worst(difference(ours, theirs) for ours, theirs in schoolings(dtype))


def half_precision_ratio() -> float:
    """The worst ratio, over both layouts, the embeddings and each layer, of our error to
    transformers'."""
    folder, ours, _, _ = minilm()
    batch = newsroom_batch(ours.tokenizer, 6)
    pairs = [
        half_precision_errors(folder, batch, torch.bfloat16, packed) for packed in (False, True)
    ]
    return worst(a / b for ours_, theirs in pairs for a, b in zip(ours_, theirs, strict=True))


def live_claims() -> list[Claim]:
    """Peers run side by side with us."""
    places = ["embeddings", *(f"layer {i + 1}" for i in range(6))]
    return [
        *(
            Claim(
                f"MiniLM, {'packed' if packed else 'padded'}: hidden states after {place}",
                "transformers.BertModel",
                1e-5,
                partial(state_difference, packed, i),
            )
            for packed in (False, True)
            for i, place in enumerate(places)
        ),
        Claim(
            "MiniLM in a SentenceEncoder, packed: hidden states, any layer",
            "transformers.BertModel",
            # where linear layers are convolutions, sums are added up in another order: see
            # minibert/fast/linear.py
            2e-5,
            lambda: worst(state_differences(packed=True, fast=True)),
        ),
        Claim(
            "MiniLM: attention probabilities of every layer",
            "transformers.BertModel",
            1e-5,
            look_difference,
        ),
        Claim("MiniLM: sentence vectors", "sentence_transformers", 1e-6, vector_difference),
        Claim(
            "MiniLM, precision bfloat16: sentence vectors, 1 - lowest cosine",
            "minibert, float32",
            1e-4,
            partial(bfloat16_distance, our_vectors),
        ),
        Claim(
            "MiniLM, precision bfloat16: sentence vectors, 1 - lowest cosine",
            "sentence_transformers",
            1e-4,
            partial(bfloat16_distance, their_vectors),
        ),
        Claim(
            "MiniLM: vectors after ours -> theirs -> ours",
            "sentence_transformers",
            1e-6,
            round_trip_difference,
        ),
        Claim(
            "MiniLM: sentences of 1,000 with other token ids",
            "transformers.AutoTokenizer",
            0,
            wrong_ids,
        ),
        Claim(
            "MiniLM, bfloat16: error / theirs, any layer",
            "transformers.BertModel",
            1.1,
            half_precision_ratio,
        ),
        Claim(
            "10 random models: hidden states, pooler; both layouts",
            "transformers.BertModel",
            1e-5,
            lambda: random_differences()[0],
        ),
        Claim(
            "10 random models: every gradient, relative; both layouts",
            "transformers.BertModel",
            1e-5,
            lambda: random_differences()[1],
        ),
        Claim(
            "10 random models: masked-word and next-sentence scores",
            "transformers.BertForPreTraining",
            1e-5,
            pretraining_difference,
        ),
        Claim(
            "30 steps in float64: every loss, relative; packed, padded, accumulated",
            "transformers + torch.optim",
            1e-9,
            lambda: small_training_difference(loss_difference),
        ),
        Claim(
            "the same: every parameter at the end, relative",
            "transformers + torch.optim",
            1e-9,
            lambda: small_training_difference(parameter_difference),
        ),
        Claim(
            "MiniLM, 5 steps in float32: every loss, relative",
            "transformers + torch.optim",
            1e-3,
            minilm_training_difference,
        ),
        Claim(
            f"pre-training, {STEPS} steps in float64: every loss, relative; masked words, "
            "next sentence",
            "transformers + torch.optim",
            1e-9,
            lambda: schooling_difference(loss_difference),
        ),
        Claim(
            "the same: every parameter at the end, relative",
            "transformers + torch.optim",
            1e-9,
            lambda: schooling_difference(parameter_difference),
        ),
        Claim(
            f"pre-training, {STEPS} steps in float32: every loss, relative",
            "transformers + torch.optim",
            1e-5,
            lambda: schooling_difference(loss_difference, torch.float32),
        ),
    ]


HEAD = ("claim", "reference", "difference", "tolerance", "result")


def summary(results: Sequence[Result]) -> list[str]:
    """How many hold, how many could not be run, and why."""
    lines = []
    for name, chosen, weight in (
        (
            "numbers recorded by others",
            [r for r in results if r.claim.recorded],
            lambda r: r.claim.recorded,
        ),
        ("comparisons with peers", [r for r in results if not r.claim.recorded], lambda r: 1),
    ):
        held = sum(weight(r) for r in chosen if r.verdict == "passed")
        failed = sum(weight(r) for r in chosen if r.verdict == "FAILED")
        lines.append(f"{name}: {held} of {sum(map(weight, chosen))} hold, {failed} do not")
        reasons = Counter[str]()
        for r in chosen:
            if r.missing:
                reasons[r.missing] += weight(r)
        lines += [f"{name}, not run: {count} ({reason})" for reason, count in reasons.items()]
    return lines


def versions() -> str:
    found = []
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            found.append(f"no {package}")
    return f"Python {platform.python_version()}, {', '.join(found)}"


def markdown(results: Sequence[Result]) -> str:
    rows = ["| " + " | ".join(cell.replace("|", "\\|") for cell in r.row) + " |" for r in results]
    head = [f"| {' | '.join(HEAD)} |", f"|{' --- |' * len(HEAD)}"]
    count = [f"- {line}" for line in summary(results)]
    return (
        "\n".join(["`python -m tools.fidelity`: " + versions() + ".", "", *head, *rows, "", *count])
        + "\n"
    )


def main(arguments: list[str] | None = None) -> int:
    """Measure, and print; the exit status is 0 if all claims hold that could be run, else 1."""
    parser = argparse.ArgumentParser(prog="python -m tools.fidelity", description=__doc__)
    parser.add_argument(
        "--output", type=Path, metavar="FILE.md", help="write the table as Markdown, too"
    )
    options = parser.parse_args(arguments)
    # The peers read these when they are imported, which is later: they print and download nothing.
    quiet = {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    os.environ.update(quiet)
    results = [check(claim) for claim in (*recorded_claims(), *live_claims())]
    print(table([HEAD, *(result.row for result in results)]))
    print("\n".join([versions(), *summary(results)]))
    if options.output:
        with replacing(options.output) as beside:
            beside.write_text(markdown(results), encoding="utf-8")
    return int(any(result.verdict == "FAILED" for result in results))


if __name__ == "__main__":
    sys.exit(main())
