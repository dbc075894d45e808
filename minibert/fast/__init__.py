"""The functions of model.py, faster on some processors. Nothing here is needed to understand BERT.

| what                        | faster where                        | saves                      |
| --------------------------- | ----------------------------------- | -------------------------- |
| linear.FastLinear           | float32 training, AVX-512           | up to half of a product    |
| arranged.ArrangedLinear     | inference, AVX2 and AVX-512         | up to half of a product    |
| arranged.ArrangedAttention  | the same                            | two calls of three         |
| arranged.ArrangedFeedForward| the same                            | passes over F numbers      |
| first.first_states          | everywhere, vectors of [CLS]        | most of the last layer     |
| attention.FastAttention     | inference on a CPU                  | 6 % of short texts         |
| attention.GroupedAttention  | training, and on a GPU              | 2 products of 3, 10 calls  |
| dropout.FastDropout         | training on a CPU                   | a tenth of a step          |
| threads.side_by_side        | encoding on several cores           | 11 % on two cores          |
| memory.keep_freed_memory    | Linux with glibc                    | up to a fifth of a layer   |

`python -m tools.benchmark products` measures the products, `encode`, `train` and `gpu` the rest;
RESULTS.md has the figures of each processor. Each of them computes the same function as its plain
twin: tests/test_fast.py holds values and gradients, tests/test_first.py the first tokens, and
tests/test_threads.py the threads.

Importing this package installs nothing. A fast module is the plain object with another class, which
its repr shows. Parameters, hooks, names and modes stay as they were.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from minibert.fast.arranged import (
    ArrangedAttention,
    ArrangedFeedForward,
    ArrangedLinear,
    has_arranged_products,
)
from minibert.fast.attention import FastAttention, GroupedAttention
from minibert.fast.autocast import InBfloat16
from minibert.fast.dropout import FastDropout
from minibert.fast.linear import FastLinear, can_be_joined, has_avx512
from minibert.fast.rows import InRows
from minibert.model import Attention, Bert, FeedForward

Module = TypeVar("Module", bound=nn.Module)
Classes = Mapping[type[nn.Module], type[nn.Module]]


def speed_up(module: nn.Module) -> None:
    """Make a module's parts fast, in place. Gradients are the same, so it serves for training.

    `torch.ao.quantization.quantize_dynamic` looks for nn.Linear itself: `slow_down` comes before.
    """
    classes: Classes = {Attention: GroupedAttention, nn.Dropout: FastDropout}
    if has_avx512():
        classes = {**classes, nn.Linear: FastLinear}
    change_classes(module, classes)


def slow_down(module: nn.Module) -> None:
    """Make a module's parts plain again, in place."""
    fast = {Attention: GroupedAttention, nn.Dropout: FastDropout, nn.Linear: FastLinear}
    change_classes(module, {quick: plain for plain, quick in fast.items()})


def inference_copy(bert: nn.Module, bfloat16: bool = False) -> nn.Module:
    """A fast copy for inference mode, with the same parameters. It takes packed tokens.

    bfloat16: multiply in bfloat16; all else stays in float32, as the weights must be. On a CPU, the
    calling thread then has one thread of PyTorch's, or a text's bits depend on its batch.
    Its linear layers hold copies of their weights, arranged for the processor. They do not follow a
    later change of the weights: whoever holds the copy must make another one then. A compiled model
    is fast already, so it stays as it is and gets rows; so does what is no Bert.
    """
    if not isinstance(bert, Bert) or bert._compiled_call_impl is not None:
        return InBfloat16(InRows(bert)) if bfloat16 else InRows(bert)
    fast = twin(bert)
    on_cpu = bert.device.type == "cpu"
    change_classes(fast, {Attention: FastAttention if on_cpu else GroupedAttention})
    if on_cpu and bert.dtype == torch.float32 and has_arranged_products():
        arrange(fast, torch.bfloat16 if bfloat16 else torch.float32)
        return fast
    return InBfloat16(fast) if bfloat16 else fast


def arrange(fast: Bert, dtype: torch.dtype) -> None:
    """Arrange the weights of a copy, in place. A layer that is not PyTorch's own, or that has a
    hook, is called as a module; only the others are joined."""
    joined: set[nn.Module] = set()
    into: type[nn.Module]
    for part in fast.modules():
        if type(part) is FastAttention:
            joinable, into = {part.query, part.key, part.value}, ArrangedAttention
        elif type(part) is FeedForward and part.activation is F.gelu:
            joinable, into = {part.intermediate, part.output}, ArrangedFeedForward
        else:
            continue
        if all(map(can_be_joined, joinable)):
            part.__class__ = into
            joined |= joinable
    for part in set(fast.modules()) - joined:
        if type(part) in (nn.Linear, FastLinear):
            part.__class__ = ArrangedLinear
        if isinstance(part, ArrangedAttention | ArrangedFeedForward | ArrangedLinear):
            part.arrange(dtype)


def twin(module: Module) -> Module:
    """A copy of a module and its parts, which shares their parameters, buffers and hooks.

    copy.deepcopy refuses a pruned layer, since its weight is computed. So this copies as PyTorch's
    own DataParallel does.
    """
    copied = module.__new__(type(module))
    parts = module._modules.items()
    twins = {name: None if part is None else twin(part) for name, part in parts}
    copied.__dict__ = vars(module) | {"_modules": twins}
    return copied


def change_classes(module: nn.Module, classes: Classes) -> None:
    """Give each part of a module whose class is a key the class that is its value."""
    for part in module.modules():
        if type(part) in classes:
            part.__class__ = classes[type(part)]
