"""Model folders and texts from strangers: what is absurd, hostile or damaged is one error with a
name, and nothing is unpickled, executed, waited for or shown to the terminal raw.

`python -m tools.faults` tries thousands of such folders; here is the smallest form of each kind.
"""

import ast
import base64
import json
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import tokenizers
import torch

import minibert
import train as train_package
from minibert import InputError, SentenceEncoder
from minibert.__main__ import main
from minibert.files import check_regular, escaped, read_json
from minibert.formats.download import without_secrets
from minibert.formats.hub import find_model
from minibert.formats.tokenizer_parts import MOST_PARTS, refusals
from minibert.tokenizer import Tokenizer
from tools.faults.fuzz import SOUND, Fuzzer
from tools.faults.kinds import kinds
from tools.faults.models import KINDS, write_unigram_encoder, write_whole_encoder
from tools.faults.parts import template
from tools.faults.small import write_small_encoder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small encoder, which the test may change."""
    write_small_encoder(tmp_path / "model")
    return tmp_path / "model"


def change(file: Path, **entries: Any) -> None:
    """Change entries of a JSON file."""
    content = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | entries), encoding="utf-8")


def refusal(folder: Path) -> str:
    """What is said of a folder, and of a text encoded by it, that are refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(InputError) as caught:
            SentenceEncoder.from_pretrained(folder, device="cpu").encode(["Rain in Oslo, zzz"])
    return str(caught.value)


@pytest.fixture(scope="module")
def fuzzer() -> Any:
    with Fuzzer(kinds) as running:
        yield running


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_changed_files_are_read_or_refused(kind: Any, fuzzer: Fuzzer) -> None:
    outcomes = list(fuzzer.outcomes(kind.name, 6))
    assert [outcome for outcome in outcomes if outcome.what not in SOUND] == []


# Tokenizers

ABSURD: dict[str, tuple[dict[str, Any], str]] = {
    "no charsmap": (
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
        "normalizer: precompiled_charsmap is no table of SentencePiece",
    ),
    "texts that double": (
        {
            "normalizer": {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}]
                * 40,
            }
        },
        f"normalizer has 40 parts, and at most {MOST_PARTS} are read",
    ),
    "texts that grow": (
        {"normalizer": {"type": "Prepend", "prepend": "a" * 10**6}},
        "normalizer: Prepend puts 'aaaa",
    ),
    "a part of another family": (
        {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
        "pre_tokenizer is of type 'FixedLength'; read here: BertPreTokenizer, ByteLevel",
    ),
    "a part without a type": (
        {"normalizer": {"normalizers": []}},
        "normalizer has no type",
    ),
    "no object": ({"decoder": ["ByteLevel"]}, "decoder must be a JSON object, not ['ByteLevel']"),
    "a special token that is not listed": (
        {"post_processor": template("x A x", "x A x B x", {})},
        "the tokenizers library refuses it",
    ),
    "an id beyond the model": (
        {"post_processor": template("x A x", "x A x B x", {"x": [2**32 - 1]})},
        "it gives ids up to 4294967295",
    ),
    "no token around a text": (
        {"post_processor": template("A", "x A x B x", {"x": [2]})},
        "is no BERT tokenizer: it puts no [CLS] and [SEP] around a text",
    ),
    "a token type alone": (
        {"post_processor": template("x A Z", "x A x B Z", {"x": [2], "Z": [3]})},
        "the post_processor gives a text alone the token type 1",
    ),
    "a text twice": (
        {"post_processor": template("x A A x", "x A x B x", {"x": [2]})},
        "a TemplateProcessing is read here if its single has the text A once",
    ),
    "a hundred tokens around a text": (
        {"post_processor": template("x A x", "x A x B x", {"x": [2] * 50})},
        "a limit of 32 tokens leaves no room for text",
    ),
    "words without end": (
        {"model": {"type": "WordPiece", "max_input_chars_per_word": 10**9}},
        "max_input_chars_per_word is 1000000000, and at most 1000 are read",
    ),
}


@pytest.mark.parametrize("case", ABSURD)
def test_an_absurd_tokenizer_is_one_error(case: str, folder: Path) -> None:
    changes, reason = ABSURD[case]
    change(folder / "tokenizer.json", **changes)
    said = refusal(folder)
    assert reason in said
    assert len(said) < 1000
    assert "tokenizer.json" in said or "leaves no room" in said


def test_padding_of_the_file_takes_no_memory(folder: Path) -> None:
    """The library would reserve room for 2**63 - 1 tokens."""
    expected = SentenceEncoder.from_pretrained(folder, device="cpu").encode(["Rain in Oslo"])
    fixed = {"strategy": {"Fixed": 2**63 - 1}, "direction": "Right", "pad_id": 0}
    change(folder / "tokenizer.json", padding=fixed, truncation={"max_length": "nonsense"})
    encoder = SentenceEncoder.from_pretrained(folder, device="cpu")
    assert (encoder.encode(["Rain in Oslo"]) == expected).all()


def test_what_the_library_raises_at_a_text_names_the_file(tmp_path: Path) -> None:
    write_unigram_encoder(tmp_path)
    model = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))["model"]
    change(tmp_path / "tokenizer.json", model=model | {"unk_id": None})
    assert refusal(tmp_path).startswith(f"{tmp_path / 'tokenizer.json'}: the tokenizers library")


def test_a_panic_is_an_input_error_and_an_interrupt_is_none(folder: Path) -> None:
    """A Precompiled that points out of its table panics in the library."""
    table = base64.b64encode(bytes([4, 0, 0, 0, *[0xFF] * 4])).decode()
    change(
        folder / "tokenizer.json",
        normalizer={"type": "Precompiled", "precompiled_charsmap": table},
    )
    assert "tokenizer.json: the tokenizers library refuses it: index out of bounds" in refusal(
        folder
    )
    for other in (KeyboardInterrupt, MemoryError, TypeError):
        with pytest.raises(other), refusals("tokenizer.json"):
            raise other


@pytest.mark.parametrize("part", ["padding", "truncation"])
@pytest.mark.parametrize("settings", [True, False])
def test_padding_on_the_left_is_told(part: str, settings: bool, folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Tokenizer.from_folder(folder)
        change(folder / "tokenizer.json", **{part: {"direction": "Right"}})
        Tokenizer.from_folder(folder)
    if settings:  # which win
        change(folder / "tokenizer_config.json", **{f"{part}_side": "left"})
    else:
        change(folder / "tokenizer.json", **{part: {"direction": "Left"}})
    with pytest.warns(UserWarning, match=f"the tokenizer's {part}_side is left"):
        Tokenizer.from_folder(folder)


# Files that are none


@pytest.mark.parametrize(
    "name",
    ["config.json", "tokenizer.json", "tokenizer_config.json", "modules.json", "model.safetensors"],
)
@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_pipe_or_a_device_is_not_waited_for(name: str, kind: str, folder: Path) -> None:
    (folder / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to("/dev/zero")
    assert refusal(folder) == f"{folder / name} is a pipe or a device, and no regular file"


def test_a_vocabulary_that_is_a_pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").unlink()
    os.mkfifo(folder / "vocab.txt")
    assert "vocab.txt is a pipe or a device" in refusal(folder)
    check_regular(folder / "missing")  # of which the reader tells
    check_regular(folder)


def test_half_a_surrogate_pair_in_a_json_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    file.write_text('{"a": ["\\ud83d\\ude00", {"\\udc00": 1}]}')
    with pytest.raises(InputError, match=r"a\.json: .* half a surrogate pair"):
        read_json(file)
    file.write_text('{"a": "\\ud83d\\ude00"}')
    assert read_json(file) == {"a": "\U0001f600"}


@pytest.mark.parametrize("number", ["NaN", "-Infinity", "1e999"])
def test_a_number_that_could_not_be_saved_again(number: str, folder: Path) -> None:
    """What we do not use of this file is saved with the model, and JSON has no such number."""
    (folder / "config_sentence_transformers.json").write_text(f'{{"scale": [{number}]}}')
    assert "holds NaN or an infinite number" in refusal(folder)


@pytest.mark.parametrize("size", [2**30, 10**11, 2**63 - 1])
def test_a_header_that_claims_more_than_the_file_allocates_nothing(size: int, folder: Path) -> None:
    header = json.dumps({"a": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "is not a sound safetensors file" in refusal(folder)
    (folder / "model.safetensors").write_bytes(size.to_bytes(8, "little") + header)
    assert "is not a sound safetensors file" in refusal(folder)


# Pickles, and code that a file names


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mkdir, (str(self.file),)


MODEL_FILES = [
    "config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "added_tokens.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
    "1_Pooling/config.json",
    "2_Dense/config.json",
    "2_Dense/model.safetensors",
    "3_LayerNorm/model.safetensors",
]


@pytest.mark.parametrize("protocol", [0, 2, 4, "torch"])
@pytest.mark.parametrize("name", MODEL_FILES)
def test_a_pickle_under_every_name_is_refused_unread(
    name: str, protocol: Any, tmp_path: Path
) -> None:
    folder, trap = tmp_path / "model", tmp_path / "trapped"
    write_whole_encoder(folder)
    if name in ("vocab.txt", "added_tokens.json"):
        (folder / "tokenizer.json").unlink()
    if name == "model.safetensors.index.json":
        (folder / "model.safetensors").unlink()
    if protocol == "torch":
        torch.save({"bert.embeddings": Trap(trap)}, folder / name)
    else:
        (folder / name).write_bytes(pickle.dumps(Trap(trap), protocol))
    assert str(folder / name) in refusal(folder)
    assert not trap.exists()


@pytest.mark.parametrize("package", [minibert, train_package], ids=lambda package: package.__name__)
def test_nothing_is_executed_or_imported_by_a_name_from_a_file(package: Any) -> None:
    """test_checkpoint.py looks for what unpickles."""
    forbidden = {"eval", "exec", "compile", "__import__", "import_module", "trust_remote_code"}
    forbidden |= {"system", "popen", "Popen", "check_output", "check_call", "run_path"}
    for file in sorted(Path(package.__path__[0]).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = node.func
                name = getattr(called, "id", None)  # torch.compile and re.compile are methods
                if isinstance(called, ast.Attribute) and called.attr != "compile":
                    name = called.attr if called.attr not in ("eval", "exec") else None
                assert name not in forbidden, (file, ast.unparse(node))
                assert not {k.arg for k in node.keywords} & forbidden, (file, ast.unparse(node))


# Names of models


@pytest.mark.parametrize(
    "revision", ["a" * 201, "\x1b[31m", "main\n", "a\x00", "--flag", "refs/../x", "\udcff", 3.5]
)
def test_a_revision_that_git_has_not(revision: Any) -> None:
    with pytest.raises(InputError, match="is no branch, tag or commit") as caught:
        find_model("tiny/bert", revision)
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()


# The terminal


@pytest.mark.parametrize("odd", ["\x1b[2J", "\x9b1m", "\x00", "\r", "\u202e", "\u2066", "\ud800"])
def test_nothing_reaches_the_terminal_raw(
    odd: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert odd not in str(InputError(f"a {odd} b"))
    assert escaped(f"a\n{odd}") != f"a\n{odd}"
    assert escaped("a\né 😀 b") == "a\né 😀 b"
    if odd != "\ud800":
        change(folder / "config.json", model_type=f"x{odd}y")
    assert main(["encode", "--model", str(folder), f"text{odd}" if odd == "\ud800" else "a"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert odd not in said


def test_a_warning_does_not_reach_the_terminal_raw(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "modules.json").unlink()
    folder = folder.rename(folder.with_name("\x1b[31mred"))
    assert main(["encode", "--model", str(folder), "a"]) == 0
    said = capsys.readouterr().err
    assert "warning: " in said
    assert "\x1b" not in said


# Texts


@pytest.mark.parametrize(
    "text",
    [
        "a\x00film",
        "\u202efilm\u202c \u2066a\u2069",
        "a" * 10**5,
        "e" + "\u0301" * 10**5,
        "[MASK]" * 10**4,
        "\ufdfa" * 10**4,
    ],
    ids=["nul", "bidi", "no space", "marks", "masks", "long"],
)
def test_odd_texts_have_the_librarys_tokens(text: str, folder: Path) -> None:
    theirs = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    theirs.enable_truncation(32)
    tokenizer = SentenceEncoder.from_pretrained(folder, device="cpu").tokenizer
    assert tokenizer.encode([text], "silent")[0].ids == theirs.encode(text).ids


def test_bytes_of_the_command_line_that_are_no_text_are_named(folder: Path) -> None:
    """The system gives what is not UTF-8 as halves of surrogate pairs."""
    command = [sys.executable, "-m", "minibert", "encode", "--model", str(folder), b"\xff"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "text number 0 (counted from 0) holds half a surrogate pair" in done.stderr
    assert "Traceback" not in done.stderr


# Secrets


TOKEN = "hf_thisIsNoTokenButLooksLikeOne00"


class Refusing(BaseHTTPRequestHandler):
    """A Hub that refuses everything."""

    def do_GET(self) -> None:
        self.send_response(418)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Not printed."""


def test_no_token_and_no_password_is_printed_or_written(tmp_path: Path) -> None:
    """The library that asks the Hub puts the address, with its password, into its error."""
    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        environment = {
            **os.environ,
            "HF_TOKEN": TOKEN,
            "HF_HUB_OFFLINE": "0",
            "HF_HOME": str(tmp_path / "cache"),
            "HF_ENDPOINT": f"http://anna:secret-word@127.0.0.1:{server.server_port}",
        }
        command = [sys.executable, "-m", "minibert", "encode", "--model", "tiny/bert", "a"]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, env=environment, timeout=120
        )
        server.shutdown()
    assert done.returncode == 2
    assert "error: tiny/bert is not on this machine" in done.stderr
    assert "http://***@127.0.0.1" in done.stderr
    said = done.stdout + done.stderr
    assert TOKEN not in said
    assert "secret-word" not in said
    written = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(TOKEN.encode() in content for content in written)


def test_secrets_in_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "another-form-of-token")
    said = "no https://anna:word@host/x with Bearer another-form-of-token, hf_abcdefghij"
    assert without_secrets(said) == "no https://***@host/x with Bearer ***, ***"
    assert without_secrets("no https://host/a@b") == "no https://host/a@b"
