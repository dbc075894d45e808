"""Vectors of a corpus on many machines, by Ray Data.

Each file is read in parts of PART texts. Actors, each with an encoder of its own, compute a part's
vectors and write them as one Parquet file, beside its place and then renamed. So a part is there
as a whole or not at all, and which ones are there is all that a second run must know to go on. If a
machine or an actor is lost, Ray gives its part to another one.
"""

import json
import logging
import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minibert.bulk import RowSettings
from minibert.files import InputError
from minibert.quantize import quantize
from minibert.tables import Columns, find_files, read_texts
from minibert.tokens import Truncated
from minibert.workers import Opening, Worker

PART = 2**12  # texts of a part: some ten seconds of a core's work for MiniLM
FACTS, DONE = "_minibert.json", "_SUCCESS"  # readers of Parquet leave such names out


@dataclass(frozen=True)
class Job:
    """What is encoded, how, and to where."""

    source: str
    output: str
    opening: Opening
    columns: Columns
    quantized: str = "float32"
    ranges: NDArray[np.float32] | None = None
    part: int = PART


class PartWriter:
    """An actor: it has an encoder, and writes the parts that it is given."""

    def __init__(self, job: Job) -> None:
        self.job, self.worker = job, Worker(job.opening)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        """Parts of texts as rows of names, ids and texts; in their place, what became of them."""
        counts, cuts = [], []
        rows = zip(batch["part"], batch["first"], batch["ids"], batch["texts"], strict=True)
        for name, first, ids, texts in rows:
            vectors, cut = self.worker.encode(list(texts), int(first))
            numbers = quantize(vectors, self.job.quantized, self.job.ranges)
            write_part(f"{self.job.output}/{name}", list(ids), numbers)
            counts.append(len(texts))
            cuts.append(json.dumps(cut and [cut.limit, cut.texts, cut.tokens, cut.longest]))
        return {"texts": counts, "cut": cuts}


def encode_corpus(settings: RowSettings, job: Job, workers: int | None) -> int:
    """Write the vectors of a corpus, a Parquet file for each part, with the columns `id` and
    `vector`; returns how many there are.

    workers: how many actors; None: one for each GPU of the cluster, or else as many as its cores
    allow. Parts that a run before has written are kept. Raises InputError if that run had another
    model, other options or another corpus; if Ray is missing; and if a worker cannot go on, with
    its reason.
    """
    ray = open_ray()
    from fsspec.core import url_to_fs

    inputs, files = find_files(job.source)
    outputs, root = url_to_fs(job.output)
    about = settings.facts() | {
        "files": [[name, inputs.size(name), _changed(inputs, name)] for name in files],
        "columns": [job.columns.text, job.columns.id],
        "part": job.part,
    }
    check_facts(outputs, root, json.loads(json.dumps(about)))
    written = {posixpath.basename(file) for file in outputs.glob(f"{root}/part-*.parquet")}
    before = sum(count_rows(outputs, f"{root}/{name}") for name in sorted(written))
    total, truncated = before, Truncated(settings.encoder.tokenizer.max_length, "warn")
    try:
        with tqdm(initial=before, unit="text", disable=None) as bar:
            for row in planned(ray, job, files, written, workers).iter_rows():
                total += row["texts"]
                bar.update(row["texts"])
                if cut := json.loads(row["cut"]):
                    truncated.join(Truncated(cut[0], "warn", 0, cut[1], cut[2], tuple(cut[3])))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped; the same command goes on in {job.output}") from stop
    except ray.exceptions.RayError as error:
        raise InputError(f"{_reason(error)}. What was computed is in {job.output}") from error
    finally:
        ray.shutdown()
    with outputs.open(f"{root}/{DONE}", "w") as stream:
        stream.write(f"{total}\n")
    truncated.warn(total)
    return total


def open_ray() -> Any:
    """Ray, with its cluster: that of RAY_ADDRESS, or one on this machine. It reports nothing to its
    makers. Raises InputError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("--ray needs Ray Data: pip install 'minibert-torch[ray]'") from error
    if not ray.is_initialized():
        ray.init(logging_level=logging.ERROR, log_to_driver=False)
    logging.getLogger("ray").setLevel(logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # a part is a block: it waits for no other
    context.execution_options.preserve_order = False
    return ray


def planned(ray: Any, job: Job, files: list[str], written: set[str], workers: int | None) -> Any:
    """The Ray data set whose rows are the parts as they are written."""
    resources = ray.cluster_resources()
    gpus = int(resources.get("GPU", 0))
    threads = job.opening.threads
    count = workers or gpus or max(1, int(resources.get("CPU", 1)) // threads)
    own = {"num_gpus": 1} if gpus else {"num_cpus": threads}
    rows = [{"number": number, "file": file} for number, file in enumerate(files)]
    read = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        read_parts,
        batch_size=1,
        num_cpus=0,  # it waits for the writers most of the time, and must not wait for a core
        fn_kwargs={"job": job, "written": written},
    )
    return read.map_batches(
        PartWriter,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count),
        **own,
    )


def read_parts(
    batch: dict[str, Any], job: Job, written: set[str]
) -> Iterator[dict[str, list[Any]]]:
    """The parts of a file that no run has written yet."""
    from fsspec.core import url_to_fs

    system, _ = url_to_fs(job.source)
    for number, file in zip(batch["number"], batch["file"], strict=True):
        for i, (ids, texts) in enumerate(read_texts(system, str(file), job.columns, job.part)):
            name = f"part-{number:06}-{i:06}.parquet"
            if name not in written:
                yield {"part": [name], "first": [i * job.part], "ids": [ids], "texts": [texts]}


def write_part(target: str, ids: list[str], vectors: NDArray) -> None:
    """Write ids and vectors as one Parquet file, which appears as a whole."""
    import pyarrow
    from fsspec.core import url_to_fs
    from pyarrow import parquet

    system, path = url_to_fs(target)
    flat = pyarrow.array(vectors.reshape(-1))
    column = pyarrow.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    folder, name = posixpath.split(path)
    beside = f"{folder}/.{name}.tmp"
    with system.open(beside, "wb") as stream:
        parquet.write_table(pyarrow.table({"id": ids, "vector": column}), stream)
    system.mv(beside, path)


def count_rows(system: Any, file: str) -> int:
    """How many rows a part has. Raises InputError if it is damaged."""
    from pyarrow.lib import ArrowException
    from pyarrow.parquet import read_metadata

    try:
        with system.open(file, "rb") as stream:
            return read_metadata(stream).num_rows
    except (ArrowException, OSError) as error:
        raise InputError(f"{file} is damaged: remove it, to compute it again ({error})") from error


def check_facts(system: Any, root: str, facts: dict[str, Any]) -> None:
    """Note what the parts of a folder depend on; or hold it against what a run before has noted.
    Raises InputError, naming what differs, or for a folder that holds something else."""
    file = f"{root}/{FACTS}"
    if system.exists(file):
        with system.open(file, "r") as stream:
            before = json.load(stream)
        for key, value in facts.items():
            if before.get(key) != value:
                raise InputError(
                    f"{root} was begun with {key} {before.get(key)!r:.200}, and this run has "
                    f"{value!r:.200}: give the same model, options and texts, or another --output"
                )
        return
    if system.exists(root) and (not system.isdir(root) or system.ls(root)):
        raise InputError(
            f"--output {root}: --ray writes a folder of its own, and this holds other files"
        )
    system.makedirs(root, exist_ok=True)
    with system.open(file, "w") as stream:
        json.dump(facts, stream, indent=2)


def _changed(system: Any, file: str) -> str:
    """When a file was last changed, as far as its file system tells."""
    try:
        return str(system.modified(file))
    except NotImplementedError:
        return ""


def _reason(error: BaseException) -> str:
    """Why Ray's workers failed, in our own words where they are ours."""
    cause = getattr(error, "cause", None) or error.__cause__
    if isinstance(cause, InputError):
        return str(cause)
    return str(error).strip().splitlines()[-1]
