"""python -m train.run: fine-tune one encoder for all the tasks that the data has. Read `train`,
then `fit`."""

import math
import sys
import time
from contextlib import closing
from functools import partial
from itertools import chain
from pathlib import Path

from torch import Tensor, nn

from minibert.files import signals, write_json, write_text
from minibert.program import Interrupted, run_program
from train.cache import PrefixCache
from train.checkpoint import Progress, fill, load_checkpoint, read_progress, save_checkpoint
from train.command_line import command_line, run_folder
from train.compare import compare_single
from train.evaluation import Metrics, measure, monitored_value, predict
from train.journal import Journal, cut_log
from train.optimizer import (
    BuildOptimizer,
    adamw,
    build_optimizer,
    new_groups,
    rate_factor,
    set_rates,
)
from train.overfit import check_memorised
from train.report import draw_curves, final_table, model_card, overview, write_predictions
from train.sampling import plan_steps
from train.saved import save_for_transformers, save_run
from train.settings import Settings
from train.setup import Parts, assemble
from train.step import Forward, forward_backward, not_finite
from train.tasks import KINDS, Kinds
from train.words import used_words_only

MOST_SKIPPED = 3  # steps in a row without a finite gradient, after which a run stops


def train(
    settings: Settings,
    run: Path,
    resume: bool = False,
    kinds: Kinds = KINDS,
    optimizer: BuildOptimizer = adamw,
) -> Metrics:
    """One whole run, into the folder `run`. Returns the test metrics, or dev's if there is no test
    split.

    kinds: the kinds of tasks that the data may have. optimizer: makes an optimizer from parameter
    groups. Raises InputError for data, weights or settings that cannot be used, and Interrupted on
    SIGINT or SIGTERM, after which `resume` goes on.
    """
    progress = read_progress(run, settings) if resume else Progress()
    started = time.perf_counter() - progress.seconds
    parts = assemble(settings, kinds)
    tasks, model, dev, test = parts.tasks, parts.model, parts.dev, parts.test
    with used_words_only(parts.encoder.bert, parts.token_ids(), optimizer) as words:
        print(overview(parts, words), flush=True)
        fit(parts, run, progress, started, resume, optimizer)

    # The best weights by dev are tested, once.
    model.eval()
    results: dict[str, Metrics] = {
        "dev": measure(tasks, dev, predict(model, tasks, dev, parts.device))
    }
    last = test or dev
    predictions = predict(model, tasks, last, parts.device)
    if test:
        results["test"] = measure(tasks, test, predictions)

    # What the run leaves.
    card = model_card(settings, tasks, results)
    save_run(run, parts.encoder, model, tasks, parts.splitting, *card)
    save_for_transformers(run, parts.encoder.tokenizer, model, tasks, *card)
    write_predictions(run / "predictions.jsonl", tasks, last, predictions)
    draw_curves(run, progress.history, tasks)
    progress.seconds = time.perf_counter() - started
    facts = {
        "best_step": progress.best_step,
        "steps": progress.step,
        "skipped_steps": progress.skipped,
        "truncated_sentences": sum(any(p.lost for p in item.parts) for item in parts.items()),
        "seconds": progress.seconds,
        "history": progress.history,
    }
    write_json(run / "metrics.json", {**results, **facts})  # the last file: the run is finished
    print(final_table(results, tasks))
    print(
        f"best step {progress.best_step} of {progress.step}, {progress.seconds:.0f} s; "
        f"all of it is in {run}"
    )
    if settings.overfit_batch:
        check_memorised(tasks, last, predictions)
    return results.get("test", results["dev"])


def fit(
    parts: Parts, run: Path, progress: Progress, started: float, resume: bool, build: BuildOptimizer
) -> None:
    """Train from where `progress` stands to the end; the best weights by dev are then in the model.

    started: when the run would have begun, by `time.perf_counter`, if nothing had interrupted it.
    """
    settings, tasks, model, sources = parts.settings, parts.tasks, parts.model, parts.sources
    parameters = parts.parameters()
    parts.plan.apply(progress.epoch)  # on resuming, what had been unfrozen by then is so again
    optimizer = build_optimizer(model, parts.mixer, settings, build)
    journal = Journal(run, settings, tasks, progress)
    best: dict[str, Tensor] = {}  # the parameters' values at the best evaluation
    if resume:
        best = load_checkpoint(run, parameters, optimizer)
        cut_log(run, progress.step)
    else:
        write_text(run / "settings.toml", settings.toml())

    sizes = [len(source) for source in sources]
    lengths = [[item.num_tokens for item in source] for source in sources]
    total_steps = settings.epochs * len(plan_steps(sizes, settings, epoch=1))
    cache: PrefixCache | None = None
    with signals() as stop_asked, closing(journal):
        while not progress.is_over(settings):
            parts.plan.apply(progress.epoch)
            for group in new_groups(model, settings, optimizer):
                optimizer.add_param_group(group)
            if not any(p.requires_grad for p in model.parameters()):
                print("everything is frozen: nothing is trained, only evaluated")
                break
            prefix = parts.plan.prefix(progress.epoch) if settings.cache else 0
            if prefix != (cache.prefix if cache else 0):
                items, memory = [*chain(*sources), *parts.dev], settings.cache_mib * 2**20
                cache = PrefixCache(model, items, prefix, memory, run) if prefix else None
            forward: Forward = cache.forward if cache else model
            steps = plan_steps(sizes, settings, progress.epoch, lengths)
            journal.begin_epoch(len(steps))

            for step in steps[progress.position :]:
                set_rates(optimizer, rate_factor(progress.step, total_steps, settings))
                batches = [parts.batch([sources[s][i] for s, i in batch]) for batch in step]
                losses = forward_backward(batches, model, forward, parts.mixer, tasks, settings)
                learning = [p for p in parameters.values() if p.grad is not None]
                norm = float(nn.utils.clip_grad_norm_(learning, settings.clip or float("inf")))
                if all(map(math.isfinite, (norm, *losses.sums.values()))):
                    optimizer.step()
                    progress.count(losses.sums, losses.counts)
                else:
                    progress.skip()
                    if progress.skipped_in_a_row >= MOST_SKIPPED:
                        raise not_finite(progress.step + 1, MOST_SKIPPED, batches)
                optimizer.zero_grad()
                progress.step += 1
                progress.position += 1
                journal.note_step(batches, losses, norm)

                ends_epoch = progress.position == len(steps)
                if ends_epoch or (settings.eval_steps and progress.step % settings.eval_steps == 0):
                    predictions = predict(model, tasks, parts.dev, parts.device, forward)
                    metrics = measure(tasks, parts.dev, predictions)
                    progress.evaluated(metrics, monitored_value(metrics, tasks, settings.monitor))
                    journal.note_evaluation()
                    if progress.best_step == progress.step:
                        best = {name: p.detach().clone() for name, p in parameters.items()}
                if ends_epoch:
                    progress.epoch, progress.position, progress.losses = progress.epoch + 1, 0, {}
                stops, ends = stop_asked(), progress.is_over(settings)
                if stops or ends or progress.step % settings.save_steps == 0:
                    progress.seconds = time.perf_counter() - started
                    save_checkpoint(run, parameters, best, optimizer, progress, settings)
                if stops:
                    raise Interrupted(
                        f"stopped after step {progress.step}; to go on: "
                        f"python -m train.run --resume {run}"
                    )
                if ends:
                    break
    if best and not settings.overfit_batch:  # the sanity check looks at the last weights
        fill(parameters, best, "the best weights")


def main(
    arguments: list[str] | None = None, kinds: Kinds = KINDS, optimizer: BuildOptimizer = adamw
) -> int:
    """Train. Returns the exit status, as `run_program`."""

    def program() -> None:
        settings, resumed = command_line(arguments, "python -m train.run", __doc__ or "")
        with run_folder(settings, resumed) as run:
            metrics = train(settings, run, resumed is not None, kinds, optimizer)
            if settings.compare_single:
                alone = partial(train, kinds=kinds, optimizer=optimizer)
                compare_single(settings, run, metrics, alone, kinds)

    return run_program(program)


if __name__ == "__main__":
    sys.exit(main())
