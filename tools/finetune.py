"""python -m tools.finetune --seeds 3 --recipe snips --data snips: fine-tuning beside transformers'
BertModel, by seed.

For data with one label a sentence and one a word. The other side is the loop that people write:
BertModel padded to the longest of each batch, linear heads on the masked mean and on first pieces,
torch.optim.AdamW, transformers' linear schedule; the same settings, order of batches, choice of the
best epoch and metrics as ours. All options of train.run count. A finished run stays in the output
folder and is not repeated, so an interrupted comparison goes on.
"""

import argparse
import copy
import statistics
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from tqdm import tqdm

from minibert.files import InputError, read_object, write_json
from minibert.formats.hub import find_model
from tools.joint import TransformersJoint, padded
from train.batches import Item
from train.command_line import command_line
from train.evaluation import Metrics, measure, monitored_value
from train.report import table
from train.run import train
from train.sampling import plan_steps
from train.settings import Settings
from train.setup import assemble
from train.tasks.base import Prediction
from train.tasks.classification import SentenceClassification
from train.tasks.tagging import TokenTagging
from train.tasks.targets import TargetTask

ENGINES = ("minibert", "transformers")


def train_transformers(settings: Settings, run: Path) -> None:
    """One run of the other side; its dev and test metrics go to RUN/metrics.json."""
    from transformers import get_linear_schedule_with_warmup

    parts = assemble(settings, announce=lambda _: None)
    tasks, (items,), dev, test = parts.tasks, parts.sources, parts.dev, parts.test
    sentence = next(task for task in tasks if isinstance(task, SentenceClassification))
    tokens = next(task for task in tasks if isinstance(task, TokenTagging))
    torch.manual_seed(settings.seed)
    model = TransformersJoint(
        find_model(settings.model).path, len(sentence.labels), len(tokens.labels)
    )
    optimizer = torch.optim.AdamW(
        model.groups(settings.lr, settings.head_lr, settings.weight_decay), fused=True
    )
    lengths = [[item.num_tokens for item in items]]
    total = settings.epochs * len(plan_steps([len(items)], settings, 1))
    schedule = get_linear_schedule_with_warmup(optimizer, round(settings.warmup * total), total)
    best, best_value = model, float("-inf")
    best_metrics: Metrics = {}
    bar = tqdm(total=total, desc=run.name, unit="step", disable=None)
    for epoch in range(1, settings.epochs + 1):
        model.train()
        for (batch,) in plan_steps([len(items)], settings, epoch, lengths):
            chosen = [items[i] for _, i in batch]
            labels = torch.tensor([sentence.targets(item)[0] for item in chosen])
            loss = model.loss(*padded(chosen, tokens), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), settings.clip)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            bar.update()
        metrics = evaluate(model, sentence, tokens, dev)
        value = monitored_value(metrics, tasks, settings.monitor)
        if value > best_value:
            best, best_value, best_metrics = copy.deepcopy(model), value, metrics
    write_json(
        run / "metrics.json", {"dev": best_metrics, "test": evaluate(best, sentence, tokens, test)}
    )


@torch.no_grad()
def evaluate(
    model: TransformersJoint, sentence: TargetTask, tokens: TargetTask, items: Sequence[Item]
) -> Metrics:
    """The metrics of one split, by the definitions that ours is measured by."""
    model.eval()
    predictions: list[dict[str, Prediction]] = []
    for start in range(0, len(items), 32):
        chosen = items[start : start + 32]
        input_ids, mask, _ = padded(chosen, tokens)
        for item, of_sentence, of_tokens in zip(chosen, *model(input_ids, mask), strict=True):
            positions = list(item.tokens_of(tokens.name)[0].first_pieces.values())
            of_words = tokens.decode(of_tokens[positions], item)
            predictions.append(
                {sentence.name: sentence.decode(of_sentence[None], item), tokens.name: of_words}
            )
    return measure([sentence, tokens], items, predictions)


def summary(results: dict[str, list[Metrics]]) -> str:
    """Mean and, of several seeds, the sample's standard deviation of each engine's main metrics, in
    percent."""
    rows: list[Sequence[str]] = [("test", "seeds", "sentence accuracy", "token F1", "both right")]
    for engine, runs in results.items():
        values = zip(*(main_metrics(metrics) for metrics in runs), strict=True)
        rows.append((engine, str(len(runs)), *map(mean_and_spread, values)))
    return table(rows)


def main_metrics(metrics: Metrics) -> tuple[float, float, float]:
    parts = [values for values in metrics.values() if isinstance(values, dict)]
    accuracy = next(values["accuracy"] for values in parts if "accuracy" in values)
    f1 = next(values["f1"] for values in parts if "f1" in values)
    frame = metrics["frame"]
    assert isinstance(frame, float)
    return accuracy, f1, frame


def mean_and_spread(values: Sequence[float]) -> str:
    spread = f" ± {100 * statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{100 * statistics.mean(values):.2f}{spread}"


def main() -> int:
    """Train what is not trained yet, and print; the exit status is 0, or 2 for input that cannot be
    used."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.finetune", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--seeds", type=int, default=3, help="how many, from the recipe's own on (3)"
    )
    parser.add_argument(
        "--engines", nargs="+", choices=ENGINES, default=ENGINES, help="both, or one of them"
    )
    options, rest = parser.parse_known_args()
    results: dict[str, list[Metrics]] = {}
    try:
        settings, _, _ = command_line(rest, "python -m tools.finetune", "")
        folder = Path(settings.output or f"runs/finetune-{Path(settings.data[0]).name}")
        for engine in options.engines:
            for seed in range(settings.seed, settings.seed + options.seeds):
                run = folder / f"{engine}-{seed}"
                if not (run / "metrics.json").exists():
                    program = train if engine == "minibert" else train_transformers
                    program(replace(settings, seed=seed, output=str(run)), run)
                metrics = read_object(run / "metrics.json")["test"]
                results.setdefault(engine, []).append(metrics)
                print(
                    run.name, *(f"{100 * value:.2f}" for value in main_metrics(metrics)), flush=True
                )
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(summary(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
