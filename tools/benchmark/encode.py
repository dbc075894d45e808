"""Engines that encode: ours and the peers', each in its own best way and in each precision it has.

In bfloat16, sentence-transformers and transformers keep weights and states in it. Ours and
OpenVINO, by its hint, multiply in it; their states are float32. CTranslate2 has none on a CPU.
onnxruntime and CTranslate2 have int8 weights, and round the states to it in each product.

All get the same texts and cut them at the same number of tokens. All give the mean over a text's
tokens, scaled to length 1. Tokenizing is part of the work; exporting a model to another format is
not. `in_batches` feeds all peers but sentence-transformers, which sorts by length itself.
"""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tokenizers
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from minibert.config import BertConfig
from minibert.encoder import BATCH_TOKENS, SentenceEncoder
from minibert.files import InputError, read_json, write_json
from minibert.formats.config import read_config
from minibert.formats.hub import find_model
from minibert.model import Bert
from minibert.tokenizer import Tokenizer
from tools.benchmark.corpora import corpora, singles
from tools.benchmark.machine import useful_flop
from tools.benchmark.race import Engine, Result, Work
from tools.make_bert_base import make_bert_base

MAX_LENGTH = 256  # MiniLM's own
SINGLE = (12, 100)  # tokens of the texts that are encoded one at a time
CALLS = 100  # of such a text in one turn
BATCHES = ("32 texts", "1024 tokens")
# Of vectors to ours in float32: that of float32 peers, and that of our own in bfloat16.
LEAST_COSINE = 0.9999
Vectors = NDArray[np.float32]
# ids and mask, (B, S) each -> (B, D)
Run = Callable[[NDArray[np.int64], NDArray[np.int64]], Vectors]


def engines(folder: Path, model: Path, threads: int) -> list[Engine]:
    """Ours first. folder: where `prepare` wrote the texts; what is exported goes there too."""
    same = {"folder": str(folder), "model": str(model)}
    threaded = same | {"threads": threads}
    export = ("transformers", "onnx")
    texts = ("32 texts", "128 texts")
    return [
        *with_lower("bfloat16", Engine("minibert", ours, same)),
        *with_lower(
            "bfloat16",
            Engine(
                "sentence-transformers",
                sentence_transformers,
                same,
                texts,
                ("sentence-transformers",),
            ),
        ),
        *with_lower(
            "bfloat16", Engine("transformers", transformers, same, BATCHES, ("transformers",))
        ),
        *with_lower(
            "int8",
            Engine("onnxruntime", onnxruntime, threaded, BATCHES, (*export, "onnxruntime")),
        ),
        *with_lower(
            "bfloat16", Engine("OpenVINO", openvino, threaded, BATCHES, (*export, "openvino"))
        ),
        *with_lower(
            "int8",
            Engine("CTranslate2", ctranslate2, threaded, BATCHES, ("transformers", "ctranslate2")),
        ),
    ]


def with_lower(precision: str, engine: Engine) -> list[Engine]:
    """An engine in float32, and the same in a lower precision."""
    arguments = engine.arguments | {"precision": precision}
    return [engine, replace(engine, arguments=arguments, precision=precision)]


def latency_engines(folder: Path, model: Path, threads: int) -> list[Engine]:
    """The same with one text at a time."""
    found = engines(folder, model, threads)
    return [replace(engine, batches=engine.batches[:1]) for engine in found]


def prepare(folder: Path, name: str, data_root: Path | None, count: int | None) -> Path:
    """Write the texts into `folder`. Returns the model's folder.

    name: "minilm", or "base": a model of BERT-base's sizes, with random weights from a seed and
    MiniLM's tokenizer.
    """
    model = find_model("minilm").path
    tokenizer = Tokenizer.from_folder(model)
    texts = corpora(tokenizer, data_root, count)
    if name == "base":
        model = folder / "base"
        make_bert_base(folder / "seeded")
        bert = Bert.from_pretrained(folder / "seeded")
        SentenceEncoder(bert, tokenizer, normalize=True, max_length=MAX_LENGTH).save_pretrained(
            model
        )
    write_jobs(folder, model, texts)
    return model


def prepare_single(folder: Path) -> tuple[Path, list[str]]:
    """Write single texts into `folder`. Returns MiniLM's folder and the names of the jobs."""
    model = find_model("minilm").path
    texts = singles(Tokenizer.from_folder(model), SINGLE)
    write_jobs(folder, model, texts, CALLS)
    return model, list(texts)


def write_jobs(folder: Path, model: Path, texts: Mapping[str, list[str]], calls: int = 1) -> None:
    """Write what each job is: its texts, how often a turn encodes them, their tokens and FLOP."""
    tokenizer = Tokenizer.from_folder(model)
    tokenizer.max_length = MAX_LENGTH
    config = read_config(model / "config.json", BertConfig)
    jobs = {}
    for job, found in texts.items():
        lengths = [len(tokens.ids) for tokens in tokenizer.encode(found, "silent")]
        flop = useful_flop(config, lengths)
        jobs[job] = {"texts": found, "calls": calls, "done": sum(lengths), "flop": flop}
    write_json(folder / "corpora.json", jobs)


def ours(
    folder: str,
    model: str,
    device: str = "cpu",
    dtype: str = "float32",
    precision: str = "float32",
) -> Work:
    encoder = SentenceEncoder.from_pretrained(
        model,
        device=device,
        dtype=getattr(torch, dtype),
        precision=precision,
        max_length=MAX_LENGTH,
    )

    def encode(texts: list[str], batch: str) -> Vectors:
        size = int(batch.removesuffix(" tokens")) if batch else BATCH_TOKENS
        return encoder.encode(texts, normalize=True, truncation="silent", batch_tokens=size)

    return encode_work(encode, folder)


def sentence_transformers(folder: str, model: str, precision: str = "float32") -> Work:
    from sentence_transformers import SentenceTransformer

    encoder = SentenceTransformer(model, device="cpu").to(getattr(torch, precision))
    encoder.max_seq_length = MAX_LENGTH

    def encode(texts: list[str], batch: str) -> Vectors:
        size = int(batch.removesuffix(" texts"))
        return encoder.encode(
            texts, batch_size=size, normalize_embeddings=True, show_progress_bar=False
        )

    return encode_work(encode, folder)


def transformers(
    folder: str,
    model: str,
    device: str = "cpu",
    precision: str = "float32",
    attention: str = "sdpa",
) -> Work:
    bert = MeanOfTokens(model, attention).to(device, getattr(torch, precision))

    @torch.inference_mode()
    def run(input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        vectors = bert(*(torch.from_numpy(array).to(device) for array in (input_ids, mask)))
        return vectors.float().cpu().numpy()

    return encode_work(in_batches(run, model), folder)


def onnxruntime(folder: str, model: str, threads: int, precision: str = "float32") -> Work:
    from onnxruntime import InferenceSession, SessionOptions

    file = onnx_file(folder, model)
    if precision == "int8":
        from onnxruntime.quantization import QuantType, quantize_dynamic

        file, exact = file.with_name("int8.onnx"), file
        # reduce_range: without it, sums of products overflow 16 bits on a CPU that has no VNNI
        quantize_dynamic(
            exact, file, per_channel=True, reduce_range=True, weight_type=QuantType.QInt8
        )
    options = SessionOptions()
    options.intra_op_num_threads = threads
    session = InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        return session.run(None, {"input_ids": input_ids, "attention_mask": mask})[0]

    return encode_work(in_batches(run, model), folder)


def openvino(folder: str, model: str, threads: int, precision: str = "float32") -> Work:
    from openvino import Core

    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
    }
    compiled = Core().compile_model(str(onnx_file(folder, model)), "CPU", settings)

    def run(input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        return compiled([input_ids, mask])[0]

    return encode_work(in_batches(run, model), folder)


def ctranslate2(folder: str, model: str, threads: int, precision: str = "float32") -> Work:
    from ctranslate2 import Encoder, StorageView
    from ctranslate2.converters import TransformersConverter

    converted = Path(folder) / "ctranslate2"
    if not converted.exists():
        TransformersConverter(model).convert(str(converted))
    encoder = Encoder(str(converted), compute_type=precision, intra_threads=threads)

    def run(input_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> Vectors:
        lengths = mask.sum(1)
        ids = StorageView.from_array(input_ids.astype(np.int32))
        states = encoder.forward_batch(
            ids, StorageView.from_array(lengths.astype(np.int32))
        ).last_hidden_state
        hidden = np.asarray(states)  # (B, S, D)
        means = np.einsum("bsd,bs->bd", hidden, mask.astype(np.float32)) / lengths[:, None]
        return means / np.linalg.norm(means, axis=1, keepdims=True)

    return encode_work(in_batches(run, model), folder)


class MeanOfTokens(nn.Module):
    """transformers' BERT and the mean over the real tokens, scaled to length 1: two (B, S) ->
    (B, D)."""

    def __init__(self, model: str, attention: str = "sdpa") -> None:
        from transformers import AutoModel

        super().__init__()
        self.bert = AutoModel.from_pretrained(
            model, add_pooling_layer=False, attn_implementation=attention
        ).eval()

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return F.normalize((hidden * weights).sum(1) / weights.sum(1), dim=1)


def onnx_file(folder: str, model: str) -> Path:
    """The model as ONNX. The first engine that asks exports it."""
    file = Path(folder) / "model.onnx"
    if not file.exists():
        ids = torch.ones(2, 8, dtype=torch.int64)
        names = ["input_ids", "attention_mask"]
        axes = {name: {0: "texts", 1: "tokens"} for name in names}
        # The exporter by tracing: it writes ten times faster than the newer one, and needs no
        # further package.
        torch.onnx.export(
            MeanOfTokens(model),
            (ids, torch.ones_like(ids)),
            file,
            input_names=names,
            output_names=["vectors"],
            dynamic_axes=axes | {"vectors": {0: "texts"}},
            dynamo=False,
        )
    return file


def encode_work(encode: Callable[[list[str], str], Vectors], folder: str) -> Work:
    """Work that encodes a job's texts, as often as the job says.

    It tells the median "seconds" of a call, those of the "quickest", the texts' tokens as "done",
    their "flop", and the lowest "cosine" to the first engine's vectors.
    """
    jobs = read_json(Path(folder) / "corpora.json")
    first: dict[str, Vectors] = {}

    def work(name: str, batch: str) -> dict[str, float]:
        job, seconds = jobs[name], []
        for _ in range(job["calls"]):
            start = time.perf_counter()
            vectors = encode(job["texts"], batch)
            seconds.append(time.perf_counter() - start)
        if name not in first:
            file = Path(folder) / f"{name}.npy"
            if not file.exists():
                np.save(file, vectors)
            first[name] = np.load(file)
        return {
            "seconds": statistics.median(seconds),
            "quickest": min(seconds),
            "done": job["done"],
            "flop": job["flop"],
            "cosine": float((vectors * first[name]).sum(1).min()),
        }

    return work


def in_batches(run: Run, model: str) -> Callable[[list[str], str], Vectors]:
    """A function that encodes texts by `run`, sorted by length, as many at once as the batch
    says."""
    tokenizer = tokenizers.Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_LENGTH)

    def encode(texts: list[str], batch: str) -> Vectors:
        rows = [encoding.ids for encoding in tokenizer.encode_batch(texts)]
        found: list[tuple[list[int], Vectors]] = []
        for chosen in sorted_batches([len(row) for row in rows], batch):
            shape = (len(chosen), len(rows[chosen[0]]))
            input_ids, mask = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
            for line, i in enumerate(chosen):
                input_ids[line, : len(rows[i])] = rows[i]
                mask[line, : len(rows[i])] = 1
            found.append((chosen, run(input_ids, mask)))
        vectors = np.empty((len(texts), found[0][1].shape[1]), np.float32)
        for chosen, part in found:
            vectors[chosen] = part
        return vectors

    return encode


def sorted_batches(lengths: Sequence[int], batch: str) -> Iterator[list[int]]:
    """The numbers of all texts in batches, the longest first.

    batch: how many at once: "32 texts", or "1024 tokens", which counts padding.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True)
    limit, unit = batch.split()
    while order:
        size = int(limit) if unit == "texts" else max(1, int(limit) // lengths[order[0]])
        yield order[:size]
        order = order[size:]


def check(results: Sequence[Result]) -> None:
    """Raise InputError if an engine gives other vectors than ours in float32: then it did other
    work, and its time says nothing. That holds for float32, and for ours in each precision; what
    lower precisions cost the peers is only told."""
    for result in results:
        is_held = result.precision == "float32" or result.engine.startswith("minibert")
        if "cosine" not in result.rounds[0] or not is_held:
            continue
        lowest = min(result.values("cosine"))
        if lowest < LEAST_COSINE:
            raise InputError(
                f"{result.label}: its vectors are not ours, the lowest cosine is {lowest:.5f}"
            )
