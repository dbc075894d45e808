"""files.py: what cannot be read is one InputError with its place; what is written takes the old
file's place whole."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minibert import InputError
from minibert.files import (
    decode,
    read_json,
    read_lines,
    read_object,
    read_text,
    replacing,
    replacing_model,
    sha256,
    split_lines,
    write_json,
)
from minibert.locks import locked
from minibert.texts import count_lines, lazy_lines, lazy_texts


@pytest.mark.parametrize("read", [read_text, read_json, read_object, sha256])
def test_a_missing_file_or_a_folder_is_an_error_with_its_name(
    read: Callable[[Path], Any], tmp_path: Path
) -> None:
    for path in (tmp_path / "absent.json", tmp_path, tmp_path / "absent" / "x.json"):
        with pytest.raises(InputError, match=f"cannot read {path}: "):
            read(path)


def test_bytes_that_are_no_utf8_are_an_error_with_file_and_line(tmp_path: Path) -> None:
    file = tmp_path / "latin.txt"
    file.write_bytes("one\ntwo\r\nthr\u00e9e\n".encode("latin-1"))
    with pytest.raises(InputError, match=rf"{file}, line 3: not UTF-8"):
        read_text(file)
    with pytest.raises(InputError, match="standard input, line 1: not UTF-8"):
        decode(b"\xff", "standard input")


def test_read_text_changes_nothing(tmp_path: Path) -> None:
    text = "a\r\nb\rc\u2028d\x0b\x1c\n\n"
    (tmp_path / "t").write_bytes(text.encode())
    assert read_text(tmp_path / "t") == text


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("", []),
        ("\n", [""]),
        ("a", ["a"]),
        ("a\n", ["a"]),
        ("a\n\n", ["a", ""]),
        ("\na", ["", "a"]),
        ("a\r\nb\r\n", ["a", "b"]),
        # all of these end a line for str.splitlines
        (
            "a\u2028b\u2029c\x0bd\x0ce\x1cf\x1dg\x1eh\x85i\rj\n",
            ["a\u2028b\u2029c\x0bd\x0ce\x1cf\x1dg\x1eh\x85i\rj"],
        ),
    ],
)
def test_only_a_line_feed_ends_a_line(text: str, lines: list[str]) -> None:
    assert split_lines(text) == lines


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "line 1: not JSON"),
        ('{"a": 1,\n"b": }', "line 2: not JSON"),
        ("\ufeff{}", "line 1: not JSON"),
        ("[" * 100_000, "not JSON that can be read"),
        ("1" * 5_000, "not JSON that can be read"),
    ],
)
def test_what_is_no_json_is_an_error_with_file_and_line(
    content: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "x.json"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=f"{file}(, |: ){message}"):
        read_json(file)


@pytest.mark.parametrize("content", ["[]", "3", "null", '"text"', "true"])
def test_an_object_is_an_object(content: str, tmp_path: Path) -> None:
    file = tmp_path / "x.json"
    file.write_text(content)
    with pytest.raises(InputError, match=f"{file}: must hold a JSON object"):
        read_object(file)
    file.write_text('{"a": [1]}')
    assert read_object(file) == {"a": [1]}


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256(tmp_path / "abc").startswith("ba7816bf8f01cfea")  # FIPS 180-2, appendix B.1


def test_replacing_makes_the_folder_and_leaves_only_the_file(tmp_path: Path) -> None:
    file = tmp_path / "new" / "deep" / "x.json"
    for content in ({"a": "\u00e9"}, [1]):
        write_json(file, content)
        assert json.loads(file.read_text(encoding="utf-8")) == content
        assert os.listdir(file.parent) == ["x.json"]


def write_half(file: Path, error: Exception) -> None:
    with replacing(file) as beside:
        beside.write_text("half")
        raise error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied"),
        OSError(errno.EROFS, "Read-only file system"),
        OSError("5 requested and 3 written"),  # as numpy says it: without a number
    ],
)
def test_a_disk_that_refuses_leaves_the_old_file_whole(error: OSError, tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_text("old")
    with pytest.raises(InputError) as caught:
        write_half(file, error)
    assert f"cannot write {file}: {error.strerror or error}" in str(caught.value)
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["x.txt"]


def test_a_failing_rename_leaves_the_old_file_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    write_json(tmp_path / "x.json", "old")
    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(InputError, match=r"cannot write .*x\.json: Permission denied"):
        write_json(tmp_path / "x.json", "new")
    assert read_json(tmp_path / "x.json") == "old"
    assert os.listdir(tmp_path) == ["x.json"]


def test_another_error_inside_passes_through_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        write_half(tmp_path / "x", ZeroDivisionError())
    with pytest.raises(TypeError):  # what json cannot write
        write_json(tmp_path / "y.json", object())
    assert os.listdir(tmp_path) == []


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    for target in (tmp_path / "file" / "x.json", tmp_path / "file" / "deep" / "x.json"):
        with pytest.raises(InputError, match=f"cannot write {target}: "):
            write_json(target, {})
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_where_the_file_should_be(tmp_path: Path) -> None:
    (tmp_path / "x.json").mkdir()
    with pytest.raises(InputError, match=r"cannot write .*x\.json: "):
        write_json(tmp_path / "x.json", {})
    assert os.listdir(tmp_path) == ["x.json"]


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only for this user"
)
def test_a_read_only_folder(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", "old")
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(InputError, match=r"cannot write .*x\.json: Permission denied"):
            write_json(tmp_path / "x.json", "new")
    finally:
        tmp_path.chmod(0o700)
    assert read_json(tmp_path / "x.json") == "old"


def test_what_dead_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    dead, living = process.pid, os.getppid()
    left = [f".x.json.{dead}.tmp", f".x.json.{dead}.123.tmp", f".x.json.partial.{dead}.1.tmp"]
    kept = [f".x.json.{living}.1.tmp", ".x.json.1.tmp", ".x.json.tmp", f".y.json.{dead}.1.tmp"]
    for name in left + kept:
        (tmp_path / name).touch()
    write_json(tmp_path / "x.json", {})
    assert sorted(os.listdir(tmp_path)) == sorted([*kept, "x.json"])


@pytest.mark.parametrize(
    "write", [lambda file: write_json(file, {}), lambda file: locked(file).__enter__()]
)
@pytest.mark.parametrize("name", ["a\0b", "n" * 300])
def test_a_name_that_no_file_can_have(
    name: str, write: Callable[[Path], object], tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=r"^cannot write .*(File name too long|no NUL)"):
        write(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_models_files_are_replaced_together(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    for version in (1, 2):
        with replacing_model(folder) as beside:
            for name in ("config.json", "inner/config.json"):
                write_json(beside / name, version)
            if version == 2:
                assert read_json(folder / "config.json") == read_json(folder / "inner/config.json")
                assert read_json(folder / "config.json") == 1
        assert sorted(os.listdir(folder)) == ["config.json", "inner"]
        assert read_json(folder / "config.json") == read_json(folder / "inner/config.json")
    assert read_json(folder / "config.json") == 2


@pytest.mark.parametrize("problem", ["full", "folder"])
def test_a_model_that_cannot_be_written_leaves_the_old_one_whole(
    problem: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "config.json", "old")
    (tmp_path / "weights.json").mkdir()

    def write() -> None:
        with replacing_model(tmp_path) as beside:
            write_json(beside / "config.json", "new")
            write_json(beside / "weights.json", "new")
            if problem == "full":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(InputError, match=r"cannot write .*(weights\.json is a folder|No space)"):
        write()
    assert sorted(os.listdir(tmp_path)) == ["config.json", "weights.json"]
    assert read_json(tmp_path / "config.json") == "old"


HOLD = """
import sys
from pathlib import Path
from minibert.locks import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("kind", ["file", "folder", "new"])
@pytest.mark.parametrize("end", ["normal", "killed"])
def test_a_lock_is_held_until_its_process_ends(kind: str, end: str, tmp_path: Path) -> None:
    target = tmp_path / "deep" / "target"
    if kind == "file":
        write_json(target, {})
    if kind == "folder":
        target.mkdir(parents=True)
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(target)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"locked\n"
        refused = pytest.raises(InputError, match=f"^process {process.pid} is writing {target}: ")
        with refused, locked(target):
            pass
        with locked(tmp_path / "deep" / "other"):
            pass
        if end == "killed":
            process.kill()
        process.communicate()
    assert process.returncode == (-signal.SIGKILL if end == "killed" else 0)
    for _ in range(2):
        refused = pytest.raises(InputError, match=f"^process {os.getpid()} is writing {target}: ")
        with locked(target), refused, locked(target):  # the second from another thread, say
            pass
    assert os.listdir(tmp_path / "deep") == ([] if kind == "new" else ["target"])


COUNT = """
import sys
from pathlib import Path
from minibert import InputError
from minibert.locks import locked
file, done = Path(sys.argv[1]), 0
while done < 200:
    try:
        with locked(file):
            file.write_text(str(int(file.read_text()) + 1))
            done += 1
    except InputError as error:
        assert "is writing" in str(error), error
"""


def test_a_lock_that_is_removed_while_others_wait_lets_in_only_one(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_text("0")
    command = [sys.executable, "-c", COUNT, str(file)]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    processes = [subprocess.Popen(command, env=environment) for _ in range(3)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0, 0]
    assert file.read_text() == "600"
    assert os.listdir(tmp_path) == ["count"]


@pytest.mark.parametrize(
    "content",
    ["", "\n", "a", "a\n", "a\r\nb\r", "a\r\r\n\r\n", "\ufeffa\n\ufeffb", "a\u2028b\x0bc\n\nd"],
)
def test_lines_read_one_at_a_time_are_those_read_at_once(content: str, tmp_path: Path) -> None:
    file = tmp_path / "x.txt"
    file.write_bytes(content.encode())
    lines = read_lines(file)
    assert (
        list(lazy_lines(io.BytesIO(content.encode()), "x"))
        == list(lazy_texts([], str(file)))
        == lines
    )
    assert count_lines(file) == len(lines)


def test_a_bad_line_is_named_when_it_is_reached(tmp_path: Path) -> None:
    lines = lazy_lines(io.BytesIO(b"one\ntwo\n\xff\n"), "x")
    assert [next(lines), next(lines)] == ["one", "two"]
    with pytest.raises(InputError, match="x, line 3: not UTF-8"):
        next(lines)


@pytest.mark.parametrize("change", ["cut", "longer", "same length"])
def test_a_file_that_changes_while_it_is_read_is_an_error(change: str, tmp_path: Path) -> None:
    file, lines = tmp_path / "x.txt", ["a line of text"] * 3000
    file.write_text("\n".join(lines))
    found = lazy_texts([], str(file))
    assert next(found) == lines[0]
    if change == "cut":
        os.truncate(file, 20_000)
    else:
        with file.open("r+") as stream:
            stream.seek(0, os.SEEK_SET if change == "same length" else os.SEEK_END)
            stream.write("b")
    with pytest.raises(InputError, match=r"x\.txt was changed while it was read"):
        list(found)
