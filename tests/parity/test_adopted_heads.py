"""Heads that other programs wrote, opened by us.

Evidence: tiny models with random weights, written by `transformers` and by sentence-transformers'
CrossEncoder, as their users write them. Our logits are within 1e-5 of theirs, for one text and for
pairs, from their own tokenizer's ids; our predictions are what their logits mean.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers.pre_tokenizers import BertPreTokenizer
from torch import Tensor

from minibert import InputError
from tests.training import VOCABULARY, write_model
from train.batches import collate, prepare
from train.data.examples import Example
from train.data.words import split_text
from train.evaluation import predict
from train.saved import Run, open_run
from train.tasks.targets import TargetTask, rectangular

transformers = pytest.importorskip("transformers")

PAIR = ("play some songs in new york, please", "rome now")
CHOICES = ("rain", "snow in oslo, please", "the days")


def example(
    text: str, second: str | None = None, choices: tuple[str, ...] | None = None
) -> Example:
    words = tuple(text.replace(",", " ,").split())
    return Example(text, {}, "here", words, second, choices)


def written(folder: Path, architecture: str, **config: Any) -> Any:
    """A model of a class of transformers, with a random head, saved by itself with its
    tokenizer."""
    plain = write_model(folder / "plain", pooler=True)
    theirs = getattr(transformers, architecture).from_pretrained(plain, **config)
    torch.manual_seed(3)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if not name.startswith("bert."):
                parameter.normal_(std=0.5)
    theirs.save_pretrained(folder / "model")
    vocabulary = {token: number for number, token in enumerate(VOCABULARY)}
    transformers.BertTokenizer(vocab=vocabulary).save_pretrained(folder / "model")
    return theirs.eval()


def our_logits(run: Run, *examples: Example) -> Tensor:
    (task,) = run.tasks
    assert isinstance(task, TargetTask)
    batch = collate(prepare(examples, run.encoder.tokenizer, run.tasks), [])
    positions = [p for i in range(len(examples)) for p in task.positions(batch, i)]
    with torch.no_grad():
        states = run.model(batch)
        return task.logits(run.model, states, batch, torch.tensor(rectangular(positions)))


def their_logits(folder: Path, theirs: Any, *texts: Any) -> list[Any]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    with torch.no_grad():
        return [theirs(**tokenizer(*text, return_tensors="pt")) for text in texts]


CLASSES: dict[str, tuple[dict[str, Any], str]] = {
    "classes": ({"id2label": {0: "no", 1: "yes", 2: "maybe"}}, "label"),
    "classes, as trained": (
        {"num_labels": 2, "problem_type": "single_label_classification"},
        "label",
    ),
    "several": (
        {"id2label": {0: "a", 1: "b"}, "problem_type": "multi_label_classification"},
        "labels",
    ),
    "a number": ({"num_labels": 1, "problem_type": "regression"}, "score"),
}


@pytest.mark.parametrize("form", CLASSES)
def test_sequence_classification(tmp_path: Path, form: str) -> None:
    """For a text and for a pair, whichever is given."""
    config, name = CLASSES[form]
    theirs = written(tmp_path, "BertForSequenceClassification", **config)
    run = open_run(str(tmp_path / "model"))
    assert [task.name for task in run.tasks] == [name]
    assert run.tasks[0].labels == (
        () if form == "a number" else (*theirs.config.id2label.values(),)
    )
    examples = [example(PAIR[0]), example(*PAIR)]
    expected = torch.cat([o.logits for o in their_logits(tmp_path, theirs, PAIR[:1], PAIR)])
    found = our_logits(run, *examples).view_as(expected)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert (expected[0] - expected[1]).abs().min() > 1e-3  # the pair is another input
    items = prepare(examples, run.encoder.tokenizer, run.tasks)
    for of_item, logits in zip(predict(run.model, run.tasks, items), expected, strict=True):
        prediction = of_item[name]
        if form == "a number":
            assert prediction.label == pytest.approx(float(logits[0]), abs=1e-5)
            continue
        several = form == "several"
        p = dict(
            zip(
                theirs.config.id2label.values(),
                (logits.sigmoid() if several else logits.softmax(-1)).tolist(),
                strict=True,
            )
        )
        assert prediction.scores == pytest.approx(p, abs=1e-5)
        best = max(p, key=p.__getitem__)
        assert prediction.label == ({k for k in p if p[k] >= 0.5} if several else best)


def test_token_classification(tmp_path: Path) -> None:
    labels = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
    theirs = written(tmp_path, "BertForTokenClassification", id2label=dict(enumerate(labels)))
    run = open_run(str(tmp_path / "model"))
    (task,) = run.tasks
    assert (task.labels, task.summary()) == (labels, "tags (tokens, 5 labels, BIO)")
    (expected,) = their_logits(tmp_path, theirs, PAIR[:1])
    # play some song ##s in new york , please: the sixth token continues a word
    first = [1, 2, 3, 5, 6, 7, 8, 9]
    found = our_logits(run, example(PAIR[0]))
    torch.testing.assert_close(found, expected.logits[0, first], rtol=0, atol=1e-5)


def test_tags_that_are_no_entities(tmp_path: Path) -> None:
    config = {"id2label": {0: "NOUN", 1: "VERB"}}
    written(tmp_path, "BertForTokenClassification", **config)
    (task,) = open_run(str(tmp_path / "model")).tasks
    assert (task.kind, task.labels) == ("words", ("NOUN", "VERB"))


def test_question_answering(tmp_path: Path) -> None:
    theirs = written(tmp_path, "BertForQuestionAnswering")
    run = open_run(str(tmp_path / "model"))
    (expected,) = their_logits(tmp_path, theirs, PAIR)
    found = our_logits(run, example(*PAIR)).squeeze(0)
    logits = torch.stack([expected.start_logits[0], expected.end_logits[0]], dim=-1)
    torch.testing.assert_close(found.view_as(logits), logits, rtol=0, atol=1e-5)


def test_multiple_choice(tmp_path: Path) -> None:
    theirs = written(tmp_path, "BertForMultipleChoice")
    run = open_run(str(tmp_path / "model"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    inputs = tokenizer([PAIR[0]] * len(CHOICES), list(CHOICES), padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = theirs(**{key: value[None] for key, value in inputs.items()}).logits
    found = our_logits(run, example(PAIR[0], choices=CHOICES))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("saved_by", ["transformers", "sentence-transformers", "its version 4"])
@pytest.mark.parametrize("activation", ["Sigmoid", "Identity"])
def test_cross_encoder(tmp_path: Path, saved_by: str, activation: str) -> None:
    """A reranker's scores, as `CrossEncoder.predict` says them, with its limit of tokens."""
    library = pytest.importorskip("sentence_transformers")
    folder = tmp_path / "model"
    problem = "regression" if (saved_by, activation) == ("transformers", "Identity") else None
    written(tmp_path, "BertForSequenceClassification", num_labels=1, problem_type=problem)
    if saved_by == "its version 4":
        place = {"Sigmoid": "activation", "Identity": "linear"}[activation]
        config = json.loads((folder / "config.json").read_text())
        config["sentence_transformers"] = {
            "activation_fn": f"torch.nn.modules.{place}.{activation}",
            "version": "4.1.0",
        }
        (folder / "config.json").write_text(json.dumps(config))
    theirs = library.CrossEncoder(
        str(folder), max_length=7, activation_fn=getattr(torch.nn, activation)()
    )
    if saved_by == "sentence-transformers":
        folder = tmp_path / "cross-encoder"
        theirs.save_pretrained(str(folder))
    run = open_run(str(folder))
    pairs = [("rome now", "rain"), PAIR if "sentence" in saved_by else ("snow", "paris")]
    items = prepare([example(*pair) for pair in pairs], run.encoder.tokenizer, run.tasks)
    found = [p["score"].label for p in predict(run.model, run.tasks, items)]
    assert found == pytest.approx(theirs.predict(pairs).tolist(), abs=1e-5)


def test_raw_text_is_split_as_their_tokenizer_splits_it() -> None:
    """Into words whose pieces are those of the whole text; in Chinese, each character."""
    for text in (
        "Anna's AT&T, 5€!",
        "我在北京。東京 tower",
        "«हिन्दी» भाषा।",
        "a_b ❤️x naïve",
        "㐀𠀀b",
    ):
        pieces = "".join(f" {c} " if "\u3400" <= c <= "\u9fff" or c == "𠀀" else c for c in text)
        theirs = [word for word, _ in BertPreTokenizer().pre_tokenize_str(pieces)]
        assert list(split_text(text, "as BERT")) == theirs


def test_a_head_with_an_infinite_weight_is_refused(tmp_path: Path) -> None:
    theirs = written(tmp_path, "BertForSequenceClassification", num_labels=3)
    theirs.classifier.bias.data[1] = float("inf")
    theirs.save_pretrained(tmp_path / "model")
    with pytest.raises(InputError, match=r"model: classifier\.bias holds NaN or infinite numbers"):
        open_run(str(tmp_path / "model"))
