"""What the programs show: their help, colours in a terminal, and their exit status when they are
stopped."""

import argparse
import json
import os
import pty
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from minibert import BertForPreTraining, SentenceEncoder
from minibert.__main__ import COMMANDS, main
from minibert.__main__ import parser as minibert_parser
from minibert.terminal import width
from minibert.usage import EXIT_STATUS
from tests.test_encoder import small_encoder
from train import command_line, evaluate, mine, predict, predict_options, run, vocabulary

pytestmark = pytest.mark.usefixtures("one_thread")

ROOT = Path(__file__).parents[1]
Main = Callable[[list[str]], int]
PROGRAMS: dict[str, tuple[Main, list[str]]] = {
    "minibert": (main, []),
    **{f"minibert {name}": (main, [name]) for name in COMMANDS},
    "train.run": (run.main, []),
    "train.predict": (predict.main, []),
    "train.evaluate": (evaluate.main, []),
    "train.mine": (mine.main, []),
    "train.vocabulary": (vocabulary.main, []),
}


# Help


@pytest.mark.parametrize("program", PROGRAMS)
def test_help_fits_into_80_columns_and_has_examples(
    program: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    call, arguments = PROGRAMS[program]
    with pytest.raises(SystemExit) as ended:
        call([*arguments, "--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert out.startswith("usage: ")
    assert max(map(len, out.splitlines())) <= 80
    assert out.endswith(f"{EXIT_STATUS}\n")
    examples = out.split("examples:\n")[1].split("\n\n")[0].splitlines()
    called = f"python -m {program}"
    assert examples
    assert all(called in example for example in examples)


def parsers() -> dict[str, argparse.ArgumentParser]:
    """Those with options, by their programs."""
    whole = minibert_parser()
    [commands] = [a for a in whole._actions if isinstance(a, argparse._SubParsersAction)]
    return {
        **{f"minibert {name}": made for name, made in commands.choices.items()},
        "train.run": command_line.parser("train.run", ""),
        "train.predict": predict_options.parser(),
        "train.evaluate": evaluate.parser(),
        "train.mine": mine.parser(),
        "train.vocabulary": vocabulary.parser(),
    }


@pytest.mark.parametrize("program", [name for name in PROGRAMS if name != "minibert"])
def test_every_option_with_a_value_says_its_default(program: str) -> None:
    """Or that it is required, alone or as one of two."""
    for action in parsers()[program]._actions:
        if action.nargs != 0 and action.option_strings:
            said = (action.help or "") % vars(action)
            told = re.search(
                r"\(default:? .+\)$|\(.*required\)$|\(this or --\w+\)$|If absent, ", said
            )
            assert told, (action.option_strings, said)
            if action.default not in (None, argparse.SUPPRESS) and action.default:
                assert str(action.default) in said, (action.option_strings, said)


def test_settings_stand_in_groups() -> None:
    """Each in one, none under argparse's own heading."""
    groups = {g.title: g._group_actions for g in parsers()["train.run"]._action_groups}
    assert [a.dest for a in groups["options"]] == ["help"]
    assert {"data", "model and output", "what learns"} <= groups.keys()
    assert all(len(actions) <= 16 for actions in groups.values())


# In a terminal


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A sentence encoder with both heads of its pre-training."""
    folder = tmp_path_factory.mktemp("usage")
    small_encoder(folder / "vocabulary").save_pretrained(folder / "model")
    bert = SentenceEncoder.from_pretrained(folder / "model").bert
    BertForPreTraining(bert.config).save_pretrained(folder / "model")
    (folder / "corpus.txt").write_text("a b\nc d\n\x1b[31mred\n")
    return str(folder / "model")


def calls(model: str) -> dict[str, list[str]]:
    corpus = str(Path(model).parent / "corpus.txt")
    return {
        "similarity": ["similarity", "--model", model, "a b c", "hello", "世界 \x1b[31mx"],
        "search": ["search", "a", "b", "--model", model, "--input", corpus],
        "fill-mask": ["fill-mask", "--model", model, "a [MASK]", "hello [MASK] [MASK]"],
        "inspect": ["inspect", model],
    }


def in_terminal(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    """What a command prints to a pseudo-terminal."""
    ours, theirs = pty.openpty()
    with open(theirs, "w") as stream, monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        assert main(arguments) == 0
    with open(ours, "rb") as stream:
        content = b""
        try:
            while block := stream.read1(2**16):
                content += block
        except OSError:  # Linux's way to say that the terminal is closed
            pass
    return content.decode().replace("\r\n", "\n")


COLOUR = re.compile("\x1b\\[[0-9]+m")


@pytest.mark.parametrize("command", ["similarity", "search", "fill-mask", "inspect"])
def test_colours_are_for_terminals(
    command: str, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = calls(model)[command]
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert main(arguments) == 0
    piped = capsys.readouterr().out
    assert "\x1b" not in piped
    coloured = in_terminal(arguments, monkeypatch)
    assert set(COLOUR.findall(coloured)) >= {"\x1b[0m"}
    plain = COLOUR.sub("", coloured)
    assert "\x1b" not in plain  # the texts' own is escaped
    assert [line.split() for line in plain.splitlines()] == [
        line.split() for line in piped.splitlines()
    ]
    for name, value in (("NO_COLOR", "1"), ("TERM", "dumb")):
        with monkeypatch.context() as patch:
            patch.setenv(name, value)
            assert in_terminal(arguments, monkeypatch) == plain
    monkeypatch.setenv("NO_COLOR", "")  # which means nothing, says no-color.org
    assert in_terminal(arguments, monkeypatch) == coloured


@pytest.mark.parametrize("command", ["similarity", "search", "fill-mask", "inspect"])
def test_json_is_never_coloured(
    command: str, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*calls(model)[command], "--json"]
    monkeypatch.setenv("TERM", "xterm")
    assert main(arguments) == 0
    piped = capsys.readouterr().out
    assert in_terminal(arguments, monkeypatch) == piped
    assert all(isinstance(json.loads(line), dict) for line in piped.splitlines())


def test_columns_stand_below_each_other(model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    lines = in_terminal(calls(model)["similarity"], monkeypatch).splitlines()
    assert len({width(line.split("  |  ")[0]) for line in lines}) == 1
    assert len(lines) == 3


def test_widths() -> None:
    """Of letters, Chinese characters, and an accent that stands after its letter."""
    assert [width(text) for text in ("", "abc", "世界", "e\u0301a")] == [0, 3, 4, 2]


# When it is stopped


def test_ctrl_c_ends_with_130(model: str) -> None:
    """While it waits for more of the corpus, after 0 for what is right and 2 for what is not, which
    other tests have."""
    command = [sys.executable, "-m", "minibert", "search", "a", "--model", model]
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdin is not None
        process.stdin.write(b"a b\n" * 40_000)  # far more than a pipe holds: it has begun to read
        process.stdin.flush()
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate(timeout=60)
    assert (process.returncode, out, errors) == (130, b"", b"stopped\n")
