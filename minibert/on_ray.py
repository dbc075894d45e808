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
import socket
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from minibert.bulk import RowSettings
from minibert.files import InputError
from minibert.parts import DONE, changed, check_facts, count_rows, write_part, write_whole
from minibert.quantize import quantize
from minibert.tables import Columns, find_files, read_texts
from minibert.tokens import Truncated
from minibert.workers import Opening, Worker

PART_TEXTS = 2**12  # some ten seconds of a core's work for MiniLM
PART = ("error", "part", "file", "first", "ids", "texts")  # what a part's row has


@dataclass(frozen=True)
class Job:
    """What is encoded, how, and to where."""

    source: str
    output: str
    opening: Opening
    columns: Columns
    quantized: str = "float32"
    ranges: NDArray[np.float32] | None = None
    part: int = PART_TEXTS


class PartWriter:
    """An actor: it has an encoder, and writes the parts that it is given.

    An InputError is returned, since Ray would wrap one that is raised in its own traceback.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.error = job, ""
        try:
            self.worker = Worker(job.opening)
        except InputError as error:
            self.error = str(error)

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[str]]:
        """Write parts, and report of each, in JSON, how many texts it has and which were cut off;
        or what is wrong with it."""
        rows = zip(*(batch[key] for key in PART), strict=True)
        return {"report": [json.dumps(self.write(*row)) for row in rows]}

    def write(
        self, error: str, part: str, file: str, first: int, ids: Sequence[str], texts: Sequence[str]
    ) -> dict[str, Any]:
        if error or self.error:
            return {"error": error or self.error}
        try:
            vectors, cut = self.worker.encode(list(texts), int(first))
        except InputError as found:
            return {"error": f"{file}: {found}"}
        numbers = quantize(vectors, self.job.quantized, self.job.ranges)
        write_part(f"{self.job.output}/{part}", list(ids), numbers)
        longest = cut and (cut.longest[0], f"{cut.longest[1]} of {file}")
        return {"texts": len(texts), "cut": cut and [cut.texts, cut.tokens, longest]}


def encode_corpus(settings: RowSettings, job: Job, workers: int | None) -> int:
    """Write the vectors of a corpus, a Parquet file for each part, with the columns `id` and
    `vector`; returns how many there are.

    workers: how many actors; None: one for each GPU of the cluster, or else for each core. Parts
    that a run before has written are kept. Raises InputError if that run had another model, other
    options or another corpus; if Ray is missing; and if a worker cannot go on, with its reason.
    """
    ray = import_ray()
    from fsspec.core import url_to_fs

    inputs, files = find_files(job.source)
    outputs, root = url_to_fs(job.output)
    if f"{job.output}/".startswith(f"{job.source.rstrip('/')}/"):
        raise InputError(f"--output {job.output} is in --input, and would be read as texts")
    check_facts(outputs, root, facts_of(settings, job, inputs, files))
    written = {posixpath.basename(file) for file in outputs.glob(f"{root}/part-*.parquet")}
    total = before = sum(count_rows(outputs, f"{root}/{part}") for part in written)
    done = f"{root}/{DONE}"
    if outputs.exists(done) and outputs.cat_file(done) == f"{before}\n".encode():
        return before
    truncated = Truncated(settings.encoder.tokenizer.max_length, "warn", before)
    try:
        with opened(ray), tqdm(initial=before, unit="text", disable=None) as bar:
            for row in planned(ray, job, files, written, workers).iter_rows():
                report = json.loads(row["report"])
                if "error" in report:
                    raise InputError(report["error"])
                total += report["texts"]
                bar.update(report["texts"])
                if report["cut"]:
                    truncated.join(Truncated(truncated.limit, "warn", 0, *report["cut"]))
    except KeyboardInterrupt as stop:
        raise KeyboardInterrupt(f"stopped; the same command goes on in {job.output}") from stop
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(
            f"Ray has failed: {reason}\nParts that are done stay in {job.output}: the same command "
            "goes on from there"
        ) from error
    write_whole(outputs, done, f"{total}\n".encode())
    truncated.warn(total)
    return total


def facts_of(settings: RowSettings, job: Job, inputs: Any, files: dict[str, str]) -> dict[str, Any]:
    """All that the parts depend on."""
    about = {
        f"file {name}": [inputs.size(file), changed(inputs, file)] for file, name in files.items()
    }
    columns = {"column": job.columns.text, "id": job.columns.id, "part": job.part}
    return settings.facts() | columns | about


def import_ray() -> Any:
    """Ray, which reports nothing to its makers. Raises InputError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise InputError("--ray needs Ray Data: pip install 'minibert-torch[ray]'") from error
    return ray


@contextmanager
def opened(ray: Any) -> Iterator[None]:
    """In this block, Ray has its cluster: that of RAY_ADDRESS, or one on this machine. Raises
    InputError where no cluster answers."""
    is_ours = not ray.is_initialized()
    if is_ours:
        check_address(os.environ.get("RAY_ADDRESS", ""))
        try:
            with silent():
                ray.init(logging_level=logging.CRITICAL, log_to_driver=False)
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise InputError(f"cannot reach Ray: {error}") from error
    for name in ("ray", "ray.data"):  # what is wrong is ours to say
        logging.getLogger(name).setLevel(logging.CRITICAL)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 1  # byte: a part is a block of its own, and waits for no other
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if is_ours:
            ray.shutdown()


def check_address(address: str) -> None:
    """Raises InputError where nobody answers: Ray would wait for minutes, and then abort."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():  # none, or a word of Ray's, such as "auto"
        return
    try:
        socket.create_connection((host, int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise InputError(f"RAY_ADDRESS {address}: no cluster answers there ({error})") from error


@contextmanager
def silent() -> Iterator[None]:
    """In this block, nothing reaches standard error, from code in C++ either."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def plan(
    cluster: dict[str, float], threads: int, workers: int | None
) -> tuple[int, dict[str, int]]:
    """How many actors there are, and what each takes of the cluster: a GPU where there are some,
    or else a core for each of its threads."""
    if gpus := int(cluster.get("GPU", 0)):
        return workers or gpus, {"num_gpus": 1}
    return workers or max(1, int(cluster.get("CPU", 0)) // threads), {"num_cpus": threads}


def planned(
    ray: Any, job: Job, files: dict[str, str], written: set[str], workers: int | None
) -> Any:
    """The Ray data set whose rows are the parts as they are written."""
    count, resources = plan(ray.cluster_resources(), job.opening.threads, workers)
    rows = [
        {"number": i, "path": path, "file": name} for i, (path, name) in enumerate(files.items())
    ]
    read = ray.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
        read_parts,
        batch_size=1,
        compute=ray.data.TaskPoolStrategy(size=min(count, len(rows))),
        num_cpus=0,  # readers mostly wait for the writers, which have all cores
        fn_kwargs={"job": job, "written": written},
    )
    return read.map_batches(
        PartWriter,
        fn_constructor_args=(job,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=count),
        **resources,
    )


def read_parts(
    batch: dict[str, Any], job: Job, written: set[str]
) -> Iterator[dict[str, list[Any]]]:
    """The parts of a file that no run has written yet."""
    from fsspec.core import url_to_fs

    system, _ = url_to_fs(job.source)
    for number, path, file in zip(batch["number"], batch["path"], batch["file"], strict=True):
        parts = read_texts(system, str(path), str(file), job.columns, job.part)
        try:
            for i, (ids, texts) in enumerate(parts):
                part = f"part-{number:06}-{i:06}.parquet"
                if part not in written:
                    yield _row("", part, str(file), i * job.part, ids, texts)
        except InputError as error:
            yield _row(str(error), "", str(file), 0, [""], [""])


def _row(*values: Any) -> dict[str, list[Any]]:
    return {key: [value] for key, value in zip(PART, values, strict=True)}
