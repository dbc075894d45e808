"""python -m minibert: what it prints and writes, and one line of error with status 2 for input that
cannot be used."""

import io
import json
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import minibert
from minibert import BertForPreTraining, SentenceEncoder
from minibert.__main__ import main
from minibert.bulk import json_lines
from minibert.files import sha256
from minibert.program import run_program
from tests.test_encoder import small_encoder
from tests.test_tokenizer import UNCASED
from tools.parity import shake

pytestmark = pytest.mark.usefixtures("one_thread")

TEXTS = ["hello world", "a b c", ""]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("cli")
    small_encoder(folder / "vocabulary").save_pretrained(folder / "model")
    return str(folder / "model")


@pytest.fixture(scope="module")
def vectors(model: str) -> np.ndarray:
    return SentenceEncoder.from_pretrained(model).encode(TEXTS)


def read_stdin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="ascii"))


def assert_refused(arguments: list[str], capsys: pytest.CaptureFixture[str], *named: str) -> None:
    """Status 2, nothing on standard output, and on standard error one message that names what is
    wrong."""
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("error: ") == 1
    assert "Traceback" not in err
    for name in named:
        assert name in err


# encode


def test_encode_writes_json_lines(
    model: str, vectors: np.ndarray, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["encode", "--model", model, *TEXTS]) == 0
    out, err = capsys.readouterr()
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["text"] for line in lines] == TEXTS
    read = np.array([line["vector"] for line in lines], dtype=np.float32)
    assert np.array_equal(read, vectors)  # to the last bit
    assert err == ""


def test_a_line_of_json_holds_every_bit_of_a_vector() -> None:
    vectors = np.random.default_rng(0).normal(size=(3, 500)).astype(np.float32)
    vectors[1] *= 1e-30
    vectors[2] *= 1e30
    read = [json.loads(line)["vector"] for line in json_lines(TEXTS, vectors)]
    assert np.array_equal(np.array(read, dtype=np.float32), vectors)


def test_encode_writes_a_jsonl_file(
    model: str, vectors: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "new" / "x.jsonl"
    assert main(["encode", "--model", model, "--output", str(output), *TEXTS]) == 0
    lines = [json.loads(line) for line in output.read_text(encoding="utf-8").splitlines()]
    assert [line["text"] for line in lines] == TEXTS
    assert np.array_equal(np.array([line["vector"] for line in lines], dtype=np.float32), vectors)
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"3 vectors of 24 float32 in {output}\n")
    assert os.listdir(output.parent) == ["x.jsonl"]


def test_encode_writes_a_npy_file(model: str, vectors: np.ndarray, tmp_path: Path) -> None:
    output = tmp_path / "x.npy"
    for _ in range(2):  # an old file is replaced
        assert main(["encode", "--model", model, "--output", str(output), *TEXTS]) == 0
        read = np.load(output, allow_pickle=False)
        assert read.dtype == np.float32
        assert np.array_equal(read, vectors)
    assert os.listdir(tmp_path) == ["x.npy"]


def test_no_texts_are_no_vectors(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty.txt").write_bytes(b"")
    arguments = ["encode", "--model", model, "--input", str(tmp_path / "empty.txt")]
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""
    assert main([*arguments, "--output", str(tmp_path / "x.npy")]) == 0
    assert np.load(tmp_path / "x.npy").shape == (0, 24)


def test_pooling_and_length_may_be_asked_for(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["encode", "--model", model, "--pooling", "max", "--max-length", "4", "a b c d e"])
        == 0
    )
    out, err = capsys.readouterr()
    wanted = SentenceEncoder.from_pretrained(model, pooling="max").encode("a b")
    assert np.abs(np.array(json.loads(out)["vector"]) - wanted).max() < 1e-6
    assert err.startswith("warning: 1 of 1 texts are longer than 4 tokens: ")
    assert err.count("\n") == 1


# Where the texts come from

LINES = "one\r\ntwo\u2028still two\x0b\x0c\x1c\x85two\n\n\U0001f600 four"
SPLIT = ["one", "two\u2028still two\x0b\x0c\x1c\x85two", "", "\U0001f600 four"]


def texts_of(out: str) -> list[str]:
    return [json.loads(line)["text"] for line in out.split("\n")[:-1]]


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_texts_from_a_file_one_a_line(
    end: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes((LINES + end).encode())
    assert main(["encode", "--model", model, "--input", str(file)]) == 0
    assert texts_of(capsys.readouterr().out) == SPLIT


@pytest.mark.parametrize("arguments", [[], ["-"], ["--input", "-"]])
def test_texts_from_standard_input_one_a_line(
    arguments: list[str],
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read_stdin(monkeypatch, f"{LINES}\n".encode())
    assert main(["encode", "--model", model, *arguments]) == 0
    assert texts_of(capsys.readouterr().out) == SPLIT


def test_a_minus_among_texts_is_a_text(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["encode", "--model", model, "-", "a"]) == 0
    assert texts_of(capsys.readouterr().out) == ["-", "a"]


def test_encode_tells_as_json_what_it_wrote(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = str(tmp_path / "x.npy")
    assert main(["encode", "--model", model, "--json", "--output", output, *TEXTS]) == 0
    out, err = capsys.readouterr()
    told = {"output": output, "vectors": 3, "dimensions": 24, "type": "float32"}
    assert (json.loads(out), err) == (told, "")


# similarity


def test_similarity_prints_the_most_similar_pair_first(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = ["hello world", "a b c", "hello", "a b c"]
    assert main(["similarity", "--model", model, "--json", *texts]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    unit = SentenceEncoder.from_pretrained(model).encode(texts, normalize=True)
    assert len(found) == 6
    assert (found[0]["a"], found[0]["b"], round(found[0]["cosine"], 5)) == ("a b c", "a b c", 1)
    assert [line["cosine"] for line in found] == sorted(
        (line["cosine"] for line in found), reverse=True
    )
    for line in found:
        a, b = (unit[texts.index(line[key])] for key in ("a", "b"))
        assert abs(line["cosine"] - float(a @ b)) < 1e-6

    assert main(["similarity", "--model", model, *texts]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == " 1.0000  a b c  |  a b c"
    assert [line[9:] for line in out] == [f"{line['a']}  |  {line['b']}" for line in found]


@pytest.mark.parametrize("texts", [["alone"], ["--input", "-"]])
def test_similarity_needs_two_texts(
    texts: list[str],
    model: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    read_stdin(monkeypatch, b"")
    assert_refused(["similarity", "--model", model, *texts], capsys, "give at least two")


# fill-mask


@pytest.fixture(scope="module")
def filler(model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same tokenizer, and a random model with the masked-word head."""
    folder = Path(shutil.copytree(model, tmp_path_factory.mktemp("filler") / "model"))
    shake(
        BertForPreTraining(SentenceEncoder.from_pretrained(model).bert.config), 0.5
    ).save_pretrained(folder)
    return str(folder)


def test_fill_mask_prints_each_masks_words(filler: str, capsys: pytest.CaptureFixture[str]) -> None:
    texts = ["hello [MASK]", "[MASK] b [MASK]"]
    assert main(["fill-mask", "--model", filler, "--top", "3", "--json", *texts]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record["text"] for record in records] == texts
    assert [[len(mask) for mask in record["masks"]] for record in records] == [[3], [3, 3]]
    assert main(["fill-mask", "--model", filler, "--top", "3", *texts]) == 0
    first, second = (
        [f"{w['probability']:9.4f}  {w['word']}" for w in mask] for mask in records[1]["masks"]
    )
    only = [f"{w['probability']:9.4f}  {w['word']}" for w in records[0]["masks"][0]]
    assert capsys.readouterr().out.splitlines() == [
        *(texts[0], *only),
        *(texts[1], "  mask 1", *first, "  mask 2", *second),
    ]


def test_fill_mask_refuses(model: str, filler: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(
        ["fill-mask", "--model", filler, "a [MASK]", "b"], capsys, "there is no [MASK] in 'b'"
    )
    assert_refused(
        ["fill-mask", "--model", model, "a [MASK]"],
        capsys,
        "no masked-word head",
        "bert-base-uncased",
    )
    assert_refused(
        ["fill-mask", "--model", filler, "--top", "0", "[MASK]"], capsys, "the top 0 words"
    )
    assert_refused(
        ["fill-mask", "--model", filler, "--top", "999", "[MASK]"], capsys, "the top 999 words"
    )
    assert_refused(
        ["fill-mask", "--model", filler, "[MASK] " * 50], capsys, "longer than 40 tokens"
    )


def test_fill_mask_of_the_real_minilm(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(["fill-mask", "--model", "minilm", "a [MASK]"], capsys, "no masked-word head")


# inspect


def inspected(out: str) -> dict[str, str]:
    """The lines of inspect, each by its label."""
    return dict(line.split(maxsplit=1) for line in out.splitlines())


def test_inspect_tells_in_ten_lines_what_a_model_is(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", model]) == 0
    out = capsys.readouterr().out
    assert len(out.splitlines()) == 10
    told = inspected(out)
    bert = SentenceEncoder.from_pretrained(model).bert
    num_tensors = len(list(bert.parameters()))
    assert told["model"] == f"{model}: {model} (folder)"
    file = Path(model) / "model.safetensors"
    assert told["weights"] == (
        f"model.safetensors: {file.stat().st_size:,} bytes, SHA-256 {sha256(file)} (unknown)"
    )
    assert told["sizes"] == (
        "2 layers, 24 numbers a token, 3 attention heads, feed-forward 40; "
        f"{len(UNCASED)} word pieces, 40 positions"
    )
    assert told["parameters"].startswith(f"{sum(p.numel() for p in bert.parameters()):,} (")
    assert told["vectors"] == (
        "24 numbers: pooled by mean, not scaled, compared by cosine; prompts: none"
    )
    assert told["limit"].startswith("40 tokens of a text")
    assert told["heads"] == "none"
    assert told["tensors"] == f"{num_tensors} loaded (--tensors lists them)"
    assert told["missing"] == (
        "the masked-word head, which fill-mask needs; the next-sentence head"
    )


def test_inspect_lists_tensors_if_it_is_asked(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["inspect", model, "--tensors"]) == 0
    tensors = [line.split() for line in capsys.readouterr().out.splitlines()[10:]]
    bert = SentenceEncoder.from_pretrained(model).bert
    assert len(tensors) == len(list(bert.parameters()))
    name = "embeddings.position_embeddings.weight"
    assert ["loaded", "F32", "40x24", name, "->", "embeddings.position.weight"] in tensors
    assert main(["inspect", model, "--tensors", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["tensor_list"]
    assert [
        [t["status"], t["dtype"], "x".join(map(str, t["shape"])), t["name"]] for t in listed
    ] == [tensor[:4] for tensor in tensors]


def test_inspect_as_json(model: str, filler: str, capsys: pytest.CaptureFixture[str]) -> None:
    records = {}
    for name in (model, filler):
        assert main(["inspect", name, "--json"]) == 0
        records[name] = json.loads(capsys.readouterr().out)
    encoder = SentenceEncoder.from_pretrained(model)
    record = records[model]
    assert record["name"] == record["folder"] == model
    assert record["files"][0]["sha256"] == sha256(Path(model) / "model.safetensors")
    assert record["config"] == vars(encoder.bert.config)
    assert sum(record["parameters"].values()) == encoder.bert.num_parameters()
    assert record["vectors"]["dimensions"] == encoder.dim()
    assert "tensor_list" not in record
    assert records[filler]["heads"] == ["masked words", "next sentence"]
    assert records[filler]["missing"] == []
    words = len(UNCASED)
    assert records[filler]["parameters"]["masked-word head"] == 24 * 24 + 3 * 24 + words
    assert records[filler]["parameters"]["next-sentence head"] == 50


def test_inspect_tells_what_a_folder_lacks(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(model, tmp_path / "plain"))
    (folder / "modules.json").unlink()
    assert main(["inspect", str(folder)]) == 0
    told = inspected(capsys.readouterr().out)
    assert "modules.json, which says how to pool: the mean is assumed" in told["missing"]
    assert "pooled by mean" in told["vectors"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").unlink()
    assert main(["inspect", str(folder)]) == 0
    told = inspected(capsys.readouterr().out)
    assert "what sentence vectors need: " in told["missing"]
    assert "tokenizer.json" in told["missing"]
    assert told["vectors"] == "none"


def test_inspect_finds_the_encoder_in_a_folder_of_its_own(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As sentence-transformers before version 2 wrote it."""
    whole = tmp_path / "whole"
    shutil.copytree(model, whole / "0_Transformer")
    shutil.move(whole / "0_Transformer" / "1_Pooling", whole)
    entries = json.loads((whole / "0_Transformer" / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (whole / "modules.json").write_text(json.dumps(entries))
    assert main(["inspect", str(whole)]) == 0
    told = inspected(capsys.readouterr().out)
    assert told["model"] == f"{whole}: {whole} (folder)"
    assert told["vectors"].startswith("24 numbers")


def test_inspect_names_what_is_wrong(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Path(shutil.copytree(model, tmp_path / "broken"))
    config = json.loads((broken / "config.json").read_text())
    (broken / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    assert_refused(
        ["inspect", str(broken)],
        capsys,
        "missing: encoder.layer.2.attention.self.query.weight [24, 24]",
    )
    assert_refused(["inspect", str(tmp_path / "nowhere")], capsys, "no folder", "nowhere")
    assert_refused(
        ["inspect", str(broken), "--revision", "v1"], capsys, "a folder has no revision 'v1'"
    )


def test_inspect_of_the_real_minilm(minilm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["inspect", "minilm"]) == 0
    out = capsys.readouterr().out
    assert f"minilm: {minilm} (package, commit 1110a243fdf4706b3f48f1d95db1a4f5529b4d41)" in out
    told = inspected(out)
    assert told["parameters"].startswith("22,713,216 (86.6 MiB as float32): ")
    assert told["vectors"].startswith("384 numbers: pooled by mean, scaled to length 1")
    assert told["limit"].startswith("256 tokens")
    assert told["tensors"].startswith("103 loaded, 1 ignored")


# Bad input


def test_what_is_wrong_with_the_arguments(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    use = ["--model", model]
    latin, half = tmp_path / "latin.txt", "half \udcff"
    latin.write_bytes("one\ntw\u00e9o\n".encode("latin-1"))
    assert_refused(
        ["encode", *use, "--input", str(tmp_path / "absent")],
        capsys,
        f"cannot read {tmp_path / 'absent'}",
    )
    assert_refused(["encode", *use, "--input", str(tmp_path)], capsys, f"cannot read {tmp_path}")
    assert_refused(["encode", *use, "--input", str(latin)], capsys, f"{latin}, line 2: not UTF-8")
    assert_refused(["encode", *use, "--input", str(latin), "a"], capsys, "not both")
    assert_refused(["encode", *use, "--input", str(latin), "-"], capsys, "not both")
    assert_refused(
        ["encode", *use, "a", half],
        capsys,
        "text number 1 (counted from 0) holds half a surrogate pair",
    )
    assert_refused(
        ["encode", *use, "--max-length", "0", "a"], capsys, "max_length must be a positive number"
    )
    assert_refused(
        ["encode", *use, "--max-length", "-5", "a"], capsys, "max_length must be a positive number"
    )
    assert_refused(
        ["encode", *use, "--max-length", "2", "a"], capsys, "a limit of 2 tokens leaves no room"
    )
    assert_refused(["encode", *use, "--revision", "main", "a"], capsys, "a folder has no revision")
    assert_refused(["encode", *use, "--pooling", "sum", "a"], capsys, "pooling 'sum' is not one of")
    assert_refused(["encode", "--model", "", "a"], capsys, "no folder ''")
    assert_refused(["encode", "--model", "./nope", "a"], capsys, "no folder './nope'")
    assert_refused(["similarity", "--model", str(tmp_path), "a", "b"], capsys, "config.json")


@pytest.mark.parametrize("name", ["x.csv", "x", "x.NPY", "x.npy.gz"])
def test_an_output_of_another_kind_is_refused_before_anything_is_done(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "encode",
        "--model",
        str(tmp_path / "no-model"),
        "--output",
        str(tmp_path / name),
        "a",
    ]
    assert_refused(
        arguments, capsys, f"--output {tmp_path / name}: the name must end in .npy or .jsonl"
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x.npy", "x.jsonl"])
def test_an_output_that_cannot_be_written(
    name: str, model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("old")
    (tmp_path / name).mkdir()
    for output in (tmp_path / "file" / name, tmp_path / name):
        assert_refused(
            ["encode", "--model", model, "--output", str(output), "a"],
            capsys,
            f"cannot write {output}",
        )
    assert (tmp_path / "file").read_text() == "old"
    assert sorted(os.listdir(tmp_path)) == ["file", name]


def test_bad_input_leaves_the_old_output_whole(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "x.npy").write_bytes(b"old")
    assert_refused(
        ["encode", "--model", model, "--output", str(tmp_path / "x.npy"), "a", "\ud800"],
        capsys,
        "number 1",
    )
    assert (tmp_path / "x.npy").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["x.npy"]


def test_standard_input_that_is_no_text(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read_stdin(monkeypatch, b"one\n\xff\xfe\n")
    assert_refused(["encode", "--model", model], capsys, "standard input, line 2: not UTF-8")


def test_no_texts_anywhere(
    model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stdin in (Terminal(), None):  # None is a standard input that is closed
        monkeypatch.setattr(sys, "stdin", stdin)
        assert_refused(["encode", "--model", model], capsys, "no texts: give them as arguments")


def test_a_pooling_that_is_unknown(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    for word in ("sum", "mean+sum"):
        wrong = ["encode", "a", "--model", model, "--pooling", word]
        assert_refused(wrong, capsys, f"pooling '{word}' is not one of cls, max, mean, ")


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["dance"],
        ["encode", "--precision", "half"],
        ["encode", "--max-length", "many"],
        ["inspect"],
        ["encode", "--what"],
    ],
)
def test_arguments_that_are_unknown(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert out == ""
    assert err.startswith("usage: python -m minibert")
    assert "error: " in err


def test_other_warnings_are_left_as_they_were(
    model: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = warnings.showwarning
    assert main(["encode", "--model", model, "a"]) == 0
    assert warnings.showwarning is before


# As a program of its own


def start(arguments: list[str], **options: Any) -> "subprocess.Popen[bytes]":
    root = str(Path(__file__).parents[1])
    environment = os.environ | {
        "PYTHONPATH": root,
        "PYTHONIOENCODING": "ascii",
        "OMP_NUM_THREADS": "1",
    }
    environment.pop("PYTHONUNBUFFERED", None)  # what is written last is written as the program ends
    return subprocess.Popen(
        [sys.executable, "-m", "minibert", *arguments],
        env=environment,
        stderr=subprocess.PIPE,
        **options,
    )


def test_a_reader_that_has_seen_enough_is_no_error(model: str, tmp_path: Path) -> None:
    file = tmp_path / "texts.txt"
    file.write_text("\U0001f600 a\n" * 2000, encoding="utf-8")  # far more than a pipe holds
    with start(
        ["encode", "--model", model, "--input", str(file)], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        status = process.wait(60)
    # though the terminal's encoding is ASCII
    assert json.loads(line.decode("utf-8"))["text"] == "\U0001f600 a"
    assert (status, errors) == (0, b"")


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="no /dev/full, the disk that is always full"
)
def test_a_full_disk_behind_standard_output_is_one_error(model: str) -> None:
    with (
        open("/dev/full", "wb") as full,
        start(["encode", "--model", model, "a"], stdout=full) as process,
    ):
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert errors.decode() == "error: cannot write to standard output: No space left on device\n"


def test_a_file_that_fails_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And not standard output."""
    assert run_program(lambda: (tmp_path / "none").read_bytes()) == 2
    assert capsys.readouterr().err == f"error: {tmp_path / 'none'}: No such file or directory\n"


# About it


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    """The facts that a report of a problem should have, one a line."""
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    lines = capsys.readouterr().out.splitlines()
    facts = dict(line.split(" ", 1) for line in lines)
    assert facts["minibert"] == minibert.__version__
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == "1"
    assert facts["device"] in ("cpu", "cuda", "mps")
    assert "PyTorch uses " in facts["processor"]
