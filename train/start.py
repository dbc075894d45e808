"""What a run starts from, and what predicting opens: an encoder, and the heads that it has.

They are in a finished run's folder; or in a folder or on the Hub, with the head of one of
`transformers`' classes. A plain encoder has none.
"""

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minibert.config import BertConfig
from minibert.encoder import SentenceEncoder
from minibert.files import InputError, read_object
from minibert.formats.checkpoint import HeadWarning, read_head
from minibert.formats.config import family_of
from minibert.formats.hub import PoolingWarning, find_model
from minibert.formats.tensors import read_tensors
from minibert.model import Bert
from minibert.pretraining import BertForPreTraining
from minibert.tokenizer import Tokenizer
from train.checkpoint import fill
from train.command_line import train_command
from train.model import Heads, JointModel
from train.settings import Settings
from train.settings_file import read_settings
from train.tasks import KINDS, Kinds, task_from
from train.tasks.base import Task


@dataclass
class Start:
    """An encoder, and the tasks that it has been trained for."""

    name: str  # as it was asked for
    encoder: SentenceEncoder
    tasks: list[Task]  # none for a plain encoder
    heads: Heads  # theirs
    settings: Settings  # of the run, if it is one's folder
    splitting: str = "as BERT"  # how a text becomes words, as `split_text` takes it
    is_run: bool = False  # whether they are a run's, whose tasks are named as its data names them
    unread: str = ""  # what its head is, if that is for no kind of task
    folder: Path | None = None  # of its files, if they are no run's

    def head_for(self, task: Task, settings: Settings) -> Task | None:
        """The task whose head gives another its first weights: the one of its name, or the only
        one; None if that does not fit."""
        named = [old for old in self.tasks if old.name == task.name]
        found = named or (self.tasks if len(self.tasks) == 1 else [])
        old = as_numbered(found[0], task) if found else None
        return old if old and task.goes_on_from(old, settings) else None


def open_start(
    name: str,
    kinds: Kinds = KINDS,
    revision: str | None = None,
    *,
    max_length: int | None = None,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Start:
    """The encoder of a model, with its heads. name: a finished run's folder, or as in
    `SentenceEncoder.from_pretrained`.

    Raises InputError if the model cannot be had, or is damaged.
    """
    more: dict[str, Any] = {"max_length": max_length, "device": device, "dtype": dtype}
    run = Path(os.path.expanduser(name))
    if os.path.exists(run / "settings.toml"):  # False also for what is too long for a name
        if revision is not None:
            raise InputError(f"{name} is a run's folder, and has no revision {revision!r}")
        return open_run_folder(run, kinds, **more)
    settings = Settings(model=name, revision=revision)
    folder = find_model(name, revision).path
    tensors, config = read_head(folder), read_object(folder / "config.json")
    task = task_of(folder, config, kinds) if tensors else None
    if task is None:
        with warnings.catch_warnings():  # the tasks say how they pool, whatever the files say
            warnings.simplefilter("ignore", PoolingWarning)
            warnings.simplefilter("ignore", HeadWarning)
            encoder = SentenceEncoder.from_pretrained(name, revision=revision, **more)
        if len(encoder.after):
            raise InputError(
                f"{name} has layers after its pooling (modules.json), which are not trained here, "
                "and would no longer fit: train it with sentence-transformers; or take these "
                "modules out of modules.json, to train the encoder without them"
            )
        problem = f", problem_type {found}" if (found := config.get("problem_type")) else ""
        unread = f"{architecture_of(config)}{problem}" if tensors else ""
        return Start(name, encoder, [], Heads({}), settings, unread=unread, folder=folder)
    bert = Bert.from_folder(folder, dtype)[0].to(device)
    tokenizer = Tokenizer.from_folder(folder, bert.config.vocab_size)
    heads = build_heads([task], bert.config)
    check_shapes(folder, tensors, heads[task.name].state_dict(), architecture_of(config), task)
    fill(dict(heads[task.name].named_parameters()), tensors, str(folder))
    encoder = SentenceEncoder(bert, tokenizer, max_length=max_length)
    return Start(name, encoder, [task], heads, settings)


def open_run_folder(run: Path, kinds: Kinds = KINDS, **more: Any) -> Start:
    """A finished run's encoder and heads. more: as in `SentenceEncoder.from_pretrained`. Raises
    InputError if the folder is no finished run, or is damaged."""
    if not os.path.exists(run / "tasks.json"):
        is_begun = os.path.exists(run / "settings.toml")
        hint = f". To finish it: {train_command()} --resume {run}" if is_begun else ""
        raise InputError(f"{run} is no finished run: it has no tasks.json{hint}")
    content = read_object(run / "tasks.json")
    try:
        tasks = [task_from(description, kinds) for description in content["tasks"]]
        splitting = str(content["split_words"])
    except InputError as error:
        raise InputError(f"{run / 'tasks.json'} does not describe tasks: {error}") from error
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{run / 'tasks.json'} does not describe tasks: {error!r:.200}") from error
    names = [task.name.replace(".", ":") for task in tasks]
    if len({*names}) < len(names):
        raise InputError(f"{run / 'tasks.json'} describes two tasks of one name")
    settings = Settings(**read_settings(run / "settings.toml"))
    for task in tasks:
        task.configure(settings)
    encoder = SentenceEncoder.from_pretrained(run / "model", **more)
    heads, file = build_heads(tasks, encoder.bert.config), run / "heads.safetensors"
    fill(dict(heads.named_parameters()), read_tensors(file), str(file))
    return Start(str(run), encoder, tasks, heads, settings, splitting, is_run=True)


def build_heads(tasks: Sequence[Task], config: BertConfig) -> Heads:
    """Heads to be filled. The random generator, which gives new heads their weights, is left as it
    is."""
    with torch.random.fork_rng(devices=[]):
        return Heads({task.name: task.build_head(config) for task in tasks})


def check_shapes(
    folder: Path,
    tensors: Mapping[str, Tensor],
    wanted: Mapping[str, Tensor],
    architecture: str,
    task: Task,
) -> None:
    """Raise InputError, naming the tensor, if those of a head are not what config.json names."""
    labels = f" of {len(task.labels)} labels" if task.labels else ""
    for name in sorted(wanted.keys() | tensors.keys()):
        found = list(tensors[name].shape) if name in tensors else "missing"
        named = list(wanted[name].shape) if name in wanted else "none of that name"
        if found != named:
            raise InputError(
                f"{folder}: the head's tensor {name} is {found}, and the {architecture}{labels} "
                f"that config.json names has {named}"
            )


def architecture_of(config: Mapping[str, Any]) -> str:
    """The class of `transformers` that a config.json names."""
    names = config.get("architectures")
    return str(names[0]) if isinstance(names, list) and names else "a class without a name"


def task_of(folder: Path, config: Mapping[str, Any], kinds: Kinds) -> Task | None:
    """The task that a folder's head is for; None if it is of no kind. Raises InputError, naming
    file and key, for labels that cannot be."""
    about = dict(config)
    about["activation_fn"] = activation(folder, config)
    file = folder / "config.json"
    labels, architecture = labels_of(file, config), family_of(file).in_bert(architecture_of(config))
    found = (kind.from_transformers(architecture, labels, about) for kind in kinds)
    return next((task for task in found if task is not None), None)


def labels_of(file: Path, config: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels of a config.json, in order. Without id2label there are LABEL_0 and LABEL_1:
    `transformers` leaves these out. Raises InputError for numbers with gaps, and equal labels."""
    found = config.get("id2label", {"0": "LABEL_0", "1": "LABEL_1"})
    if not isinstance(found, dict) or not all(isinstance(label, str) for label in found.values()):
        raise InputError(f"{file}: id2label must map numbers to labels, not be {found!r:.200}")
    if missing := {str(i) for i in range(len(found))} - found.keys():
        raise InputError(
            f"{file}: id2label has {len(found)} labels, and none for {', '.join(sorted(missing))}"
        )
    labels = tuple(found[str(i)] for i in range(len(found)))
    if len(set(labels)) < len(labels):
        twice = next(label for label in labels if labels.count(label) > 1)
        raise InputError(f"{file}: id2label has two labels {twice!r}")
    return labels


def activation(folder: Path, config: Mapping[str, Any]) -> str | None:
    """What sentence-transformers applies to a CrossEncoder's logits, "Sigmoid" or "Identity"; None
    if nothing says so. Three generations of it have written that to three keys."""
    file = folder / "config_sentence_transformers.json"
    theirs = config.get("sentence_transformers")
    name = (
        (read_object(file) if file.exists() else {}).get("activation_fn")
        or (theirs.get("activation_fn") if isinstance(theirs, dict) else None)
        or config.get("sbert_ce_default_activation_function")
    )
    if name is None:
        return None
    word = str(name).rpartition(".")[2]
    if word not in ("Sigmoid", "Identity"):
        raise InputError(f"{folder}: activation_fn {name!r} is neither Sigmoid nor Identity")
    return word


def as_numbered(old: Task, task: Task) -> Task:
    """The old task; where its labels have no names (`transformers` calls them LABEL_0 and so on)
    and the new task's are numbers, with these numbers as labels."""
    numbers = tuple(map(str, range(len(old.labels))))
    has_no_names = old.labels == tuple(f"LABEL_{number}" for number in numbers)
    if not (has_no_names and task.labels and set(task.labels) <= set(numbers)):
        return old
    return type(old).from_description(old.describe() | {"labels": numbers})


def take_heads(
    model: JointModel,
    tasks: Sequence[Task],
    start: Start,
    chosen: Mapping[str, Task | None],
    announce: Callable[[str], None],
) -> None:
    """Give the heads of a new model their first weights, where `chosen` says that an old head
    fits, and say so. The rows of labels that are new stay as they are."""
    if start.unread:
        announce(f"{start.name}: its head ({start.unread}) is for no kind of task here")
    with_heads = [task for task in tasks if list(model.heads[task.name].parameters())]
    for task in with_heads if start.tasks else ():
        old = chosen[task.name]
        if old is None or not _take(model.heads[task.name], task, start.heads[old.name], old):
            had = ", ".join(one.summary() for one in start.tasks)
            announce(f"{task.name}: a new head, as none of {start.name} fits, which has {had}")
            continue
        known = [label for label in task.labels if label in old.labels]
        new = [label for label in task.labels if label not in old.labels]
        gone = [label for label in old.labels if label not in task.labels]
        told = f"{task.name}: goes on from the head {old.name} of {start.name}"
        if new:
            told += f"; {len(known)} of {len(task.labels)} labels are known, new: {', '.join(new)}"
        if gone:
            told += f"; left out, since the data has none: {', '.join(gone)}"
        announce(told)


@torch.no_grad()
def _take(head: nn.Module, task: Task, old_head: nn.Module, old: Task) -> bool:
    """Copy an old head into a new one, label by label. False, and nothing is copied, if the shapes
    differ in more than the number of labels."""
    given = task.import_head(old.export(old_head))
    pairs: list[tuple[Tensor, Tensor]] = []  # what is filled, and what with
    rows = [(i, old.labels.index(x)) for i, x in enumerate(task.labels) if x in old.labels]
    for name, parameter in head.named_parameters():
        if (tensor := given.get(name)) is None or parameter.shape[1:] != tensor.shape[1:]:
            return False
        if (len(parameter), len(tensor)) == (len(task.labels), len(old.labels)):
            pairs += [(parameter[i], tensor[j]) for i, j in rows]
        elif len(parameter) == len(tensor):
            pairs.append((parameter, tensor))
        else:
            return False
    for own, tensor in pairs:
        own.copy_(tensor)
    return True


@torch.no_grad()
def take_pretraining_heads(
    model: JointModel, tasks: Sequence[Task], start: Start, announce: Callable[[str], None]
) -> None:
    """Give the heads of pre-training the weights that a checkpoint has for them, and say of each
    whether it has."""
    wanted = [task for task in tasks if task.pretraining_part]
    if not wanted or start.folder is None:
        return
    whole = BertForPreTraining.from_folder(start.folder)[0]
    for task in wanted:
        part = getattr(whole, task.pretraining_part)
        if part is None:
            announce(f"{task.name}: a new head, as {start.name} has none")
        else:
            model.heads[task.name].load_state_dict(part.state_dict())
            announce(f"{task.name}: goes on from the head of {start.name}")
