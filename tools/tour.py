# %% [markdown]
# # From ids to vectors
#
# BERT by hand, with the weights of MiniLM: embeddings, one head's attention, a layer, pooling,
# cosines, and a head that learns. Each cell shows something, and asserts that our numbers are the
# model's. The formulas are those of `minibert/model.py`; read it beside this.
#
# `python -m tools.tour` runs all cells. VS Code and PyCharm open this file as a notebook, and
# `jupytext --to notebook tools/tour.py` writes one.

# %%
import json
import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from minibert import Padded, SentenceEncoder
from minibert.heads import SentenceHead
from minibert.model import Layer
from train.data.read import OURS

torch.manual_seed(0)
torch.set_grad_enabled(False)  # until something is to learn
encoder = SentenceEncoder.from_pretrained("minilm")
bert = encoder.bert


def assert_close(ours: Tensor, models: Tensor) -> None:
    torch.testing.assert_close(ours, models, atol=2e-5, rtol=1e-4)
    print(f"  {tuple(ours.shape)}, as the model's: {(ours - models).abs().max():.0e} apart at most")


# %% [markdown]
# ## Ids
#
# The tokenizer cuts a text into pieces that its vocabulary has, and gives the number of each. [CLS]
# and [SEP] stand around every text.

# %%
text = "The bank raised its rates."
(tokens,) = encoder.tokenizer.encode([text])
pieces = [encoder.tokenizer.backend.id_to_token(i) for i in tokens.ids]
for piece, number in zip(pieces, tokens.ids, strict=True):
    print(f"{piece:>8}  {number:>6}")

assert pieces == ["[CLS]", "the", "bank", "raised", "its", "rates", ".", "[SEP]"]
input_ids = torch.tensor([tokens.ids])  # (1, 8): one sentence, eight tokens

# %% [markdown]
# ## Embeddings
#
# Three tables are looked up and added: one row for the word, one for the position, one for the
# token's type (0 here; 1 for the second text of a pair). A layer norm follows: it gives the 384
# numbers of a token the mean 0 and the variance 1, then scales and shifts each of them.


# %%
def layer_norm(x: Tensor, norm: nn.LayerNorm) -> Tensor:
    variance, mean = torch.var_mean(x, -1, correction=0, keepdim=True)
    return (x - mean) / (variance + norm.eps).sqrt() * norm.weight + norm.bias


tables = bert.embeddings
assert tables.token_type is not None
word = tables.word.weight[input_ids]
position = tables.position.weight[: input_ids.size(1)]
x = layer_norm(word + position + tables.token_type.weight[0], tables.norm)

states = bert.hidden_states(input_ids)  # what the model itself computes: 1 + 6 states
print("embeddings")
assert_close(x, states[0])

# %% [markdown]
# ## One head's attention
#
# A head makes three vectors of each token: a query, a key and a value. The product of a query with
# a key, over the root of their length, scores how much the one token looks at the other. Softmax
# makes shares of a row's scores.
#
# The fifth head of the first layer has learnt something that we can read: the verb looks at its
# object.

# %%
first = bert.layers[0]
assert isinstance(first, Layer)
width = bert.config.hidden_size // bert.config.num_attention_heads  # 32
head = slice(4 * width, 5 * width)


def rows_of(linear: nn.Linear, x: Tensor) -> Tensor:
    """What this head takes from the layer's product for all heads: (8, 384) -> (8, 32)."""
    return x @ linear.weight[head].T + linear.bias[head]


attention = first.attention
query, key, value = (
    rows_of(linear, x[0]) for linear in (attention.query, attention.key, attention.value)
)
scores = query @ key.T / math.sqrt(width)
shares = scores.exp() / scores.exp().sum(-1, keepdim=True)  # softmax

print("in %   " + "".join(f"{piece:>8}" for piece in pieces))
for piece, row in zip(pieces, shares, strict=True):
    print(f"{piece:>7}" + "".join(f"{100 * share:8.0f}" for share in row))
assert_close(shares, bert.attention_probabilities(input_ids)[0][0, 4])
assert shares[pieces.index("raised"), pieces.index("rates")] > 0.9

# %% [markdown]
# What the token gets is the mean of all values, weighted by its shares. The twelve heads' results
# stand side by side, 12 × 32 numbers, and one more product mixes them.

# %%
gathered = shares @ value  # (8, 8) @ (8, 32)
print("head 4")
assert_close(gathered, attention.context(x, bert.layout(input_ids))[0, :, head])

# %% [markdown]
# ## A layer
#
# Attention, then a feed-forward network that looks at each token by itself. Each adds to its input
# (the residual sum), and a norm follows. That is all: BERT is six such layers here, twelve in
# BERT-base.


# %%
def one_layer(x: Tensor, layer: Layer) -> Tensor:
    attention, heads = layer.attention, bert.config.num_attention_heads
    parts = [linear(x) for linear in (attention.query, attention.key, attention.value)]
    query, key, value = (part.unflatten(-1, (heads, width)).transpose(1, 2) for part in parts)
    shares = (query @ key.transpose(2, 3) / math.sqrt(width)).softmax(-1)  # (1, 12, 8, 8)
    gathered = (shares @ value).transpose(1, 2).flatten(2)  # (1, 8, 384)
    x = layer_norm(x + attention.output(gathered), layer.attention_norm)
    wide = layer.feed_forward.intermediate(x)  # (1, 8, 1536)
    wide = wide * (1 + torch.erf(wide / math.sqrt(2))) / 2  # GELU
    return layer_norm(x + layer.feed_forward.output(wide), layer.feed_forward_norm)


for i, layer in enumerate(bert.layers):
    assert isinstance(layer, Layer)
    x = one_layer(x, layer)
    print(f"layer {i}")
    assert_close(x, states[i + 1])

# %% [markdown]
# ## Pooling
#
# One vector for the whole text: the mean of its tokens' vectors, scaled to length 1.

# %%
vector = x[0].mean(0)
vector = vector / vector.norm()
print("sentence vector")
assert_close(vector, torch.from_numpy(encoder.encode(text)))

# %% [markdown]
# ## Cosines
#
# The cosine of two vectors of length 1 is their product. Texts that mean the same are near each
# other, whatever words they use: the third has the word "bank" in common with the first, the second
# has none.

# %%
others = ["Borrowing money became more expensive.", "She sat on the bank of the river."]
vectors = torch.from_numpy(encoder.encode([text, *others]))
cosines = vectors @ vectors.T
for other, cosine in zip(others, cosines[0, 1:], strict=True):
    print(f"{cosine:7.4f}  {text}  |  {other}")
assert_close(cosines, encoder.similarity(vectors, vectors))
assert cosines[0, 1] > cosines[0, 2]

# %% [markdown]
# ## A head that learns
#
# A linear layer on the mean of the tokens' vectors tells the topic of a sentence. Its gradient can
# be written down: the probabilities, less 1 at the right topic, times the vectors.

# %%
data = {
    split: [json.loads(line) for line in (OURS / "newsroom" / f"{split}.jsonl").open()][:150]
    for split in ("train", "dev")
}
topics = sorted({record["topic"] for record in data["train"]})
means = {
    split: torch.from_numpy(encoder.encode([r["text"] for r in records], normalize=False))
    for split, records in data.items()
}
targets = {
    split: torch.tensor([topics.index(r["topic"]) for r in records])
    for split, records in data.items()
}
classifier = nn.Linear(bert.config.hidden_size, len(topics))
wrong = classifier(means["train"]).softmax(-1) - F.one_hot(targets["train"])
by_hand = wrong.T @ means["train"] / len(wrong)

torch.set_grad_enabled(True)
F.cross_entropy(classifier(means["train"]), targets["train"]).backward()
assert classifier.weight.grad is not None
print("gradient of the head")
assert_close(by_hand, classifier.weight.grad)

# %% [markdown]
# Ten lines of loop. `train/fit.py` is the same with batches, schedules, checkpoints, and an encoder
# that learns too.

# %%
optimizer = torch.optim.AdamW(classifier.parameters(), lr=0.003)
for step in range(1, 61):
    optimizer.zero_grad()
    loss = F.cross_entropy(classifier(means["train"]), targets["train"])
    loss.backward()
    optimizer.step()
    if step % 10 == 0:
        with torch.no_grad():
            right = classifier(means["dev"]).argmax(-1) == targets["dev"]
        print(f"step {step:>3}  loss {loss:.4f}  dev accuracy {100 * right.float().mean():.1f} %")
assert right.float().mean() > 0.6  # 0.2 would be chance

# %% [markdown]
# The head that `train` uses is the same: pooling, dropout, one linear layer.

# %%
torch.set_grad_enabled(False)
whole = SentenceHead(bert.config, len(topics), pooling="mean").eval()
whole.classifier = classifier
logits = whole(x, Padded(torch.ones_like(input_ids)))
print("logits")
assert_close(classifier(x.mean(1)), logits)
for topic, share in zip(topics, logits[0].softmax(-1), strict=True):
    print(f"{topic:>12}  {100 * share:5.1f} %")
assert topics[int(logits.argmax())] == "business"

# %% [markdown]
# From here: `python -m tools.explore "your sentence" -o page.html` shows all heads and layers at
# once, and `python -m tools.exercises` asks what would happen if.
