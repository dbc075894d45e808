"""python -m train.run: fine-tune one encoder for all the tasks that the data has. Read `train` from
top to bottom."""

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minibert.encoder import SentenceEncoder
from minibert.fast import change_classes, speed_up
from minibert.fast.dropout import FastDropout
from minibert.files import InputError, signals, write_json
from minibert.formats.hub import PoolingWarning
from train.cache import PrefixCache
from train.checkpoint import (
    Progress,
    append_log,
    cut_log,
    fill,
    load_checkpoint,
    parameters_by_name,
    read_progress,
    save_checkpoint,
    save_for_transformers,
    save_run,
)
from train.data import Batch, DataSet, Item, Place, collate, plan_epoch, prepare, windows
from train.evaluate import Metrics, measure, predict
from train.freezing import FreezingPlan
from train.mixing import LossMixer, add_gradients, gradient_report
from train.optimizer import build_optimizer, new_groups, rate_factor, set_rates
from train.readers import load_data
from train.report import (
    add_scalars,
    card_facts,
    draw_curves,
    final_table,
    groups_table,
    prediction_records,
    readable,
    shown,
    tensorboard,
    training_card,
    write_json_lines,
)
from train.settings import Settings, command_line
from train.tasks import JointModel, Prediction, Task, build_tasks
from train.words import UsedWords

MOST_SKIPPED = 3  # steps in a row without a finite gradient, after which a run stops
LOWER_IS_BETTER = (".root_mean_squared_error", ".entities_cut_off")
Hidden = Callable[[Batch], Tensor]  # how a batch becomes its last hidden state


class Interrupted(Exception):  # noqa: N818 (not an error)
    """The run was asked to stop; its checkpoint is written."""


def train(settings: Settings, run: Path, resume: bool = False) -> Metrics:
    """One whole run, into the folder `run`: returns the test metrics (dev's, where there is no test
    split).

    Raises InputError for data, weights or settings that cannot be used, and Interrupted on SIGINT
    or SIGTERM.
    """
    progress = read_progress(run, settings) if resume else Progress()
    started = time.perf_counter() - progress.seconds
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device)

    # Tasks and data: the tasks are the labels that the data has.
    sets = [load_data(name, settings.seed) for name in settings.data]
    if settings.overfit_batch:
        sets = [first_examples(sets[0], settings.overfit_batch)]
    tasks = build_tasks(sets, settings)

    # Model and weights: a pretrained encoder, and a fresh head for each task.
    encoder = SentenceEncoder.from_pretrained(
        settings.model, revision=settings.revision, max_length=settings.max_length, device=device
    )
    sources, dev, test = tokenize(sets, tasks, encoder)
    words = UsedWords(encoder.bert.embeddings.word, used_ids([*sources, dev, test]))
    encoder.bert.embeddings.word = words
    model = JointModel(encoder.bert, tasks).to(device)
    speed_up(model.bert)
    change_classes(model.heads, {nn.Dropout: FastDropout})
    set_dropout(model, settings.dropout)
    mixer = LossMixer(tasks, settings).to(device)
    parameters = parameters_by_name(model, mixer)
    check_monitor(tasks, dev, settings.monitor)

    # What learns, and how fast; on resuming, what had been unfrozen by then is so again.
    plan = FreezingPlan(model, settings.freeze, settings.unfreeze, tasks)
    if 0 < settings.epochs < (latest := max(plan.thawed, default=0)):
        raise InputError(
            f"unfreeze = {settings.unfreeze!r}: there is no epoch {latest}, as epochs = {settings.epochs}"
        )
    plan.apply(progress.epoch)
    optimizer = build_optimizer(model, mixer, settings)
    best: dict[str, Tensor] = {}  # the parameters' values at the best evaluation
    board = tensorboard(run, progress.step) if settings.tensorboard else nullcontext()
    if resume:
        best = load_checkpoint(run, parameters, optimizer)
        cut_log(run, progress.step)
    else:
        settings.save(run / "settings.toml")
    print(
        f"{sum(map(len, sources))} train, {len(dev)} dev, {len(test)} test examples; tasks:",
        end=" ",
    )
    print(
        ", ".join(f"{task.name} ({task.kind}, {len(task.labels) or 'no'} labels)" for task in tasks)
    )
    print(
        f"{len(words.used):,} of {encoder.bert.config.vocab_size:,} words occur; only their rows are held"
    )
    print(groups_table(model, plan, settings), flush=True)

    # The loop.
    lengths = [[item.num_tokens for item in source] for source in sources]
    total_steps = settings.epochs * len(plan_steps(lengths, settings, epoch=1))
    cache: PrefixCache | None = None
    model.train()
    with signals() as stop_asked, board:
        while progress.epoch <= settings.epochs and not ends_early(progress, settings):
            unfreeze(plan, progress.epoch, model, optimizer, settings)
            if not any(p.requires_grad for p in model.parameters()):
                print("everything is frozen: nothing is trained, only evaluated")
                break
            cache = PrefixCache.renewed(
                cache, model, plan.prefix(progress.epoch), [*sources, dev], settings, run
            )
            hidden: Hidden = cache.hidden if cache else model
            steps = plan_steps(lengths, settings, progress.epoch)
            bar = progress_bar(progress, len(steps))
            clock, tokens = time.perf_counter(), 0

            for step in steps[progress.position :]:
                set_rates(optimizer, rate_factor(progress.step, total_steps, settings))
                batches = [
                    collate([sources[source][i] for source, i in batch], tasks, device)
                    for batch in step
                ]
                sums, counts, notes = backward(batches, model, hidden, mixer, tasks, settings)
                learning = [p for p in parameters.values() if p.grad is not None]
                norm = float(nn.utils.clip_grad_norm_(learning, settings.clip or float("inf")))
                if all(map(is_finite, [norm, *sums.values()])):
                    optimizer.step()
                    progress.count(sums, counts)
                else:
                    skip(progress, batches)
                optimizer.zero_grad()
                progress.step += 1
                progress.position += 1

                tokens += sum(batch.num_tokens for batch in batches)
                losses = {name: sums[name] / count for name, count in counts.items()}
                noted = {"loss": losses, "norm": norm, **notes}
                append_log(run, {"step": progress.step, "epoch": progress.epoch, **noted})
                if settings.tensorboard:
                    add_scalars(board, "train", noted, progress.step)
                speed = tokens / (time.perf_counter() - clock)
                bar.set_postfix(
                    {n: f"{x:.3f}" for n, x in losses.items()} | {"tok/s": f"{speed:,.0f}"},
                    refresh=False,
                )
                bar.update()

                ends_epoch = progress.position == len(steps)
                if ends_epoch or (settings.eval_steps and progress.step % settings.eval_steps == 0):
                    bar.clear()
                    metrics = measure(tasks, dev, predict(model, tasks, dev, device, hidden))
                    note_evaluation(progress, metrics, tasks, settings, run, speed)
                    if settings.tensorboard:
                        add_scalars(board, "dev", metrics, progress.step)
                    if progress.best_step == progress.step:
                        best = {
                            name: parameter.detach().clone()
                            for name, parameter in parameters.items()
                        }
                if ends_epoch:
                    progress.start_next_epoch()
                stops = stop_asked()
                ends = progress.epoch > settings.epochs or ends_early(progress, settings)
                if stops or ends or progress.step % settings.save_steps == 0:
                    progress.seconds = time.perf_counter() - started
                    save_checkpoint(run, parameters, best, optimizer, progress, settings)
                if stops:
                    raise Interrupted(
                        f"stopped after step {progress.step}; to go on: python -m train.run --resume {run}"
                    )
                if ends:
                    break
            bar.close()

    # The best weights by dev are tested, once.
    # what is to be memorised is memorised at the end, if at all
    if best and not settings.overfit_batch:
        fill(parameters, best, "the best weights")
    model.eval()
    results: dict[str, Metrics] = {"dev": measure(tasks, dev, predict(model, tasks, dev, device))}
    last = test or dev
    predictions = predict(model, tasks, last, device)
    if test:
        results["test"] = measure(tasks, test, predictions)

    # What the run leaves.
    encoder.bert.embeddings.word = words.whole()
    split_words = word_splitting(sets)
    card = card_facts(settings), training_card(settings, tasks, results)
    save_run(run, encoder, model, tasks, split_words, *card)
    save_for_transformers(run, encoder.tokenizer, model, tasks, *card)
    write_json_lines(run / "predictions.jsonl", prediction_records(tasks, last, predictions))
    progress.seconds = time.perf_counter() - started
    facts = {
        "best_step": progress.best_step,
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "truncated_sentences": sum(
            any(p.lost for p in item.parts) for items in (*sources, dev, test) for item in items
        ),
        "seconds": progress.seconds,
        "history": progress.history,
    }
    draw_curves(run, progress.history, tasks)
    # the last file: where it stands, the run is finished
    write_json(run / "metrics.json", {**results, **facts})
    print(final_table(results, tasks))
    print(
        f"best step {progress.best_step} of {progress.step}, {progress.seconds:.0f} s; all of it is in {run}"
    )
    if settings.overfit_batch:
        check_memorised(tasks, last, predictions)
    return results.get("test", results["dev"])


def backward(
    batches: Sequence[Batch],
    model: JointModel,
    hidden: Hidden,
    mixer: LossMixer,
    tasks: Sequence[Task],
    settings: Settings,
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """Add up the gradients of one step's batches: each task's summed loss, its number of targets,
    and notes.

    The targets of all batches are counted first, and every batch's sum is divided by that count: so
    the gradient is that of one large batch, however unevenly sentences and words fall into the
    batches.
    """
    counts = {
        t.name: sum(t.weight(b.values[t.name]) for b in batches if t.name in b.values)
        for t in tasks
    }
    counts = {name: count for name, count in counts.items() if count}
    sums = dict.fromkeys(counts, 0.0)
    gradients: dict[str, Tensor] = {}  # each task's on the encoder, if they are to be logged
    for batch in batches:
        device = batch.input_ids.device.type
        with torch.autocast(device, torch.bfloat16, enabled=settings.bf16 and device == "cuda"):
            states = hidden(batch)
            losses = {
                t.name: t.loss(
                    t.scores(model, states, batch.layout, batch.places[t.name]),
                    batch.values[t.name],
                )
                for t in tasks
                if t.name in counts and t.name in batch.values
            }
        if not losses:
            continue
        shares = {name: loss / counts[name] for name, loss in losses.items()}
        if settings.log_gradients:
            add_gradients(
                gradients, shares, [p for p in model.bert.parameters() if p.requires_grad]
            )
        loss = mixer(shares)
        if loss.requires_grad:  # not where all that this batch's tasks use is frozen
            loss.backward()
        for name, task_loss in losses.items():
            sums[name] += task_loss.item()
    mixer.add_penalty_gradient(counts)
    return sums, counts, gradient_report(gradients)


def skip(progress: Progress, batches: Sequence[Batch]) -> None:
    """Count a step without a finite gradient; a few in a row end the run, naming the batch."""
    progress.skipped += 1
    progress.skipped_in_a_row += 1
    if progress.skipped_in_a_row >= MOST_SKIPPED:
        where = "; ".join(item.example.where for batch in batches for item in batch.items[:3])
        raise InputError(
            f"{MOST_SKIPPED} steps in a row had a loss or gradient that is not finite, the last at step "
            f"{progress.step + 1}, a batch that begins with {where}. Lower lr, or look at these examples"
        )


def unfreeze(
    plan: FreezingPlan,
    epoch: int,
    model: JointModel,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> None:
    """Let an epoch's units learn, and add to the optimizer those that did not before."""
    plan.apply(epoch)
    for group in new_groups(model, settings, optimizer):
        optimizer.add_param_group(group)


def plan_steps(
    lengths: Sequence[Sequence[int]], settings: Settings, epoch: int
) -> list[list[list[Place]]]:
    """An epoch's steps: lists of batches, which are lists of (source, number). Follows from its
    arguments alone.

    lengths: the tokens of each source's items; how many they are counts only where batches are
    grouped by it.
    """
    seed = settings.seed * 1_000_003 + epoch
    sizes = [len(source) for source in lengths]
    grouped = lengths if settings.group_by_length else None
    plan = plan_epoch(
        sizes, settings.batch_size, settings.sampling, settings.temperature, seed, grouped
    )
    return windows(plan, settings.accumulate)


def note_evaluation(
    progress: Progress,
    metrics: Metrics,
    tasks: Sequence[Task],
    settings: Settings,
    run: Path,
    speed: float,
) -> None:
    """Print and log an evaluation, and note whether it is the best so far."""
    losses = progress.mean_losses()
    monitored = monitored_value(metrics, tasks, settings.monitor)
    progress.worse += 1
    if progress.best is None or monitored > progress.best:
        progress.best, progress.best_step, progress.worse = monitored, progress.step, 0
    entry = {"step": progress.step, "epoch": progress.epoch, "loss": losses, "dev": metrics}
    progress.history.append(entry)
    append_log(run, entry)
    loss = "  ".join(f"{name} {value:.4f}" for name, value in losses.items())
    best = "  (best)" if progress.best_step == progress.step else ""
    print(
        f"epoch {progress.epoch}  step {progress.step}  loss {loss}  dev {shown(metrics, tasks)}",
        end="  ",
    )
    print(f"{speed:,.0f} tokens/s{best}", flush=True)


def monitored_value(metrics: Metrics, tasks: Sequence[Task], monitor: str) -> float:
    """One number to choose the best weights by, the higher the better: a task's metric
    ("slots.f1"), "frame", or the main metrics' mean."""
    values = {
        f"{name}.{key}": x
        for name, v in metrics.items()
        if isinstance(v, dict)
        for key, x in v.items()
    }
    values |= {name: v for name, v in metrics.items() if not isinstance(v, dict)}
    if monitor == "mean":
        main = [values[f"{task.name}.{task.main_metric}"] for task in tasks if task.name in metrics]
        return sum(main) / len(main) if main else 0.0
    if monitor not in values:
        raise InputError(f"monitor = {monitor!r}: the dev metrics are mean, {', '.join(values)}")
    return -values[monitor] if monitor.endswith(LOWER_IS_BETTER) else values[monitor]


def check_monitor(tasks: Sequence[Task], dev: Sequence[Item], monitor: str) -> None:
    """Raise InputError before training, not after its first epoch, if dev has no such metric."""
    ideal = [
        {name: Prediction(label) for name, label in item.example.labels.items()} for item in dev
    ]
    monitored_value(measure(tasks, dev, ideal), tasks, monitor)


def ends_early(progress: Progress, settings: Settings) -> bool:
    return 0 < settings.patience <= progress.worse


def is_finite(value: float) -> bool:
    return abs(value) < float("inf")


def tokenize(
    sets: Sequence[DataSet], tasks: Sequence[Task], encoder: SentenceEncoder
) -> tuple[list[list[Item]], list[Item], list[Item]]:
    """The items of each source's train split, of all dev splits and of all test splits: those with
    a task's label."""
    names = {task.name for task in tasks}
    number = 0

    def items(data: DataSet, split: str) -> list[Item]:
        nonlocal number
        wanted = [
            example for example in data.splits.get(split, ()) if names & example.labels.keys()
        ]
        made = prepare(wanted, encoder.tokenizer, number)
        number += len(made)
        return made

    train_items = [made for data in sets if (made := items(data, "train"))]
    dev, test = (
        [item for data in sets for item in items(data, split)] for split in ("dev", "test")
    )
    return train_items, dev, test


def used_ids(splits: Iterable[Iterable[Item]]) -> set[int]:
    """The ids of all words in some items."""
    return {
        number for items in splits for item in items for part in item.parts for number in part.ids
    }


def set_dropout(model: nn.Module, dropout: float | None) -> None:
    """Replace every dropout of the model, that of the attention probabilities included; None leaves
    them."""
    if dropout is None:
        return
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout


def word_splitting(sets: Sequence[DataSet]) -> str:
    """How the training data's texts were split into words: at white space, or at punctuation
    too."""
    given = (e for data in sets for e in data.splits["train"] if e.words is not None)
    return "whitespace" if all(e.text == " ".join(e.words or ()) for e in given) else "punctuation"


def first_examples(data: DataSet, count: int) -> DataSet:
    """The first examples of train as train, dev and test alike: what the sanity check must
    memorise."""
    examples = data.splits["train"][:count]
    return DataSet(data.name, {"train": examples, "dev": examples, "test": examples})


def check_memorised(
    tasks: Sequence[Task], items: Sequence[Item], predictions: Sequence[Mapping[str, Prediction]]
) -> None:
    """Print predictions beside labels. Raises InputError if one is wrong (a number: by more than
    0.1)."""
    wrong = total = 0
    for item, predicted in zip(items, predictions, strict=True):
        print(
            item.example.text
            if item.example.second is None
            else f"{item.example.text} | {item.example.second}"
        )
        for task in tasks:
            if task.name in item.example.labels:
                gold, found = item.example.labels[task.name], predicted[task.name].label
                right = (
                    abs(gold - float(found)) <= 0.1 if isinstance(gold, float) else gold == found
                )  # type: ignore[arg-type]
                wrong, total = wrong + (not right), total + 1
                print(
                    f"  {'right' if right else 'WRONG'}  {task.name}: {readable(gold, item)}",
                    end="",
                )
                print("" if right else f", predicted {readable(found, item)}")
    if wrong:
        raise InputError(
            f"the batch was not memorised: {wrong} of {total} predictions are wrong. Train longer (epochs) or faster "
            "(lr, head_lr); if that does not help, gradients do not reach what should learn"
        )
    print(f"memorised: all {total} predictions are equal to the labels")


def compare_single(settings: Settings, run: Path, joint: Metrics) -> None:
    """Train each task alone, on its data as often as jointly, and print joint against single."""
    results: dict[str, Metrics] = {"joint": joint}
    sets = [load_data(name, settings.seed, lambda _: None) for name in settings.data]
    tasks: list[Task] = build_tasks(sets, settings)
    for task in tasks:
        epochs = epochs_alone(settings, sets, tasks, task)
        print(f"\n{task.name} alone, {epochs} epochs")
        alone = train(settings_alone(settings, task, tasks, epochs), run / f"single-{task.name}")
        if task.name in alone:
            results.setdefault("single", {})[task.name] = alone[task.name]
    print("\n" + final_table(results, tasks))
    write_json(run / "compare.json", results)


def epochs_alone(
    settings: Settings, sets: Sequence[DataSet], tasks: Sequence[Task], task: Task
) -> int:
    """How many epochs of a task's own data have the most nearly as many batches of it as the joint
    run has.

    Sampling other than proportional shows a small source several times in an epoch, a large one in
    part.
    """
    labels = [
        [example.labels.keys() & {t.name for t in tasks} for example in s.splits["train"]]
        for s in sets
    ]
    sources = [names for of_set in labels if (names := [found for found in of_set if found])]
    # only how many batches are of each source counts here
    lengths = [[0] * len(source) for source in sources]
    plan = [batch for (batch,) in plan_steps(lengths, replace(settings, accumulate=1), epoch=1)]
    own = {i for i, names in enumerate(sources) if any(task.name in found for found in names)}
    jointly = sum(batch[0][0] in own for batch in plan)
    alone = sum(math.ceil(len(sources[i]) / settings.batch_size) for i in own)
    return max(1, round(settings.epochs * jointly / alone))


def settings_alone(settings: Settings, task: Task, tasks: Sequence[Task], epochs: int) -> Settings:
    """The settings by which one of several tasks is trained alone, for so many epochs: the same,
    less what names another task's head, or an epoch that does not come."""
    others = [f"head.{other.name}" for other in tasks if other is not task]

    def without_others(text: str) -> str:
        return ", ".join(
            word for word in text.split(",") if word.partition("=")[0].strip() not in others
        ).strip()

    parts = [part.partition(":") for part in settings.unfreeze.split(";") if part.strip()]
    schedule = [(epoch, without_others(text)) for epoch, _, text in parts if int(epoch) <= epochs]
    return replace(
        settings,
        tasks=(task.name,),
        epochs=epochs,
        compare_single=False,
        group_lr=without_others(settings.group_lr),
        freeze=without_others(settings.freeze),
        unfreeze="; ".join(f"{epoch}: {kept}" for epoch, kept in schedule if kept),
        loss="sum",
        loss_weights="",
        monitor="mean",
    )


def choose_device(name: str) -> torch.device:
    """The device to compute on. Raises InputError for one that there is not."""
    try:
        device = (
            torch.device("cuda" if torch.cuda.is_available() else "cpu")
            if name == "auto"
            else torch.device(name)
        )
        torch.empty(0, device=device)
    # the latter from a PyTorch that is built without CUDA
    except (RuntimeError, AssertionError) as error:
        raise InputError(
            f"device = {name!r} cannot be used: {str(error).splitlines()[0]}"
        ) from error
    return device


def progress_bar(progress: Progress, steps: int) -> tqdm:
    """On stderr, and none where that is no terminal."""
    return tqdm(
        total=steps,
        initial=progress.position,
        desc=f"epoch {progress.epoch}",
        unit="step",
        disable=None,
        leave=False,
    )


def output_folder(settings: Settings) -> Path:
    """The run's folder: as asked for, which must not hold another run, or the first free runs/NAME,
    runs/NAME-2 ..."""
    if settings.output is not None:
        folder = Path(settings.output)
        if (folder / "settings.toml").exists():
            raise InputError(
                f"{folder} holds a run already: resume it (--resume {folder}), or choose another --output"
            )
        return folder
    base = Path("runs") / Path(settings.data[0]).name
    folder, number = base, 2
    while folder.exists():
        folder, number = base.with_name(f"{base.name}-{number}"), number + 1
    return folder


def main(arguments: list[str] | None = None) -> int:
    """Train; the exit status is 0, 2 for input that cannot be used, 130 if the run was
    interrupted."""
    warnings.simplefilter("ignore", PoolingWarning)  # each task says how it pools
    try:
        settings, resumed = command_line(arguments, "python -m train.run", __doc__ or "")
        run = resumed or output_folder(settings)
        metrics = train(settings, run, resume=resumed is not None)
        if settings.compare_single:
            compare_single(settings, run, metrics)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (Interrupted, KeyboardInterrupt) as notice:  # the latter before or after the loop
        print(str(notice) or "stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
