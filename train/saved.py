"""What a finished run leaves: the model, its heads and tasks; and opening it again."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from minibert.encoder import SentenceEncoder
from minibert.files import InputError, write_json
from minibert.formats.cards import write_card
from minibert.formats.checkpoint import save_model
from minibert.formats.families import FAMILIES
from minibert.formats.names import checkpoint_name
from minibert.formats.tensors import save_tensors
from minibert.pretraining import BertForPreTraining
from minibert.tokenizer import Tokenizer
from train.model import JointModel, make_fast
from train.settings import Settings
from train.start import Start, open_run_folder, open_start
from train.tasks import KINDS, Kinds
from train.tasks.base import Task


def save_run(
    run: Path,
    encoder: SentenceEncoder,
    model: JointModel,
    tasks: Sequence[Task],
    splitting: str,
    facts: Mapping[str, Any],
    training: str,
) -> None:
    """Write RUN/model (which SentenceEncoder, sentence-transformers and transformers open), and the
    heads beside it.

    facts, training: for the model card, as in `SentenceEncoder.save_pretrained`.
    """
    for task in tasks:
        if task.vector_pooling is not None:
            encoder.settings = replace(encoder.settings, pooling=task.vector_pooling)
    encoder.save_pretrained(run / "model", facts=facts, training=training)
    parts = {t.pretraining_part: model.heads[t.name] for t in tasks if t.pretraining_part}
    if parts:  # they stand in the encoder's files, as in Google's checkpoints
        BertForPreTraining.of(encoder.bert, **parts).save_pretrained(run / "model")
    save_tensors(dict(model.heads.named_parameters()), run / "heads.safetensors")
    write_json(
        run / "tasks.json",
        {"split_words": splitting, "tasks": [task.describe() for task in tasks]},
    )


def folder_name(task: str) -> str:
    """The name of a task as that of a folder: "stars/5" and ".." cannot be one."""
    return re.sub(r'[%/\\<>:"|?*]|^\.', lambda found: f"%{ord(found[0]):02X}", task)


def save_for_transformers(
    run: Path,
    tokenizer: Tokenizer,
    model: JointModel,
    tasks: Sequence[Task],
    facts: Mapping[str, Any],
    training: str,
) -> None:
    """Write RUN/transformers/TASK, encoder and head as one model, for each task that a class of
    transformers computes; and say of any other head that there is none.

    facts, training: as in `save_run`.
    """
    config = model.bert.config
    family = FAMILIES[config.model_type]
    for task in tasks:
        counterpart = task.counterpart()
        if task.pretraining_part:  # RUN/model has it
            continue
        if counterpart is None:  # written in spite of that, the weights would compute another thing
            if list(model.heads[task.name].parameters()):  # else RUN/model has all
                print(
                    f"{task.name}: not saved for transformers, none of whose classes computes it; "
                    "a head of texts there reads one sequence, by the pooler"
                )
            continue
        architecture = family.like_berts(counterpart.architecture)
        if architecture is None:
            print(
                f"{task.name}: not saved for transformers, where a {config.model_type} has another "
                f"head than {counterpart.architecture}"
            )
            continue
        folder = run / "transformers" / folder_name(task.name)
        encoder = {
            checkpoint_name(f"bert.{name}", family): p
            for name, p in model.bert.named_parameters()
            if task.uses_pooler or not name.startswith("pooler.")
        }
        save_model(
            architecture,
            config,
            encoder | task.export(model.heads[task.name]),
            folder,
            id2label={str(i): label for i, label in enumerate(counterpart.labels)},
            label2id={label: i for i, label in enumerate(counterpart.labels)},
            problem_type=counterpart.problem_type,
        )
        tokenizer.save(folder, config.type_vocab_size > 1)
        about = {
            "library_name": "transformers",
            "pipeline_tag": counterpart.pipeline,
            "tags": [config.model_type],
        }
        write_card(folder / "README.md", about | dict(facts), f"# {task.name}\n\n{training}")


@dataclass
class Run:
    """A finished run, opened: all that predicting needs."""

    model: JointModel
    encoder: SentenceEncoder
    tasks: list[Task]
    splitting: str  # how a text becomes words, as `split_text` takes it
    settings: Settings
    is_run: bool = True  # if not, the head was learnt elsewhere, and no data has its task's name


def open_run(
    name: str,
    kinds: Kinds = KINDS,
    revision: str | None = None,
    device: torch.device | str = "cpu",
) -> Run:
    """Open what predicts, in eval mode: a finished run's folder; or a folder or Hub id with a head
    of `transformers`, or of a CrossEncoder of sentence-transformers, as one task.

    A head of texts is also one of pairs: its task reads an example as it is, one text or two.
    Raises InputError if there is no such model, it has no head, or the head is of no kind.
    """
    start = open_start(name, kinds, revision, device=device)
    if start.unread:
        raise InputError(f"{name} has a head ({start.unread}) that is for no kind of task here")
    if not start.tasks:
        raise InputError(
            f"{name} is an encoder without a head for a task: train one first, with "
            f"python -m train.run --model {name} --data ..."
        )
    return _opened(start, device)


def load_run(run: Path, kinds: Kinds = KINDS, device: torch.device | str = "cpu") -> Run:
    """Open a finished run, in eval mode. Raises InputError if the folder is none, or is damaged."""
    return _opened(open_run_folder(run, kinds, device=device), device)


def _opened(start: Start, device: torch.device | str) -> Run:
    model = JointModel(start.encoder.bert, start.tasks)
    model.heads = start.heads
    make_fast(model)
    return Run(
        model.to(device).eval(),
        start.encoder,
        start.tasks,
        start.splitting,
        start.settings,
        start.is_run,
    )
