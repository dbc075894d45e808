"""The same pre-training twice: by the pieces of train/, and by a plain loop with transformers and
torch.optim.

Both sides get a model folder with its heads, the same masked sequences in the same order and the
same hyperparameters, with dropout off. All else each does by itself: padding, token types, losses,
the tied decoder, learning rates, parameter groups, clipping.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from minibert.formats.names import checkpoint_name
from minibert.pretraining import BertForPreTraining
from tools.parity import shake
from tools.training_parity import Course, newsroom, our_losses, small_config, their_stepper
from train.batches import Batch
from train.sampling import plan_steps
from train.settings import Settings
from train.setup import Parts, assemble

DOCUMENT = 5  # newsroom's sentences that make a document here


@dataclass(frozen=True)
class Schooling:
    """What both sides are given: a model, a text, and how to learn from it."""

    folder: Path  # config.json, model.safetensors, vocab.txt; and the text, text.txt
    steps: int
    settings: Settings
    dtype: torch.dtype

    def parts(self) -> Parts:
        """What our run of it begins with."""
        return assemble(self.settings, announce=lambda _: None, dtype=self.dtype)

    def batches(self, parts: Parts) -> list[list[Batch]]:
        """Each step's, with its masks, as train/run.py makes them, epoch after epoch. A step
        without masked words is left out: `transformers` divides by their number."""
        sizes = [len(source) for source in parts.sources]
        steps = (
            [parts.batch([parts.sources[s][i] for s, i in batch], epoch) for batch in step]
            for epoch in count(1)
            for step in plan_steps(sizes, self.settings, epoch)
        )
        masked = (step for step in steps if any("masked" in batch.targets for batch in step))
        return list(islice(masked, self.steps))


def small_schooling(
    folder: Path, objectives: str, steps: int, dtype: torch.dtype = torch.float64, **changes: Any
) -> Schooling:
    """A small random model and a text, written into the folder; rates high enough that it
    learns, and no higher: at 1e-2, float32's rounding grows ten thousandfold."""
    examples = newsroom(100)
    texts = [example.text for example in examples]
    documents = [texts[i : i + DOCUMENT] for i in range(0, len(texts), DOCUMENT)]
    text = "\n\n".join("\n".join(lines) for lines in documents)
    (folder / "text.txt").write_text(text, encoding="utf-8")
    torch.manual_seed(0)
    has_next = "next" in objectives
    model = BertForPreTraining(
        small_config(folder, examples), pooler=has_next, next_sentence=has_next
    )
    shake(model, 0.05).save_pretrained(folder)
    given: dict[str, Any] = {"batch_size": 8, "lr": 2e-3, "head_lr": 2e-3, "max_length": 32}
    settings = Settings(
        data=(),
        text=(str(folder / "text.txt"),),
        objectives=objectives,
        model=str(folder),
        device="cpu",
        dropout=0.0,
        **(given | changes),
    )
    return Schooling(folder, steps, settings, dtype)


def our_schooling(schooling: Schooling) -> Course:
    """The steps as train/run.py takes them."""
    parts = schooling.parts()
    losses = our_losses(parts, schooling.batches(parts), parts.model)
    heads = {task.pretraining_part: parts.model.heads[task.name] for task in parts.tasks}
    whole = BertForPreTraining.of(parts.model.bert, **heads)
    return Course(
        [{"loss": sum(found.values())} for found in losses],
        {checkpoint_name(name): p.detach() for name, p in whole.named_parameters()},
    )


def their_schooling(schooling: Schooling) -> Course:
    """A loop in plain PyTorch around `transformers`, whose models compute their own losses."""
    from transformers import BertForMaskedLM
    from transformers import BertForPreTraining as TheirPreTraining

    settings = schooling.settings
    has_next = "next" in settings.objectives
    off: dict[str, Any] = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    theirs: Any = TheirPreTraining if has_next else BertForMaskedLM
    model = theirs.from_pretrained(schooling.folder, attn_implementation="eager", **off)
    model.to(schooling.dtype).train()
    step_by = their_stepper(model.bert, model.cls, settings, schooling.steps)
    losses = []
    for batches in schooling.batches(schooling.parts()):
        loss = model(**padded(batches, has_next)).loss
        step_by(loss)
        losses.append({"loss": loss.item()})
    return Course(losses, {name: p.detach() for name, p in model.named_parameters()})


def padded(batches: Sequence[Batch], has_next: bool) -> dict[str, torch.Tensor]:
    """The arguments that `transformers` wants for all sequences of a step, from our masked ids and
    targets."""
    ids, types, targets, follows = [], [], [], []
    for batch in batches:
        labels = torch.full_like(batch.input_ids, -100)
        if "masked" in batch.targets:
            labels[batch.positions["masked"]] = batch.targets["masked"]
        targets += labels.split(batch.layout.lengths)
        ids += batch.input_ids.split(batch.layout.lengths)
        for item, part in batch.sequences:
            example = batch.items[item].example
            types.append(torch.tensor(batch.items[item].parts[part].type_ids))
            follows.append(int(example.labels.get("next") == "random"))
    arguments = {
        "input_ids": pad_sequence(ids, batch_first=True),  # [PAD] is 0
        "token_type_ids": pad_sequence(types, batch_first=True),
        "attention_mask": pad_sequence([torch.ones_like(row) for row in ids], batch_first=True),
        "labels": pad_sequence(targets, batch_first=True, padding_value=-100),
    }
    return arguments | ({"next_sentence_label": torch.tensor(follows)} if has_next else {})
