"""What bounds training and encoding in several processes: each part by itself, and the programs.

Each process has one thread. So N processes use N cores, where there are as many. Where there are
fewer, they take turns, and nothing is gained.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

from minibert.batching import windows
from minibert.bulk import RowSettings, Written, empty_rows, write_rows
from minibert.compatible import BATCH_TOKENS
from minibert.encoder import SentenceEncoder
from minibert.fast import inference_copy
from minibert.files import InputError, read_json, read_text, write_json
from minibert.formats.hub import find_model
from minibert.texts import lines_of
from minibert.tokenizer import Tokenizer
from minibert.vectors import Wanted, compute_batches, compute_vectors
from tools.benchmark import encode
from tools.benchmark.corpora import sentences
from tools.benchmark.cost import FLOAT32, STAGES, TOKENS
from tools.benchmark.processes import run
from tools.benchmark.race import Engine, Result, Work, measurable, race, ready
from tools.benchmark.train import CLIP, planned, training_flop, training_parts
from train.batches import Item, prepare
from train.checkpoint import newest_state
from train.load import load_data
from train.optimizer import build_optimizer, set_rates
from train.settings import Settings
from train.step import forward_backward
from train.tasks import build_tasks
from train.words import UsedWords
from train.world import World

SIZES = (2**12, 2**16, 2**20, 2**23, 2**26)  # bytes of an all_reduce
REPEATS = 5  # in a round, of what takes less than a second
STEPS = 20  # of training; an epoch of newsroom has 22
TEXTS = {"minilm": 1024, "base": 96}  # sentences that a model computes in a round
SPLITS = {"train": 10_000, "dev": 10}  # sentences whose memory is measured
RESIDENT = Path("/proc/self/statm")  # Linux: the second number is the pages in memory
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def measure(counts: Sequence[int], rounds: int, size: int) -> dict[str, list[Result]]:
    """What `cost.constants` asks for, and the whole programs in so many processes each.

    size: sentences that the program `encode` works on.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        several = [count for count in counts if count > 1]
        return {
            "stages": stages(folder, rounds),
            "encoding": encoding(folder, counts, rounds, size),
            "update": update(rounds),
            "examples": examples(folder),
            "training": training(folder, counts, rounds),
            "all_reduce": [r for count in several for r in all_reduces(folder, count, rounds)],
        }


def named(count: int) -> str:
    return f"{count} process{'es' if count > 1 else ''}"


# The stages of encoding


def stages(folder: Path, rounds: int) -> list[Result]:
    """The seconds of each stage in one process: all four by MiniLM in float32, and the model's
    alone in bfloat16 and by BERT-base."""
    results: list[Result] = []
    for model, count in TEXTS.items():
        path = encode.prepare(folder, model, None, 1)
        engine = Engine(
            model, stage_work, {"folder": str(folder), "model": str(path), "count": count}
        )
        (folder / "texts.txt").write_text(lines(path, count), encoding="utf-8")
        engines = encode.with_lower("bfloat16", engine)
        with ready(measurable(engines), threads=1) as workers:
            for stage in STAGES if model == "minilm" else ("compute",):
                for found in race(workers, rounds, stage):
                    if stage == "compute":
                        found.engine = f"{stage}, {model}, {found.precision}"
                    elif found.precision == "float32":
                        found.engine = stage
                    else:
                        continue
                    results.append(found)
    return results


def lines(model: Path, count: int) -> str:
    """So many sentences of TOKENS tokens, one a line."""
    texts = sentences(Tokenizer.from_folder(model), count, (TOKENS, TOKENS))
    return "".join(f"{text}\n" for text in texts)


def stage_work(folder: str, model: str, count: int, precision: str = "float32") -> Work:
    """One stage of encoding the sentences in `folder`. The job is its name."""
    encoder = SentenceEncoder.from_pretrained(model, precision=precision)
    file, target = Path(folder) / "texts.txt", Path(folder) / "stage.npy"
    texts = list(lines_of(str(file)))
    tokens = [tuple(one.ids) for one in encoder.tokenizer.tokenize(texts)]
    done = sum(map(len, tokens)) / TOKENS  # a word is not cut, so that some sentences are shorter
    vectors = np.ones((count, encoder.dim()), np.float32)
    bert = inference_copy(encoder.bert, encoder.bfloat16).eval()
    wanted = Wanted(0, "mean", encoder.after, True, encoder.dim(), False)

    def read() -> None:
        assert len(list(lines_of(str(file)))) == count

    def tokenize() -> None:
        for window in windows(texts):
            encoder.tokenizer.tokenize(window)

    def compute() -> None:
        in_batches = partial(compute_vectors, wanted)
        for _ in compute_batches(bert, tokens, in_batches, BATCH_TOKENS, encoder.bfloat16):
            pass

    def write() -> None:
        with target.open("w+b") as stream:
            write_rows(stream, ".npy", [], empty_rows(RowSettings(encoder)), Written())
            write_rows(stream, ".npy", texts, vectors, Written())

    work = {"read": read, "tokenize": tokenize, "compute": compute, "write": write}

    def timed(job: str, batch: str) -> dict[str, float]:
        seconds = []
        for _ in range(1 if job == "compute" else REPEATS):
            start = time.perf_counter()
            work[job]()
            seconds.append(time.perf_counter() - start)
        return {"seconds": min(seconds), "done": done, "bytes": file.stat().st_size}

    return timed


def encoding(folder: Path, counts: Sequence[int], rounds: int, size: int) -> list[Result]:
    """The seconds of the program `encode` from its start to its end, by turns: with one sentence,
    which is its start, and with many in so many processes each."""
    texts, vectors = folder / "texts.txt", folder / "vectors.npy"
    model = find_model("minilm").path
    results = [Result("start", ""), *(Result(named(count), "") for count in counts)]
    for _ in range(rounds):
        for result, count, number in zip(
            results, (1, *counts), (1, *(size for _ in counts)), strict=True
        ):
            texts.write_text(lines(model, number), encoding="utf-8")
            command = ["-m", "minibert", "encode", "--input", str(texts), "--output", str(vectors)]
            several = ["--workers", str(count)] if count > 1 else []
            seconds = run([*command, *several], threads=1)["seconds"]
            found = len(np.load(vectors, mmap_mode="r"))
            if found != number:
                raise InputError(f"{number} sentences gave {found} vectors")
            vectors.unlink()
            result.rounds.append({"seconds": seconds, "processes": count, "done": number})
    return results


# The parts of training


def update(rounds: int) -> list[Result]:
    """The seconds of clipping and the optimizer, which every process does as a whole."""
    with ready([Engine("clipping and optimizer", update_work, {})], threads=1) as workers:
        return race(workers, rounds, "update")


def update_work() -> Work:
    """Clipping and the optimizer after the first steps on newsroom. It tells the gradients' "bytes"
    and the mean "flop" of a step's forward and backward pass."""
    parts = training_parts("newsroom")
    model, items = parts.model, parts.sources[0]
    model.bert.embeddings.word = UsedWords(model.bert.embeddings.word, parts.token_ids())
    optimizer = build_optimizer(model, parts.mixer, parts.settings)
    set_rates(optimizer, 1.0)
    steps = planned(items, grouped=False)[:STEPS]
    batch = parts.batch([items[i] for i in steps[0]])
    forward_backward([batch], model, model, parts.mixer, parts.tasks, parts.settings)
    learning = [p for p in model.parameters() if p.grad is not None]
    size = sum(p.grad.nbytes for p in learning if p.grad is not None)
    flop = training_flop(parts.encoder, [items[i] for step in steps for i in step]) / STEPS

    def work(job: str, batch: str) -> dict[str, float]:
        seconds = []
        for _ in range(REPEATS):
            start = time.perf_counter()
            nn.utils.clip_grad_norm_(learning, CLIP)
            optimizer.step()
            seconds.append(time.perf_counter() - start)
        return {"seconds": min(seconds), "bytes": size, "flop": flop}

    return work


def examples(folder: Path) -> list[Result]:
    """The memory of labelled sentences that are ready for training."""
    data = folder / "examples"
    data.mkdir()
    for split, number in SPLITS.items():
        texts = lines(find_model("minilm").path, number).splitlines()
        objects = ({"text": text, "even": str(i % 2)} for i, text in enumerate(texts))
        rows = "".join(f"{json.dumps(one)}\n" for one in objects)
        (data / f"{split}.jsonl").write_text(rows, encoding="utf-8")
    engine = Engine("examples", example_work, {"data": str(data)})
    with ready([engine], threads=1) as workers:
        return race(workers, 1, "examples")


def example_work(data: str) -> Work:
    """Reading and tokenizing a data set. It tells the "bytes" by which the process's memory grows.
    What earlier calls have read stays in memory, so that none of it is used again."""
    settings = Settings(data=(data,))
    tokenizer = Tokenizer.from_folder(find_model("minilm").path)
    kept = []

    def resident() -> int:
        return int(read_text(RESIDENT).split()[1]) * resource.getpagesize()

    def work(job: str, batch: str) -> dict[str, float]:
        before = resident()
        sets = load_data(settings, lambda _: None)
        items = prepare(sets[0].splits["train"], tokenizer, build_tasks(sets, settings))
        kept.append((sets, items))
        return {"done": len(items), "bytes": resident() - before}

    return work


def training(folder: Path, counts: Sequence[int], rounds: int) -> list[Result]:
    """The seconds of a step on newsroom in so many processes each, by turns, as the program notes
    them in its checkpoint."""
    items = training_parts("newsroom").sources[0]
    steps = [[items[i] for i in step] for step in planned(items, grouped=False)[:STEPS]]
    results = {count: Result(named(count), "") for count in counts}
    for i in range(rounds):
        for count, result in results.items():
            output = folder / f"run of {count}, {i}"
            launcher = [*TORCHRUN, str(count)] if count > 1 else []
            options = ["--output", str(output), "--max-steps", str(STEPS)]
            run([*launcher, "-m", "train.run", *options], threads=1)
            progress = newest_state(output)[1].progress
            told = {"processes": count, "imbalance": imbalance(steps, count)}
            seconds = progress.seconds["training"] / progress.step
            result.rounds.append({"seconds": seconds, **told})
    return list(results.values())


def imbalance(steps: Sequence[Sequence[Item]], processes: int) -> float:
    """The tokens of each step's largest share over those of its mean share."""
    shares = [World(size=processes).shares(items) for items in steps]
    tokens = [[sum(item.num_tokens for item in share) for share in step] for step in shares]
    return sum(map(max, tokens)) * processes / sum(map(sum, tokens))


def all_reduces(folder: Path, count: int, rounds: int) -> list[Result]:
    """The seconds in which so many processes add up gradients, as they do in each step, by their
    bytes."""
    results = [Result(named(count), f"{size:,} bytes") for size in SIZES]
    for _ in range(rounds):
        file = folder / "all_reduce.json"
        run([*TORCHRUN, str(count), "-m", "tools.benchmark.scale", str(file)], threads=1)
        for result, size, seconds in zip(results, SIZES, read_json(file), strict=True):
            result.rounds.append({"seconds": seconds, "processes": count, "bytes": size})
    return results


def reduce_all(file: Path) -> None:
    """The program that torchrun starts: the fewest seconds for each of SIZES, as JSON."""
    distributed.init_process_group("gloo")
    world = World(distributed.get_rank(), distributed.get_world_size())
    fewest = []
    for size in SIZES:
        parameter, seconds = nn.Parameter(torch.zeros(size // FLOAT32)), []
        parameter.grad = torch.zeros_like(parameter)
        for _ in range(1 + REPEATS):
            distributed.barrier()
            start = time.perf_counter()
            world.add_up([parameter])
            seconds.append(time.perf_counter() - start)
        fewest.append(min(seconds[1:]))
    if world.is_first:
        write_json(file, fewest)
    distributed.destroy_process_group()


if __name__ == "__main__":
    reduce_all(Path(sys.argv[1]))
