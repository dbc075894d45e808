"""formats/: every spelling of a checkpoint is read, and whatever is wrong with one is an error
that names it."""

import errno
import json
import os
import random
import re
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from minibert import Bert, BertConfig, InputError
from minibert.files import write_json
from minibert.formats.checkpoint import LoadReport, load_state, read_head
from minibert.formats.config import read_config
from minibert.formats.families import FAMILIES
from minibert.formats.names import checkpoint_name, model_name
from minibert.formats.tensors import save_tensors, weight_files

CONFIG = BertConfig(
    vocab_size=30,
    hidden_size=24,
    num_hidden_layers=2,
    num_attention_heads=3,
    intermediate_size=40,
    max_position_embeddings=20,
)
CONTENT = {"model_type": "bert"} | vars(CONFIG)
Tensors = dict[str, Tensor]


@pytest.fixture
def bert() -> Bert:
    """A small BERT with every parameter random, the biases and norms too."""
    torch.manual_seed(0)
    bert = Bert(CONFIG).eval()
    with torch.no_grad():
        for parameter in bert.parameters():
            parameter.normal_()
    return bert


@pytest.fixture
def tensors(bert: Bert) -> Tensors:
    """That BERT's parameters by their names in a checkpoint."""
    return {
        checkpoint_name(name): parameter.detach() for name, parameter in bert.named_parameters()
    }


def write_model(folder: Path, tensors: Tensors, config: Any = CONTENT) -> Path:
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def write_shards(folder: Path, shards: dict[str, Tensors]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, tensors in shards.items():
        save_file(tensors, folder / name)
    weight_map = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    write_json(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})
    write_json(folder / "config.json", CONTENT)
    return folder


def assert_same(loaded: Bert, wanted: Bert, pooler: bool = True) -> None:
    expected = {n: p for n, p in wanted.named_parameters() if pooler or not n.startswith("pooler.")}
    found = dict(loaded.named_parameters())
    assert list(found) == list(expected)
    for name, parameter in expected.items():
        torch.testing.assert_close(found[name], parameter, rtol=0, atol=0, msg=name)


def refusal(folder: Path) -> str:
    """The message with which a folder is refused; nothing in the folder is touched."""
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    with pytest.raises(InputError) as caught:
        Bert.from_folder(folder)
    assert {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()} == before
    return str(caught.value)


# Names


def test_the_two_names_of_every_parameter_lead_to_each_other(bert: Bert) -> None:
    names = [name for name, _ in bert.named_parameters()]
    assert [model_name(checkpoint_name(name)) for name in names] == names
    assert (
        len({checkpoint_name(name) for name in names})
        == len(names)
        == 16 * CONFIG.num_hidden_layers + 7
    )


def test_layer_numbers_of_two_digits() -> None:
    name = "encoder.layer.11.attention.output.LayerNorm.weight"
    assert model_name(name) == model_name(f"bert.{name}") == "layers.11.attention_norm.weight"
    assert checkpoint_name("layers.11.attention_norm.weight") == name


@pytest.mark.parametrize(
    "name",
    [
        "classifier.weight",
        "roberta.embeddings.word_embeddings.weight",
        "bert.bert.pooler.dense",
    ],
)
def test_what_is_no_part_of_the_encoder_has_no_name(name: str) -> None:
    assert model_name(name) is None


# Spellings


def old_norms(name: str) -> str:
    return re.sub(
        "LayerNorm.bias$", "LayerNorm.beta", re.sub("LayerNorm.weight$", "LayerNorm.gamma", name)
    )


SPELLINGS: dict[str, Callable[[str], str]] = {
    "plain": lambda name: name,
    "bert.": lambda name: f"bert.{name}",
    "gamma and beta": old_norms,
    "bert., gamma and beta": lambda name: f"bert.{old_norms(name)}",
    "one norm only": lambda name: old_norms(name) if name.startswith("embeddings.") else name,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_spelling_is_read(
    spelling: str, bert: Bert, tensors: Tensors, tmp_path: Path
) -> None:
    spelled = {SPELLINGS[spelling](name): tensor for name, tensor in tensors.items()}
    loaded, report = Bert.from_folder(write_model(tmp_path, spelled))
    assert_same(loaded, bert)
    assert not loaded.training
    renamed = len(set(spelled) - set(tensors))
    assert report.counts == {
        k: v for k, v in {"loaded": len(tensors) - renamed, "renamed": renamed}.items() if v
    }
    assert {entry.name: entry.note for entry in report.entries} == {
        name: model_name(name) for name in spelled
    }


def test_only_a_layer_norms_own_gamma_and_beta_are_renamed(
    tensors: Tensors, tmp_path: Path
) -> None:
    name = "encoder.layer.0.output.dense"
    tensors[f"{name}.beta"] = tensors.pop(f"{name}.bias")
    message = refusal(write_model(tmp_path, tensors))
    assert f"unexpected: {name}.beta [24]" in message
    assert f"missing: {name}.bias [24]" in message
    # which no BERT has
    assert model_name("embeddings.LayerNorm.gammas") == "embeddings.norm.gammas"
    assert model_name("embeddings.LayerNorm.beta.gamma") == "embeddings.norm.beta.gamma"


def test_a_parameter_in_two_spellings_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    tensors["bert.embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"].clone()
    message = refusal(write_model(tmp_path, tensors))
    # the file's names are read in alphabetical order
    assert "unexpected: embeddings.LayerNorm.weight [24]" in message
    assert "filled already" in message


def test_a_parameter_in_two_shards_is_refused(tensors: Tensors, tmp_path: Path) -> None:
    name = "pooler.dense.bias"
    shards = {"a.safetensors": tensors, "b.safetensors": {f"bert.{name}": tensors[name]}}
    message = refusal(write_shards(tmp_path, shards))
    assert f"unexpected: bert.{name}" in message
    assert "a.safetensors" in message
    assert "b.safetensors" in message


def test_heads_and_position_ids_are_ignored_and_reported(
    bert: Bert, tensors: Tensors, tmp_path: Path
) -> None:
    extra = {
        "embeddings.position_ids": torch.arange(20).unsqueeze(0),
        "cls.predictions.decoder.weight": torch.zeros(30, 24),
        "cls.predictions.transform.LayerNorm.gamma": torch.ones(24),
        "cls.seq_relationship.bias": torch.zeros(2),
    }
    loaded, report = Bert.from_folder(write_model(tmp_path, tensors | extra))
    assert_same(loaded, bert)
    ignored = {entry.name: entry.note for entry in report.entries if entry.status == "ignored"}
    assert set(ignored) == set(extra)
    assert all(ignored.values())


def test_without_a_pooler_in_the_file_there_is_none(
    bert: Bert, tensors: Tensors, tmp_path: Path
) -> None:
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("pooler.")}
    loaded, report = Bert.from_folder(write_model(tmp_path, kept))
    assert loaded.pooler is None
    assert_same(loaded, bert, pooler=False)
    assert report.counts == {"loaded": len(kept)}


def test_a_pooler_that_is_not_asked_for_is_ignored(
    bert: Bert, tensors: Tensors, tmp_path: Path
) -> None:
    wanted = {name: p for name, p in bert.named_parameters() if not name.startswith("pooler.")}
    state, report = load_state(wanted, weight_files(write_model(tmp_path, tensors)))
    assert set(state) == set(wanted)
    assert report.counts == {"loaded": len(wanted), "ignored": 2}
    report.raise_for_problems()


@pytest.mark.parametrize("prefix", ["", "bert."])
@pytest.mark.parametrize(("half", "shape"), [("weight", "[24, 24]"), ("bias", "[24]")])
def test_half_a_pooler_is_an_error(
    half: str, shape: str, prefix: str, tensors: Tensors, tmp_path: Path
) -> None:
    del tensors[f"pooler.dense.{half}"]
    message = refusal(write_model(tmp_path, {prefix + n: t for n, t in tensors.items()}))
    assert f"missing: pooler.dense.{half} {shape}" in message


@pytest.mark.parametrize(
    "name", ["bert.foo.weight", "bert.encoder.foo", "pooler.foo", "bert.pooler.dense.foo"]
)
def test_an_unknown_part_of_the_encoder_is_an_error(
    name: str, tensors: Tensors, tmp_path: Path
) -> None:
    tensors[name] = torch.zeros(3)
    message = refusal(write_model(tmp_path, tensors))
    assert message.splitlines()[1:] == [
        f"  unexpected: {name} [3] (config.json describes no such parameter)"
    ]


# Shards


def test_shards_are_read_as_one_file(bert: Bert, tensors: Tensors, tmp_path: Path) -> None:
    names = sorted(tensors)
    shards = {
        f"model-0000{i + 1}-of-00003.safetensors": {name: tensors[name] for name in names[i::3]}
        for i in range(3)
    }
    loaded, report = Bert.from_folder(write_shards(tmp_path, shards))
    assert_same(loaded, bert)
    assert [file.name for file in report.files] == sorted(shards)
    assert report.counts == {"loaded": len(tensors)}


def test_a_single_file_goes_before_an_index(bert: Bert, tensors: Tensors, tmp_path: Path) -> None:
    write_shards(
        tmp_path, {"old.safetensors": {name: tensor + 1 for name, tensor in tensors.items()}}
    )
    assert_same(Bert.from_folder(write_model(tmp_path, tensors))[0], bert)


def test_a_missing_shard_is_named(tensors: Tensors, tmp_path: Path) -> None:
    write_shards(tmp_path, {"a.safetensors": tensors, "b.safetensors": {"cls.x": torch.zeros(1)}})
    (tmp_path / "b.safetensors").unlink()
    message = refusal(tmp_path)
    assert "model.safetensors.index.json" in message
    assert "'b.safetensors'" in message


@pytest.mark.parametrize(
    "name",
    ["../secret.safetensors", "sub/x.safetensors", "..", "", "/etc/passwd", "a\0b", "x" * 300],
)
def test_an_index_names_files_of_its_own_folder_only(
    name: str, tensors: Tensors, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "model", tensors)
    (folder / "sub").mkdir()
    for place in (tmp_path / "secret.safetensors", folder / "sub" / "x.safetensors"):
        save_file(tensors, place)
    (folder / "model.safetensors").unlink()
    write_json(
        folder / "model.safetensors.index.json", {"weight_map": dict.fromkeys(tensors, name)}
    )
    message = refusal(folder)
    assert "model.safetensors.index.json: weight_map names " in message
    assert repr(name)[:200] in message
    assert len(message) < 600


@pytest.mark.parametrize(
    "content",
    [[], 3, {}, {"weight_map": None}, {"weight_map": {}}, {"weight_map": ["a.safetensors"]}]
    + [{"weight_map": {"a": value, "b": "x.safetensors"}} for value in (1, None, ["x"], {})],
)
def test_an_index_that_maps_nothing_is_named(
    content: Any, tensors: Tensors, tmp_path: Path
) -> None:
    write_model(tmp_path, tensors)
    (tmp_path / "model.safetensors").rename(tmp_path / "x.safetensors")
    write_json(tmp_path / "model.safetensors.index.json", content)
    assert refusal(tmp_path).startswith(f"{tmp_path / 'model.safetensors.index.json'}: ")


# Dtypes


@pytest.mark.parametrize("asked", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize(
    "stored", [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.float8_e4m3fn]
)
def test_every_float_dtype_is_read_into_the_one_asked_for(
    stored: torch.dtype, asked: torch.dtype, tensors: Tensors, tmp_path: Path
) -> None:
    kept = {name: tensor.to(stored) for name, tensor in tensors.items()}
    loaded, report = Bert.from_folder(write_model(tmp_path, kept), asked)
    for name, parameter in loaded.named_parameters():
        assert parameter.dtype == asked
        assert parameter.requires_grad
        torch.testing.assert_close(
            parameter.detach(), kept[checkpoint_name(name)].to(asked), rtol=0, atol=0
        )
    assert report.counts == {"loaded": len(tensors)}


def test_float32_is_the_default_and_dtypes_may_be_mixed(tensors: Tensors, tmp_path: Path) -> None:
    tensors["pooler.dense.bias"] = tensors["pooler.dense.bias"].half()
    tensors["embeddings.LayerNorm.bias"] = tensors["embeddings.LayerNorm.bias"].double()
    loaded = Bert.from_pretrained(write_model(tmp_path, tensors))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", [torch.int64, torch.int8, torch.bool, torch.complex64])
def test_weights_that_are_no_floats_are_refused(
    dtype: torch.dtype, tensors: Tensors, tmp_path: Path
) -> None:
    name = "encoder.layer.1.output.dense.weight"
    tensors[name] = tensors[name].to(dtype)
    try:
        write_model(tmp_path, tensors)
    except KeyError:
        pytest.skip(f"safetensors {safetensors.__version__} writes no {dtype}")
    message = refusal(tmp_path)
    assert f"unexpected: {name} [24, 40] (of dtype " in message
    assert "missing" not in message  # it is there, only it is no weight


# Problems


def with_number(number: float) -> Callable[[Tensor], Tensor]:
    return lambda tensor: tensor.index_put((torch.tensor(3), torch.tensor(2)), torch.tensor(number))


@pytest.mark.parametrize(
    ("name", "change", "line"),
    [
        (
            "encoder.layer.1.attention.self.key.bias",
            lambda _: None,
            "missing: {} [24] (layers.1.attention.key.bias)",
        ),
        (
            "encoder.layer.0.intermediate.dense.weight",
            lambda tensor: tensor.T.contiguous(),
            "wrong shape: {} [24, 40] (layers.0.feed_forward.intermediate.weight has [40, 24])",
        ),
        *(  # one of them makes all vectors NaN
            (
                "encoder.layer.1.output.dense.weight",
                with_number(number),
                "not finite: {} [24, 40] (as torch.float32 it holds NaN or infinite numbers)",
            )
            for number in (float("nan"), float("inf"), -float("inf"))
        ),
    ],
)
def test_a_problem_is_named_with_tensor_and_file(
    name: str,
    change: Callable[[Tensor], Tensor | None],
    line: str,
    tensors: Tensors,
    tmp_path: Path,
) -> None:
    if (changed := change(tensors.pop(name))) is not None:
        tensors[name] = changed
    message = refusal(write_model(tmp_path, tensors))
    assert message.startswith(f"{tmp_path / 'model.safetensors'} ")
    assert message.splitlines()[1:] == [f"  {line.format(name)}"]


def test_a_weight_that_half_precision_cannot_hold_is_named(
    tensors: Tensors, tmp_path: Path
) -> None:
    tensors["encoder.layer.1.output.dense.bias"][0] = 1e5
    folder = write_model(tmp_path, tensors)
    Bert.from_pretrained(folder)
    Bert.from_pretrained(folder, dtype=torch.bfloat16)
    with pytest.raises(InputError, match=r"not finite: .*output.dense.bias .*torch.float16"):
        Bert.from_pretrained(folder, dtype=torch.float16)


def test_a_layer_more_in_the_file_than_in_the_config_is_an_error(
    tensors: Tensors, tmp_path: Path
) -> None:
    message = refusal(write_model(tmp_path, tensors, CONTENT | {"num_hidden_layers": 1}))
    assert "unexpected: encoder.layer.1.attention.output.LayerNorm.bias [24]" in message
    assert "and 6 more" in message  # sixteen tensors a layer, of which ten are named


def test_a_layer_fewer_in_the_file_than_in_the_config_is_an_error(
    tensors: Tensors, tmp_path: Path
) -> None:
    message = refusal(write_model(tmp_path, tensors, CONTENT | {"num_hidden_layers": 3}))
    assert "missing: encoder.layer.2.attention.self.query.weight [24, 24]" in message


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "model.", "0.auto_model."])
@pytest.mark.parametrize("prefix", ["", "bert."])
def test_names_from_inside_a_wrapper(
    wrapper: str, prefix: str, bert: Bert, tensors: Tensors, tmp_path: Path
) -> None:
    """The message says what to strip, and then the model opens."""
    wrapped = {wrapper + prefix + name: tensor for name, tensor in tensors.items()}
    message = refusal(write_model(tmp_path, wrapped | {"loss.weight": torch.ones(2)}))
    assert message.startswith(f"{tmp_path / 'model.safetensors'}: ")
    assert f"{wrapper}{prefix}embeddings.LayerNorm.bias, " in message
    found = re.search("put '(.*)' before them: strip it", message)
    assert found is not None
    stripped = {name.removeprefix(found[1]): tensor for name, tensor in wrapped.items()}
    assert_same(Bert.from_folder(write_model(tmp_path, stripped))[0], bert)


def test_names_of_another_model(tmp_path: Path) -> None:
    message = refusal(write_model(tmp_path, {f"h.{i}.c": torch.ones(2) for i in range(9)}))
    assert "h.0.c, h.1.c, h.2.c. " in message
    assert message.endswith("such as embeddings.word_embeddings.weight")


def test_the_report_says_what_became_of_every_tensor(
    bert: Bert, tensors: Tensors, tmp_path: Path
) -> None:
    tensors["bert.pooler.dense.weight"] = tensors.pop("pooler.dense.weight")
    tensors["embeddings.word_embeddings.weight"] = torch.zeros(31, 24)
    tensors["embeddings.colour_embeddings.weight"] = torch.zeros(2, 24)
    tensors["classifier.bias"] = torch.zeros(2, dtype=torch.float16)
    del tensors["embeddings.LayerNorm.bias"]
    _, report = load_state(
        dict(bert.named_parameters()), weight_files(write_model(tmp_path, tensors))
    )
    entries = {entry.name: entry for entry in report.entries}
    assert len(entries) == len(report.entries) == len(tensors) + 1
    assert {name: entry.status for name, entry in entries.items() if entry.status != "loaded"} == {
        "bert.pooler.dense.weight": "renamed",
        "classifier.bias": "ignored",
        "embeddings.LayerNorm.bias": "missing",
        "embeddings.colour_embeddings.weight": "unexpected",
        "embeddings.word_embeddings.weight": "wrong shape",
    }
    assert (entries["classifier.bias"].shape, entries["classifier.bias"].dtype) == ((2,), "F16")
    assert entries["pooler.dense.bias"].note == "pooler.dense.bias"
    with pytest.raises(InputError) as caught:
        report.raise_for_problems()
    assert len(str(caught.value).splitlines()) == 4
    LoadReport(
        report.files, tuple(e for e in report.entries if e.status in ("loaded", "ignored"))
    ).raise_for_problems()


# Files that are no safetensors, or damaged ones


def safetensors_bytes(header: Any, data: bytes = b"", length: int | None = None) -> bytes:
    encoded = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(encoded) if length is None else length) + encoded + data


def floats(begin: int, end: int, *shape: int) -> dict[str, Any]:
    return {"dtype": "F32", "shape": shape, "data_offsets": [begin, end]}


DAMAGED = {
    "empty": b"",
    "seven bytes": b"\0" * 7,
    "no header": safetensors_bytes(b""),
    "header cut short": safetensors_bytes({"a": floats(0, 4, 1)})[:20],
    "header longer than the file": safetensors_bytes({}, length=1000),
    "header of 2^64 - 1 bytes": safetensors_bytes({}, length=2**64 - 1),
    "header of 2^40 bytes": safetensors_bytes({}, length=2**40),
    "header is no JSON": safetensors_bytes(b"{nonsense"),
    "header is a list": safetensors_bytes([]),
    "header is no UTF-8": safetensors_bytes(b'{"\xff": 1}'),
    "data cut short": safetensors_bytes({"a": floats(0, 8, 2)}, b"1234"),
    "data too long": safetensors_bytes({"a": floats(0, 4, 1)}, b"12345678"),
    "offsets overlap": safetensors_bytes({"a": floats(0, 8, 2), "b": floats(4, 12, 2)}, b"1" * 12),
    "offsets are the same": safetensors_bytes(
        {"a": floats(0, 8, 2), "b": floats(0, 8, 2)}, b"1" * 8
    ),
    "offsets leave a hole": safetensors_bytes(
        {"a": floats(0, 4, 1), "b": floats(8, 12, 1)}, b"1" * 12
    ),
    "offsets beyond the end": safetensors_bytes({"a": floats(1000, 1004, 1)}, b"1234"),
    "offsets backwards": safetensors_bytes({"a": floats(4, 0, 1)}, b"1234"),
    "offsets negative": safetensors_bytes({"a": floats(-4, 0, 1)}, b"1234"),
    "offsets overflow": safetensors_bytes({"a": floats(0, 2**64, 1)}, b"1234"),
    "shape does not fit the offsets": safetensors_bytes({"a": floats(0, 4, 2)}, b"1234"),
    "shape overflows": safetensors_bytes({"a": floats(0, 4, 2**62, 2**62)}, b"1234"),
    "unknown dtype": safetensors_bytes({"a": floats(0, 4, 1) | {"dtype": "F31"}}, b"1234"),
    "a web page": b"<!DOCTYPE html><html><body>404</body></html>",
    "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:53aa\nsize 90868376\n",
}
PICKLES = {
    "a zip archive, as PyTorch writes now": b"PK\x03\x04" + b"\0" * 100,
    "a bare pickle, protocol 2": b"\x80\x02}q\x00." + b"\0" * 100,
    "a bare pickle, protocol 5": b"\x80\x05}\x94." + b"\0" * 100,
}


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_one_error_with_its_name(
    kind: str, tensors: Tensors, tmp_path: Path
) -> None:
    file = write_model(tmp_path, tensors) / "model.safetensors"
    file.write_bytes(DAMAGED[kind])
    assert refusal(tmp_path).startswith(f"{file} is not a sound safetensors file: ")


@pytest.mark.parametrize("kind", PICKLES)
def test_a_pickle_is_recognised_and_never_opened(
    kind: str, tensors: Tensors, tmp_path: Path
) -> None:
    file = write_model(tmp_path, tensors) / "model.safetensors"
    file.write_bytes(PICKLES[kind])
    assert refusal(tmp_path).startswith(
        f"{file} is not a sound safetensors file: it is a pickle under another name"
    )


def test_a_file_cut_anywhere_is_an_error(tensors: Tensors, tmp_path: Path) -> None:
    file = write_model(tmp_path, tensors) / "model.safetensors"
    whole = file.read_bytes()
    for length in np.random.default_rng(0).integers(len(whole), size=50):
        file.write_bytes(whole[:length])
        assert str(file) in refusal(tmp_path)


def test_a_damaged_shard_is_named(tensors: Tensors, tmp_path: Path) -> None:
    write_shards(tmp_path, {"a.safetensors": tensors, "b.safetensors": {"cls.x": torch.zeros(1)}})
    (tmp_path / "b.safetensors").write_bytes(b"")
    assert refusal(tmp_path).startswith(
        f"{tmp_path / 'b.safetensors'} is not a sound safetensors file"
    )


def test_a_folder_in_place_of_the_weights(tensors: Tensors, tmp_path: Path) -> None:
    write_model(tmp_path, tensors)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors").mkdir()
    assert refusal(tmp_path).startswith(
        f"{tmp_path / 'model.safetensors'} is not a sound safetensors file"
    )


def test_no_weights_at_all_and_only_pickled_ones(tensors: Tensors, tmp_path: Path) -> None:
    write_model(tmp_path, tensors)
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    message = refusal(tmp_path)
    assert f"{tmp_path} has no model.safetensors" in message
    assert "pytorch_model.bin is a pickle" in message
    (tmp_path / "pytorch_model.bin").unlink()
    assert "is a pickle" not in refusal(tmp_path)


def run_the_two_lines(message: str) -> None:
    lines = [line.strip() for line in message.splitlines() if line.startswith("  ")]
    assert len(lines) == 2
    exec("\n".join(lines), {})


@pytest.mark.parametrize(
    "architectures", [["BertForSequenceClassification"], ["BertModel"], ["x; y"], [], None, 3]
)
def test_the_two_lines_that_convert_a_pickle(
    architectures: Any, bert: Bert, tensors: Tensors, tmp_path: Path
) -> None:
    """As a message says them, run by transformers. No tensor of the class in config.json is lost;
    where it names none, the encoder is kept."""
    pytest.importorskip("transformers")
    has_head = architectures == ["BertForSequenceClassification"]
    head = {"classifier.weight": torch.randn(2, 24), "classifier.bias": torch.randn(2)}
    inside = {f"bert.{name}": tensor for name, tensor in tensors.items()} | head
    write_model(tmp_path, {}, CONTENT | {"architectures": architectures})
    (tmp_path / "model.safetensors").unlink()
    torch.save(inside if has_head else tensors, tmp_path / "pytorch_model.bin")
    run_the_two_lines(refusal(tmp_path))
    assert_same(Bert.from_folder(tmp_path)[0], bert)
    if has_head:
        for name, tensor in load_file(tmp_path / "model.safetensors").items():
            assert torch.equal(tensor, inside[name])
        assert read_head(tmp_path).keys() == head.keys()


# config.json


@pytest.mark.parametrize(
    "content", ["", "{", "nonsense", "[" * 100_000, '{"vocab_size": ' + "9" * 5000 + "}"]
)
def test_a_config_that_is_no_json(content: str, tensors: Tensors, tmp_path: Path) -> None:
    (write_model(tmp_path, tensors) / "config.json").write_text(content)
    message = refusal(tmp_path)
    assert message.startswith(str(tmp_path / "config.json"))
    assert "not JSON" in message


@pytest.mark.parametrize("content", [[], [CONTENT], 3, "bert", None])
def test_a_config_that_is_no_object(content: Any, tensors: Tensors, tmp_path: Path) -> None:
    message = refusal(write_model(tmp_path, tensors, content))
    assert message.startswith(f"{tmp_path / 'config.json'}: must hold a JSON object")


def test_no_config(tensors: Tensors, tmp_path: Path) -> None:
    (write_model(tmp_path, tensors) / "config.json").unlink()
    assert refusal(tmp_path).startswith(f"cannot read {tmp_path / 'config.json'}: ")


REQUIRED = [
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
]
REQUIRED += ["max_position_embeddings"]


@pytest.mark.parametrize("key", REQUIRED)
def test_a_config_without_a_size(key: str, tensors: Tensors, tmp_path: Path) -> None:
    message = refusal(
        write_model(tmp_path, tensors, {k: v for k, v in CONTENT.items() if k != key})
    )
    assert message.startswith(f"{tmp_path / 'config.json'}: {key} missing")


@pytest.mark.parametrize(
    ("name", "model_type"),
    [
        ("BertForMaskedLM", "bert"),
        ("RobertaModel", "roberta"),
        ("XLMRobertaForMaskedLM", "xlm-roberta"),
        ("DistilBertModel", "distilbert"),
        ("ElectraForPreTraining", "electra"),
    ],
)
def test_a_config_of_2019_names_only_a_class(name: str, model_type: str, tmp_path: Path) -> None:
    """And what it lacks is what the family has."""
    keys = FAMILIES[model_type].keys
    content = {keys.get(key, key): CONTENT[key] for key in REQUIRED} | {"architectures": [name]}
    write_json(tmp_path / "config.json", content)
    config = read_config(tmp_path / "config.json", BertConfig)
    assert config.model_type == model_type
    assert config.pad_token_id == (1 if "roberta" in model_type else 0)
    assert config.most_tokens == config.max_position_embeddings - config.first_position
    assert config.first_position == (2 if "roberta" in model_type else 0)
    assert config.type_vocab_size == (0 if model_type == "distilbert" else 2)
    assert config.embedding_size == (128 if model_type == "electra" else None)
    write_json(tmp_path / "config.json", config.to_dict())
    assert read_config(tmp_path / "config.json", BertConfig) == config


def test_a_class_of_2019_that_is_none_of_these(tmp_path: Path) -> None:
    content = {key: CONTENT[key] for key in REQUIRED} | {"architectures": ["GPT2Model"]}
    write_json(tmp_path / "config.json", content)
    with pytest.raises(InputError, match="no model_type; the class is 'GPT2Model', and read here"):
        read_config(tmp_path / "config.json", BertConfig)


@pytest.mark.parametrize(
    ("model_type", "changes", "message"),
    [
        ("distilbert", {"type_vocab_size": 2}, "type_vocab_size of a distilbert is 0"),
        ("bert", {"embedding_size": 8}, "embedding_size of a bert is None, and never 8"),
        ("electra", {"embedding_size": None}, "embedding_size must be a whole number from 1"),
        ("roberta", {"pad_token_id": 19}, "max_position_embeddings 20 leaves no position"),
    ],
)
def test_what_no_model_of_a_family_has(
    model_type: str, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        replace(CONFIG, model_type=model_type, **changes)


@pytest.mark.parametrize(
    ("model_type", "key", "value"),
    [
        ("bert", "embedding_size", 8),
        ("roberta", "embedding_size", 8),
        ("distilbert", "type_vocab_size", 2),
        ("distilbert", "layer_norm_eps", 1e-5),
    ],
)
def test_a_config_that_no_model_of_its_family_has(
    model_type: str, key: str, value: Any, tmp_path: Path
) -> None:
    keys = FAMILIES[model_type].keys
    content = {keys.get(name, name): CONTENT[name] for name in REQUIRED}
    file = tmp_path / "config.json"
    write_json(file, content | {"model_type": model_type, key: value})
    with pytest.raises(InputError, match=f"{key} of a {model_type} is .*, and never {value}") as e:
        read_config(file, BertConfig)
    assert str(e.value).startswith(f"{file}: ")


def test_what_changes_nothing_may_be_said(tmp_path: Path) -> None:
    says = {"embedding_size": CONFIG.hidden_size, "pruned_heads": {}}
    write_json(tmp_path / "config.json", CONTENT | says)
    assert read_config(tmp_path / "config.json", BertConfig) == CONFIG


def test_a_size_that_is_null_beside_an_absent_one(tmp_path: Path) -> None:
    """Null is not as wide as nothing."""
    absent = {key: CONTENT[key] for key in REQUIRED} | {"hidden_size": None}
    write_json(tmp_path / "config.json", absent)
    with pytest.raises(InputError, match="hidden_size must be a whole number"):
        read_config(tmp_path / "config.json", BertConfig)


def test_what_newer_versions_added_may_be_absent(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {key: CONTENT[key] for key in REQUIRED})
    assert read_config(tmp_path / "config.json", BertConfig) == CONFIG


@pytest.mark.parametrize(
    "value", [0, -1, 1e9, 2**31, 768.0, True, "768", float("nan"), None, [], {}]
)
@pytest.mark.parametrize("key", [*REQUIRED, "type_vocab_size"])
def test_an_absurd_size(key: str, value: Any, tensors: Tensors, tmp_path: Path) -> None:
    message = refusal(write_model(tmp_path, tensors, CONTENT | {key: value}))
    reason = f"{key} must be a whole number from 1 to 2147483647, not {value!r}"
    assert message.startswith(f"{tmp_path / 'config.json'}: {reason}")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 25),
        ("hidden_act", "swish"),
        ("hidden_act", None),
        ("hidden_act", ["gelu"]),
        ("hidden_dropout_prob", 1.0),
        ("hidden_dropout_prob", -0.1),
        ("hidden_dropout_prob", "0.1"),
        ("attention_probs_dropout_prob", float("nan")),
        ("layer_norm_eps", 0),
        ("layer_norm_eps", "1e-12"),
        ("layer_norm_eps", float("nan")),
        ("initializer_range", float("inf")),
        ("pad_token_id", -1),
        ("pad_token_id", 30),
        ("pad_token_id", True),
    ],
)
def test_another_absurd_value(key: str, value: Any, tensors: Tensors, tmp_path: Path) -> None:
    message = refusal(write_model(tmp_path, tensors, CONTENT | {key: value}))
    assert message.startswith(f"{tmp_path / 'config.json'}: {key} ")
    assert (repr(value) if key != "hidden_size" else "num_attention_heads 3") in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("model_type", "albert"),
        ("model_type", ["bert"]),
        ("model_type", None),
        ("position_embedding_type", "relative_key"),
        ("position_embedding_type", "relative_key_query"),
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("pruned_heads", {"0": [1]}),
    ],
)
def test_another_model_than_bert(key: str, value: Any, tensors: Tensors, tmp_path: Path) -> None:
    message = refusal(write_model(tmp_path, tensors, CONTENT | {key: value}))
    assert message.startswith(f"{tmp_path / 'config.json'}: {key} is {value!r}")


@pytest.mark.parametrize(
    "sizes",
    [
        {"vocab_size": 2**31 - 1},
        {"hidden_size": 3 * 10**8},
        {"num_hidden_layers": 2**31 - 1},
        {"max_position_embeddings": 2**31 - 1},
        {"hidden_size": 2**31 - 8, "num_attention_heads": 8, "intermediate_size": 2**31 - 1},
    ],
)
def test_sizes_that_no_memory_holds_are_refused_before_any_is_taken(
    sizes: dict[str, int], tensors: Tensors, tmp_path: Path
) -> None:
    message = refusal(write_model(tmp_path, tensors, CONTENT | sizes))
    assert str(tmp_path) in message


# Loading draws nothing, and saving loses nothing


def test_loading_draws_no_random_numbers(tensors: Tensors, tmp_path: Path) -> None:
    write_model(tmp_path, tensors)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    Bert.from_folder(tmp_path)
    after = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]


def test_the_file_may_change_or_go_once_it_is_loaded(
    bert: Bert, tensors: Tensors, tmp_path: Path
) -> None:
    loaded, _ = Bert.from_folder(write_model(tmp_path, tensors))
    file = tmp_path / "model.safetensors"
    with file.open("r+b") as stream:
        stream.seek(file.stat().st_size // 2)
        stream.write(b"\xff" * (file.stat().st_size // 2))
    file.unlink()
    assert_same(loaded, bert)


@pytest.mark.parametrize("pooler", [True, False])
def test_what_is_saved_is_what_is_loaded(pooler: bool, tmp_path: Path) -> None:
    bert = Bert(CONFIG, pooler=pooler)
    bert.save_pretrained(tmp_path / "new")
    loaded, report = Bert.from_folder(tmp_path / "new")
    assert_same(loaded, bert)
    assert loaded.config == CONFIG
    assert set(report.counts) == {"loaded"}
    assert sorted(os.listdir(tmp_path / "new")) == ["config.json", "model.safetensors"]
    with safe_open(tmp_path / "new" / "model.safetensors", framework="pt") as tensors:
        assert tensors.metadata() == {"format": "pt"}  # older transformers open no file without it


def test_transformers_opens_what_is_saved(bert: Bert, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    bert.save_pretrained(tmp_path)
    model, info = transformers.BertModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    ids = torch.tensor([[2, 7, 9, 3]])
    with torch.inference_mode():
        torch.testing.assert_close(bert(ids), model(ids).last_hidden_state, rtol=0, atol=1e-5)


def test_a_view_is_saved_as_its_own_values(tmp_path: Path) -> None:
    table = torch.arange(6.0).reshape(2, 3)
    save_tensors({"turned": table.T, "row": table[1]}, tmp_path / "x.safetensors")
    kept = load_file(tmp_path / "x.safetensors")
    assert kept["turned"].tolist() == table.T.tolist()
    assert kept["row"].tolist() == [3, 4, 5]


def test_a_full_disk_leaves_the_old_model_whole(
    bert: Bert, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bert.save_pretrained(tmp_path)
    write_bytes = Path.write_bytes

    def fill_up(self: Path, data: bytes) -> int:
        write_bytes(self, data[: len(data) // 2])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", fill_up)
    with pytest.raises(
        InputError, match=r"cannot write .*model\.safetensors: No space left on device"
    ):
        Bert(CONFIG).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert_same(Bert.from_folder(tmp_path)[0], bert)
    assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
