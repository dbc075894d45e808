"""encode --workers: several processes give the bits of one, and leave nothing behind, whoever is
killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibert import InputError, SentenceEncoder
from minibert.__main__ import main
from minibert.tokens import TruncationWarning
from minibert.workers import Opening, stream
from tests.documents import ROOT

psutil = pytest.importorskip("psutil")
pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [" ".join("abcdefg"[(i * j) % 7] for j in range(1 + i % 9)) for i in range(60)]


@pytest.fixture
def small_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 120)  # about seven texts


@pytest.fixture(scope="module")
def encoder(saved: Path) -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(saved, device="cpu")


@pytest.mark.usefixtures("small_windows")
def test_windows_come_in_order_and_are_read_as_they_are_needed(
    saved: Path, encoder: SentenceEncoder
) -> None:
    """Two processes, each of which has two windows at most; and nothing is left of them."""
    read: list[str] = []

    def reading() -> Iterator[str]:
        for text in TEXTS:
            read.append(text)
            yield text

    opening = Opening(str(saved), {"device": "cpu"}, prompt="a ")
    windowed = list(encoder.stream(TEXTS, prompt="a "))
    assert len(windowed) > 5
    for i, (window, vectors) in enumerate(stream(opening, 2, reading())):
        assert len(read) == sum(len(window) for window, _ in windowed[: i + 4])
        assert window == windowed[i][0]
        assert np.array_equal(vectors, windowed[i][1])
    assert read == TEXTS
    assert not children()


def children() -> list[Any]:
    """Processes of ours that compute; Python's own resource tracker is none."""
    found = psutil.Process().children(recursive=True)
    return [process for process in found if "spawn_main" in " ".join(process.cmdline())]


@pytest.mark.usefixtures("small_windows")
def test_what_was_cut_off_is_counted_once(saved: Path) -> None:
    texts = [*TEXTS, "a " * 50, *TEXTS, "a " * 30]
    opening = Opening(str(saved), {"device": "cpu", "max_length": 12})
    with pytest.warns(TruncationWarning) as told:
        list(stream(opening, 2, texts, first=1000))
    assert [str(warning.message) for warning in told] == [
        "2 of 122 texts are longer than 12 tokens: the longest is number 1060 (counted from 0) "
        "with 52; 60 tokens were cut off"
    ]


@pytest.mark.usefixtures("small_windows")
def test_a_text_that_is_none_is_named(saved: Path) -> None:
    opening = Opening(str(saved), {"device": "cpu"})
    with pytest.raises(InputError, match=r"^text number 1060 .* half a surrogate"):
        list(stream(opening, 2, [*TEXTS, "\ud800"], first=1000))
    assert not children()


@pytest.mark.parametrize("quantized", ["float32", "binary"])
def test_the_command_writes_what_one_process_writes(
    quantized: str, saved: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Also to standard output; with nothing of Python's processes on standard error."""
    (tmp_path / "x.txt").write_text("\n".join(TEXTS))
    line = ["encode", "--model", str(saved), "--input", str(tmp_path / "x.txt")]
    line += ["--quantize", quantized]
    assert main([*line, "--output", str(tmp_path / "one.npy")]) == 0
    assert main([*line, "--output", str(tmp_path / "two.npy"), "--workers", "2"]) == 0
    assert (tmp_path / "one.npy").read_bytes() == (tmp_path / "two.npy").read_bytes()
    assert main(line) == 0
    one, _ = capfd.readouterr()
    assert main([*line, "--workers", "1"]) == 0
    assert capfd.readouterr() == (one, "")


@pytest.mark.parametrize("workers", ["0", "-1", "two", "1.5"])
def test_a_number_that_is_none(workers: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["encode", "a", "--workers", workers])
    assert f"argument --workers: '{workers}' is no whole number above 0" in capsys.readouterr().err


# A program that is killed

PROGRAM = """
import sys
from minibert import batching
batching.WINDOW_CHARACTERS = 500
from minibert.__main__ import main
if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
"""


class Run:
    """A command with two processes. Its texts come from us, so that it waits in the midst."""

    def __init__(self, saved: Path, folder: Path) -> None:
        self.output = folder / "x.npy"
        (folder / "program.py").write_text(PROGRAM)
        command = [sys.executable, str(folder / "program.py"), "encode", "--workers", "2"]
        command += ["--model", str(saved), "--input", "-", "--output", str(self.output)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        self.program = subprocess.Popen(
            command, env=environment, stdin=pipe, stderr=pipe, text=True, start_new_session=True
        )
        self.write(TEXTS * 10)
        self.notes = folder / "x.npy.partial.json"
        wait_for(self.has_written)
        found = psutil.Process(self.program.pid).children(recursive=True)
        self.workers = [p for p in found if "spawn_main" in " ".join(p.cmdline())]
        assert len(self.workers) == 2

    def write(self, texts: list[str]) -> None:
        assert self.program.stdin is not None
        self.program.stdin.write("".join(f"{text}\n" for text in texts))
        self.program.stdin.flush()

    def has_written(self) -> bool:
        assert self.program.poll() is None
        return self.notes.exists() and json.loads(self.notes.read_text())["texts"] > 0

    def ended(self) -> tuple[int, str]:
        """Its exit status, and what it said; no process of it is left."""
        _, said = self.program.communicate(timeout=60)
        _, alive = psutil.wait_procs(self.workers, timeout=20)
        assert not alive
        return self.program.returncode, said


def wait_for(found: Callable[[], Any], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not found():
        assert time.monotonic() < end
        time.sleep(0.01)


def resumed(run: Run, saved: Path, texts: list[str]) -> np.ndarray:
    (run.output.parent / "texts").write_text("".join(f"{text}\n" for text in texts))
    line = ["--input", str(run.output.parent / "texts"), "--output", str(run.output), "--resume"]
    assert main(["encode", "--model", str(saved), *line]) == 0
    return np.load(run.output)


def test_a_killed_process_is_one_clear_error(
    saved: Path, tmp_path: Path, encoder: SentenceEncoder
) -> None:
    """And the same command with --resume goes on."""
    run = Run(saved, tmp_path)
    run.workers[0].kill()
    status, said = run.ended()
    assert status == 2
    assert said.startswith("error: one of the 2 processes has ended, at text number ")
    assert "with --resume goes on from there" in said
    assert len(said.splitlines()) == 2
    assert np.array_equal(resumed(run, saved, TEXTS * 10), encoder.encode(TEXTS * 10))


def test_a_killed_parent_leaves_no_process(
    saved: Path, tmp_path: Path, encoder: SentenceEncoder
) -> None:
    run = Run(saved, tmp_path)
    run.program.kill()
    status, _ = run.ended()
    assert status == -signal.SIGKILL
    assert np.array_equal(resumed(run, saved, TEXTS * 10), encoder.encode(TEXTS * 10))


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_to_all_of_them_stops_the_program(
    number: int, status: int, saved: Path, tmp_path: Path
) -> None:
    """As Ctrl-C sends it to a whole process group."""
    run = Run(saved, tmp_path)
    os.killpg(run.program.pid, number)
    found, said = run.ended()
    assert found == status
    assert said.startswith("stopped; ")
    assert said.endswith("with --resume goes on from there\n")
    assert len(said.splitlines()) == 1
