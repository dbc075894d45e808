"""bulk.py: a file of vectors is the same whether its run was interrupted or not. Nothing is
computed twice, and no file is written by two processes."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from minibert import InputError, SentenceEncoder
from minibert.__main__ import main
from minibert.bulk import RowSettings, write_vectors
from minibert.calibration import calibrate_ranges, read_ranges
from minibert.quantize import quantize
from tests.test_encoder import D, small_encoder

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = [
    " ".join(random.Random(i).choices("abcdefg", k=random.Random(-i).randint(0, 30)))
    for i in range(60)
]


@pytest.fixture
def encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SentenceEncoder:
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 200)  # about seven texts
    return small_encoder(tmp_path / "vocabulary", normalize=True, max_length=40)


def stopping(texts: list[str], at: int, number: int = signal.SIGTERM) -> Iterator[str]:
    """The texts; before that of number `at`, somebody stops the program."""
    for i, text in enumerate(texts):
        if i == at:
            os.kill(os.getpid(), number)
        yield text


def failing(texts: list[str], at: int) -> Iterator[str]:
    yield from texts[:at]
    raise InputError("line 41 is broken")


def read(file: Path) -> bytes:
    return file.read_bytes()


def left(folder: Path) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name != "vocabulary")


@pytest.mark.parametrize("kind", ["float32", "int8", "binary"])
@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
def test_a_file_holds_what_encode_gives(
    suffix: str, kind: str, encoder: SentenceEncoder, tmp_path: Path
) -> None:
    whole = encoder.encode(TEXTS, prompt="a ")
    ranges = np.stack([whole.min(0), whole.max(0)]) if kind == "int8" else None
    expected, file = quantize(whole, kind, ranges), tmp_path / f"x{suffix}"
    assert write_vectors(RowSettings(encoder, "a ", kind, ranges), iter(TEXTS), file) == len(TEXTS)
    assert left(tmp_path) == [file.name]
    if suffix == ".npy":
        np.save(tmp_path / "saved.npy", expected)
        assert read(file) == read(tmp_path / "saved.npy")
    else:
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
        assert [line["text"] for line in lines] == TEXTS
        assert np.array_equal(
            np.array([line["vector"] for line in lines], expected.dtype), expected
        )


@pytest.mark.parametrize("suffix", [".npy", ".jsonl"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interrupted_run_is_continued(
    suffix: str,
    number: int,
    encoder: SentenceEncoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, file, settings = (
        tmp_path / f"whole{suffix}",
        tmp_path / f"x{suffix}",
        RowSettings(encoder),
    )
    computed: list[list[str]] = []
    encode = encoder.stream

    def noting(*arguments: Any, **options: Any) -> Iterator[Any]:
        for window, vectors in encode(*arguments, **options):
            computed.append(window)
            yield window, vectors

    monkeypatch.setattr(encoder, "stream", noting)
    write_vectors(settings, TEXTS, whole)
    in_one_go, computed[:] = list(computed), []
    for at, resume in ((0, False), (20, True), (59, True)):
        with pytest.raises(
            KeyboardInterrupt, match=r"the same command with --resume goes on from there"
        ):
            write_vectors(settings, stopping(TEXTS, at, number), file, resume=resume)
        assert left(tmp_path) == sorted(
            [whole.name, f"{file.name}.partial", f"{file.name}.partial.json"]
        )
        notes = json.loads((tmp_path / f"{file.name}.partial.json").read_text())
        assert at < notes["texts"]  # the current window was finished
    with (tmp_path / f"{file.name}.partial").open("ab") as stream:
        stream.write(b"rows of a window that a power cut ended")
    write_vectors(settings, TEXTS, file, resume=True)
    assert read(file) == read(whole)
    assert computed == in_one_go  # each window once
    assert left(tmp_path) == sorted([whole.name, file.name])


def test_what_is_computed_is_kept_when_the_input_is_broken(
    encoder: SentenceEncoder, tmp_path: Path
) -> None:
    file = tmp_path / "x.npy"
    with pytest.raises(
        InputError, match=r"^line 41 is broken\n\d\d vectors are in .*x\.npy\.partial: "
    ):
        write_vectors(RowSettings(encoder), failing(TEXTS, 40), file)
    with pytest.raises(
        InputError, match=r"partial was left by a run that was interrupted: continue it"
    ):
        write_vectors(RowSettings(encoder), TEXTS, file)
    write_vectors(RowSettings(encoder), TEXTS, file, resume=True)
    assert np.array_equal(np.load(file), encoder.encode(TEXTS))
    with pytest.raises(InputError, match=r"there is nothing to resume: no file .*x\.npy\.partial"):
        write_vectors(RowSettings(encoder), TEXTS, file, resume=True)
    with pytest.raises(InputError, match=r"^line 41 is broken$"):
        write_vectors(RowSettings(encoder), failing(TEXTS, 0), tmp_path / "y.npy")
    assert left(tmp_path) == ["x.npy"]


def test_another_input_model_or_option_is_refused(encoder: SentenceEncoder, tmp_path: Path) -> None:
    file = tmp_path / "x.npy"
    with pytest.raises(KeyboardInterrupt):
        write_vectors(RowSettings(encoder), stopping(TEXTS, 20), file)
    before = read(tmp_path / "x.npy.partial")

    def refused(named: str, settings: RowSettings, texts: list[str] = TEXTS) -> None:
        with pytest.raises(InputError, match=named):
            write_vectors(settings, texts, file, resume=True)
        assert read(tmp_path / "x.npy.partial") == before

    refused("was made with prompt '', and this run has 'a '", RowSettings(encoder, "a "))
    refused(
        "was made with quantized 'float32', and this run has 'binary'",
        RowSettings(encoder, quantized="binary"),
    )
    refused(
        "was made of other texts: its first 2. are not", RowSettings(encoder), ["other", *TEXTS[1:]]
    )
    refused("was made of other texts", RowSettings(encoder), TEXTS[:10])
    refused("was made of other texts", RowSettings(encoder), [TEXTS[0] + TEXTS[1], *TEXTS[2:]])
    for name, value in {"pooling": "max", "normalize": False, "truncate_dim": 5}.items():
        kept = encoder.settings
        encoder.settings = replace(kept, **{name: value})
        refused(name.replace("truncate_dim", "dimensions"), RowSettings(encoder))
        encoder.settings = kept
    encoder.bert.layers[1].feed_forward.output.bias.data[3] += 1e-3  # type: ignore[union-attr, operator, index]
    refused("was made with weights", RowSettings(encoder))
    notes = tmp_path / "x.npy.partial.json"
    size = len(before)
    for texts, written in (("many", 1), (1, None), (True, 1), (10**30, 1), (1, size + 1), (-1, 1)):
        notes.write_text(json.dumps({"texts": texts, "bytes": written}))
        refused(r"partial\.json does not belong to", RowSettings(encoder))


def test_a_calibration_is_kept_in_a_file(encoder: SentenceEncoder, tmp_path: Path) -> None:
    file, whole = tmp_path / "ranges.json", encoder.encode(TEXTS)
    assert calibrate_ranges(encoder, "", iter(TEXTS), file) == len(TEXTS)
    ranges = read_ranges(file, encoder)
    assert np.array_equal(ranges, np.stack([whole.min(0), whole.max(0)]))  # to the last bit
    content = json.loads(file.read_text())
    for damage in (
        {"lowest": None},
        {"highest": [1] * 3},
        {"highest": [10**400] * D},
        {"lowest": content["highest"], "highest": [-9] * D},
    ):
        file.write_text(json.dumps(content | damage))
        with pytest.raises(InputError, match="lowest and highest must be lists of 24 numbers"):
            read_ranges(file, encoder)
    file.write_text(json.dumps(content | {"pooling": "max"}))
    with pytest.raises(
        InputError,
        match="calibrated with pooling 'max', and this model has 'mean': calibrate again",
    ):
        read_ranges(file, encoder)


# From the command line


@pytest.fixture
def model(tmp_path: Path) -> str:
    small_encoder(tmp_path / "vocabulary", prompts={"query": "hello "}).save_pretrained(
        tmp_path / "model"
    )
    return str(tmp_path / "model")


def test_int8_from_the_command_line(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, ranges, output = (
        str(tmp_path / name) for name in ("corpus.txt", "ranges.json", "x.npy")
    )
    Path(corpus).write_text("\n".join(TEXTS) + "\n")
    how = ["--model", model, "--truncate-dim", "10", "--prompt-name", "query"]
    assert main(["calibrate", *how, "--input", corpus, "--output", ranges]) == 0
    use = ["encode", *how, "--quantize", "int8", "--calibration", ranges]
    assert main([*use, "--input", corpus, "--output", output]) == 0
    assert "60 vectors of 10 int8 in" in capsys.readouterr().err
    whole = SentenceEncoder.from_pretrained(model, truncate_dim=10).encode(TEXTS, prompt="hello ")
    found = np.load(output)
    assert found.dtype == np.int8
    assert np.array_equal(found, quantize(whole, "int8", np.stack([whole.min(0), whole.max(0)])))
    assert main([*use, TEXTS[3]]) == 0  # its own range would be nothing
    assert (
        np.abs(np.array(json.loads(capsys.readouterr().out)["vector"]) - found[3].astype(int)).max()
        <= 1
    )
    for wrong, named in (
        (["--quantize", "int8"], "go together"),
        (["--quantize", "uint8"], "--quantize int8 or uint8 and --calibration FILE go together"),
        (["--calibration", ranges], "go together"),
        (["--resume"], "name it with --output"),
        (["--truncate-dim", "25"], "truncate_dim must be from 1 to 24"),
        (["--prompt", "a", "--prompt-name", "query"], "not both"),
    ):
        assert main(["encode", "--model", model, *wrong, "a"]) == 2
        assert named in capsys.readouterr().err


@contextmanager
def encoding(corpus: Path, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A process that encodes many texts and has written some of them; it is killed at the end."""
    corpus.write_text(
        "".join(f"{' '.join('abcdefg'[int(c) % 7] for c in str(i * i))}\n" for i in range(60_000))
    )
    output = arguments[-1]
    with subprocess.Popen(
        [sys.executable, "-m", "minibert", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[1],
    ) as process:
        try:
            while not Path(f"{output}.partial.json").exists():
                assert process.poll() is None
                time.sleep(0.01)
            yield process
        finally:
            process.kill()


def shorten(corpus: Path, output: Path) -> None:
    """Leave 50 texts to a run that goes on, since all of them would take long."""
    done = json.loads(output.with_name(f"{output.name}.partial.json").read_text())["texts"]
    assert 0 < done < 60_000
    corpus.write_text("".join(corpus.read_text().splitlines(keepends=True)[: done + 50]))


def test_control_c_and_resume_as_a_program(model: str, tmp_path: Path) -> None:
    corpus, output = tmp_path / "corpus.txt", tmp_path / "x.npy"
    arguments = ["encode", "--model", model, "--input", str(corpus), "--output", str(output)]
    with encoding(corpus, *arguments) as process:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"the same command with --resume goes on from there" in errors
    assert b"Traceback" not in errors
    shorten(corpus, output)
    assert main([*arguments, "--resume"]) == 0
    wanted = SentenceEncoder.from_pretrained(model).encode(corpus.read_text().splitlines())
    assert np.array_equal(np.load(output), wanted)


def test_two_processes_never_write_one_file(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, output = tmp_path / "corpus.txt", tmp_path / "x.npy"
    arguments = ["encode", "--model", model, "--input", str(corpus), "--output", str(output)]
    with encoding(corpus, *arguments) as process:
        for more in ([], ["--resume"]):
            assert main([*arguments, *more]) == 2
            errors = capsys.readouterr().err
            assert f"process {process.pid} is writing {output}" in errors
            assert "interrupted" not in errors
        process.kill()  # which leaves its lock file, that nobody holds
        process.wait(timeout=60)
    assert ".x.npy.lock" in os.listdir(tmp_path)
    assert main(arguments) == 2
    assert "was left by a run that was interrupted" in capsys.readouterr().err
    shorten(corpus, output)
    assert main([*arguments, "--resume"]) == 0
    wanted = SentenceEncoder.from_pretrained(model).encode(corpus.read_text().splitlines())
    assert np.array_equal(np.load(output), wanted)
    assert not [name for name in os.listdir(tmp_path) if name.startswith((".x", "x.npy."))]


def test_a_run_killed_before_its_first_notes_begins_again(
    encoder: SentenceEncoder, tmp_path: Path
) -> None:
    file = tmp_path / "x.npy"
    (tmp_path / "x.npy.partial").write_bytes(b"some of the first rows")
    with pytest.warns(UserWarning, match=r"x\.npy\.partial has no notes .*: beginning again"):
        write_vectors(RowSettings(encoder), TEXTS, file, resume=True)
    assert np.array_equal(np.load(file), encoder.encode(TEXTS))
    assert left(tmp_path) == ["x.npy"]


def test_notes_of_an_earlier_file_are_not_believed(
    encoder: SentenceEncoder, tmp_path: Path
) -> None:
    """A run ended between putting its file in place and removing its notes; the next one was
    killed before it wrote any."""
    file, notes = tmp_path / "x.npy", tmp_path / "x.npy.partial.json"
    with pytest.raises(KeyboardInterrupt):
        write_vectors(RowSettings(encoder), stopping(TEXTS, 20), file)
    (tmp_path / "x.npy.partial").unlink()

    def check(texts: list[str]) -> Iterator[str]:
        assert not notes.exists()
        yield from texts

    write_vectors(RowSettings(encoder), check(TEXTS), file)
    assert np.array_equal(np.load(file), encoder.encode(TEXTS))


def test_vectors_are_written_in_a_thread(encoder: SentenceEncoder, tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as pool:
        pool.submit(write_vectors, RowSettings(encoder), TEXTS, tmp_path / "x.npy").result()
    assert np.array_equal(np.load(tmp_path / "x.npy"), encoder.encode(TEXTS))
