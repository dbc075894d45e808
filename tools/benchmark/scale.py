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
from minibert.files import InputError
from minibert.formats.hub import find_model
from minibert.texts import lines_of
from minibert.tokenizer import Tokenizer
from minibert.vectors import Wanted, compute_batches, compute_vectors
from tools.benchmark import encode
from tools.benchmark.corpora import sentences
from tools.benchmark.cost import STAGES, TOKENS
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

SIZES = (2**12, 2**16, 2**20, 2**23, 2**26)  # bytes of an all_reduce
REPEATS = 5  # in a round, of what takes less than a second
STEPS = 20  # of training; an epoch of newsroom has 22
TEXTS = {"minilm": 1024, "base": 96}  # sentences that a model computes in a round
SPLITS = {"train": 10_000, "dev": 10}  # sentences whose memory is measured
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node")


def measure(counts: Sequence[int], rounds: int, size: int) -> dict[str, list[Result]]:
    """What `cost.constants` asks for, and the whole programs in so many processes each.

    size: sentences that the program `encode` works on.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {"stages": stages(folder, rounds), **encoding(folder, counts, rounds, size)}
        found["update"] = update(rounds)
        found["examples"] = examples(folder)
        found["training"] = [training(folder, count, rounds) for count in counts]
        found["all_reduce"] = [
            result for count in counts[1:] for result in all_reduces(folder, count, rounds)
        ]
    return found


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


def encoding(
    folder: Path, counts: Sequence[int], rounds: int, size: int
) -> dict[str, list[Result]]:
    """The program `encode`: from its start to its end with one sentence, and with many in several
    processes."""
    texts, vectors = folder / "texts.txt", folder / "vectors.npy"
    model = find_model("minilm").path
    results: dict[str, list[Result]] = {"start": [], "encoding": []}
    for name, count, number in [("start", 1, 1), *(("encoding", n, size) for n in counts)]:
        texts.write_text(lines(model, number), encoding="utf-8")
        result = Result(named(count), "")
        for _ in range(rounds):
            command = ["-m", "minibert", "encode", "--input", str(texts), "--output", str(vectors)]
            several = ["--workers", str(count)] if count > 1 else []
            measured = run([*command, *several], threads=1)
            found = len(np.load(vectors, mmap_mode="r"))
            if found != number:
                raise InputError(f"{number} sentences gave {found} vectors")
            vectors.unlink()
            result.rounds.append(measured | {"processes": count, "done": number})
        results[name].append(result)
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
    """Reading and tokenizing a data set. It tells the "bytes" by which the process's peak memory
    grows. What earlier calls have read stays in memory, so that none of it is used again."""
    settings = Settings(data=(data,))
    tokenizer = Tokenizer.from_folder(find_model("minilm").path)
    kept = []

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    def work(job: str, batch: str) -> dict[str, float]:
        before = peak()
        sets = load_data(settings, lambda _: None)
        items = prepare(sets[0].splits["train"], tokenizer, build_tasks(sets, settings))
        kept.append((sets, items))
        return {"done": len(items), "bytes": peak() - before}

    return work


def training(folder: Path, count: int, rounds: int) -> Result:
    """The seconds of a step on newsroom, as the program notes them in its checkpoint."""
    items = training_parts("newsroom").sources[0]
    steps = [[items[i] for i in step] for step in planned(items, grouped=False)[:STEPS]]
    result = Result(named(count), "")
    for i in range(rounds):
        output = folder / f"run of {count}, {i}"
        program = ["-m", "train.run"] if count == 1 else [*TORCHRUN, str(count), "-m", "train.run"]
        run([*program, "--output", str(output), "--max-steps", str(STEPS)], threads=1)
        progress = newest_state(output)[1].progress
        result.rounds.append(
            {
                "seconds": progress.seconds["training"] / progress.step,
                "processes": count,
                "imbalance": imbalance(steps, count),
            }
        )
    return result


def imbalance(steps: Sequence[Sequence[Item]], processes: int) -> float:
    """The tokens of each step's largest share over those of its mean share."""
    largest = whole = 0
    for items in steps:
        shares = [0] * processes
        for item in sorted(items, key=lambda item: -item.num_tokens):
            shares[shares.index(min(shares))] += item.num_tokens
        largest, whole = largest + max(shares), whole + sum(shares)
    return largest * processes / whole


def all_reduces(folder: Path, count: int, rounds: int) -> list[Result]:
    """The seconds in which gloo adds up float32 numbers of so many processes, by their bytes."""
    results = [Result(named(count), f"{size:,} bytes") for size in SIZES]
    for _ in range(rounds):
        file = folder / "all_reduce.json"
        run([*TORCHRUN, str(count), "-m", "tools.benchmark.scale", str(file)], threads=1)
        seconds = json.loads(file.read_text(encoding="utf-8"))
        for result, size, taken in zip(results, SIZES, seconds, strict=True):
            result.rounds.append({"seconds": taken, "processes": count, "bytes": size})
    return results


def reduce_all(file: Path) -> None:
    """The program that torchrun starts: the fewest seconds for each of SIZES, as JSON."""
    distributed.init_process_group("gloo")
    fewest = []
    for size in SIZES:
        numbers, seconds = torch.ones(size // 4), []
        for _ in range(1 + REPEATS):
            distributed.barrier()
            start = time.perf_counter()
            distributed.all_reduce(numbers)
            seconds.append(time.perf_counter() - start)
        fewest.append(min(seconds[1:]))
    if distributed.get_rank() == 0:
        file.write_text(json.dumps(fewest), encoding="utf-8")
    distributed.destroy_process_group()


if __name__ == "__main__":
    reduce_all(Path(sys.argv[1]))
