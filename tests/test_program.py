"""program.py and starting.py: how programs end, by signals and with streams that cannot be written
to."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from minibert import InputError
from minibert.program import Interrupted, received, run_program, signals
from minibert.starting import is_our_program
from tools.faults.kill import fork

ROOT = Path(__file__).parents[1]
STOPS = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)


@STOPS
def test_a_signal_ends_the_work(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    assert run_program(lambda: signal.raise_signal(number)) == status
    assert capsys.readouterr().err == "stopped\n"
    assert signal.getsignal(number) is before
    assert run_program(lambda: None) == 0  # the next program is not stopped


@STOPS
def test_work_that_sees_to_signals_says_how_to_go_on(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def work() -> None:
        with signals() as stop_asked:
            assert not stop_asked()
            signal.raise_signal(number)
            assert stop_asked()
            raise Interrupted("to go on: --resume")

    assert run_program(work) == status
    assert capsys.readouterr().err == "to go on: --resume\n"


@STOPS
def test_a_second_signal_ends_it_at_once(number: int, status: int) -> None:
    def work() -> None:
        with signals():
            signal.raise_signal(number)
            signal.raise_signal(signal.SIGINT)
            raise AssertionError("not reached")

    assert run_program(work) == status  # that of the first


def test_a_thread_leaves_signals_alone() -> None:
    found: list[object] = []

    def work() -> None:
        with signals() as stop_asked:
            found.append((signal.getsignal(signal.SIGTERM), stop_asked()))

    thread = threading.Thread(target=lambda: found.append(run_program(work)))
    thread.start()
    thread.join()
    assert found == [(signal.getsignal(signal.SIGTERM), False), 0]


def test_whose_programs_are_ours() -> None:
    """What follows the program's name is its own: "-m" is an option there, say."""
    ours = (
        ("python -m minibert encode", "-m encode"),
        ("python -X dev -m train.run", "-m"),
        ("python -X dev /bin/minibert -m x", "/bin/minibert -m x"),
    )
    others = (
        ("python", ""),
        ("python -c pass", "-c"),
        ("python -m pytest -m minibert", "-m -m minibert"),
        ("python mine.py minibert", "mine.py minibert"),
        ("python mine.py -m", "mine.py -m"),
        ("python mine.py -m minibert", "mine.py -m minibert"),
    )
    for lines, expected in ((ours, True), (others, False)):
        for command, arguments in lines:
            assert is_our_program(command.split(), arguments.split(" ")) is expected, command


def test_a_process_of_multiprocessing_is_none_of_ours() -> None:
    """It has our arguments, and a line of its own, which may be shorter."""
    line = ["python", "-c", "from multiprocessing.spawn import spawn_main", "--fork"]
    arguments = ["/x/minibert/__main__.py", "encode", *["--json"] * 8]
    assert not is_our_program(line, arguments)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="no /proc, which shows imports")
@STOPS
def test_a_signal_while_pytorch_is_imported(number: int, status: int) -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "minibert", "inspect", "none"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
    ) as process:
        maps = Path(f"/proc/{process.pid}/maps")
        while "libtorch" not in maps.read_text() and process.poll() is None:
            time.sleep(0.005)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (status, b"stopped\n")


def test_closed_standard_streams() -> None:
    """Without their numbers, PyTorch's own imports fail, and a file may get what is printed."""

    def close() -> None:
        os.close(0)
        os.close(1)

    command = [sys.executable, "-m", "minibert", "encode", "--help"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, preexec_fn=close, check=False)
    assert done.returncode == 2
    assert done.stderr == b"error: cannot write to standard output: Bad file descriptor\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_full_stream(stream: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be said is lost, and the status stays."""

    def refuse() -> None:
        raise InputError("no")

    with open("/dev/full", "w") as full:
        monkeypatch.setattr(sys, stream, full)
        if stream == "stderr":
            assert run_program(refuse) == 2
        assert run_program(lambda: print("a", file=sys.stderr)) == 0
        if stream == "stdout":
            assert run_program(lambda: print("a")) == 2
        monkeypatch.undo()


def test_a_program_of_a_forked_child_ends_by_sigterm() -> None:
    """From outside, while it works."""
    reader, writer = os.pipe()

    def work() -> None:
        os.write(writer, b".")
        time.sleep(60)

    child = fork(lambda: os._exit(run_program(work)))
    os.read(reader, 1)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143
    assert not [number for number in received if number not in (signal.SIGINT, signal.SIGTERM)]
