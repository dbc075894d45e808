"""Runs that learn from plain text: they learn, resume, and leave what others open.

Evidence: first losses against ln V and ln 2; runs that are killed and resumed, bit for bit; what is
saved against transformers and sentence_transformers; messages for what cannot be.
"""

import json
import math
import os
import random
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from sentence_transformers import SentenceTransformer

from minibert import BertForPreTraining, InputError, SentenceEncoder
from minibert.__main__ import main as minibert_main
from minibert.files import write_text
from tests.training import VOCABULARY, World, log_of, make_world, metrics_of, outcome, sentence
from train import evaluate, predict
from train.run import main, train
from train.settings import Settings
from train.setup import Parts, assemble
from train.step import forward_backward

ROOT = Path(__file__).parents[1]
SIZES = "num_hidden_layers=2, hidden_size=24, num_attention_heads=2, intermediate_size=32"

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of text: documents of three or four sentences of the tiny world."""
    folder, dice = tmp_path_factory.mktemp("text"), random.Random(5)
    for split, count in (("train", 40), ("dev", 8)):
        documents = [
            "\n".join(" ".join(sentence(dice)["words"]) for _ in range(dice.randint(3, 4)))
            for _ in range(count)
        ]
        (folder / f"{split}.txt").write_text("\n\n".join(documents))
    return folder


def from_text(world: World, text: Path, objectives: str = "masked", **changes: Any) -> Settings:
    """Settings of a run from random weights."""
    new = {"model": SIZES, "tokenizer": str(world.model), "max_length": 32}
    given = {"text": (str(text),), "objectives": objectives, **new, **changes}
    return replace(world.settings(**given), data=given.get("data", ()))


def checkpoint(world: World, **changes: Any) -> dict[str, Any]:
    return {"model": str(world.model), "tokenizer": None, **changes}


def first_losses(parts: Parts) -> dict[str, float]:
    """Each task's, over all of train, without dropout."""
    parts.model.eval()
    batches = [parts.batch(list(source)) for source in parts.sources]
    with torch.enable_grad():
        found = forward_backward(
            batches, parts.model, parts.model, parts.mixer, parts.tasks, parts.settings
        )
    return found.means()


# Learning


def test_the_first_losses_are_those_of_a_guess(world: World, text: Path) -> None:
    """ln V, and ln 2 for next sentences. The vocabulary is one of 1,000 tokens."""
    folder = text.parent / "thousand"
    folder.mkdir(exist_ok=True)
    more = [f"unused{i}" for i in range(1000 - len(VOCABULARY))]
    (folder / "vocab.txt").write_text("\n".join([*VOCABULARY, *more]))
    told: list[str] = []
    settings = from_text(world, text, "masked, next", tokenizer=str(folder))
    losses = first_losses(assemble(settings, announce=told.append))
    assert losses["masked"] == pytest.approx(math.log(1000), rel=0.02)
    assert losses["next"] == pytest.approx(math.log(2), rel=0.02)
    [masked] = [line for line in told if line.startswith("masked: at first")]
    assert "the loss is ln 1000 = 6.91" in masked
    assert "next: at first, the loss is ln 2 = 0.69" in told


def test_gradients_reach_all_that_learns(world: World, text: Path) -> None:
    """Also the row of [PAD], through the decoder alone, which is the word embeddings themselves."""
    parts = assemble(from_text(world, text, "masked, next", dropout=0.0), announce=lambda _: None)
    before = parts.model.bert.embeddings.word.weight
    first_losses(parts)
    for name, parameter in parts.parameters().items():
        assert parameter.grad is not None, name
        if not name.endswith("key.bias"):  # softmax does not see them
            assert parameter.grad.any(), name
    assert before.grad is not None
    assert before.grad.any(dim=1).all()
    tables = [n for n, p in parts.parameters().items() if p.shape == before.shape]
    assert tables == ["bert.embeddings.word.weight"]


def test_masked_words_alone_train_no_pooler(world: World, text: Path) -> None:
    parts = assemble(from_text(world, text), announce=lambda _: None)
    assert parts.model.bert.pooler is None
    first_losses(parts)
    assert all(parameter.grad is not None for parameter in parts.model.parameters())


@pytest.mark.parametrize("objectives", ["masked", "masked, next"])
def test_one_batch_is_memorised(objectives: str, world: World, text: Path, tmp_path: Path) -> None:
    settings = from_text(
        world, text, objectives, overfit_batch=2, epochs=100, lr=5e-3, head_lr=5e-3, dropout=0.0,
        eval_steps=1000,
    )  # fmt: skip
    metrics = train(settings, tmp_path / "run")
    assert metrics["masked"]["loss"] < 0.1
    assert metrics["masked"]["accuracy"] == 1.0
    assert metrics["masked"]["perplexity"] == pytest.approx(math.exp(metrics["masked"]["loss"]))
    assert metrics["masked"]["probability"] == pytest.approx(math.exp(-metrics["masked"]["loss"]))


def test_text_beside_labelled_data(world: World, text: Path, tmp_path: Path) -> None:
    """Both learn. A batch is of one of them, and each has as many as it has examples."""
    settings = from_text(world, text, data=(str(world.sentences),), **checkpoint(world, epochs=3))
    train(settings, tmp_path / "run")
    log = [entry for entry in log_of(tmp_path / "run") if "norm" in entry and entry["epoch"] == 1]
    kinds = [frozenset(entry["loss"]) for entry in log]
    assert set(kinds) == {frozenset({"masked"}), frozenset({"intent", "slots"})}
    assert kinds.count(frozenset({"intent", "slots"})) == 6
    parts = assemble(settings, announce=lambda _: None)
    assert kinds.count(frozenset({"masked"})) == math.ceil(len(parts.corpora[0]) / 8)
    first, *_, last = metrics_of(tmp_path / "run")["history"]
    for name in ("masked", "intent", "slots"):
        assert last["loss"][name] < first["loss"][name]


def test_several_texts(world: World, text: Path) -> None:
    """Items have numbers of their own, so no two have the same masks."""
    other = text.parent / "other.txt"
    other.write_text((text / "train.txt").read_text())
    told: list[str] = []
    settings = replace(from_text(world, text), text=(str(text), str(other)))
    parts = assemble(settings, announce=told.append)
    assert len(parts.corpora) == 2
    numbers = [item.number for source in (*parts.sources, parts.dev) for item in source]
    assert len(set(numbers)) == len(numbers)
    same = [corpus[0] for corpus in parts.corpora]
    assert same[0].parts == same[1].parts
    masks = [parts.batch([item]).positions["masked"].tolist() for item in same]
    assert masks[0] != masks[1]
    assert any("other.txt: no dev split, so its last 1 sequences" in line for line in told)


def test_masks_of_evaluation_are_fixed(world: World, text: Path) -> None:
    parts = assemble(from_text(world, text), announce=lambda _: None)
    item = [parts.corpora[0][0]]
    fixed = [parts.batch(item, epoch).input_ids.tolist() for epoch in (0, 0, 1, 2)]
    assert fixed[0] == fixed[1]
    assert len({tuple(ids) for ids in fixed}) == 3


# Resuming


@pytest.mark.parametrize("objectives", ["masked", "masked, next", "simcse"])
def test_a_killed_run_goes_on_as_if_nothing_had_been(
    objectives: str, world: World, text: Path, tmp_path: Path
) -> None:
    """kill -9, in the second epoch, of a process of its own. Batches are accumulated."""
    settings = from_text(
        world, text, objectives, accumulate=2, epochs=3, save_steps=2, dropout=0.2, batch_size=4
    )
    write_text(tmp_path / "recipe.toml", settings.toml())
    run = tmp_path / "run"
    program = [sys.executable, "-m", "train.run", "--recipe", str(tmp_path / "recipe.toml")]
    killer = (
        "import os, signal, sys; from train import fit, run; rate = fit.rate_factor\n"
        "def kill(step, *more):\n"
        "    if step == 8: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    return rate(step, *more)\n"
        "fit.rate_factor = kill\n"
        f"run.main({[*program[3:], '--output', str(run)]!r})"
    )
    killed = subprocess.run([sys.executable, "-c", killer], cwd=ROOT, capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    state = json.loads((run / "checkpoints/step-00000008/state.json").read_text())
    assert state["progress"]["epoch"] == 2
    assert main(["--resume", str(run)]) == 0
    train(replace(settings, output=None), tmp_path / "uninterrupted")
    assert outcome(run) == outcome(tmp_path / "uninterrupted")


def test_resuming_on_another_text(
    world: World, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text((text / "train.txt").read_text())
    train(from_text(world, mine, epochs=1), tmp_path / "run")
    mine.write_text(mine.read_text().replace("oslo", "rome"))
    assert main(["--resume", str(tmp_path / "run"), "--epochs", "2"]) == 2
    assert "the train split of mine.txt has other texts" in capsys.readouterr().err


# What it leaves


@pytest.fixture(scope="module", params=["masked", "masked, next"])
def run(
    request: pytest.FixtureRequest,
    world: World,
    text: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Path:
    folder = tmp_path_factory.mktemp("left") / "run"
    train(from_text(world, text, request.param, epochs=1), folder)
    return folder


def has_next(run: Path) -> bool:
    return "next" in (run / "settings.toml").read_text().split("objectives = ")[1].split("\n")[0]


def test_transformers_opens_what_is_saved(run: Path) -> None:
    """The class that config.json names finds all its tensors and no other, and computes the same
    logits."""
    kind: Any = transformers.BertForPreTraining if has_next(run) else transformers.BertForMaskedLM
    named = json.loads((run / "model/config.json").read_text())["architectures"]
    assert named == [kind.__name__]
    theirs, problems = kind.from_pretrained(run / "model", output_loading_info=True)
    assert not any(problems.values()), problems
    ours = BertForPreTraining.from_pretrained(run / "model")
    ids = torch.randint(5, len(VOCABULARY), (2, 9))
    types = torch.tensor([[0] * 5 + [1] * 4] * 2)
    words, follows = ours.eval()(ids, None, types)
    expected = theirs.eval()(ids, token_type_ids=types)
    wanted = expected.prediction_logits if has_next(run) else expected.logits
    torch.testing.assert_close(words, wanted, rtol=0, atol=1e-5)
    if has_next(run):
        torch.testing.assert_close(follows, expected.seq_relationship_logits, rtol=0, atol=1e-5)


def test_fill_mask_says_what_transformers_pipeline_says(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = "play [MASK] songs in rome"
    command = ["fill-mask", sentence, "--model", str(run / "model"), "--top", "4", "--json"]
    capsys.readouterr()
    assert minibert_main(command) == 0
    record = json.loads(capsys.readouterr().out)
    pipeline = transformers.pipeline("fill-mask", model=str(run / "model"), device="cpu")
    wanted = [(found["token_str"], found["score"]) for found in pipeline(sentence, top_k=4)]
    assert [word for word, _ in wanted] == re.findall(
        r'"(?:word|token)": "([^"]*)"', json.dumps(record)
    )


def test_sentence_transformers_opens_it(run: Path) -> None:
    texts = ["play songs", "a walk to new york in the rain"]
    theirs = SentenceTransformer(str(run / "model"), device="cpu").encode(texts)
    ours = SentenceEncoder.from_pretrained(run / "model").encode(texts)
    torch.testing.assert_close(torch.tensor(ours), torch.tensor(theirs), rtol=0, atol=1e-5)


@pytest.mark.parametrize("part", ["", "model"])
def test_every_other_task_starts_from_it(
    run: Path, part: str, world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = world.settings(model=str(run / part), epochs=1)
    train(settings, tmp_path / "run")
    told = capsys.readouterr().out
    assert "its head (" not in told  # pre-training heads are no heads of a task
    assert {"intent", "slots"} <= metrics_of(tmp_path / "run")["dev"].keys()


@pytest.mark.parametrize("part", ["", "model"])
def test_masked_words_go_on_from_it(run: Path, part: str, world: World, text: Path) -> None:
    """With its head, and it is said that they do."""
    told: list[str] = []
    settings = from_text(world, text, **checkpoint(world, model=str(run / part)))
    parts = assemble(settings, announce=told.append)
    saved = BertForPreTraining.from_pretrained(run / "model")
    assert saved.masked_words is not None
    for name, tensor in saved.masked_words.state_dict().items():
        assert torch.equal(parts.model.heads["masked"].state_dict()[name], tensor), name
    assert [line for line in told if re.match(r"masked: goes on from the head", line)]
    assert not [line for line in told if "for no kind of task" in line]
    assert not [line for line in told if "at first" in line]


def test_a_checkpoint_without_heads_gets_new_ones(world: World, text: Path) -> None:
    told: list[str] = []
    assemble(from_text(world, text, **checkpoint(world)), announce=told.append)
    assert any(line.startswith("masked: a new head") for line in told)


def test_heads_of_a_checkpoint_with_everything(world: World, text: Path, tmp_path: Path) -> None:
    """As Google's bert-base-uncased has it: encoder, pooler and both heads. Masked words alone take
    theirs; what is saved then has the pooler that it had, which transformers need not know."""
    torch.manual_seed(3)
    given = BertForPreTraining(BertForPreTraining.config_class(
        vocab_size=len(VOCABULARY), hidden_size=24, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=32, max_position_embeddings=32,
    ))  # fmt: skip
    given.save_pretrained(tmp_path / "google")
    (tmp_path / "google/vocab.txt").write_text("\n".join(VOCABULARY))
    told: list[str] = []
    for objectives, heads in (("masked", 1), ("masked, next", 2)):
        told.clear()
        settings = from_text(
            world, text, objectives, **checkpoint(world, model=str(tmp_path / "google"), epochs=1)
        )
        assemble(settings, announce=told.append)
        assert len([x for x in told if "goes on from the head" in x]) == heads
        folder = tmp_path / f"run{heads}"
        train(settings, folder)
        kind: Any = transformers.BertForPreTraining if heads == 2 else transformers.BertForMaskedLM
        _, problems = kind.from_pretrained(folder / "model", output_loading_info=True)
        pooler = {"bert.pooler.dense.weight", "bert.pooler.dense.bias"}
        assert problems.pop("unexpected_keys") == (pooler if heads == 1 else set())
        assert not any(problems.values()), problems


def test_predict_says_what_fills_masks(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert predict.main([str(run), "play songs"]) == 2
    error = capsys.readouterr().err
    assert "no task here reads that: masked (masked words, 15%)" in error
    assert "python -m minibert fill-mask" in error
    if has_next(run):
        assert predict.main([str(run), "--pair", "play songs", "in rome"]) == 0
        assert re.search(r"next: (next|random) \(0\.\d\d\)", capsys.readouterr().out)


def test_evaluate_measures_other_text(
    run: Path, text: Path, world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder's split, or a file; the run's own dev split under masks of its own."""
    found = evaluate.evaluate(str(run), None, "dev", text=str(text))
    again = evaluate.evaluate(str(run), None, "test", text=str(text / "dev.txt"))
    assert found.metrics == again.metrics
    masked = found.metrics["masked"]
    assert masked["perplexity"] == pytest.approx(math.exp(masked["loss"]), rel=1e-6)
    then = metrics_of(run)["dev"]["masked"]["loss"]
    assert masked["loss"] == pytest.approx(then, rel=0.1)  # other masks of the same text
    assert evaluate.main([str(run), "--text", str(text), "--split", "dev"]) == 0
    assert "perplexity" in capsys.readouterr().out
    assert evaluate.main([str(run), "--text", str(text)]) == 2
    assert "there is no test split; it has train, dev" in capsys.readouterr().err


def test_evaluate_of_a_run_without_such_a_task(
    world: World, text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(world.settings(epochs=0), tmp_path / "run")
    assert evaluate.main([str(tmp_path / "run"), "--text", str(text)]) == 2
    assert "no task here learns from plain text: intent" in capsys.readouterr().err


# What cannot be


def refused(settings: Callable[[], Settings]) -> str:
    with pytest.raises(InputError) as caught:
        assemble(settings(), announce=lambda _: None)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer": None}, "random weights need a vocabulary: --tokenizer FOLDER"),
        ({"tokenizer": "nowhere"}, "nowhere"),
        ({"model": "hidden_size=x"}, "hidden_size = x is no whole number"),
        ({"model": "hidden_sizes=24"}, "hidden_sizes is no size; sizes are num_hidden_layers"),
        ({"model": "hidden_size=25, num_attention_heads=2"}, "is not a multiple of"),
        ({"model": "hidden_size=0"}, "hidden_size"),
        ({"text": ("nowhere.txt",)}, "--text nowhere.txt: there is no such file or folder"),
        ({"objectives": "mask"}, "'mask' is not one of masked, next"),
        ({"objectives": ""}, "'' is not one of masked, next"),
        ({"compare_single": True}, "compare_single = true trains each task of labelled data"),
        ({"tasks": ("masked",)}, "the data's tasks are none; what text teaches is chosen by"),
        ({"class_weights": "next=auto"}, "class_weights: there is no task 'next'"),
        ({"max_length": 4, "objectives": "next"}, "max_length = 4: two segments need at least 5"),
        ({"monitor": "masked.f1"}, "the dev metrics are mean, loss, masked.probability"),
        ({"mask_shares": "1"}, "mask_shares = '1': give three numbers"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_settings_that_cannot_be(
    changes: dict[str, Any], message: str, world: World, text: Path
) -> None:
    assert message in refused(lambda: replace(from_text(world, text), **changes))


def test_a_vocabulary_beside_a_checkpoint(world: World, text: Path) -> None:
    settings = from_text(world, text, model=str(world.model))
    assert "has a vocabulary of its own" in refused(lambda: settings)


def test_a_config_that_the_vocabulary_does_not_fit(
    world: World, text: Path, tmp_path: Path
) -> None:
    config = json.loads((world.model / "config.json").read_text()) | {"vocab_size": 20}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = from_text(world, text, model=str(tmp_path / "config.json"))
    assert "config.json's vocab_size is 20" in refused(lambda: settings)
    config["vocab_size"] = len(VOCABULARY)
    (tmp_path / "config.json").write_text(json.dumps(config))
    parts = assemble(settings, announce=lambda _: None)
    assert parts.model.bert.config.hidden_size == 24


def test_a_vocabulary_whose_ids_are_not_in_order(world: World, text: Path, tmp_path: Path) -> None:
    """[PAD] is not the first, so that it is the row that never learns; and a token that is there
    twice makes the highest id as high as there are lines."""
    lines = ["[CLS]", "[SEP]", "[UNK]", "[PAD]", *VOCABULARY[4:20], *VOCABULARY[10:]]
    (tmp_path / "vocab.txt").write_text("\n".join(lines))
    parts = assemble(from_text(world, text, tokenizer=str(tmp_path)))
    config = parts.encoder.bert.config
    assert (config.vocab_size, config.pad_token_id) == (len(lines), 3)
    table = parts.encoder.bert.embeddings.word.weight
    first_losses(parts)
    assert table.grad is not None
    assert table.grad[0].abs().sum() > 0  # [CLS]
    assert not table.detach()[3].any()


def test_a_config_whose_padding_is_another_token(world: World, text: Path, tmp_path: Path) -> None:
    config = json.loads((world.model / "config.json").read_text()) | {"pad_token_id": 2}
    (tmp_path / "config.json").write_text(json.dumps(config))
    settings = from_text(
        world, text, model=str(tmp_path / "config.json"), tokenizer=str(world.model)
    )
    with pytest.raises(InputError, match=r"its pad_token_id is 2, and .* \[PAD\] is 0"):
        assemble(settings)


def test_a_folder_whose_name_looks_like_sizes(world: World, text: Path, tmp_path: Path) -> None:
    folder = tmp_path / "lr=0.1"
    folder.symlink_to(world.model)
    parts = assemble(from_text(world, text, **checkpoint(world, model=str(folder))))
    assert parts.encoder.bert.config.hidden_size == 24
    assert len(parts.encoder.bert.layers) == 3


def test_the_model_card_names_the_text_without_paths(run: Path, text: Path) -> None:
    card = (run / "model/README.md").read_text()
    assert f" on {text.name}. Tasks: masked " in card
    assert str(text.parent) not in card


def test_a_text_that_is_no_file(world: World, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="no file on a disk"):
        assemble(from_text(world, tmp_path / "pipe"))


def test_a_label_of_a_text_s_name(world: World, text: Path, tmp_path: Path) -> None:
    """Its head would be the other's."""
    (tmp_path / "data.csv").write_text(
        "text,masked\n" + "".join(f"sing {n},{n % 2}a\n" for n in range(20))
    )
    settings = from_text(world, text, data=(str(tmp_path / "data.csv"),), **checkpoint(world))
    message = "a task cannot be named 'masked': rename it in the data, or leave it out with --tasks"
    assert message in refused(lambda: settings)


def test_one_document_has_no_next(world: World, text: Path, tmp_path: Path) -> None:
    (tmp_path / "one.txt").write_text("play songs in rome\n" * 30)
    settings = from_text(world, tmp_path / "one.txt", "masked, next")
    assert "next sentences need two documents; a blank line ends one" in refused(lambda: settings)
