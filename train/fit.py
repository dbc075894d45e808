"""The training loop: steps, evaluations, checkpoints."""

import math
from contextlib import closing
from itertools import chain
from pathlib import Path

from torch import Tensor

from minibert.files import InputError, write_text
from minibert.program import Interrupted, signals
from train.cache import PrefixCache
from train.checkpoint import fill, load_checkpoint, remove_old, save_checkpoint
from train.evaluation import evaluate, monitored_value, shared_out
from train.journal import Journal, cut_log
from train.model import Forward
from train.optimizer import BuildOptimizer, build_optimizer, new_groups, rate_factor, set_rates
from train.progress import Progress
from train.random_states import all_random_states
from train.sampling import count_steps, plan_steps, texts_apart
from train.setup import Parts
from train.sharding import clip_gradients
from train.step import forward_backward, not_finite

MOST_SKIPPED = 3  # steps in a row without a finite gradient, after which a run stops


def fit(parts: Parts, run: Path, progress: Progress, resume: bool, build: BuildOptimizer) -> None:
    """Train from where `progress` stands to the end; the best weights by dev are then in the
    model."""
    settings, tasks, model, sources = parts.settings, parts.tasks, parts.model, parts.sources
    world, parameters = parts.world, parts.parameters()
    parts.plan.apply(progress.epoch)  # on resuming, what had been unfrozen by then is so again
    optimizer = build_optimizer(model, parts.mixer, settings, build)
    journal = Journal(run, settings, tasks, progress, world.is_first)
    best: dict[str, Tensor] = {}  # the parameters' values at the best evaluation
    if resume:
        best = load_checkpoint(run, parameters, optimizer, world)
    if world.is_first:
        if resume:
            remove_old(run, settings.keep)  # which a process that was killed may not have come to
        else:
            write_text(run / "settings.toml", settings.toml())
        cut_log(run, progress.step, progress.is_due)

    def save() -> None:
        progress.spent("training")
        random = all_random_states(world)
        save_checkpoint(
            run, parameters, best, optimizer, random, progress, settings, parts.origin, world
        )
        progress.spent("checkpoints")

    def stop_if_asked() -> None:
        if world.any(stop_asked()):
            save()
            raise Interrupted(f"stopped after step {progress.step}")

    sizes = [len(source) for source in sources]
    lengths = texts = None  # to learn them, all items must be read
    if settings.group_by_length:
        lengths = parts.lengths()
    if any(task.keeps_texts_apart for task in tasks):
        texts = [texts_apart(items, tasks) for items in parts.labelled]  # corpora are too large
    total_steps = count_steps(sizes, settings, settings.epochs)
    if settings.max_steps > total_steps:
        print(
            f"max_steps = {settings.max_steps}, but epochs = {settings.epochs} have only "
            f"{total_steps} steps, after which the run ends"
        )
    elif settings.max_steps:
        total_steps = settings.max_steps
    cache: PrefixCache | None = None
    progress.spent("loading")
    with signals() as stop_asked, closing(journal):
        while not progress.is_over(settings):
            parts.plan.apply(progress.epoch)
            for group in new_groups(model, settings, optimizer):
                optimizer.add_param_group(group)
            if not any(p.requires_grad for p in model.parameters()):
                print("everything is frozen: nothing is trained, only evaluated")
                break
            # A corpus may be larger than any cache, and other words of it are hidden in each epoch.
            # With fsdp, all processes compute each layer, and one could have its output already.
            is_cached = settings.cache and not parts.corpora and not settings.fsdp
            prefix = parts.plan.prefix(progress.epoch) if is_cached else 0
            if prefix != (cache.prefix if cache else 0):
                of_dev = chain(*shared_out(parts.dev, world))
                items = [*world.shares([*chain(*sources)], keeps_owners=True)[world.rank], *of_dev]
                memory = settings.cache_mib * 2**20
                cache = PrefixCache(model, items, prefix, memory, run) if prefix else None
            forward: Forward = cache.forward if cache else model
            steps = plan_steps(sizes, settings, progress.epoch, lengths, texts)
            if steps.left_out and progress.step == 0:
                print(
                    f"{steps.left_out} of {sum(sizes)} examples are left out of epoch 1: every "
                    "batch with room has one of their texts already. Other epochs leave out others"
                )
            journal.begin_epoch(len(steps))

            epoch = progress.epoch
            while progress.epoch == epoch and not progress.is_over(settings):
                if not progress.is_due:
                    step = steps[progress.position]
                    rate = rate_factor(progress.step, total_steps, settings)
                    set_rates(optimizer, rate)
                    batches = [
                        parts.batch([sources[s][i] for s, i in batch], epoch, prefix > 0)
                        for batch in step
                    ]
                    losses = forward_backward(
                        batches, model, forward, parts.mixer, tasks, settings, world
                    )
                    learning = [p for p in parameters.values() if p.grad is not None]
                    norm = clip_gradients(learning, settings.clip or math.inf, world)
                    if all(map(math.isfinite, (norm, *losses.sums.values()))):
                        optimizer.step()
                        progress.count(losses.sums, losses.counts)
                    else:
                        progress.skip()
                        if progress.skipped_in_a_row >= MOST_SKIPPED:
                            raise not_finite(progress.step + 1, MOST_SKIPPED, batches)
                    optimizer.zero_grad()
                    progress.took_step(len(steps), settings)
                    journal.note_step(batches, losses, norm, rate)

                if progress.is_due:
                    progress.spent("training")
                    metrics, _ = evaluate(
                        model,
                        tasks,
                        parts.dev,
                        parts.device,
                        forward,
                        is_tuning=True,
                        check=stop_if_asked,
                        world=world,
                    )
                    progress.evaluated(metrics, monitored_value(metrics, tasks, settings.monitor))
                    journal.note_evaluation()
                    progress.spent("evaluation on dev")
                    if progress.best_step == progress.step:
                        best = {name: p.detach().clone() for name, p in parameters.items()}
                if progress.position == len(steps):
                    progress.begin_epoch()
                stop_if_asked()
                if progress.is_over(settings) or progress.step % settings.save_steps == 0:
                    save()
        stop_if_asked()  # while the last checkpoint was written
    if 0 < progress.step == progress.skipped:
        raise InputError(
            f"none of the {progress.step} steps had a finite loss and gradient, so nothing was "
            "learnt. Lower lr, or look at the data and at the model's weights"
        )
    if best and not settings.overfit_batch:  # the sanity check looks at the last weights
        fill(parameters, best, "the best weights")
