"""Everything that can be set about a run. The command line's options and a recipe's keys are these
fields."""

import json
from dataclasses import asdict, dataclass

from minibert.files import InputError
from minibert.heads import POOLINGS
from minibert.precision import PRECISIONS
from train.option import check_options, option


@dataclass(frozen=True)
class Settings:
    """One run. Raises InputError, naming the setting, for a value that it cannot have."""

    data: tuple[str, ...] = option(
        ("newsroom",),
        "a data folder, a file, newsroom, or hub:OWNER/NAME; NAME=PATH names it; may be repeated",
        group="data",
    )
    tasks: tuple[str, ...] = option(
        (), "train only these of the data's tasks; may be repeated. If absent, all"
    )
    columns: str = option(
        "",
        'which columns are what: "text=tweet, label=sentiment, id=number"; in a file without a '
        "header, columns are numbered from 1. If absent, by their names",
    )
    delimiter: str | None = option(
        None, "what separates a table's columns: one character, or tab. If absent, by the suffix"
    )
    quoted: bool = option(True, "whether a table's texts may stand in quotation marks")
    header: bool = option(True, "whether a table's first line names its columns")
    encoding: str = option("utf-8", "the encoding of the data's files")
    classes: tuple[str, ...] = option((), "labels whose numbers are classes; may be repeated")
    score: tuple[str, ...] = option((), "labels whose numbers are scores; may be repeated")
    multilabel: tuple[str, ...] = option(
        (),
        "labels of which a text may have several, separated by ; or , in a table's cell; or "
        "several columns of 0 and 1 as one task, NAME=A,B,C; may be repeated",
    )
    share: tuple[str, ...] = option(
        (), "labels that several data sets have in common, as one task; may be repeated"
    )
    dev_data: tuple[str, ...] = option(
        (),
        "data on whose dev split vectors are measured, and which is not learnt: scored pairs, or "
        "queries with a corpus; may be repeated",
    )

    text: tuple[str, ...] = option(
        (),
        "plain text to learn from, any size of it: a file, or a folder with train.txt, dev.txt, "
        "test.txt; may be repeated",
        group="plain text",
    )
    objectives: str = option(
        "masked",
        'what is learnt from plain text: "masked" words; "masked, next" for the next sentence '
        'too; or "simcse", vectors of texts',
    )
    documents: str = option(
        "blocks",
        "what is one document of plain text: a block between blank lines, a line, or the file. "
        "Blocks and files fill sequences up to the limit; a line is a sequence of its own",
        choices=("blocks", "lines", "files"),
    )

    model: str = option(
        "minilm",
        "what to start from: a folder, minilm, or a Hub id; or random weights, by the file of a "
        'config, or by sizes: "num_hidden_layers=4, hidden_size=256"',
        group="model and output",
    )
    tokenizer: str | None = option(
        None, "the folder of the vocabulary, for a model of random weights"
    )
    revision: str | None = option(
        None, "a branch, tag or commit on the Hub. If absent, the main branch"
    )
    output: str | None = option(
        None, "the folder for all that the run leaves. If absent, the first free runs/NAME"
    )

    epochs: int = option(5, "passes over the training data", least=0, group="batches and steps")
    batch_size: int = option(32, "sentences (or pairs) a batch", above=0)
    group_by_length: bool = option(
        False, "make batches of sentences of similar length: faster, if less random"
    )
    accumulate: int = option(1, "batches whose gradients make one step", above=0)
    ramp_steps: int = option(
        0, "the batches of a step grow from 1 to accumulate over so many steps", least=0
    )
    max_steps: int = option(0, "stop after so many steps; 0: after all epochs", least=0)
    mini_batch_size: int = option(
        0,
        "compute a batch in pieces of so many sequences, by gradient caching: the same gradient in "
        "the memory of a piece; 0: at once",
        least=0,
    )
    max_length: int | None = option(
        None,
        "the most tokens of a sentence, [CLS] and [SEP] included. If absent, the model's own limit",
        above=2,
    )
    stride: int = option(
        0,
        "read texts over the limit in windows that overlap by so many tokens; 0: cut them off (but "
        "what answers a question is always read in windows, by 128)",
        least=0,
    )
    seed: int = option(
        0, "random seed: first weights of the heads, dropout, order of the batches", least=0
    )

    lr: float = option(
        1e-4,
        "the highest learning rate of the encoder's top layer",
        above=0,
        group="learning rates and regularisation",
    )
    head_lr: float = option(1e-3, "the highest learning rate of the heads", above=0)
    layer_decay: float = option(
        1.0, "layer k of L learns at lr * layer_decay ** (L - k), the embeddings as k = 0", above=0
    )
    group_lr: str = option(
        "", 'rates for parts, in place of the above: "layers.0-5=1e-5, head.slots=1e-4"'
    )
    weight_decay: float = option(
        0.01,
        "AdamW's, on all matrices, word embeddings included; biases and norms have none",
        least=0,
    )
    schedule: str = option(
        "linear", "how the rates fall after the warm-up", choices=("linear", "cosine", "constant")
    )
    warmup: float = option(
        0.1, "the share of all steps in which the rates rise from 0", least=0, below=1
    )
    clip: float = option(
        1.0, "the most that the norm of all gradients may be; 0 for no limit", least=0
    )
    dropout: float | None = option(
        None, "dropout probability everywhere. If absent, the model's own", least=0, below=1
    )

    pooling: str = option(
        "",
        f"how sentence heads pool, {', '.join(POOLINGS)} or pooler; or by task: "
        '"mean, emotion=cls". If absent, as the head that the run starts from, or else by the mean',
        group="heads of tasks",
    )
    pairs: str = option(
        "",
        'how a task reads two texts: "together" in one sequence, or "apart"; or by task: '
        '"together, score=apart". If absent, classes together and scores apart',
    )
    threshold: str = option(
        "0.5",
        'of several labels, those are predicted whose probability is at least this; "best": for '
        "each label, what is best on dev",
    )
    valid_tags: bool = option(
        False, "predict only valid sequences of tags: no entity goes on that has not begun"
    )
    class_weights: str = option(
        "",
        'weights of a sentence task\'s labels: "emotion=auto", or "emotion=anger:2;joy:1". If '
        "absent, all 1",
    )
    label_smoothing: float = option(
        0.0,
        "the share of a class's target that is spread over all labels",
        least=0,
        below=1,
    )

    expect: str = option(
        "",
        'the dev losses that a recorded run of these settings had, told at the start: "500=6.2, '
        '2000=4.1", each with its step',
        group="masked words and vectors",
    )
    mask_rate: float = option(
        0.15, "the share of a sequence's tokens that masked words are", above=0, below=1
    )
    mask_shares: str = option(
        "0.8, 0.1, 0.1",
        "of the masked words, the shares that become [MASK], become a random word, and stay",
    )
    whole_words: bool = option(False, "mask all pieces of a word, or none")
    vector_loss: str = option(
        "mse",
        "how scored pairs are learnt as cosines: by squared errors, or by their order (CoSENT)",
        choices=("mse", "cosent"),
    )
    scale: float = option(
        20.0, "what cosines are multiplied by in contrastive losses: 1 / temperature", above=0
    )
    symmetric: bool = option(
        False, "contrastive: a positive must find its anchor too, among all anchors"
    )
    matryoshka: str = option(
        "",
        'learn vectors that can be cut off: "256, 128, 64" adds the loss of the first so many '
        "numbers",
    )

    sampling: str = option(
        "proportional",
        "which data set the next batch is from",
        choices=("proportional", "temperature", "uniform", "round-robin"),
        group="several tasks",
    )
    temperature: float = option(
        2.0, "for sampling by temperature: by size ** (1 / temperature)", above=0
    )
    loss: str = option(
        "sum", "how the tasks' losses become one", choices=("sum", "fixed", "uncertainty")
    )
    loss_weights: str = option("", 'for loss fixed: "intent=0.7, slots=0.3"')
    log_gradients: bool = option(
        False, "log each task's gradient norm on the encoder, and their cosine (slower)"
    )
    compare_single: bool = option(
        False, "afterwards train each task alone too, and print joint against single"
    )

    freeze: str = option(
        "",
        'what does not learn: "all", "backbone", "embeddings,layers.0-5", "head.slots"',
        group="what learns",
    )
    unfreeze: str = option("", 'what learns from which epoch on: "2: layers.4-5; 3: layers.0-3"')
    cache: bool = option(
        True, "compute the frozen lowest layers once a sentence, and keep their output"
    )
    cache_mib: int = option(
        1024,
        "the most MiB of memory for the cache; a larger one is a file in the run's folder",
        least=0,
    )

    monitor: str = option(
        "mean",
        'the dev metric that chooses the best weights: "mean", or one such as "slots.f1"',
        group="evaluation and checkpoints",
    )
    eval_steps: int = option(
        0, "evaluate on dev every so many steps; 0: at the end of each epoch", least=0
    )
    patience: int = option(
        0, "stop after so many evaluations without a better metric; 0: never", least=0
    )
    save_steps: int = option(
        500, "write a checkpoint every so many steps, besides on interrupts and at the end", above=0
    )
    keep: int = option(1, "how many checkpoints to keep", above=0)

    device: str = option(
        "auto", "cpu, cuda, or auto: cuda where there is one", group="machine and checks"
    )
    precision: str = option(
        "float32",
        "of products in training, by autocast, with weights in float32; auto: bfloat16 where the "
        "processor computes with it. Evaluation and prediction are in float32 always",
        choices=PRECISIONS,
    )
    overfit_batch: int = option(
        0, "sanity check: train on this many sentences alone, which must be memorised", least=0
    )
    tensorboard: bool = option(False, "write TensorBoard's files too (needs its package)")
    fsdp: bool = option(
        False, "shard the layers' weights, gradients and optimizer state over processes (FSDP2)"
    )

    def __post_init__(self) -> None:
        check_options(self)
        if not self.data and not self.text:
            raise InputError("data is empty: name at least one data folder, or text")
        if self.log_gradients and self.mini_batch_size:
            raise InputError(
                "log_gradients = true needs each batch at once: leave it out, or mini_batch_size"
            )
        if self.compare_single and self.max_steps:
            raise InputError(
                "compare_single = true gives each task the epochs that make it as many batches as "
                "the joint run has; leave max_steps out"
            )

    def toml(self, without: tuple[str, ...] = ()) -> str:
        """The settings as TOML, one a line, but for those left out."""
        lines = [
            f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
            for key, value in asdict(self).items()
            if value is not None and key not in without
        ]
        # TOML writes texts, numbers, lists and booleans as JSON does, but escapes \x7f.
        return "".join(lines).replace("\x7f", "\\u007f")
