"""python -m train.run: fine-tune one encoder for all the tasks that the data has.

Read `train`, then `fit` of fit.py.
"""

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from minibert.files import write_json
from minibert.program import run_program
from train.analysis import analyse
from train.checkpoint import check_state, has_results, read_progress
from train.command_line import command_line, train_command
from train.compare import compare_single, lacks_comparison, read_metrics
from train.evaluation import evaluate
from train.fit import fit
from train.journal import read_log
from train.launch import launched, versions
from train.optimizer import BuildOptimizer, adamw
from train.origin import facts
from train.overfit import check_memorised
from train.page import write_report
from train.pictures import draw_pictures
from train.progress import Metrics, Progress
from train.prolong import prolong
from train.report import (
    final_table,
    label_tables,
    model_card,
    overview,
    write_predictions,
)
from train.saved import save_for_transformers, save_run
from train.settings import Settings
from train.setup import Parts, assemble
from train.sharding import sharded_layers
from train.tasks import KINDS, Kinds
from train.tasks.records import Prediction
from train.words import used_words_only
from train.world import ALONE, World


def train(
    settings: Settings,
    run: Path,
    resume: bool = False,
    kinds: Kinds = KINDS,
    optimizer: BuildOptimizer = adamw,
    world: World = ALONE,
) -> Metrics:
    """One whole run, into the folder `run`. Returns the test metrics, or dev's if there is no test
    split.

    kinds: the kinds of tasks that the data may have. optimizer: makes an optimizer from parameter
    groups. resume: go on from the last checkpoint, or begin, if the run was stopped before its
    first. world: the processes that train together, all of which call this. Raises InputError for
    data, weights or settings that cannot be used. On SIGINT or SIGTERM, a checkpoint is written
    within the current step, and Interrupted raised. Runs in two threads of one process would draw
    from one random generator: give each a process.
    """
    if resume and not has_results(run):
        print(f"{run} has no checkpoint yet: the run starts from the beginning")
        resume = False
    progress = read_progress(run, settings) if resume else Progress()
    parts = assemble(settings, kinds, world=world)
    world.agree({**facts(parts.origin), "step": progress.step})
    world.begin(settings.seed, [*parts.parameters().values()])
    if resume:
        check_state(run, parts.origin, [len(source) for source in parts.sources])
    tasks, model, dev, test = parts.tasks, parts.model, parts.dev, parts.test
    occurring = None if parts.hides_words else parts.token_ids()
    with (
        used_words_only(parts.encoder.bert, occurring, optimizer) as words,
        sharded_layers(parts.encoder.bert, settings, world),
    ):
        print(overview(parts, words), flush=True)
        fit(parts, run, progress, resume, optimizer)

    # The best weights by dev are tested, once.
    model.eval()
    results: dict[str, Metrics] = {}
    results["dev"], predictions = evaluate(
        model, tasks, dev, parts.device, is_tuning=True, world=world
    )
    if test:
        results["test"], predictions = evaluate(model, tasks, test, parts.device, world=world)
    progress.spent("evaluation of the best weights")
    if world.is_first:
        leave(run, parts, progress, results, predictions)
    return results.get("test", results["dev"])


def leave(
    run: Path,
    parts: Parts,
    progress: Progress,
    results: dict[str, Metrics],
    predictions: Sequence[dict[str, Prediction]],
) -> None:
    """Write and print all that a run leaves. predictions: of test, or of dev if there is none."""
    settings, tasks, model = parts.settings, parts.tasks, parts.model
    last = parts.test or parts.dev
    card = model_card(settings, tasks, results)
    save_run(run, parts.encoder, model, tasks, parts.splitting, *card)
    save_for_transformers(run, parts.encoder.tokenizer, model, tasks, *card)
    write_predictions(run / "predictions.jsonl", tasks, last, predictions)
    analyses = analyse(tasks, last, predictions)
    progress.spent("saving")
    log = read_log(run)
    pictures = draw_pictures(parts, progress, log, analyses)
    write_report(run / "report.html", parts, progress, log, results, analyses, pictures)
    progress.spent("report")
    seconds = sum(progress.seconds.values())
    facts = {
        "best_step": progress.best_step,
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "truncated_sentences": sum(any(p.lost for p in item.parts) for item in parts.items()),
        "seconds": seconds,
        "history": progress.history,
    }
    write_json(run / "metrics.json", {**results, **facts})  # the last file: the run is finished
    print("\n\n".join([final_table(results, tasks), *label_tables(analyses)]) + "\n")
    if progress.skipped:
        print(f"{progress.skipped} steps were skipped: their loss or gradient was not finite")
    print(
        f"best step {progress.best_step} of {progress.step}, {seconds:.0f} s; all of it is in {run}"
    )
    if settings.overfit_batch:
        check_memorised(tasks, last, predictions)


def main(
    arguments: list[str] | None = None, kinds: Kinds = KINDS, optimizer: BuildOptimizer = adamw
) -> int:
    """Train. Returns the exit status, as `run_program`."""

    def program() -> None:
        with launched() as launch:
            settings, resumed, limits = command_line(arguments, train_command(), __doc__ or "")
            world = launch.world
            world.agree(vars(settings) | versions())
            if begun := launch.begun():
                resumed = begun
                limits = {k: v for k, v in limits.items() if v != getattr(settings, k)}
            with launch.run_folder(settings, resumed) as run:
                if limits:
                    settings = world.first(partial(prolong, run, settings, limits))
                if resumed and settings.compare_single and lacks_comparison(run):
                    metrics = read_metrics(run)
                else:
                    metrics = train(settings, run, resumed is not None, kinds, optimizer, world)
                if settings.compare_single:
                    alone = partial(train, kinds=kinds, optimizer=optimizer, world=world)
                    compare_single(settings, run, metrics, alone, kinds, world)

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
