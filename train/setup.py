"""The set-up of a run: data, tasks, model, and what learns."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from minibert.devices import as_device
from minibert.encoder import SentenceEncoder
from minibert.files import InputError
from minibert.precision import uses_bfloat16
from train.batches import Batch, Item, collate, prepare
from train.data.corpus import Corpus
from train.data.examples import DataSet, fields_of
from train.data.fingerprint import fingerprint
from train.data.words import word_splitting
from train.evaluation import check_monitor
from train.freezing import FreezingPlan
from train.load import load_data, telling
from train.mixing import LossMixer
from train.model import Heads, JointModel, make_fast, set_dropout
from train.origin import Origin, model_print
from train.scratch import is_new, new_encoder
from train.settings import Settings
from train.sharding import check_sharding
from train.start import Start, open_start, take_heads, take_pretraining_heads
from train.tasks import KINDS, Kinds, build_tasks, build_text_tasks, learnt_names
from train.tasks.base import Task
from train.text import load_texts, tell_expected
from train.world import ALONE, World


@dataclass
class Parts:
    """What a run works with before its first step, with the weights that it starts from."""

    settings: Settings
    device: torch.device
    splitting: str  # how the training texts were split into words
    tasks: list[Task]
    encoder: SentenceEncoder
    model: JointModel  # around the encoder's own BERT
    mixer: LossMixer
    plan: FreezingPlan
    labelled: list[list[Item]]  # of each source of training data
    corpora: list[Corpus]  # plain text to train on
    dev: list[Item]
    test: list[Item]
    origin: Origin
    world: World

    @property
    def sources(self) -> list[Sequence[Item]]:
        """What is trained on, labelled or not."""
        return [*self.labelled, *self.corpora]

    @property
    def hides_words(self) -> bool:
        """Whether a batch's input_ids depend on the epoch, and any word of the vocabulary can
        stand in it."""
        return any(task.hides_words for task in self.tasks)

    def lengths(self) -> list[Sequence[int]]:
        """How many tokens each item of each source has."""
        of_labelled = ([item.num_tokens for item in items] for items in self.labelled)
        return [*of_labelled, *(corpus.lengths() for corpus in self.corpora)]

    def items(self) -> list[Item]:
        """All items of all splits that are held in memory: all but the corpora."""
        return [item for items in (*self.labelled, self.dev, self.test) for item in items]

    def batch(self, items: Sequence[Item], epoch: int = 1, keeps_owners: bool = False) -> Batch:
        """This process's share of some items as one batch, with the targets of every task.

        epoch: of training, from 1. keeps_owners: as in `World.shares`.
        """
        # What the sanity check memorises, it must be measured on: the masks of evaluation.
        if self.settings.overfit_batch > 0:
            epoch = 0
        shares = self.world.shares(items, keeps_owners)
        together = shares if self.world.size > 1 else ()
        return collate(self.world.own(shares), self.tasks, self.device, epoch, together)

    def token_ids(self) -> set[int]:
        """The ids of all tokens that occur."""
        found = {i for item in self.items() for part in item.parts for i in part.ids}
        return found.union(*(corpus.token_ids() for corpus in self.corpora))

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that a run may learn, by name."""
        return dict(self.model.named_parameters()) | {
            f"loss.{name}": p for name, p in self.mixer.named_parameters()
        }


def assemble(
    settings: Settings,
    kinds: Kinds = KINDS,
    *,
    sets: Sequence[DataSet] | None = None,
    announce: Callable[[str], None] = print,
    dtype: torch.dtype = torch.float32,
    world: World = ALONE,
) -> Parts:
    """The parts of a run. What is frozen in epoch 1 is frozen, and the model is in training mode.

    sets: the data, if not what `settings.data` names. announce: is told what was changed in the
    data. world: the processes that train together, if there are several. Raises InputError for
    data, weights or settings that cannot be used.
    """
    announce = telling(announce)
    if settings.fsdp:
        check_sharding(settings, world)
    torch.manual_seed(settings.seed)
    device = choose_device(settings.device, world)
    uses_bfloat16(settings.precision, device)  # raises where it cannot be had
    if sets is None:
        sets = load_data(settings, announce, kinds) if settings.data or settings.dev_data else []
    if settings.overfit_batch:
        sets = [first_examples(data, settings.overfit_batch) for data in sets[:1]]
    tasks = build_tasks(sets, settings, kinds)
    start = first_weights(settings, kinds, device, dtype)
    encoder = start.encoder
    text_tasks = build_text_tasks(settings, encoder.tokenizer, kinds)
    labelled, dev, test, number = tokenize(sets, tasks, encoder)
    items = [item for part in (*labelled, dev, test) for item in part]
    texts = load_texts(settings, text_tasks, encoder.tokenizer, number, announce)
    tasks, dev, test = [*tasks, *text_tasks], dev + texts.dev, test + texts.test
    chosen = {task.name: start.head_for(task, settings) for task in tasks}
    learnt = learnt_names(sets) | {task.name for task in text_tasks}
    if is_new(settings.model) and not any(task.uses_pooler for task in tasks):
        encoder.bert.pooler = None  # nothing would train it
    model = JointModel(encoder.bert, tasks).to(device, dtype)
    check_types(encoder, tasks)
    take_heads(model, tasks, start, chosen, announce)
    take_pretraining_heads(model, tasks, start, announce)
    if is_new(settings.model):
        tell_expected(texts.train, text_tasks, encoder.bert.config, announce)
    make_fast(model)
    if settings.dropout is not None:
        set_dropout(model, settings.dropout)
    check_measured([task for task in tasks if task.name not in learnt], model)
    mixer = LossMixer([t for t in tasks if t.name in learnt], settings).to(device, dtype)
    check_monitor(tasks, dev, settings.monitor)
    plan = FreezingPlan(model, settings.freeze, settings.unfreeze, tasks)
    if 0 < settings.epochs < (latest := max(plan.thawed, default=0)):
        raise InputError(
            f"unfreeze = {settings.unfreeze!r}: there is no epoch {latest}, "
            f"as epochs = {settings.epochs}"
        )
    model.train()
    plan.apply(epoch=1)
    return Parts(
        settings=settings,
        device=device,
        splitting=word_splitting(sets),
        tasks=tasks,
        encoder=encoder,
        model=model,
        mixer=mixer,
        plan=plan,
        labelled=labelled,
        corpora=texts.train,
        dev=dev,
        test=test,
        origin=Origin(
            data=fingerprint(sets, texts.data),
            model=model_print(encoder, tasks, items, is_new(settings.model)),
        ),
        world=world,
    )


def first_weights(
    settings: Settings, kinds: Kinds, device: torch.device, dtype: torch.dtype
) -> Start:
    """What a run starts from: random weights, or what `open_start` opens."""
    more: dict[str, Any] = {"max_length": settings.max_length, "device": device, "dtype": dtype}
    if not is_new(settings.model):
        if settings.tokenizer is not None:
            raise InputError(
                f"tokenizer = {settings.tokenizer!r}: {settings.model} has a vocabulary of its own"
            )
        return open_start(settings.model, kinds, settings.revision, **more)
    encoder = new_encoder(settings.model, settings.tokenizer, **more)
    return Start(settings.model, encoder, [], Heads({}), settings)


def first_examples(data: DataSet, count: int) -> DataSet:
    """The first examples of train as train, dev and test alike: what the sanity check must
    memorise."""
    examples = data.splits["train"][:count]
    return DataSet(data.name, {"train": examples, "dev": examples, "test": examples})


def check_measured(tasks: Sequence[Task], model: JointModel) -> None:
    """Raise InputError for a task that is only measured, and has a head."""
    for task in tasks:
        if list(model.heads[task.name].parameters()):
            raise InputError(
                f"{task.name} is in --dev-data alone, and its kind, {task.kind}, has a head, which "
                "nothing trains. Give the data with --data; or name the tasks to keep with --tasks"
            )


def check_types(encoder: SentenceEncoder, tasks: Sequence[Task]) -> None:
    """Raise InputError if the tokenizer gives a pair's second text a type that the model lacks."""
    highest = max(encoder.tokenizer.backend.encode("", "").type_ids)
    types = encoder.bert.config.type_vocab_size  # 0: the model ignores them
    if 0 < types <= highest and any(task.uses_token_types for task in tasks):
        raise InputError(
            f"the tokenizer gives the second text of a pair the token type {highest}, and the "
            f"model has {types}: its tokenizer.json belongs to another model"
        )


def tokenize(
    sets: Sequence[DataSet], tasks: Sequence[Task], encoder: SentenceEncoder
) -> tuple[list[list[Item]], list[Item], list[Item], int]:
    """The items of each source's train split, of all dev splits and of all test splits: those with
    a task's label; and the number that the next item would have. Data that is only measured is read
    by its own tasks alone, and these read no other."""
    names, learnt = {task.name for task in tasks}, learnt_names(sets)
    made: dict[str, list[list[Item]]] = {"train": [], "dev": [], "test": []}
    number = 0
    for split, of_split in made.items():
        for data in sets:
            examples = [e for e in data.splits.get(split, ()) if names & e.labels.keys()]
            reading = learnt if data.splits["train"] else fields_of(data)
            readers = [task for task in tasks if task.name in reading]
            of_split.append(prepare(examples, encoder.tokenizer, readers, number))
            number += len(examples)
    dev, test = ([item for items in made[split] for item in items] for split in ("dev", "test"))
    return [items for items in made["train"] if items], dev, test, number


def choose_device(name: str, world: World) -> torch.device:
    """The device to compute on. "auto" is a GPU of CUDA's or the CPU: training on a Mac's GPU is
    not tried. Of several processes, each has a GPU of its own. Raises InputError for a device that
    there is not."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and world.size > 1:
        name = f"cuda:{world.local_rank}"
    device = as_device(name)
    if device.type == "cuda" and world.size > 1:
        torch.cuda.set_device(device)
    return device
