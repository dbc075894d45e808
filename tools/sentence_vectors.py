"""python -m tools.sentence_vectors --model RUN/model --pairs PAIRS.csv --stsb STSB --sick SICK:
training sentence vectors beside sentence-transformers' own trainer.

Both sides start from the same folder and learn the same three data sets in batches of the same
size: pairs by in-batch negatives, and the scored pairs of STS-B and SICK by CoSENT. Both have
AdamW, the same learning rate, warm-up and linear decay, batches without equal texts, and measure
STS-B's dev part after each epoch. Sides and seeds take turns. A finished run stays in the output
folder and is not repeated.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from datasets import Dataset
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator
from sentence_transformers.sentence_transformer.losses import (
    CoSENTLoss,
    MultipleNegativesRankingLoss,
)

from minibert.encoder import SentenceEncoder
from minibert.files import read_object, write_json
from minibert.formats.hub import find_model
from minibert.program import run_program
from train.data.examples import DataSet
from train.load import load_data
from train.metrics import spearman
from train.report import table
from train.run import train
from train.settings import Settings

ENGINES = ("minibert", "sentence-transformers")


def settings_of(options: argparse.Namespace, seed: int, output: Path) -> Settings:
    """What ours trains with, and theirs too."""
    return Settings(
        data=(
            f"pairs={options.pairs}",
            f"stsb={options.stsb}",
            f"sick={options.sick}",
        ),
        tasks=("positive", "score", "relatedness_score"),
        model=options.model,
        vector_loss="cosent",
        epochs=options.epochs,
        batch_size=options.batch_size,
        lr=options.lr,
        precision=options.precision,
        monitor="score.spearman",
        seed=seed,
        output=str(output),
    )


def scored_pairs(data: DataSet, name: str, split: str) -> tuple[list[str], list[str], list[float]]:
    """The first texts, the second texts, and the scores of some pairs."""
    examples = [e for e in data.splits[split] if name in e.labels]
    return (
        [e.text for e in examples],
        [e.second or "" for e in examples],
        [float(e.labels[name]) for e in examples],
    )


def train_theirs(settings: Settings, sets: Sequence[DataSet], run: Path) -> int:
    """The same by sentence-transformers; the model goes to RUN/model. Returns how many steps it
    took."""
    pairs, stsb, sick = sets
    model = SentenceTransformer(str(find_model(settings.model).path), device="cpu")
    learnt = {"pairs": [e for e in pairs.splits["train"] if "positive" in e.labels]}
    data = {
        "pairs": Dataset.from_dict(
            {
                "anchor": [e.text for e in learnt["pairs"]],
                "positive": [e.second for e in learnt["pairs"]],
            }
        )
    }
    for found, name in ((stsb, "score"), (sick, "relatedness_score")):
        first, second, scores = scored_pairs(found, name, "train")
        data[found.name] = Dataset.from_dict(
            {"sentence1": first, "sentence2": second, "score": scores}
        )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(run / "trainer"),
        num_train_epochs=settings.epochs,
        per_device_train_batch_size=settings.batch_size,
        learning_rate=settings.lr,
        weight_decay=settings.weight_decay,
        warmup_steps=settings.warmup,  # a share of all steps
        lr_scheduler_type="linear",
        max_grad_norm=settings.clip,
        seed=settings.seed,
        bf16=settings.precision == "bfloat16",
        use_cpu=True,
        batch_sampler="no_duplicates",
        multi_dataset_batch_sampler="proportional",
        eval_strategy="epoch",
        save_strategy="no",
        report_to="none",
        disable_tqdm=not sys.stderr.isatty(),
    )
    trainer = SentenceTransformerTrainer(
        model=model,
        args=arguments,
        train_dataset=data,
        loss={
            "pairs": MultipleNegativesRankingLoss(model),
            "stsb": CoSENTLoss(model),
            "sick": CoSENTLoss(model),
        },
        evaluator=EmbeddingSimilarityEvaluator(*scored_pairs(stsb, "score", "dev"), name="stsb"),
    )
    trainer.train()
    model.save(str(run / "model"))
    return trainer.state.global_step


def measured(model: str | Path, stsb: DataSet) -> float:
    """Spearman of the cosines of STS-B's dev part."""
    encoder = SentenceEncoder.from_pretrained(str(model))
    first, second, scores = scored_pairs(stsb, "score", "dev")
    u, v = (encoder.encode(texts, normalize=True) for texts in (first, second))
    return spearman(np.array(scores), (u * v).sum(1, dtype=np.float64))


def main(arguments: list[str] | None = None) -> int:
    """Train what is not trained yet, and print. Returns the exit status, as `run_program`."""
    parser = argparse.ArgumentParser(prog="python -m tools.sentence_vectors", description=__doc__)
    parser.add_argument("--model", default="minilm", help="what both start from (minilm)")
    parser.add_argument("--pairs", required=True, help="a table with the columns anchor, positive")
    parser.add_argument("--stsb", required=True, help="STS-B's folder")
    parser.add_argument("--sick", required=True, help="SICK's folder")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--output", type=Path, default=Path("runs/sentence-vectors"))
    options = parser.parse_args(arguments)

    def program() -> None:
        sets = load_data(settings_of(options, 0, options.output), lambda _: None)
        before = measured(options.model, sets[1])
        found: dict[str, list[dict[str, Any]]] = {engine: [] for engine in ENGINES}
        for seed in range(options.seeds):
            for engine in ENGINES:
                run = options.output / f"{engine}-{seed}"
                if not (run / "result.json").exists():
                    settings = settings_of(options, seed, run)
                    started = time.perf_counter()
                    if engine == "minibert":
                        train(settings, run)
                        steps = read_object(run / "metrics.json")["steps"]
                    else:
                        steps = train_theirs(settings, sets, run)
                    seconds = time.perf_counter() - started
                    value = measured(run / "model", sets[1])
                    result = {"spearman": value, "steps": steps, "seconds": seconds}
                    write_json(run / "result.json", result)
                found[engine].append(read_object(run / "result.json"))
        rows = [("", "Spearman on STS-B dev", "steps", "seconds")]
        rows.append(("before", f"{before:.4f}", "-", "-"))
        for engine, results in found.items():
            values = [result["spearman"] for result in results]
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            times = statistics.mean(result["seconds"] for result in results)
            mean, steps = statistics.mean(values), results[0]["steps"]
            rows.append((engine, f"{mean:.4f}{spread}", str(steps), f"{times:.0f}"))
        print(table(rows))
        ours, theirs = (sum(r["seconds"] for r in found[engine]) for engine in ENGINES)
        print(f"time of minibert over sentence-transformers: {ours / theirs:.2f}")

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
