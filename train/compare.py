"""Joint training against each task alone, on the same data as often."""

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from minibert.files import InputError, read_object, read_text, write_json
from train.checkpoint import has_results
from train.data.examples import DataSet
from train.load import load_data
from train.progress import Metrics
from train.report import final_table
from train.sampling import plan_steps
from train.saved import folder_name
from train.settings import Settings
from train.tasks import KINDS, Kinds, build_tasks, learnt_names
from train.tasks.base import Task
from train.world import ALONE, World


def compare_single(
    settings: Settings,
    run: Path,
    joint: Metrics,
    train: Callable[[Settings, Path, bool], Metrics],
    kinds: Kinds = KINDS,
    world: World = ALONE,
) -> None:
    """Train each task alone, and print joint against single. train: that of train/run.py. world:
    the processes that train together.

    What an earlier try has trained with the same settings is not trained again.
    """
    results: dict[str, Metrics] = {"joint": joint}
    sets = load_data(settings, lambda _: None, kinds)
    learnt = learnt_names(sets)
    tasks = [task for task in build_tasks(sets, settings, kinds) if task.name in learnt]
    for task in tasks:
        epochs = epochs_alone(settings, sets, tasks, task)
        print(f"\n{task.name} alone, {epochs} epochs")
        folder = run / f"single-{folder_name(task.name)}"
        own = settings_alone(settings, task, tasks, epochs)
        alone, has_begun = world.first(partial(earlier_try, folder, own))
        if alone is None:
            alone = train(own, folder, has_begun)
        if task.name in alone:
            results.setdefault("single", {})[task.name] = alone[task.name]
    print("\n" + final_table(results, tasks))
    if world.is_first:
        write_json(run / "compare.json", results)


def earlier_try(folder: Path, settings: Settings) -> tuple[Metrics | None, bool]:
    """The metrics of an earlier try that has ended, and whether one has begun that can be resumed.
    What had other settings is removed."""
    file = folder / "settings.toml"
    if file.exists() and read_text(file) != settings.toml():
        shutil.rmtree(folder)
    has_ended = (folder / "metrics.json").exists()
    return read_metrics(folder) if has_ended else None, has_results(folder)


def lacks_comparison(run: Path) -> bool:
    """Whether a run is finished, and was stopped before its tasks had been trained alone."""
    return (run / "metrics.json").exists() and not (run / "compare.json").exists()


def read_metrics(run: Path) -> Metrics:
    """What `train` returned for a finished run. Raises InputError if the file is damaged."""
    found = read_object(run / "metrics.json")
    if not isinstance(metrics := found.get("test", found.get("dev")), dict):
        raise InputError(f"{run / 'metrics.json'} holds no metrics")
    return metrics


def epochs_alone(
    settings: Settings, sets: Sequence[DataSet], tasks: Sequence[Task], task: Task
) -> int:
    """The number of epochs over a task's own data with the most nearly as many batches of it as the
    joint run has.

    Sampling other than proportional shows a small source several times in an epoch, a large one in
    part.
    """
    names = {t.name for t in tasks}
    labels = [[e.labels.keys() & names for e in data.splits["train"]] for data in sets]
    sources = [found for of_set in labels if (found := [some for some in of_set if some])]
    plan = plan_steps([len(s) for s in sources], settings, epoch=1)
    own = {i for i, source in enumerate(sources) if any(task.name in found for found in source)}
    jointly = sum(source in own for source in plan.sources.tolist())
    alone = sum(math.ceil(len(sources[i]) / settings.batch_size) for i in own)
    return max(1, round(settings.epochs * jointly / alone))


def settings_alone(settings: Settings, task: Task, tasks: Sequence[Task], epochs: int) -> Settings:
    """The settings by which one of several tasks is trained alone, for so many epochs: the same,
    less what names another task or its head, or an epoch that does not come."""
    others = [name for t in tasks if t is not task for name in (t.name, f"head.{t.name}")]

    def without_others(text: str) -> str:
        words = [word.strip() for word in text.split(",")]
        return ", ".join(word for word in words if word.partition("=")[0].strip() not in others)

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
        pooling=without_others(settings.pooling),
        pairs=without_others(settings.pairs),
        class_weights=without_others(settings.class_weights),
        loss="sum",
        loss_weights="",
        monitor="mean",
    )
