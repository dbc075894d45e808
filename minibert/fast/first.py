"""The last layer for the first token of each text only, for vectors that are its state.

Nothing looks at the other tokens' last states. So of them the last layer needs only what attention
reads. All that follows it, three quarters of a layer's products, is computed for first tokens.

Shapes: N packed tokens, B texts, D hidden.
"""

from typing import TypeGuard

from torch import Tensor, nn

from minibert.fast.arranged import ArrangedAttention, ArrangedFeedForward
from minibert.fast.attention import FastAttention, GroupedAttention
from minibert.heads import pool
from minibert.layout import Layout
from minibert.model import Bert, FeedForward, Layer

ATTENTIONS = (FastAttention, ArrangedAttention, GroupedAttention)
FEED_FORWARDS = (FeedForward, ArrangedFeedForward)


def has_plain_last_layer(model: nn.Module) -> TypeGuard[Bert]:
    """Whether a model is a Bert whose last layer is as model.py has it: no part of it computes by a
    `forward` that somebody has given to that one object, and no hook would see that tokens are left
    out."""
    if type(model) is not Bert or not len(model.layers):
        return False
    last = model.layers[-1]
    return (
        type(last) is Layer
        and type(last.attention) in ATTENTIONS
        and type(last.feed_forward) in FEED_FORWARDS
        and not any("forward" in vars(part) for part in (model, *last.modules()))
        and not any(
            part._forward_pre_hooks or part._forward_hooks for part in (model, *last.modules())
        )
    )


def first_states(bert: Bert, input_ids: Tensor, layout: Layout) -> Tensor:
    """The last state of each text's first token: (N) -> (B, D)."""
    x = bert.run(bert.embeddings(input_ids, None, layout), layout, last=-1)  # (N, D)
    layer = bert.layers[-1]
    assert isinstance(layer, Layer)
    context = pool(layer.attention.context(x, layout), layout, "cls")  # (N, D) -> (B, D)
    x = pool(x, layout, "cls")  # (N, D) -> (B, D)
    count = len(x)
    if count == 1:  # a product of one row can have other bits than the same row among others
        x, context = x.expand(2, -1), context.expand(2, -1)
    x = layer.attention_norm(x + layer.dropout(layer.attention.output(context)))
    x = layer.feed_forward_norm(x + layer.dropout(layer.feed_forward(x)))
    return x[:count]  # (B, D)
