"""Engines that pre-train: masked words by ours, and by transformers' Trainer as run_mlm.py does it.

The same sizes, text, vocabulary, sequences of 128 tokens, batches, steps, learning rates, rate of
masks and precision for all; dropout off, as in Geiping and Goldstein 2022 (arXiv:2212.14034).
"""

import tempfile
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from minibert.precision import uses_bfloat16
from tools.benchmark.race import Engine, Work
from train.optimizer import build_optimizer, set_rates
from train.sampling import plan_steps
from train.settings import Settings
from train.setup import Parts, assemble
from train.step import forward_backward

LENGTH, BATCH, LR = 128, 32, 1e-3
SIZES = "num_hidden_layers=4, hidden_size=256"


def engines(text: str, tokenizer: str, steps: int, precision: str) -> list[Engine]:
    """Ours first."""
    same = {"text": text, "tokenizer": tokenizer, "steps": steps, "precision": precision}
    needs = ("transformers", "datasets", "accelerate")
    return [
        Engine("minibert", pretrain_ours, same),
        Engine("transformers' Trainer", pretrain_transformers, same, packages=needs),
    ]


def pretraining_parts(text: str, tokenizer: str, precision: str) -> Parts:
    """What a run of ours begins with."""
    settings = Settings(
        data=(),
        text=(text,),
        model=SIZES,
        tokenizer=tokenizer,
        max_length=LENGTH,
        batch_size=BATCH,
        lr=LR,
        head_lr=LR,
        dropout=0.0,
        precision=precision,
        device="cpu",
    )
    return assemble(settings, announce=lambda _: None)


def pretrain_ours(text: str, tokenizer: str, steps: int, precision: str) -> Work:
    """Our own step, as train/fit.py takes it."""
    parts = pretraining_parts(text, tokenizer, precision)
    model, settings = parts.model, parts.settings
    optimizer = build_optimizer(model, parts.mixer, settings)
    set_rates(optimizer, 1.0)
    parameters = list(model.parameters())

    def work(job: str, batching: str) -> dict[str, float]:
        tokens = 0
        plan = plan_steps([len(source) for source in parts.sources], settings, epoch=1)
        for [chosen], _ in zip(plan, range(steps), strict=False):
            batch = parts.batch([parts.sources[s][i] for s, i in chosen])
            forward_backward([batch], model, model, parts.mixer, parts.tasks, settings)
            nn.utils.clip_grad_norm_(parameters, settings.clip)
            optimizer.step()
            optimizer.zero_grad()
            tokens += batch.input_ids.numel()
        return {"done": tokens}

    return work


def pretrain_transformers(text: str, tokenizer: str, steps: int, precision: str) -> Work:
    """transformers' Trainer with DataCollatorForLanguageModeling, over sequences that are filled to
    the limit (`group_texts` of its run_mlm.py). Its sequences have no [SEP] but those of lines."""
    from datasets import Dataset
    from transformers import (
        AutoTokenizer,
        BertConfig,
        BertForMaskedLM,
        DataCollatorForLanguageModeling,
        Trainer,
        TrainingArguments,
    )

    config = pretraining_parts(text, tokenizer, precision).encoder.bert.config
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    torch.manual_seed(0)
    model: Any = BertForMaskedLM(BertConfig(**(vars(config) | off)))
    theirs = AutoTokenizer.from_pretrained(tokenizer)
    lines = Path(text).read_text(encoding="utf-8").splitlines()
    ids = list(chain.from_iterable(theirs([line for line in lines if line.strip()])["input_ids"]))
    rows = [ids[i : i + LENGTH] for i in range(0, len(ids) - LENGTH + 1, LENGTH)]
    sequences = Dataset.from_dict({"input_ids": rows[: steps * BATCH]})
    options = TrainingArguments(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=BATCH,
        max_steps=min(steps, len(sequences) // BATCH),
        learning_rate=LR,
        weight_decay=0.01,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        bf16=uses_bfloat16(precision, torch.device("cpu")),
        use_cpu=True,
        save_strategy="no",
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    collator = DataCollatorForLanguageModeling(theirs, mlm_probability=0.15)

    def work(job: str, batching: str) -> dict[str, float]:
        Trainer(model=model, args=options, train_dataset=sequences, data_collator=collator).train()
        return {"done": options.max_steps * BATCH * LENGTH}

    return work
