"""precision.py and what it decides: products in bfloat16, all else in float32.

Evidence: the float32 model, transformers, and rounding by hand. Where PyTorch does not compute
bfloat16, the tests that multiply in it are skipped, and those of words and messages are not.
"""

import copy
import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from minibert import Bert, BertConfig, InputError, Packed, SentenceEncoder
from minibert import precision as module
from minibert.__main__ import main
from minibert.bulk import RowSettings, write_vectors
from minibert.calibration import calibrate_ranges, read_ranges
from minibert.fast import inference_copy
from minibert.model import Attention
from minibert.precision import computes_bfloat16, uses_bfloat16
from minibert.tokenizer import Tokenizer
from tests.test_bits import texts
from tests.test_encoder import TEXTS

pytestmark = pytest.mark.usefixtures("one_thread")

CPU = torch.device("cpu")
needs_bfloat16 = pytest.mark.skipif(
    not computes_bfloat16(), reason="PyTorch computes no bfloat16 here"
)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor without bfloat16."""
    monkeypatch.setattr(module, "computes_bfloat16", lambda: False)


def encoder_of(saved: Path, precision: str = "float32") -> SentenceEncoder:
    return SentenceEncoder.from_pretrained(saved, device="cpu", precision=precision)


def vectors(encoder: SentenceEncoder) -> np.ndarray:
    return encoder.encode(TEXTS, truncation="silent")


def cosines(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)


# Words and messages


def test_an_unknown_word_is_refused(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="precision 'bf16' is not one of float32, bfloat16, auto"):
        encoder_of(saved, "bf16")
    with pytest.raises(SystemExit):
        main(["encode", "--model", str(saved), "--precision", "int8", "a"])
    assert "choose from" in capsys.readouterr().err


@pytest.mark.usefixtures("without")
def test_bfloat16_is_refused_where_the_processor_lacks_it(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for make in (
        lambda: encoder_of(saved, "bfloat16"),
        lambda: SentenceEncoder(
            Bert.from_pretrained(saved), encoder_of(saved).tokenizer, precision="bfloat16"
        ),
    ):
        with pytest.raises(InputError, match=r"no instructions for it here .*let auto choose"):
            make()
    for command in (["similarity"], ["encode"], ["calibrate", "--output", "never.json"]):
        wanted = ["--model", str(saved), "--precision", "bfloat16", "a", "b"]
        assert main([*command, *wanted]) == 2
        assert "let auto choose" in capsys.readouterr().err


@pytest.mark.usefixtures("without")
def test_auto_then_gives_the_bits_of_float32(
    saved: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = encoder_of(saved, "auto")
    assert (encoder.precision, encoder.bfloat16) == ("auto", False)
    assert np.array_equal(vectors(encoder), vectors(encoder_of(saved)))
    printed = []
    for precision in ("auto", "float32"):
        assert main(["encode", "--model", str(saved), "--precision", precision, "a", "b c"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]


@pytest.mark.parametrize(
    ("has", "uses", "expected"),
    [(True, "AVX512", True), (True, "AVX2", False), (False, "AVX512", False)],
)
def test_the_processor_must_have_the_instructions_and_pytorch_must_use_them(
    monkeypatch: pytest.MonkeyPatch, has: bool, uses: str, expected: bool
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: has)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: uses)
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)
    assert computes_bfloat16() is expected
    assert uses_bfloat16("auto", CPU) is expected
    assert uses_bfloat16("auto", torch.device("cuda"))
    assert not uses_bfloat16("float32", CPU)


@pytest.mark.parametrize("precision", ["bfloat16", "auto"])
def test_weights_must_be_float32(saved: Path, precision: str) -> None:
    message = f"precision {precision} is for float32 weights, and these are bfloat16: leave out one"
    with pytest.raises(InputError, match=message):
        SentenceEncoder.from_pretrained(
            saved, device="cpu", dtype=torch.bfloat16, precision=precision
        )
    encoder = encoder_of(saved, "auto")
    encoder.bert.bfloat16()
    with pytest.raises(InputError, match="precision auto is for float32 weights"):
        vectors(encoder)


@pytest.mark.parametrize("can", [False, True])
def test_inspect_says_what_the_processor_has_and_what_auto_chooses(
    saved: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, can: bool
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(module, "computes_bfloat16", lambda: can)
    monkeypatch.setattr(module, "instructions", lambda: ["avx2", "avx512"])
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx2")
    assert main(["inspect", str(saved)]) == 0
    lines = capsys.readouterr().out.splitlines()
    chosen = "bfloat16" if can else "float32"
    assert (
        f"precision   float32 by default; auto chooses {chosen} here (avx2, avx512; PyTorch uses "
        "AVX2, as ATEN_CPU_CAPABILITY=avx2 says)"
    ) in lines


# Numbers


@needs_bfloat16
def test_minilms_vectors_nearly_are_those_of_float32(
    minilm: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """200 texts of 3 to 256 tokens: to ours in float32, and to sentence-transformers'."""
    peers = pytest.importorskip("sentence_transformers")
    encoder = encoder_of(minilm, "bfloat16")
    assert encoder.bfloat16
    chosen = texts(encoder)
    found = encoder.encode(chosen, truncation="silent")
    assert found.dtype == np.float32
    exact = encoder_of(minilm).encode(chosen, truncation="silent")
    theirs = peers.SentenceTransformer(str(minilm), device="cpu").encode(chosen)
    for expected in (exact, theirs):
        assert 0.9999 <= cosines(found, expected).min() < 0.999999  # it does round
    assert np.array_equal(encoder_of(minilm, "auto").encode(chosen, truncation="silent"), found)
    for precision, vector in (("bfloat16", found[0]), ("float32", exact[0])):
        command = ["encode", "--model", str(minilm), "--precision", precision, chosen[0]]
        assert main(command) == 0
        assert json.loads(capsys.readouterr().out)["vector"] == pytest.approx(vector, abs=1e-7)


def is_rounded(x: Tensor) -> bool:
    """Whether all numbers are those of bfloat16."""
    return torch.equal(x.bfloat16().float(), x)


@needs_bfloat16
@torch.inference_mode()
def test_all_but_products_is_float32(minilm: Path) -> None:
    """What goes along the residual stream has more digits than a bfloat16, and so has each norm.
    What comes from a product has not."""
    bert, layout = Bert.from_pretrained(minilm), Packed([9, 20])
    ids = torch.randint(1000, 2000, (29,))
    exact = bert.hidden_states(ids, layout=layout)
    fast = inference_copy(bert, bfloat16=True)
    product, *others = "layers.0.attention", "embeddings", "layers.0.attention_norm", "layers.5"
    seen: dict[str, Tensor] = {}
    for name in (product, *others):
        fast.get_submodule(name).register_forward_hook(
            lambda _, __, output, name=name: seen.update({name: output})
        )
    fast(ids, layout=layout)
    assert {x.dtype for x in seen.values()} == {torch.float32}
    assert [name for name, x in seen.items() if is_rounded(x)] == [product]
    assert torch.equal(seen["embeddings"], exact[0])
    error = (seen["layers.5"] - exact[-1]).norm() / exact[-1].norm()
    assert 1e-4 < error < 2e-2


# Models that are not as they come


def hooked(bert: Bert) -> None:
    bert.layers[0].attention.query.register_forward_hook(lambda *given: 3 * given[2])


def hooked_before(bert: Bert) -> None:
    linear = bert.layers[0].feed_forward.intermediate
    linear.register_forward_pre_hook(lambda _, given: (2 * given[0],))


def with_a_forward_of_its_own(bert: Bert) -> None:
    linear = bert.layers[0].attention.value
    linear.forward = lambda x: 3 * nn.Linear.forward(linear, x)  # type: ignore[method-assign]


def pruned(bert: Bert) -> None:
    for layer in bert.layers:
        prune.l1_unstructured(layer.attention.value, "weight", amount=0.5)


def parametrized(bert: Bert) -> None:
    linear = bert.layers[0].attention.key
    parametrizations.weight_norm(linear)
    linear.parametrizations.weight.original0.data.mul_(3)


def without_a_bias(bert: Bert) -> None:
    bert.layers[1].attention.value = nn.Linear(24, 24, bias=False)


def with_relu(bert: Bert) -> None:
    for layer in bert.layers:
        layer.feed_forward.activation = torch.relu


class Doubled(Attention):
    def attend(self, *given: Tensor) -> Tensor:  # type: ignore[override]
        return 2 * super().attend(*given)


def with_an_attention_of_its_own(bert: Bert) -> None:
    for layer in bert.layers:
        layer.attention.__class__ = Doubled


def with_other_weights(bert: Bert) -> None:
    bert.layers[0].attention.query.weight.data.mul_(3)


CHANGES: list[Callable[[Bert], None]] = [
    hooked,
    hooked_before,
    with_a_forward_of_its_own,
    pruned,
    parametrized,
    without_a_bias,
    with_relu,
    with_an_attention_of_its_own,
    with_other_weights,
]
CHANGED = pytest.mark.parametrize("change", CHANGES)


@CHANGED
@pytest.mark.parametrize("precision", ["float32", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_a_change_of_the_model_acts_in_either_precision(
    saved: Path, change: Callable[[Bert], None], precision: str
) -> None:
    """The vectors are nearly those of the plain model with the same change, and not those from
    before it."""
    encoder = encoder_of(saved, precision)
    before = vectors(encoder)
    torch.manual_seed(1)
    change(encoder.bert)
    found = vectors(encoder)
    tokens = encoder.tokenizer.encode(TEXTS, "silent")
    with torch.inference_mode():
        means = [encoder.bert(torch.tensor([one.ids]))[0].mean(0) for one in tokens]
    errors = np.abs(found - torch.stack(means).numpy()).max(), np.abs(found - before).max()
    assert errors[0] <= (1e-5 if precision == "float32" else 0.05)
    assert errors[1] > 4 * errors[0]


@needs_bfloat16
def test_copies_and_pickles_keep_the_precision(saved: Path) -> None:
    encoder = encoder_of(saved, "bfloat16")
    expected = vectors(encoder)
    assert not np.array_equal(expected, vectors(encoder_of(saved)))
    for again in (copy.copy(encoder), copy.deepcopy(encoder), pickle.loads(pickle.dumps(encoder))):
        assert again.bfloat16
        assert np.array_equal(vectors(again), expected)
    made = SentenceEncoder(encoder.bert, encoder.tokenizer, precision="bfloat16")
    assert np.array_equal(vectors(made), expected)


@needs_bfloat16
@pytest.mark.parametrize("in_place", [False, True])
def test_a_compiled_model_is_rounded_too(saved: Path, in_place: bool) -> None:
    torch._dynamo.reset()
    encoder = encoder_of(saved, "bfloat16")
    exact = vectors(encoder_of(saved))
    if in_place:
        encoder.bert.compile(backend="eager")
    else:
        encoder.bert = torch.compile(encoder.bert, backend="eager")  # type: ignore[assignment]
    found = vectors(encoder)
    assert found.dtype == np.float32
    assert 1e-4 < np.abs(found - exact).max() < 0.2


@needs_bfloat16
def test_autocast_of_the_caller_holds(saved: Path) -> None:
    """With either precision, the vectors are those of autocast."""
    with torch.autocast("cpu", torch.bfloat16):
        plain, rounded = (vectors(encoder_of(saved, p)) for p in ("float32", "bfloat16"))
    assert np.abs(rounded - plain).max() <= 0.05
    assert np.abs(rounded - vectors(encoder_of(saved))).max() > 1e-4


# Files


def interrupted(encoder: SentenceEncoder, file: Path) -> None:
    """A run that ends after its first window, by an error in a text."""
    with pytest.raises(InputError, match="--resume goes on"):
        write_vectors(RowSettings(encoder), ["a", "b", 3], file)  # type: ignore[list-item]


@pytest.fixture
def one_text_a_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("minibert.batching.WINDOW_CHARACTERS", 1)


@needs_bfloat16
@pytest.mark.usefixtures("one_text_a_window")
def test_a_file_in_one_precision_is_not_continued_in_another(saved: Path, tmp_path: Path) -> None:
    interrupted(encoder_of(saved, "bfloat16"), file := tmp_path / "x.npy")
    message = "was made with precision 'bfloat16', and this run has 'float32'"
    with pytest.raises(InputError, match=message):
        write_vectors(RowSettings(encoder_of(saved)), ["a", "b", "c"], file, resume=True)
    settings = RowSettings(encoder_of(saved, "auto"))  # which is bfloat16 here
    write_vectors(settings, ["a", "b", "c"], file, resume=True)
    assert np.array_equal(np.load(file), settings.encoder.encode(["a", "b", "c"]))


@needs_bfloat16
def test_a_calibration_in_one_precision_is_not_used_in_another(saved: Path, tmp_path: Path) -> None:
    calibrate_ranges(encoder_of(saved, "bfloat16"), "", ["a", "b c"], file := tmp_path / "x.json")
    message = "was calibrated with precision 'bfloat16', and this model has 'float32'"
    with pytest.raises(InputError, match=message):
        read_ranges(file, encoder_of(saved))
    assert read_ranges(file, encoder_of(saved, "auto")).shape == (2, 24)


def test_a_calibration_of_an_earlier_version_is_taken_for_float32(
    saved: Path, tmp_path: Path
) -> None:
    """It had no other precision."""
    encoder, ranges = encoder_of(saved), tmp_path / "ranges.json"
    calibrate_ranges(encoder, "", ["a", "b c"], ranges)
    content = json.loads(ranges.read_text())
    assert content.pop("precision") == "float32"
    ranges.write_text(json.dumps(content))
    assert read_ranges(ranges, encoder).shape == (2, 24)


@needs_bfloat16
def test_token_states_have_the_same_bits_whatever_the_threads(minilm: Path) -> None:
    """With BERT-base's sizes, whose longer sums are added up in another order by two threads."""
    torch.manual_seed(0)
    bert = Bert(BertConfig(num_hidden_layers=1)).eval()
    encoder = SentenceEncoder(bert, Tokenizer.from_folder(minilm), precision="bfloat16")
    several = ["to be or not to be, " * count for count in (1, 4, 15)]
    alone = [encoder.encode(text, output_value="token_embeddings") for text in several]
    torch.set_num_threads(2)
    for budget in (50, 1024):
        found = encoder.encode(several, output_value="token_embeddings", batch_tokens=budget)
        assert all(map(torch.equal, found, alone))
