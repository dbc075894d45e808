"""Hold every shape comment against the tensors of a real run.

    python -m tools.check_shapes [PACKAGE ...]

A shape comment trails a statement of a function, on the statement's last line, and starts with a
shape:

    weights = self.mask.unsqueeze(-1)  # (B, S) -> (B, S, 1)
    return self.output(context.flatten(-2))  # (*, H, W) -> (*, D)
    parts.append(group.flatten(0, 1))  # (G, L, D) -> (G * L, D): words without brackets may follow

    comment = "# " [ shapes " -> " ] shapes { " or " shapes } [ words ]
    shapes  = shape { ", " shape }
    shape   = "(" [ "*" or size { ", " size } ] ")"      `*` only in the first place
    size    = a capital letter, a whole number, or a product of them: `2 * D`

The last shape is the result's: of what is assigned, returned, yielded or appended. One shape speaks
for all tensors of the result, as in `q, k, v = (...)  # (B, S, H, W)`; several speak for one each,
in order. An execution whose result is None does not count. Each shape before `->` is that of a
tensor which the statement reads, as it was before the statement ran. The statement reads it by
name, by attribute (`self.mask`) or by constant item (`states[0]`).

A letter in SIZES has the size given there. `*` stands for the tokens: (B, S), or one size other
than B (N, or some of them), the same throughout a comment. Any other letter, such as G or L, may
have any size, the same throughout one execution. All SIZES differ, so a swapped comment cannot pass
by chance.

How it works: `sys.settrace` stops at each line of the packages while `exercise` runs them. It looks
up in the frame what a commented statement reads before it runs, and its result afterwards. A
comment is listed, and makes the exit status 1, if it is wrong, if it cannot be read, if it belongs
to no statement with a result, or if its statement never ran.
"""

import argparse
import ast
import importlib.util
import itertools
import math
import os
import re
import sys
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from minibert.bridge import Transformer
from minibert.config import BertConfig
from minibert.encoder import SentenceEncoder
from minibert.fast import arrange, change_classes, inference_copy, speed_up, twin
from minibert.fast.attention import FastAttention
from minibert.fast.attention import attention as fast_attention
from minibert.fast.linear import convolution
from minibert.fast.rows import InRows
from minibert.heads import POOLINGS, SentenceHead, SpanHead, TokenHead, pool
from minibert.layout import Packed, Padded
from minibert.model import Attention, Bert, attention
from minibert.pretraining import BertForPreTraining, fill_masks
from minibert.similarity import pair_similarities, similarities
from minibert.tokenizer import Tokenizer, Tokens
from train.batches import Item, collate
from train.cache import PrefixCache
from train.data.examples import Answers, Document, Example, Negatives
from train.evaluation import evaluate, predict
from train.mixing import LossMixer
from train.model import JointModel
from train.optimizer import adamw
from train.settings import Settings
from train.step import forward_backward
from train.tasks.base import Task
from train.tasks.classification import SentenceClassification
from train.tasks.contrastive import Contrastive
from train.tasks.masked_words import MaskedWords
from train.tasks.masks import Masks
from train.tasks.multilabel import MultilabelClassification
from train.tasks.multiple_choice import MultipleChoice
from train.tasks.next_sentence import NextSentence
from train.tasks.pairs import PairClassificationApart
from train.tasks.question_answering import QuestionAnswering
from train.tasks.regression import SentenceRegression
from train.tasks.retrieval import Retrieval
from train.tasks.similarity import PairOrder, PairSimilarity
from train.tasks.tagging import TokenTagging
from train.words import used_words_only

SIZES = {"B": 4, "S": 11, "N": 32, "D": 21, "H": 3, "W": 7, "F": 37, "V": 53, "C": 5}
# Of B sentences, N in all. Two neighbours are equal. None is S long, which is the padded length.
LENGTHS = (9, 9, 8, 6)
CONFIG = BertConfig(
    vocab_size=SIZES["V"],
    hidden_size=SIZES["D"],
    num_hidden_layers=2,
    num_attention_heads=SIZES["H"],
    intermediate_size=SIZES["F"],
    max_position_embeddings=16,
)

SIZE = r"(?:[A-Z]|\d+)(?: \* (?:[A-Z]|\d+))*"
SHAPE = rf"\((?:(?:\*|{SIZE})(?:, {SIZE})*)?\)"
SHAPES = rf"{SHAPE}(?:, {SHAPE})*"
RESULTS = rf"{SHAPES}(?: or {SHAPES})*"
COMMENT = re.compile(
    rf"# (?P<text>(?:(?P<inputs>{SHAPES}) -> )?(?P<results>{RESULTS}))(?:[ ,;:][^()>]*)?"
)

Written = list[str]  # a shape in a comment: ["*", "2 * D"]
Found = tuple[int, ...] | None  # a tensor's shape; None for what is no tensor


def exercise() -> None:
    """Run everything that has a shape comment, at the sizes in SIZES.

    For a part that needs other sizes: `with unittest.mock.patch.dict(SIZES, C=1): ...`.
    """
    exercise_minibert()
    exercise_train()


def exercise_minibert() -> None:
    """The model, its heads and its fast modules, in both layouts, evaluating and training."""
    ids = torch.randint(CONFIG.vocab_size, (SIZES["B"], SIZES["S"]))
    types = torch.randint(CONFIG.type_vocab_size, ids.shape)
    mask = torch.arange(SIZES["S"]) < torch.tensor(LENGTHS).unsqueeze(1)
    fast = Bert(CONFIG).train()
    speed_up(fast)
    narrow = Bert(replace(CONFIG, model_type="electra", embedding_size=10))
    for bert in (Bert(CONFIG).eval(), Bert(CONFIG).train(), narrow, fast):
        bert(ids)
        bert(ids, mask, types)
        bert.attention_probabilities(ids, mask)
        for input_ids, layout in ((ids, Padded(mask)), (ids[mask], Packed(LENGTHS))):
            hidden = bert.hidden_states(input_ids, layout=layout)[-1]
            pool(hidden, layout, "mean+max")
            TokenHead(CONFIG, SIZES["C"])(hidden)
            SpanHead(CONFIG)(hidden)
            for pooling in (*POOLINGS, "pooler"):
                SentenceHead(CONFIG, SIZES["C"], pooling)(hidden, layout, bert.pooler)
            BertForPreTraining(CONFIG)(input_ids, layout=layout)
    query, key, value = torch.randn(3, SIZES["B"], SIZES["H"], SIZES["S"], SIZES["W"])
    bias = torch.randn(SIZES["H"], SIZES["S"], SIZES["S"])
    half = torch.randn(SIZES["B"], SIZES["H"], 20, SIZES["W"], dtype=torch.bfloat16)
    fast_attention(half, half, half)
    for function in (attention, fast_attention):
        for seen in (None, mask):
            function(query, key, value, seen, bias)
            function(query, key, value, seen, bias, dropout=0.1)
            function(query.double(), key.double(), value.double(), seen)
            half = query.bfloat16().requires_grad_()
            function(half, half, half, seen, bias.bfloat16())
    for tokens in ((SIZES["B"], SIZES["S"]), (SIZES["N"],)):
        convolution(
            torch.randn(*tokens, SIZES["D"]),
            torch.randn(SIZES["F"], SIZES["D"]),
            torch.randn(SIZES["F"]),
        )
    with torch.inference_mode():
        inference_copy(Bert(CONFIG))(ids[mask], layout=Packed(LENGTHS))
        exercise_arranged(ids[mask])
        with patch.dict(SIZES, S=max(LENGTHS)):  # the rows are as long as the longest sentence
            InRows(Bert(CONFIG))(ids[mask], layout=Packed(LENGTHS))
    words = [f"w{i}" for i in range(SIZES["V"])]
    with TemporaryDirectory() as folder:
        vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
        Path(folder, "vocab.txt").write_text("\n".join(vocabulary[: SIZES["V"]]))
        tokenizer = Tokenizer.from_folder(Path(folder))
    texts = [" ".join(words[: length - 2]) for length in (11, 9, 7, 5)]  # and [CLS] and [SEP]
    encoder = SentenceEncoder(Bert(CONFIG), tokenizer)
    encoder.encode(texts)
    with patch.dict(SIZES, B=1, N=11, S=10):  # whose first token is computed as two rows
        SentenceEncoder(Bert(CONFIG), tokenizer, pooling="cls").encode(texts[:1])
    encoder.encode(texts, output_value="token_embeddings")
    bridge = Transformer(encoder.bert, tokenizer, None, autocast=False)
    bridge(bridge.preprocess(texts))
    for measure in ("dot", "euclidean"):
        first = torch.randn(SIZES["B"], SIZES["D"])
        similarities(measure, first, torch.randn(6, SIZES["D"]))
        pair_similarities(measure, first, first)
    with patch.dict(SIZES, B=1):
        text = " ".join(["[MASK]", "[MASK]", *words[: SIZES["S"] - 4]])
        fill_masks(BertForPreTraining(CONFIG), tokenizer, text, top=1)


def exercise_arranged(input_ids: Tensor) -> None:
    """Both precisions on any processor: plain products stand in for oneDNN's."""

    def multiply(x: Tensor, weight: Tensor, bias: Tensor, *_: Any) -> Tensor:
        return torch.nn.functional.linear(x, weight, bias)

    with (
        patch.object(torch.ops.mkldnn, "_reorder_linear_weight", lambda weight, _: weight),
        patch.object(torch.ops.mkldnn, "_linear_pointwise", multiply),
    ):
        for dtype in (torch.float32, torch.bfloat16):
            fast = twin(Bert(CONFIG))
            change_classes(fast, {Attention: FastAttention})
            arrange(fast, dtype)
            fast(input_ids, layout=Packed(LENGTHS))


def exercise_train() -> None:
    """The training program: a batch of B texts, N tokens in all, with a task of every kind."""
    labels = tuple("abcde")
    tags = ("O", "B-x", "I-x", "B-y", "I-y")
    known = {
        "tags": tags * 4,
        "topic": "b",
        "topics": frozenset("bd"),
        "relation": "b",
        "score": 0.5,
        "cosine": 0.5,
        "order": 0.5,
        "positive": Negatives(),
        "answer": Answers(("a",), (0,)),
        "next": "1",
        "search": Document("a"),
    }
    classes = [
        TokenTagging("tags", tags, valid_tags=True),
        SentenceClassification("topic", labels, class_weights=(1.0,) * len(labels)),
        MultilabelClassification("topics", labels),
        PairClassificationApart("relation", labels),
    ]
    numbers = [SentenceRegression("score"), PairSimilarity("cosine"), PairOrder("order")]
    contrastive = Contrastive("positive")
    contrastive.symmetric = True
    answering = QuestionAnswering("answer")
    answering.overlap = 2
    others: list[Task] = [answering, MultipleChoice("next"), Retrieval("search"), contrastive]
    two = ("relation", "cosine", "order", "positive", "answer", "next")
    parts_of = dict.fromkeys(known, (0,)) | dict.fromkeys(two, (0, 1))

    def tokens(length: int) -> Tokens:
        ids = torch.randint(1, SIZES["V"], (length,)).tolist()
        offsets = [(i, i + 1) for i in range(length)]
        return Tokens(ids, [0] * length, [None, *range(length - 2), None], 0, offsets)

    items = [  # two pairs, which are B texts
        Item(
            Example("", known | {"order": number}, "", ("word",) * 20, ""),
            (tokens(a), tokens(b)),
            number,
            parts_of,
        )
        for number, (a, b) in enumerate((LENGTHS[:2], LENGTHS[2:]))
    ]
    kinds: tuple[tuple[Sequence[Task], int], ...] = (
        (classes, SIZES["C"]),
        (numbers, 1),
        (others, 1),
    )
    for tasks, num_labels in kinds:
        with patch.dict(SIZES, C=num_labels, S=max(LENGTHS)):  # the longest window is S long
            model = JointModel(Bert(CONFIG), tasks).train()
            mixer = LossMixer(tasks, Settings())
            batch = collate(items, tasks)
            for size in (0, 3):
                settings = Settings(mini_batch_size=size)
                forward_backward([batch], model, model, mixer, tasks, settings)
            predict(model, tasks, items)
    both: list[Task] = [
        MaskedWords("masked", Masks(0.5, 0.8, 0.1, False, 4, SIZES["V"], 0)),
        NextSentence("next"),
    ]
    of_text = {"masked": "", "next": "random"}
    texts = [
        Item(Example("", of_text, ""), (tokens(length),), number, dict.fromkeys(of_text, (0,)))
        for number, length in enumerate(LENGTHS)
    ]
    whole = JointModel(Bert(CONFIG), both).train()
    mixer = LossMixer(both, Settings())
    with patch.dict(SIZES, C=2):
        forward_backward([collate(texts, both)], whole, whole, mixer, both, Settings())
        evaluate(whole, both, texts)
    cache = PrefixCache(model, items, 2, 2**20, Path("."))
    with used_words_only(model.bert, batch.input_ids.tolist(), adamw):
        for _ in ("filled", "read"):
            cache.forward(batch)


@dataclass
class Comment:
    """A shape comment, the statement it belongs to, and what the run said of it."""

    path: Path
    row: int
    text: str
    inputs: Sequence[Written] = ()
    results: Sequence[Sequence[Written]] = ()  # one sequence for each side of an `or`
    rows: range = range(0)  # the statement's lines
    reads: Sequence[str] = ()  # expressions to look up before the statement
    target: str = ""  # the expression to look up after it; empty for what is returned or yielded
    is_return: bool = False
    problem: str = ""
    runs: int = 0

    def hold(self, reads: list[Found], result: object) -> None:
        """Hold the comment against one execution: the shapes that it read, and what it made."""
        found = shapes(result)
        self.runs += bool(found)
        if found and not self.problem and not self._fits(reads, found):
            self.problem = (
                f"wrong: {', '.join(map(in_letters, reads))} -> {', '.join(map(in_letters, found))}"
            )

    def _fits(self, reads: list[Found], found: list[Found]) -> bool:
        return any(
            fits(
                [*self.inputs, *(results * len(found) if len(results) == 1 else results)],
                [*inputs, *found],
                tokens,
            )
            for results in map(list, self.results)
            for inputs in itertools.product(reads, repeat=len(self.inputs))
            for tokens in (["B", "S"], ["tokens"])
        )


def fits(written: Sequence[Written], found: Sequence[Found], tokens: list[str]) -> bool:
    """Whether the shapes found are those written, with `tokens` in place of `*`."""
    pairs: list[tuple[str, int]] = []
    for shape, sizes in itertools.zip_longest(written, found):
        if shape is None or sizes is None:
            return False
        letters = [*tokens, *shape[1:]] if "*" in shape else shape
        if len(letters) != len(sizes):
            return False
        pairs += zip(letters, sizes, strict=True)
    bound = {letter: size for letter, size in pairs if letter.isalpha()} | SIZES
    return bound.get("tokens") != SIZES["B"] and all(
        size
        == math.prod(
            int(factor) if factor.isdigit() else bound.get(factor, math.nan) for factor in factors
        )
        for factors, size in ((letters.split(" * "), size) for letters, size in pairs)
    )


def in_letters(found: Found) -> str:
    letters = {size: letter for letter, size in SIZES.items()}
    return (
        "no tensor"
        if found is None
        else f"({', '.join(str(letters.get(size, size)) for size in found)})"
    )


def shapes(value: object) -> list[Found]:
    """The shape of a tensor, or of each in a list or tuple; none for None, and [None] for anything
    else."""
    if isinstance(value, list | tuple):
        return [shape for item in value for shape in shapes(item)]
    return [] if value is None else [tuple(value.shape) if isinstance(value, Tensor) else None]


def find_comments(path: Path) -> Iterator[Comment]:
    """Every trailing comment of a file that starts with a bracket, with the statement that ends on
    its line."""
    with tokenize.open(path) as file:
        source = file.read()
    lines = source.split("\n")
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    statements = {node.end_lineno: (node, *result) for node in nodes if (result := result_of(node))}
    for token in tokenize.generate_tokens(StringIO(source).readline):
        row, column = token.start
        is_trailing = token.type == tokenize.COMMENT and lines[row - 1][:column].strip()
        if not is_trailing or not re.match(r"#\s*\(", token.string):
            continue
        match = COMMENT.fullmatch(token.string.rstrip())
        comment = Comment(path, row, match["text"] if match else token.string[1:].strip())
        if match is None:
            comment.problem = "cannot be read as shapes; let a comment in words start with a word"
        elif row not in statements:
            comment.problem = (
                "belongs to no assignment, return, yield or append that ends on this line"
            )
        else:
            comment.inputs = parse(match["inputs"] or "")
            comment.results = [parse(results) for results in match["results"].split(" or ")]
            statement, value, comment.target = statements[row]
            comment.reads = [ast.unparse(part) for part in ast.walk(value) if is_plain(part)]
            comment.rows = range(statement.lineno, row + 1)
            comment.is_return = isinstance(statement, ast.Return)
        yield comment


def parse(text: str) -> list[Written]:
    return [re.findall(rf"{SIZE}|\*", shape) for shape in re.findall(SHAPE, text)]


def result_of(node: ast.stmt) -> tuple[ast.expr, str] | None:
    """What a statement computes, and the expression that holds the result afterwards. It is "" for
    what is returned or yielded."""
    match node:
        case (
            ast.Assign(targets=[target, *_], value=value)
            | ast.AnnAssign(target=target, value=ast.expr() as value)
        ):
            return value, ast.unparse(target)
        case ast.AugAssign(target=target, op=op, value=right):
            return ast.BinOp(target, op, right), ast.unparse(target)
        case (
            ast.Return(value=ast.expr() as value)
            | ast.Expr(value=ast.Yield(value=ast.expr() as value))
        ):
            return value, ""
        case ast.Expr(
            value=ast.Call(func=ast.Attribute(value=target, attr="append"), args=[value])
        ):
            return value, f"{ast.unparse(target)}[-1]"
    return None


def is_plain(node: ast.AST) -> bool:
    """Whether a node is a name, or an attribute or constant item of one. Looking it up changes
    nothing."""
    if isinstance(node, ast.Subscript) and not isinstance(node.slice, ast.Constant):
        return False
    return isinstance(node, ast.Name) or (
        isinstance(node, ast.Attribute | ast.Subscript) and is_plain(node.value)
    )


def look_up(expression: str, frame: FrameType) -> object:
    try:
        return eval(expression, frame.f_globals, frame.f_locals)
    except Exception:  # a comprehension's own variable, say, which the frame does not have
        return ...


def trace(comments: Iterable[Comment], run: Callable[[], None]) -> None:
    """Call `run` and hold each comment against every execution of its statement."""
    at_row = {(comment.path, row): comment for comment in comments for row in comment.rows}
    paths = {path for path, _ in at_row}
    real_path = cache(lambda name: Path(os.path.realpath(name)))
    # the commented statement that each frame is in
    running: dict[FrameType, tuple[Comment, list[Found]]] = {}

    def on_call(frame: FrameType, event: str, value: Any) -> Any:
        # a comprehension or lambda: a part of its statement
        is_part = frame.f_code.co_name.startswith("<")
        return None if is_part or real_path(frame.f_code.co_filename) not in paths else on_event

    def on_event(frame: FrameType, event: str, value: Any) -> Any:
        comment, reads = running.get(frame, (None, []))
        row = frame.f_lineno
        if event == "exception":
            # that is how a loop inside the statement ends
            if not issubclass(value[0], StopIteration):
                running.pop(frame, None)
        elif event == "return":  # or a yield
            if comment:
                comment.hold(reads, look_up(comment.target, frame) if comment.target else value)
            running.pop(frame, None)
        # leaving a `with` comes after `return`
        elif comment is None or not (row in comment.rows or comment.is_return):
            if comment and comment.target:
                comment.hold(reads, look_up(comment.target, frame))
            running.pop(frame, None)
            if following := at_row.get((real_path(frame.f_code.co_filename), row)):
                found = (
                    shape
                    for expression in following.reads
                    for shape in shapes(look_up(expression, frame))
                )
                running[frame] = (
                    following,
                    list(dict.fromkeys(shape for shape in found if shape is not None)),
                )
        return on_event

    before = sys.gettrace()
    sys.settrace(on_call)
    try:
        run()
    finally:
        sys.settrace(before)


def python_files(package: str) -> list[Path]:
    """Every Python file of a package, or the one of a module."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"there is no package {package!r}")
    origin = Path(os.path.realpath(spec.origin))
    return sorted(origin.parent.rglob("*.py")) if spec.submodule_search_locations else [origin]


def exercise_all() -> None:
    exercise()
    exercise_train()


def main(arguments: Sequence[str] | None = None, run: Callable[[], None] = exercise_all) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tools.check_shapes", description=__doc__.partition("\n")[0]
    )
    parser.add_argument(
        "packages",
        nargs="*",
        default=["minibert", "train"],
        metavar="PACKAGE",
        help="default: both",
    )
    packages = parser.parse_args(arguments).packages
    comments = [
        comment
        for package in packages
        for path in python_files(package)
        for comment in find_comments(path)
    ]
    trace(comments, run)
    wrong = [comment for comment in comments if comment.problem]
    idle = [comment for comment in comments if not comment.problem and not comment.runs]
    for comment in (*wrong, *idle):
        problem = comment.problem or "never run: let exercise() in tools/check_shapes.py run it"
        print(f"{os.path.relpath(comment.path)}:{comment.row}: # {comment.text}  {problem}")
    good = len(comments) - len(wrong) - len(idle)
    files = len({comment.path for comment in comments})
    print(f"{good} shape comments in {files} files hold, {len(wrong)} wrong, {len(idle)} never run")
    return 1 if wrong or idle else 0


if __name__ == "__main__":
    sys.exit(main())
