"""encode --ray: each text's vector is that of one process, whoever is killed meanwhile, and no part
is computed twice.

One Ray of two cores serves all tests. Programs of their own reach it by RAY_ADDRESS, as they would
reach a cluster.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibert import InputError, SentenceEncoder
from minibert.__main__ import main, parser
from minibert.bulk import RowSettings
from minibert.on_ray import Job, check_address, encode_corpus, plan, read_parts
from minibert.quantize import quantize
from minibert.tables import Columns
from minibert.workers import Opening
from tests.documents import ROOT

ray = pytest.importorskip("ray", reason="Ray, of the extra ray, is not installed")
psutil = pytest.importorskip("psutil")
pyarrow = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [" ".join("abcdefg"[(i * j) % 7] for j in range(1 + i % 9)) for i in range(40)]


@pytest.fixture(scope="module")
def cluster(one_thread: None) -> Iterator[str]:
    """The address of a Ray whose processes see this checkout."""
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="CRITICAL")
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()


@pytest.fixture
def settings(saved: Path) -> RowSettings:
    return RowSettings(SentenceEncoder.from_pretrained(saved, device="cpu"))


@pytest.fixture
def job(saved: Path, tmp_path: Path) -> Job:
    """Three parts of one file, and what a folder has besides texts."""
    folder = tmp_path / "texts"
    (folder / "below").mkdir(parents=True)
    (folder / "a.txt").write_text("\n".join(TEXTS) + "\n")
    (folder / "below/empty.txt").touch()
    (folder / ".hidden.txt").write_text("a")
    (folder / "_SUCCESS").write_bytes(b"\xff")
    return Job(str(folder), str(tmp_path / "vectors"), opening(saved), Columns(), part=16)


def opening(model: Path) -> Opening:
    return Opening(str(model), {"device": "cpu"})


def rows(folder: str | Path) -> dict[str, Any]:
    """The vector of each id."""
    found: dict[str, Any] = {}
    for file in sorted(Path(folder).glob("part-*.parquet")):
        table = pq.read_table(file)
        ids = table["id"].to_pylist()
        assert not found.keys() & set(ids)
        found.update(zip(ids, table["vector"].to_pylist(), strict=True))
    return found


def same(found: dict[str, Any], ids: list[str], expected: np.ndarray) -> bool:
    """Whether the ids have these vectors, bit by bit."""
    assert sorted(found) == sorted(ids)
    return np.array_equal(np.array([found[i] for i in ids], expected.dtype), expected)


def parts(folder: str | Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in Path(folder).glob("part-*.parquet")}


def test_a_folder_of_all_formats(cluster: str, settings: RowSettings, job: Job) -> None:
    """By a file:// URL, into another; with an empty line, and an empty file."""
    folder = Path(job.source)
    texts = ["a b", 'c, "d"', "", "é\u2028f"]
    (folder / "a.txt").write_text("a\n\nb")
    (folder / "t.jsonl").write_text("\n".join(json.dumps({"text": t}) for t in texts))
    with (folder / "below/t.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["n", "text"], *([i, t] for i, t in enumerate(texts))])
    pq.write_table(pyarrow.table({"text": texts, "n": [1, 2, 3, 4]}), folder / "below/t.parquet")
    urls = replace(job, source=f"file://{job.source}", output=f"file://{job.output}")
    assert encode_corpus(settings, urls, 1) == 15
    tables = [
        f"{name}:{i}" for name in ("t.jsonl", "below/t.csv", "below/t.parquet") for i in range(4)
    ]
    expected = settings.encoder.encode(["a", "", "b", *texts * 3])
    assert same(rows(job.output), [*(f"a.txt:{i}" for i in range(3)), *tables], expected)
    assert (Path(job.output) / "_SUCCESS").read_text() == "15\n"
    assert not [name for name in os.listdir(job.output) if name.endswith(".tmp")]


def test_ids_of_a_column_and_bits(cluster: str, settings: RowSettings, job: Job) -> None:
    source = Path(job.source) / "t.tsv"
    source.write_text("key\tbody\n7\ta b\nx\tc\n")
    job = replace(job, source=str(source), columns=Columns("body", "key"), quantized="binary")
    assert encode_corpus(replace(settings, quantized="binary"), job, 1) == 2
    expected = quantize(settings.encoder.encode(["a b", "c"]), "binary", None)
    assert same(rows(job.output), ["7", "x"], expected)


def test_a_killed_actor_is_replaced(cluster: str, settings: RowSettings, job: Job) -> None:
    """The only one, so that the rest is computed by the one that Ray starts in its place."""
    texts = TEXTS * 50
    (Path(job.source) / "a.txt").write_text("\n".join(texts))
    killed: list[int] = []

    def kill() -> None:
        wait_for(lambda: parts(job.output))
        for process in actors():
            process.kill()
            killed.append(len(parts(job.output)))

    killer = threading.Thread(target=kill)
    killer.start()
    assert encode_corpus(settings, job, 1) == len(texts)
    killer.join()
    assert len(killed) == 1
    assert 0 < killed[0] < len(parts(job.output))
    ids = [f"a.txt:{i}" for i in range(len(texts))]
    assert same(rows(job.output), ids, settings.encoder.encode(texts))


def actors() -> list[Any]:
    found = []
    for process in psutil.process_iter(["cmdline", "uids"]):
        line = " ".join(process.info["cmdline"] or [])
        if line.startswith("ray::MapWorker(MapBatches(PartWriter))") and is_below_us(process):
            found.append(process)
    return found


def is_below_us(process: Any) -> bool:
    """Whether a process belongs to our Ray, and not to one that another test run started."""
    return os.getpid() in [parent.pid for parent in process.parents()]


def wait_for(found: Callable[[], Any], seconds: float = 60) -> Any:
    end = time.monotonic() + seconds
    while not (value := found()):
        assert time.monotonic() < end
        time.sleep(0.01)
    return value


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_driver_that_was_stopped_goes_on(
    number: int, cluster: str, settings: RowSettings, job: Job, saved: Path
) -> None:
    """Each part that was there keeps its file."""
    for i in range(60):
        (Path(job.source) / f"{i:02}.txt").write_text("\n".join(TEXTS))
    line = ("--model", str(saved), "--input", job.source, "--output", job.output)
    command = [sys.executable, "-m", "minibert", "encode", "--ray", *line, "--workers", "1"]
    environment = os.environ | {"RAY_ADDRESS": cluster, "PYTHONPATH": str(ROOT)}
    program = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: program.poll() is not None or parts(job.output))
    program.send_signal(number)
    _, said = program.communicate(timeout=60)
    if number == signal.SIGINT:
        assert program.returncode == 130
        assert said == f"stopped; the same command goes on in {job.output}\n"
    before = parts(job.output)
    assert 0 < len(before) < 61
    wait_for(lambda: not actors())
    before = parts(job.output)
    assert main(command[3:]) == 0
    after = parts(job.output)
    assert len(after) == 61
    assert before.items() <= after.items()
    expected = settings.encoder.encode(TEXTS)
    found = rows(job.output)
    for name in ("a.txt", "00.txt", "59.txt"):
        own = {i: vector for i, vector in found.items() if i.startswith(name)}
        assert same(own, [f"{name}:{i}" for i in range(40)], expected)


def test_a_second_run_computes_only_what_is_missing_and_refuses_other_input(
    cluster: str, settings: RowSettings, job: Job, saved: Path
) -> None:
    whole = encode_corpus(settings, job, 1)
    before = parts(job.output)
    assert len(before) == 3
    assert encode_corpus(settings, job, 1) == whole
    assert parts(job.output) == before
    (Path(job.output) / "part-000000-000001.parquet").unlink()
    assert encode_corpus(settings, job, 1) == whole
    changed = {name for name, when in parts(job.output).items() if before[name] != when}
    assert changed == {"part-000000-000001.parquet"}

    def refused(what: str, settings: RowSettings = settings, job: Job = job) -> None:
        with pytest.raises(InputError, match=f"was begun with {what}"):
            encode_corpus(settings, job, 1)

    refused("prompt ''", replace(settings, prompt="a "))
    refused("quantized 'float32'", replace(settings, quantized="binary"))
    refused("column 'text'", job=replace(job, columns=Columns("body")))
    refused("part 16", job=replace(job, part=8))
    shorter = SentenceEncoder.from_pretrained(saved, max_length=5, device="cpu")
    refused("max_length", replace(settings, encoder=shorter))
    (Path(job.source) / "a.txt").write_text("other")
    refused("file a.txt")
    (Path(job.source) / "a.txt").unlink()
    refused("file a.txt .*None")
    (Path(job.output) / "_minibert.json").write_text("{")
    with pytest.raises(InputError, match=r"_minibert\.json is damaged"):
        encode_corpus(settings, job, 1)


def test_a_broken_row_is_named_in_one_line(
    cluster: str, job: Job, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = Path(job.source) / "t.jsonl"
    file.write_text('{"text": "a"}\n' * 20 + '{"text": null}\n{"text": "b"}\n')
    line = ["--model", str(saved), "--input", job.source, "--output", job.output, "--workers", "1"]
    assert main(["encode", "--ray", *line]) == 2
    expected = f"error: {file}, row 20 (counted from 0) is of type NoneType, not str: None\n"
    assert capfd.readouterr() == ("", expected)


def test_a_model_that_the_workers_lack(cluster: str, settings: RowSettings, job: Job) -> None:
    """A cluster may not see the folder that this machine has."""
    with pytest.raises(InputError, match=r"^no folder '/none'"):
        encode_corpus(settings, replace(job, opening=Opening("/none")), 1)


def test_what_was_cut_off_is_counted_once(
    cluster: str, job: Job, saved: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (Path(job.source) / "b.txt").write_text("a\n" + "a " * 50 + "\n" + "b " * 60)
    (Path(job.source) / "c.txt").write_text("a " * 40)
    line = ["--model", str(saved), "--input", job.source, "--output", job.output, "--workers", "1"]
    assert main(["encode", "--ray", *line, "--max-length", "12"]) == 0
    assert capfd.readouterr().err.splitlines() == [
        "warning: 3 of 44 texts are longer than 12 tokens: the longest is number 2 (counted from "
        "0) of b.txt with 62; 120 tokens were cut off",
        f"44 vectors of 24 float32 in {job.output}",
    ]


# Without Ray's processes


def test_the_job_for_kubernetes_is_one_that_our_parser_accepts() -> None:
    """Its fields are those of KubeRay's RayJob, ray.io/v1."""
    yaml = pytest.importorskip("yaml")
    found = yaml.safe_load((ROOT / "tools/rayjob.yaml").read_text())
    assert (found["apiVersion"], found["kind"]) == ("ray.io/v1", "RayJob")
    spec = found["spec"]
    program, options = spec["entrypoint"].split()[:3], spec["entrypoint"].split()[3:]
    assert program == ["python", "-m", "minibert"]
    asked = parser().parse_args(options)
    assert asked.ray
    cluster = spec["rayClusterSpec"]
    (group,) = cluster["workerGroupSpecs"]
    (head,), (worker,) = (
        part["template"]["spec"]["containers"] for part in (cluster["headGroupSpec"], group)
    )
    assert head["image"] == worker["image"]
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    cores = int(worker["resources"]["limits"]["cpu"]) * group["replicas"]
    assert plan({"CPU": float(cores)}, 1, None)[0] == asked.workers
    assert worker["resources"]["requests"] == worker["resources"]["limits"]


def test_parts_of_a_file_are_read_one_at_a_time(job: Job) -> None:
    """And those that are written are left out."""
    batch = {"number": [3], "path": [f"{job.source}/a.txt"], "file": ["a.txt"]}
    found = read_parts(batch, job, {"part-000003-000001.parquet"})
    first, last = found
    assert first["part"] == ["part-000003-000000.parquet"]
    assert first["texts"] == [TEXTS[:16]]
    assert last["first"] == [32]
    assert last["ids"] == [[f"a.txt:{i}" for i in range(32, 40)]]


def test_a_plan_for_cores_and_for_gpus() -> None:
    assert plan({"CPU": 8.0}, 1, None) == (8, {"num_cpus": 1})
    assert plan({"CPU": 8.0}, 2, None) == (4, {"num_cpus": 2})
    assert plan({"CPU": 8.0}, 1, 3) == (3, {"num_cpus": 1})
    assert plan({"CPU": 8.0, "GPU": 2.0}, 1, None) == (2, {"num_gpus": 1})
    assert plan({}, 1, None) == (1, {"num_cpus": 1})


def test_a_cluster_that_does_not_answer() -> None:
    with pytest.raises(InputError, match=r"RAY_ADDRESS 127\.0\.0\.1:1: no cluster answers there"):
        check_address("127.0.0.1:1")
    for word in ("", "auto", "local"):
        check_address(word)


def test_a_folder_that_is_not_ours_is_left_alone(settings: RowSettings, job: Job) -> None:
    with pytest.raises(InputError, match="is in --input"):
        encode_corpus(settings, replace(job, output=f"{job.source}/vectors"), 1)
    Path(job.output).mkdir()
    (Path(job.output) / "letter.txt").touch()
    with pytest.raises(InputError, match="holds other files"):
        encode_corpus(settings, job, 1)
    with pytest.raises(InputError, match=r"there is no file .*nothing"):
        encode_corpus(settings, replace(job, source=f"{job.source}/nothing"), 1)
    assert os.listdir(job.output) == ["letter.txt"]


def test_ray_is_missing(
    saved: Path, job: Job, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    line = ["--model", str(saved), "--input", job.source, "--output", job.output, "--workers", "1"]
    assert main(["encode", "--ray", *line]) == 2
    assert capsys.readouterr().err == (
        "error: --ray needs Ray Data: pip install 'minibert-torch[ray]'\n"
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["a text", "--output", "x"], "--ray reads --input"),
        (["--input", "-", "--output", "x"], "--ray reads --input"),
        (["--input", "x"], "writes --output"),
        (["--input", "x", "--output", "y", "--resume"], "leave --resume out"),
    ],
)
def test_options_that_do_not_go_with_ray(
    line: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "--ray", *line]) == 2
    assert message in capsys.readouterr().err
