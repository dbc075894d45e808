"""A checkpoint is data from outside when it is resumed: whatever was changed is named and refused,
or the run ends as if nothing had interrupted it.

Evidence: the outcome of an uninterrupted run, bit for bit; and messages that name what was changed.
"""

import json
import random
import shutil
from collections.abc import Callable
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from minibert.files import InputError
from minibert.formats.tensors import digest, read_tensors, save_tensors
from tests.training import VOCABULARY, log_of, make_world, outcome, write_model
from tools.faults.fuzz import SOUND, Fuzzer
from tools.faults.kinds import kinds
from train.checkpoint import checkpoints
from train.origin import check_origin
from train.run import main, train
from train.settings import Settings
from train.settings_file import read_settings
from train.setup import assemble
from train.state import sha256_of

RUN = Path("run")
NEWEST = RUN / "checkpoints/step-00000004"
STATE, TENSORS = NEWEST / "state.json", NEWEST / "tensors.safetensors"


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, data, `whole`, a run of six steps, and `run`, the same after its fourth step."""
    folder = tmp_path_factory.mktemp("stopped")
    with chdir(folder):
        settings = make_world(Path("world")).settings(epochs=1, save_steps=2, keep=9, eval_steps=3)
        train(settings, Path("whole"))
        shutil.copytree("whole", RUN)
        shutil.rmtree(RUN / "checkpoints/step-00000006")
        (RUN / "metrics.json").unlink()
    return folder


@pytest.fixture
def here(stopped: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test works."""
    monkeypatch.chdir(shutil.copytree(stopped, tmp_path / "here"))
    return tmp_path / "here"


def refusal(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line that `--resume` prints when it refuses."""
    capsys.readouterr()
    assert main(["--resume", str(RUN)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    return error


def assert_goes_on() -> None:
    """The run is resumed, and ends as the one that nothing interrupted."""
    assert main(["--resume", str(RUN)]) == 0
    assert outcome(RUN) == outcome(Path("whole"))


# state.json


def change_state(change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the newest state.json, and its SHA-256 with it, as no accident would."""
    content = json.loads(STATE.read_text())
    del content["sha256"]
    change(content)
    STATE.write_text(json.dumps(content | {"sha256": sha256_of(content)}))


def of_progress(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["progress"].update(changes)


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_progress(step=10**18), "its state.json is of step 1000000000000000000"),
        (of_progress(step=10**400), "progress.step = 1000"),
        (of_progress(step=-4), "progress.step = -4 must be at least 0"),
        (of_progress(step=True), "progress.step = True must be a whole number"),
        (of_progress(epoch=0), "progress.epoch = 0 must be at least 1"),
        (of_progress(epoch=3), "step 4 is not step 4 of epoch 3"),
        (of_progress(epoch=10**12), "progress.epoch = 1000000000000 must be at least 1"),
        (of_progress(position=3), "step 4 is not step 3 of epoch 1"),
        (of_progress(position=-1), "progress.position = -1 must be at least 0"),
        (of_progress(best="high"), "progress.best = 'high' must be a finite number"),
        (of_progress(best=float("nan")), "progress.best = nan must be a finite number"),
        (of_progress(best=None), "progress.best and progress.history must both be there"),
        (of_progress(best_step=9), "progress.best_step = 9 must be at least 0 and at most 4"),
        (of_progress(losses={"intent": [1.0]}), "losses of 'intent' must be a sum and a count"),
        (of_progress(losses={"intent": [1.0, 0.0]}), "must be a sum and a count"),
        (of_progress(losses=[]), "progress.losses must be an object"),
        (of_progress(history=[{"step": 3}]), "progress.history[0] has no dev"),
        (of_progress(history={}), "progress.history must be a list"),
        (of_progress(steps=4), "progress has 'steps', which is not known"),
        (lambda c: c["progress"].pop("skipped"), "progress has no skipped"),
        (lambda c: c["settings"].update(lr="fast"), "lr = 'fast': must be a number"),
        (lambda c: c["settings"].update(lr=10**400), "lr: a number may be from"),
        (lambda c: c["settings"].update(pace=1), "settings has 'pace', which is not known"),
        (lambda c: c.update(settings=[]), "settings must be an object"),
        (lambda c: c.update(format=2), "it is of format 2, and only 1 is known"),
        (lambda c: c.pop("format"), "it has no format"),
        (lambda c: c.update(origin=None), "origin must be an object"),
        (lambda c: c["origin"]["data"].update(sets=[{}]), "origin.data.sets[0] has no name"),
    ],
)
def test_a_state_that_no_run_can_be_in_is_refused(
    capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change_state(change)
    error = refusal(capsys)
    assert message in error
    assert "remove run/checkpoints/step-00000004 to go on from step-00000002" in error


@pytest.mark.usefixtures("here")
def test_a_state_that_was_changed_by_hand_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    text = STATE.read_text()
    STATE.write_text(text.replace('"evaluations_since_best": 0', '"evaluations_since_best": 1'))
    assert STATE.read_text() != text
    assert "state.json was changed: its content is not what its SHA-256 says" in refusal(capsys)


@pytest.mark.usefixtures("here")
def test_removing_a_damaged_checkpoint_goes_back_to_the_one_before(
    capsys: pytest.CaptureFixture[str],
) -> None:
    TENSORS.write_bytes(TENSORS.read_bytes()[:-1])
    error = refusal(capsys)
    assert "tensors.safetensors is not a sound safetensors file" in error
    assert "remove run/checkpoints/step-00000004 to go on from step-00000002, which is" in error
    shutil.rmtree(NEWEST)
    assert_goes_on()


@pytest.mark.usefixtures("here")
def test_without_an_older_checkpoint_a_damaged_one_ends_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    STATE.unlink()
    shutil.rmtree(RUN / "checkpoints/step-00000002")
    assert "there is no older checkpoint: start a new run" in refusal(capsys)


@pytest.mark.usefixtures("here")
def test_other_names_among_the_checkpoints_are_none_of_ours() -> None:
    for name in ("step-copy", "step-00000005.bak", "step-5", "step-\N{ARABIC-INDIC DIGIT TWO}" * 8):
        shutil.copytree(NEWEST, RUN / "checkpoints" / name)
    assert [folder.name for folder in checkpoints(RUN)] == ["step-00000002", "step-00000004"]
    assert_goes_on()
    assert (RUN / "checkpoints/step-copy/state.json").exists()


@pytest.mark.usefixtures("here")
def test_a_checkpoint_under_the_name_of_a_later_step_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shutil.copytree(NEWEST, RUN / "checkpoints/step-00000005")
    assert "step-00000005: its state.json is of step 4" in refusal(capsys)


# tensors.safetensors

HEAD = "heads.intent.classifier.weight"


def change_tensors(change: Callable[[dict[str, Tensor]], Any]) -> None:
    """Change the newest tensors, and their SHA-256 with them."""
    tensors = read_tensors(TENSORS)
    change(tensors)
    save_tensors(tensors, TENSORS, {"sha256": digest(tensors)})


def of_tensor(name: str, change: Callable[[Tensor], Tensor]) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: change(tensors[name]).contiguous()})


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (of_tensor("random.cpu", lambda t: t[:-1]), "random.cpu is uint8 ["),
        (of_tensor("random.cpu", lambda t: t.float()), "random.cpu is float32 ["),
        (of_tensor("random.cpu", torch.zeros_like), "random is no state of a generator"),
        (lambda t: t.pop("random.cpu"), "'random.cpu' is in only one of them"),
        (of_tensor(f"optimizer.{HEAD}.exp_avg", lambda t: t[:1]), "float32 [1, 24], and here"),
        (of_tensor(f"optimizer.{HEAD}.exp_avg_sq", lambda t: t.half()), "is float16 [3, 24]"),
        (of_tensor(f"optimizer.{HEAD}.step", lambda t: t.long()), "is int64 [], and here float32"),
        (of_tensor(f"optimizer.{HEAD}.step", lambda t: t.repeat(3)), "is float32 [3], and here"),
        (lambda t: t.pop(f"optimizer.{HEAD}.exp_avg"), "exp_avg' is in only one of them"),
        (lambda t: t.update({"optimizer.x.step": torch.ones(1)}), "'optimizer.x.step' is in only"),
        (of_tensor(f"best.{HEAD}", lambda t: t / 0), f"best.{HEAD} holds NaN or infinite"),
        (of_tensor(f"model.{HEAD}", lambda t: t.T), f"model.{HEAD} is float32 [24, 3], and here"),
        (of_tensor(f"model.{HEAD}", lambda t: t.bool()), f"model.{HEAD} is bool [3, 24]"),
        (lambda t: [t.pop(n) for n in [*t] if n.startswith("best.")], "'best.bert."),
    ],
)
def test_tensors_that_the_run_cannot_have_are_refused(
    capsys: pytest.CaptureFixture[str], change: Callable[[dict[str, Tensor]], Any], message: str
) -> None:
    change_tensors(change)
    assert message in refusal(capsys)


@pytest.mark.usefixtures("here")
def test_a_flipped_bit_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    content = bytearray(TENSORS.read_bytes())
    content[-100] ^= 1
    TENSORS.write_bytes(content)
    assert "its tensors are not what its SHA-256 says" in refusal(capsys)


def test_the_state_of_any_optimizer_is_resumed(stopped: Path, tmp_path: Path) -> None:
    """One with other tensors than AdamW's."""

    def nadam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.NAdam(groups, decoupled_weight_decay=True)

    with chdir(stopped):
        arguments = ["--recipe", "recipe.toml", "--save-steps", "4"]
        shutil.copy("whole/settings.toml", "recipe.toml")
        for name in ("whole", "run"):
            output = ["--output", str(tmp_path / name)]
            assert main([*arguments, *output], optimizer=nadam) == 0
        shutil.rmtree(tmp_path / "run/checkpoints/step-00000006")
        (tmp_path / "run/metrics.json").unlink()
        assert main(["--resume", str(tmp_path / "run")], optimizer=nadam) == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


# log.jsonl


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("rubbish", "damaged"),
    [
        (b'{"step": 5, "epo', 0),  # a torn line
        (bytes(512), 0),
        (bytes(512) + b"\n", 1),
        (b'no JSON\n[]\n{}\n{"step": "4"}\n{"step": true}\n\xff\n\n', 7),
        (b"[" * 100_000 + b"\n" + b"9" * 5000 + b"\n", 2),
    ],
    ids=["torn", "zeros", "a line of zeros", "other lines", "deep and long"],
)
def test_what_a_power_cut_leaves_in_the_log_is_dropped(
    capsys: pytest.CaptureFixture[str], rubbish: bytes, damaged: int
) -> None:
    log = RUN / "log.jsonl"
    lines = log.read_bytes().splitlines(keepends=True)
    if damaged:  # it may be anywhere
        lines.insert(2, rubbish)
    else:
        lines.append(rubbish)
    log.write_bytes(b"".join(lines))
    assert_goes_on()
    told = f"log.jsonl: {damaged} lines that say no step were left out"
    assert (told in capsys.readouterr().out) == bool(damaged)
    assert [entry["step"] for entry in log_of(RUN)] == [1, 2, 3, 3, 4, 5, 6, 6]


# What the run began with

DATA, MODEL = Path("world/sentences"), Path("world/tiny-bert")


def lines_of(split: str, change: Callable[[list[str]], list[str]]) -> Callable[[], None]:
    def changes() -> None:
        file = DATA / f"{split}.jsonl"
        file.write_text("\n".join(change(file.read_text().splitlines())) + "\n")

    return changes


def everywhere(change: Callable[[str], str]) -> Callable[[], None]:
    def changes() -> None:
        for split in ("train", "dev", "test"):
            lines_of(split, lambda lines: [change(line) for line in lines])()

    return changes


def exchanged(line: str) -> str:
    return line.replace('"music"', "?").replace('"travel"', '"music"').replace("?", '"travel"')


def another_model() -> None:
    write_model(MODEL)
    tensors = read_tensors(MODEL / "model.safetensors")
    name = next(name for name in tensors if "word_embeddings" in name)
    tensors[name][-1, -1] += 1
    save_tensors(tensors, MODEL / "model.safetensors")


def other_vocabulary() -> None:
    words = list(VOCABULARY)
    words[-1], words[-2] = words[-2], words[-1]
    (MODEL / "vocab.txt").write_text("".join(f"{word}\n" for word in words))


def other_dropout() -> None:
    config = json.loads((MODEL / "config.json").read_text())
    (MODEL / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.2}))


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lines_of("train", lambda lines: [lines[1], lines[0], *lines[2:]]),
            "the train split of sentences has other texts or labels",
        ),
        (
            lines_of("train", lambda lines: lines[:22]),
            "the train split of sentences had 44 examples and has 22",
        ),
        (
            lines_of("train", lambda lines: [*lines, lines[0]]),
            "the train split of sentences had 44 examples and has 45",
        ),
        (
            lines_of("dev", lambda lines: random.Random(0).sample(lines, len(lines))),
            "the dev split of sentences has other texts or labels",
        ),
        (everywhere(exchanged), "the train split of sentences has other texts or labels"),
        (
            everywhere(lambda line: line.replace('"travel"', '"trips"')),
            "the labels of intent were music, travel, weather and are music, trips, weather",
        ),
        (
            (DATA / "test.jsonl").unlink,
            "the test split of sentences had 12 examples and has 0",
        ),
        (another_model, "the model is not what run was trained on: its weights are others. Put"),
        (other_vocabulary, "the model is not what run was trained on: its vocabulary is another."),
        (other_dropout, "its hidden_dropout_prob was 0.1 and is 0.2. Put it back, or start a new"),
    ],
    ids=[
        "swapped",
        "half",
        "one more",
        "dev",
        "exchanged",
        "renamed",
        "no test",
        "model",
        "vocabulary",
        "dropout",
    ],
)
def test_a_run_that_began_with_something_else_is_refused(
    capsys: pytest.CaptureFixture[str], change: Callable[[], None], message: str
) -> None:
    change()
    assert message in refusal(capsys)


@pytest.mark.usefixtures("here")
def test_a_tokenizer_that_reads_the_data_otherwise_is_named() -> None:
    everywhere(lambda line: line.replace('"the"', '"The"'))()
    settings = Settings(**read_settings(RUN / "settings.toml"))
    before = assemble(settings).origin
    (MODEL / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    with pytest.raises(InputError, match=r": its tokenizer makes other tokens of the data. Put"):
        check_origin(RUN, before, assemble(settings).origin)


@pytest.mark.usefixtures("here")
def test_another_version_of_torch_is_told_and_accepted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The last checkpoint holds it, and so differs."""
    change_state(lambda content: content.update(torch="1.13.0"))
    assert_goes_on()
    told = f"written with PyTorch 1.13.0, and this is {torch.__version__}: the last bits of"
    assert capsys.readouterr().out.count(told) == 1


# Changes drawn by chance


@pytest.fixture(scope="module")
def fuzzer() -> Any:
    with Fuzzer(kinds) as started:
        yield started


@pytest.mark.parametrize(
    "kind",
    [
        "state.json",
        "state.json, sealed",
        "checkpoint",
        "checkpoint, sealed",
        "log.jsonl",
        "settings.toml",
        "finished run",
    ],
)
def test_fuzz(fuzzer: Fuzzer, kind: str) -> None:
    bad = [found for found in fuzzer.outcomes(kind, 12) if found.what not in SOUND]
    assert not bad
