"""Time and cost of work that is too large to try, from what `scale` measured on one machine.

Pure functions. A training step in N processes takes

    max(1, N / cores) (compute imbalance / N + update + all_reduce(N, bytes))
    all_reduce(N, bytes) = 2 (N - 1) latency + 2 (N - 1) / N bytes / bandwidth

`compute` is the forward and backward pass of the whole batch in one process, `update` clipping and
the optimizer, which each process does for all parameters. The collective is a ring: 2 (N - 1)
messages one after the other, each of a N-th of the bytes (Patarasu and Yuan 2009, Bandwidth optimal
all-reduce algorithms for clusters of workstations). It begins when the backward pass has ended.

Encoding takes, for each text, the seconds of its four stages, one after the other in a process:

    max(1, N / cores) (start + texts / N (read + tokenize + compute + write))
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from minibert.config import BertConfig
from minibert.files import read_json
from tools.benchmark.machine import useful_flop
from tools.benchmark.race import Result

HOUR, BILLION = 3600.0, 1e9
FLOAT32 = 4  # bytes
# AdamW reads a parameter, its gradient and two moments, and writes all but the gradient.
UPDATE_BYTES = 7 * FLOAT32
MINILM = BertConfig(
    hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
)
BERT_BASE = BertConfig()
MODELS = {"minilm": MINILM, "base": BERT_BASE}
NAMES = {"minilm": "MiniLM", "base": "BERT-base"}
TOKENS = 30  # of a sentence
EXAMPLES, BATCHES = 100_000_000, (32, 4096)  # to fine-tune on
STAGES = ("read", "tokenize", "compute", "write")
MASKED = 0.15  # of all tokens are predicted (Devlin et al. 2019, section 3.1)
# Pre-training: steps, and the tokens of a sequence; 256 sequences a step (appendix A.2).
PHASES, SEQUENCES = ((900_000, 128), (100_000, 512)), 256
CORPUS = 3.3e9 * 1.3  # tokens: the paper's words, and the pieces of a word, which are assumed


# What was measured


@dataclass(frozen=True)
class Constants:
    """What the model knows of the machine that was measured: seconds, bytes and FLOP/s.

    stages: seconds a sentence of TOKENS tokens, for read, tokenize and write, and for compute by
    model and precision ("compute, minilm, float32"). imbalance: of N processes, the tokens of the
    one that has most, over their mean.
    """

    cores: int
    latency: float
    bandwidth: float
    compute: float
    update: float
    gradient_bytes: int
    step_flop: float
    imbalance: Mapping[int, float]
    start: float
    stages: Mapping[str, float]
    text_bytes: float
    example_bytes: float

    @property
    def train_rate(self) -> float:
        """FLOP/s of one core in forward and backward passes."""
        return self.step_flop / self.compute

    @property
    def update_rate(self) -> float:
        """Bytes a second that one core's clipping and optimizer read and write."""
        return self.gradient_bytes / FLOAT32 * UPDATE_BYTES / self.update

    def encode_rate(self, model: str, precision: str) -> float:
        """FLOP/s of one core in encoding."""
        seconds = self.stages[f"compute, {model}, {precision}"]
        return useful_flop(MODELS[model], [TOKENS]) / seconds

    @property
    def precisions(self) -> list[str]:
        return [p for p in ("float32", "bfloat16") if f"compute, base, {p}" in self.stages]

    @property
    def handling(self) -> float:
        """Seconds a sentence that one core needs for all but computing."""
        return sum(self.stages[stage] for stage in ("read", "tokenize", "write"))


def read_results(file: Path) -> tuple[int, dict[str, list[Result]]]:
    """The cores of the machine that was measured, and the results: what `scale --json` wrote."""
    found = read_json(file)
    results = {job: [Result(**result) for result in each] for job, each in found["results"].items()}
    return found["machine"]["cores"], results


def constants(results: Mapping[str, Sequence[Result]], cores: int) -> Constants:
    """What follows from the results of `scale`, which its --json holds."""
    measured = [
        (int(one["processes"]), one["bytes"], quickest(result))
        for result in results["all_reduce"]
        for one in result.rounds[:1]
    ]
    latency, bandwidth = fit_all_reduce([one for one in measured if one[0] <= cores])
    (update,) = results["update"]
    alone = results["training"][0]
    first = update.rounds[0]
    return Constants(
        cores=cores,
        latency=latency,
        bandwidth=bandwidth,
        compute=quickest(alone) - quickest(update),
        update=quickest(update),
        gradient_bytes=int(first["bytes"]),
        step_flop=first["flop"],
        imbalance={
            int(r.rounds[0]["processes"]): r.rounds[0]["imbalance"] for r in results["training"]
        },
        start=quickest(results["encoding"][0]),
        stages={r.engine: quickest(r) / r.rounds[0]["done"] for r in results["stages"]},
        text_bytes=each(results["stages"][0], "bytes"),
        example_bytes=each(results["examples"][0], "bytes"),
    )


def each(result: Result, what: str) -> float:
    """How much of something the first round tells for one of what was done."""
    return result.rounds[0][what] / result.rounds[0]["done"]


def quickest(result: Result) -> float:
    """Its fewest seconds: what else runs on a machine can only add to them."""
    return min(result.values("seconds"))


def fit_all_reduce(measured: Sequence[tuple[int, float, float]]) -> tuple[float, float]:
    """Latency and bandwidth, in seconds and bytes a second, for which the relative errors of the
    model have the least squares. measured: processes, bytes, seconds."""
    rows = [(2 * (n - 1) / s, 2 * (n - 1) / n * size / s) for n, size, s in measured]
    (latency, inverse), *_ = np.linalg.lstsq(np.array(rows), np.ones(len(rows)), rcond=None)
    return float(latency), float(1 / inverse)


# The model


def all_reduce(processes: int, size: float, latency: float, bandwidth: float) -> float:
    """Seconds in which a ring of processes adds up `size` bytes."""
    messages = 2 * (processes - 1)
    return messages * latency + messages / processes * size / bandwidth


def step_seconds(known: Constants, processes: int) -> float:
    """Of a training step as it was measured, in so many processes of one thread."""
    share = known.compute * known.imbalance[processes] / processes + known.update
    turns = max(1, processes / known.cores)
    collective = all_reduce(processes, known.gradient_bytes, known.latency, known.bandwidth)
    return turns * (share + collective)


def encode_seconds(known: Constants, processes: int, sentences: int) -> float:
    """Of encoding a file by MiniLM in float32, in so many processes of one thread."""
    each = known.handling + known.stages["compute, minilm, float32"]
    return max(1, processes / known.cores) * (known.start + sentences / processes * each)


# FLOP


def pretraining_flop() -> float:
    """Of BERT-base as in the paper: forward pass, masked words, next sentence, and twice as much
    for the backward pass.

    The vocabulary's logits are computed at masked words alone, as Google's program does.
    """
    config, flop = BERT_BASE, 0.0
    for steps, length in PHASES:
        flop += steps * SEQUENCES * sequence_flop(config, length, MASKED * length)
    return 3 * flop


def sequence_flop(config: BertConfig, length: int, masked: float) -> float:
    """Of the forward pass of one sequence and both heads."""
    width = config.hidden_size
    words = masked * 2 * (width * width + width * config.vocab_size)
    next_sentence = 2 * (width * width + 2 * width)
    return useful_flop(config, [length]) + words + next_sentence


# BERT-base as Portes et al. 2023 trained it (arXiv:2312.17482): 70,000 steps of 4,096 sequences of
# 128 tokens on 8 A100s. As elsewhere, logits are counted at masked words alone.
OTHERS_FLOP = 3 * 70_000 * 4096 * sequence_flop(BERT_BASE, 128, MASKED * 128)
OTHERS_HOURS, OTHERS_PEAK = 11.5, 8 * 312e12


def utilisation() -> float:
    """What share of the peak they reached."""
    return OTHERS_FLOP / (OTHERS_PEAK * OTHERS_HOURS * HOUR)


def num_parameters(config: BertConfig) -> int:
    """Of embeddings, layers and pooler."""
    width, inner = config.hidden_size, config.intermediate_size
    tables = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    return (tables + 2) * width + config.num_hidden_layers * layer + width * width + width


# Machines


@dataclass(frozen=True)
class Machine:
    """What computes.

    devices: that train together, and encode apart. rates: FLOP/s that one reaches, by work. cores:
    that read, tokenize and write. overlaps: whether they do so while the devices compute.
    update_rate: bytes a second that a device's optimizer reads and writes. latency, bandwidth: of a
    message between devices, in seconds and bytes a second. disk: bytes a second. price: dollars an
    hour, None where it has none.
    """

    name: str
    devices: int
    rates: Mapping[str, float]
    cores: int
    overlaps: bool
    update_rate: float
    latency: float
    bandwidth: float
    disk: float
    price: float | None


# All of these are assumed. SCALE.md says why, and where they are from.
CORE_PRICE, GPU_PRICE = 0.05, 3.00  # dollars an hour
DISK = 1e9  # bytes a second, for each machine
CLOUD_CORES, THREADS = 64, 8  # of a machine, and of a process that trains
NETWORK, NETWORK_LATENCY = 25e9 / 8, 50e-6  # between machines: 25 Gbit/s
PEAK, UTILISATION = 989e12, 0.35  # of an H100 in bfloat16, without sparsity
GPU_MEMORY = 0.6 * 3.35e12  # bytes a second that its optimizer reaches
HOST_MEMORY = 300e9  # bytes a second, for all cores of a host
NVLINK, NVLINK_LATENCY = 450e9, 10e-6  # in each direction
GPU_CORES = 26  # beside each GPU


def cpus(known: Constants, cores: int, hosts: int = 1, precision: str = "float32") -> Machine:
    """Hosts whose cores are like those that were measured. THREADS of them train as one process, in
    float32."""
    threads = min(THREADS, cores)
    processes = cores // threads  # on each host
    rates = {model: known.encode_rate(model, precision) for model in MODELS}
    name = f"{cores} cores" if hosts == 1 else f"{hosts} hosts of {cores} cores"
    return Machine(
        name=name if precision == "float32" else f"{name}, {precision}",
        devices=hosts * processes,
        rates={
            what: threads * rate for what, rate in (rates | {"training": known.train_rate}).items()
        },
        cores=hosts * cores,
        overlaps=False,
        update_rate=min(threads * known.update_rate, HOST_MEMORY / processes),
        latency=known.latency if hosts == 1 else max(known.latency, NETWORK_LATENCY),
        bandwidth=known.bandwidth if hosts == 1 else min(known.bandwidth, NETWORK),
        disk=hosts * DISK,
        price=None if cores == known.cores else hosts * cores * CORE_PRICE,
    )


def gpus(devices: int, cores: int = 1) -> Machine:
    """H100s in one host. cores: that feed each. A single one is the process itself, which tokenizes
    and computes in turns."""
    name = f"{devices} H100{'s'[: devices > 1]}"
    return Machine(
        name=f"{name}, {cores} core{'s'[: cores > 1]} each",
        devices=devices,
        rates=dict.fromkeys((*MODELS, "training"), PEAK * UTILISATION),
        cores=devices * cores,
        overlaps=cores > 1,
        update_rate=GPU_MEMORY,
        latency=NVLINK_LATENCY,
        bandwidth=NVLINK,
        disk=DISK,
        price=devices * GPU_PRICE,
    )


# Predictions


@dataclass(frozen=True)
class Prediction:
    """How long each resource of a machine works for a job, in seconds."""

    machine: Machine
    work: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """Of the whole. The disk always works beside the rest; the tokenizer where the machine can
        overlap it; all else comes one after the other."""
        beside = ("disk", "tokenizer") if self.machine.overlaps else ("disk",)
        in_turns = sum(seconds for name, seconds in self.work.items() if name not in beside)
        return max(in_turns, *(self.work.get(name, 0.0) for name in beside))

    @property
    def exhausted(self) -> str:
        """The resource that works longest."""
        return max(self.work, key=self.work.__getitem__)

    @property
    def cost(self) -> float | None:
        """In dollars."""
        price = self.machine.price
        return None if price is None else self.seconds / HOUR * price


def embedding(known: Constants, machine: Machine, model: str) -> Prediction:
    """One billion sentences of TOKENS tokens to float32 vectors."""
    config = MODELS[model]
    rate = machine.devices * machine.rates[model]
    size = known.text_bytes + FLOAT32 * config.hidden_size
    return Prediction(
        machine,
        {
            "model": BILLION * useful_flop(config, [TOKENS]) / rate,
            "tokenizer": BILLION * known.handling / machine.cores,
            "disk": BILLION * size / machine.disk,
        },
    )


def training(
    known: Constants, machine: Machine, flop: float, steps: float, tokens: float
) -> Prediction:
    """Steps of BERT-base that take so many FLOP together, in shares that are equal. tokens: of the
    data, which each process tokenizes once."""
    parameters = num_parameters(BERT_BASE)
    collective = all_reduce(
        machine.devices, FLOAT32 * parameters, machine.latency, machine.bandwidth
    )
    return Prediction(
        machine,
        {
            "model": flop / (machine.devices * machine.rates["training"]),
            "optimizer": steps * parameters * UPDATE_BYTES / machine.update_rate,
            "network": steps * collective,
            "tokenizer": tokens / TOKENS * known.stages["tokenize"],
        },
    )


def pretraining(known: Constants, machine: Machine) -> Prediction:
    """BERT-base as in the paper."""
    return training(known, machine, pretraining_flop(), sum(steps for steps, _ in PHASES), CORPUS)


def fine_tuning(known: Constants, machine: Machine, batch: int) -> Prediction:
    """BERT-base once over EXAMPLES sentences of TOKENS tokens."""
    flop = 3 * EXAMPLES * useful_flop(BERT_BASE, [TOKENS])
    return training(known, machine, flop, EXAMPLES / batch, EXAMPLES * TOKENS)
