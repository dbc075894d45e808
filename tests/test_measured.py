"""--dev-data: what is measured and not learnt changes nothing that is learnt; retrieval over a BEIR
folder equals a search with the saved encoder's vectors and sentence-transformers' evaluator."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.evaluation import InformationRetrievalEvaluator

from minibert import SentenceEncoder
from minibert.files import InputError
from tests.training import (
    World,
    differing,
    make_world,
    metrics_of,
    outcome,
    sentence,
    trained,
    write_json_lines,
)
from train.checkpoint import check_state
from train.data.examples import Document, Query
from train.data.read import read_source
from train.evaluate import evaluate
from train.evaluation import predict
from train.predict import main as predict_main
from train.run import main, train
from train.setup import assemble


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"))


def write_collection(folder: Path, num_queries: int = 12, num_documents: int = 40) -> Path:
    """Sentences that search sentences, with one to three of them relevant."""
    dice = random.Random(5)
    texts = [" ".join(sentence(dice)["words"]) for _ in range(num_queries + num_documents)]
    corpus = [
        {"_id": f"d{i}", "title": "the song" if i % 5 == 0 else "", "text": text}
        for i, text in enumerate(texts[num_queries:])
    ]
    queries = [{"_id": f"q{i}", "text": text} for i, text in enumerate(texts[:num_queries])]
    write_json_lines(folder / "corpus.jsonl", corpus)
    write_json_lines(folder / "queries.jsonl", queries)
    (folder / "qrels").mkdir()
    for split, chosen in (("dev", queries[:9]), ("test", queries[9:])):
        lines = [
            f"{query['_id']}\td{document}\t{dice.choice([0, 1, 1, 2])}"
            for query in chosen
            for document in dice.sample(range(num_documents), 3)
        ]
        text = "\n".join(["query-id\tcorpus-id\tscore", *lines]) + "\n"
        (folder / "qrels" / f"{split}.tsv").write_text(text)
    return folder


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_collection(tmp_path_factory.mktemp("data") / "songs")


def by_their_evaluator(model: Path, collection: Path, split: str) -> dict[str, float]:
    """What sentence-transformers measures with a saved model."""

    def records(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (collection / name).read_text().splitlines()]

    relevant: dict[str, set[str]] = {}
    for line in (collection / f"qrels/{split}.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        if int(grade) > 0:
            relevant.setdefault(query, set()).add(document)
    evaluator = InformationRetrievalEvaluator(
        {record["_id"]: record["text"] for record in records("queries.jsonl")},
        {r["_id"]: f"{r['title']} {r['text']}".strip() for r in records("corpus.jsonl")},
        relevant,
        precision_recall_at_k=[1, 5, 10],
        write_csv=False,
    )
    found = evaluator(SentenceTransformer(str(model), device="cpu"))
    return {
        "mrr_at_10": found["cosine_mrr@10"],
        **{f"recall_at_{k}": found[f"cosine_recall@{k}"] for k in (1, 5, 10)},
    }


def test_retrieval_is_as_sentence_transformers_measures_it(
    world: World, collection: Path, tmp_path: Path
) -> None:
    """With the model that the run saved, on dev in the run and on test in train.evaluate. Their
    nDCG knows no grades."""
    run = tmp_path / "run"
    train(
        world.settings(world.pairs, dev_data=(str(collection),), monitor="retrieval.mrr_at_10"), run
    )
    ours = metrics_of(run)["dev"]["retrieval"]
    theirs = by_their_evaluator(run / "model", collection, "dev")
    assert {name: ours[name] for name in theirs} == pytest.approx(theirs, abs=1e-6)
    assert 0 < ours["ndcg_at_10"] < 1
    test = evaluate(str(run), str(collection), "test").metrics["retrieval"]
    theirs = by_their_evaluator(run / "model", collection, "test")
    assert isinstance(test, dict)
    assert {name: test[name] for name in theirs} == pytest.approx(theirs, abs=1e-6)


def test_a_query_does_not_find_itself(world: World, tmp_path: Path) -> None:
    """Nor a document of its own name, unless it is relevant. Of two documents, the other one is
    then the first that is found."""
    records = [{"_id": "a", "text": "play the song"}, {"_id": "b", "text": "fly to oslo"}]
    for file in ("corpus.jsonl", "queries.jsonl"):
        write_json_lines(tmp_path / "own" / file, records)
    (tmp_path / "own/qrels").mkdir()
    settings = world.settings(world.pairs, dev_data=(str(tmp_path / "own"),), epochs=0)
    for relevant in ("ba", "ab"):
        lines = [f"{query}\t{document}\t1" for query, document in zip("ab", relevant, strict=True)]
        (tmp_path / "own/qrels/dev.tsv").write_text("\n".join(["header", *lines]))
        train(settings, tmp_path / relevant)
        assert metrics_of(tmp_path / relevant)["dev"]["retrieval"]["recall_at_1"] == 1


@pytest.mark.parametrize("monitor", ["cosine.spearman", "mean"])
def test_what_is_measured_changes_nothing_that_is_learnt(
    world: World, collection: Path, tmp_path: Path, monitor: str
) -> None:
    """The weights of the last step are those of a run without it, bit for bit."""
    dev_data = (str(collection), f"more={world.scores}", f"other={world.pairs}/dev.jsonl")
    tasks = ("cosine", "retrieval", "pairs.cosine", "other.cosine")
    plain = world.settings(world.pairs, monitor="cosine.spearman")
    train(plain, tmp_path / "plain")
    with pytest.raises(InputError, match=r"score is in --dev-data alone, and its kind, regression"):
        train(world.settings(world.pairs, dev_data=dev_data), tmp_path / "refused")
    monitor = monitor.replace("cosine.", "pairs.cosine.")
    settings = world.settings(
        world.pairs, dev_data=dev_data, tasks=tasks[1:], monitor=monitor, pooling="mean"
    )
    train(settings, tmp_path / "measured")
    first, second = (metrics_of(tmp_path / run) for run in ("plain", "measured"))
    if monitor != "mean":
        assert not differing(trained(tmp_path / "plain"), trained(tmp_path / "measured"))
        assert second["dev"]["pairs.cosine"] == first["dev"]["cosine"]
    assert {"retrieval", "pairs.cosine", "other.cosine"} == second["dev"].keys()
    assert set(second["test"]) == {"pairs.cosine"}
    # the file is the dev split of the data that is learnt
    theirs = second["dev"]["other.cosine"]["spearman"]
    assert theirs == pytest.approx(second["dev"]["pairs.cosine"]["spearman"], abs=1e-12)


def test_measured_data_does_not_say_how_the_encoder_pools(
    world: World, collection: Path, tmp_path: Path
) -> None:
    pooling = "pairs.cosine=cls, other.cosine=max, retrieval=mean"
    dev_data = (f"other={world.pairs}", str(collection))
    train(world.settings(world.pairs, dev_data=dev_data, pooling=pooling), tmp_path / "run")
    assert SentenceEncoder.from_pretrained(tmp_path / "run/model").settings.pooling == "cls"
    assert evaluate(str(tmp_path / "run"), str(collection), "test").metrics.keys() == {"retrieval"}


def test_a_resumed_run_checks_what_it_measures(
    world: World, collection: Path, tmp_path: Path
) -> None:
    """And goes on to the same weights and metrics."""
    options = ["--data", str(world.pairs), "--model", str(world.model), "--dev-data"]
    options += [str(collection), "--device", "cpu", "--batch-size", "8"]
    for epochs, run in (("3", "whole"), ("1", "cut")):
        arguments = [*options, "--epochs", epochs, "--output", str(tmp_path / run)]
        assert main([*arguments, "--schedule", "constant", "--warmup", "0"]) == 0
    assert main(["--resume", str(tmp_path / "cut"), "--epochs", "3"]) == 0
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    changed = write_collection(tmp_path / "songs", num_documents=41)
    other = assemble(world.settings(world.pairs, dev_data=(str(changed),)))
    with pytest.raises(InputError, match="the dev split of songs had 49 examples and has 50"):
        check_state(tmp_path / "cut", other.origin, [])


def test_predicting_leaves_texts_alone_that_are_no_queries(
    world: World, collection: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(world.settings(dev_data=(str(collection),), epochs=1), tmp_path / "run")
    capsys.readouterr()
    assert predict_main([str(tmp_path / "run"), "fly to oslo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out).keys() == {"text", "intent", "slots"}


def test_alone_each_task_is_trained_that_is_learnt(
    world: World, collection: Path, tmp_path: Path
) -> None:
    options = ["--data", str(world.sentences), "--model", str(world.model), "--compare-single"]
    options += ["--dev-data", str(collection), "--device", "cpu", "--epochs", "1"]
    assert main([*options, "--output", str(tmp_path / "run")]) == 0
    results = json.loads((tmp_path / "run/compare.json").read_text())
    assert results["single"].keys() == {"intent", "slots"}


# BEIR's files


def test_a_collection_is_read_as_it_stands(tmp_path: Path) -> None:
    corpus = [{"_id": "1", "title": "A", "text": "b"}, {"_id": "2", "title": "", "text": "c"}]
    write_json_lines(tmp_path / "corpus.jsonl", [*corpus, {"_id": "3", "text": ""}])
    write_json_lines(
        tmp_path / "queries.jsonl", [{"_id": name, "text": f"query {name}"} for name in "xyz"]
    )
    (tmp_path / "qrels").mkdir()
    (tmp_path / "qrels/dev.tsv").write_text(
        "query-id\tcorpus-id\tscore\ny\t1\t2\ny\t2\t1\nx\t3\t0\n"
    )
    (tmp_path / "qrels/train.tsv").write_text("query-id\tcorpus-id\tscore\nz\t3\t1\n")
    data = read_source(str(tmp_path))
    assert data.splits.keys() == {"dev"}
    assert [(e.text, e.labels["retrieval"], e.id) for e in data.splits["dev"]] == [
        ("query y", Query((("1", 2.0), ("2", 1.0))), "y"),
        ("A b", Document("1"), "1"),
        ("c", Document("2"), "2"),
        ("", Document("3"), "3"),
    ]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("qrels/dev.tsv", "header\nq0\td99\t1\n", "dev.tsv, line 2: there is no document d99 in"),
        ("qrels/dev.tsv", "header\nq99\td1\t1\n", "dev.tsv, line 2: there is no query q99 in"),
        ("qrels/dev.tsv", "header\n\nq0 d1 1\n", "dev.tsv, line 3: 'q0 d1 1' should be a query, a"),
        (
            "qrels/dev.tsv",
            "header\nq0\td1\tgood\n",
            "dev.tsv, line 2: 'q0\\\\td1\\\\tgood' should be",
        ),
        ("qrels/dev.tsv", "header\nq0\td1\t0\n", "dev.tsv: no query has a relevant document"),
        ("corpus.jsonl", '{"_id": 7, "text": "a"}\n', "corpus.jsonl, line 1: _id must be a text"),
        (
            "queries.jsonl",
            '{"_id": "q0"}\n',
            "queries.jsonl, line 1: text must be a text, not None",
        ),
        ("corpus.jsonl", '{"_id": "a", "text": "b"}\n' * 2, "line 2: there is a second _id 'a'"),
    ],
)
def test_what_a_collection_cannot_have_is_named(
    file: str, content: str, message: str, tmp_path: Path
) -> None:
    write_collection(tmp_path / "songs")
    (tmp_path / "songs" / file).write_text(content)
    with pytest.raises(InputError, match=message):
        read_source(str(tmp_path / "songs"))


def test_data_without_a_dev_split_cannot_be_measured(
    world: World, collection: Path, tmp_path: Path
) -> None:
    write_collection(tmp_path / "songs")
    (tmp_path / "songs/qrels/dev.tsv").unlink()
    with pytest.raises(InputError, match=r"songs: no dev split; it has test"):
        assemble(world.settings(dev_data=(str(tmp_path / "songs"),)))
    with pytest.raises(InputError, match=r"--data .*songs: no train split; it has dev, test"):
        assemble(world.settings(collection))


def test_a_vector_that_is_not_finite_is_named(world: World, collection: Path) -> None:
    parts = assemble(world.settings(dev_data=(str(collection),)))
    parts.encoder.bert.embeddings.word.weight.data[:] = np.nan
    measured = [item for item in parts.dev if "retrieval" in item.example.labels]
    with pytest.raises(InputError, match="what retrieval predicts is not a finite number"):
        predict(parts.model, parts.tasks, measured)
