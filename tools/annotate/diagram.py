"""The encoder as a picture (SVG), with the shapes of the example."""

from collections.abc import Callable
from html import escape

from tools.annotate.guide import Place

WIDTH, BOX, STEP = 380, 30, 46
LEFT, RIGHT = 30, 216  # of the boxes; the shapes stand to the right of them

# What happens, the line that does it, and whether it is part of a layer.
STEPS: tuple[tuple[str, Place, bool], ...] = (
    ("word pieces → ids", Place("minibert.tokenizer.Tokenizer.tokenize"), False),
    ("word embedding", Place("minibert.model.Embeddings.forward", "self.word("), False),
    ("+ token type", Place("minibert.model.Embeddings.forward", "self.token_type("), False),
    ("+ position, norm", Place("minibert.model.Embeddings.forward", "self.norm("), False),
    ("query, key, value", Place("minibert.model.Attention.attend", "query, key, value ="), True),
    ("scores, masked", Place("minibert.model.attention", "masked_fill"), True),
    ("softmax", Place("minibert.model.attention", "softmax(-1) * mask"), True),
    ("weighted values", Place("minibert.model.attention", "@ value"), True),
    ("heads joined, output", Place("minibert.model.Attention.forward", "self.output("), True),
    ("+ residual, norm", Place("minibert.model.Layer.forward", "self.attention_norm("), True),
    ("feed-forward, GELU", Place("minibert.model.FeedForward.forward", "self.activation("), True),
    ("+ residual, norm", Place("minibert.model.Layer.forward", "self.feed_forward_norm("), True),
    ("mean of the tokens", Place("minibert.heads.mean", "weights.sum(1)"), False),
    ("length 1", Place("minibert.heads.normalize", "F.normalize"), False),
)


def draw(shape_at: Callable[[Place], str], address_of: Callable[[Place], str], layers: int) -> str:
    """The picture. shape_at: the shape that a line made, "" if it made none that is known.
    address_of: its link. layers: how many there are."""
    inside = [i for i, (_, _, is_layer) in enumerate(STEPS) if is_layer]
    tops = [
        10 + i * STEP + 24 * (i >= inside[0]) + 14 * (i > inside[-1]) for i in range(len(STEPS))
    ]
    height = tops[-1] + BOX + 10
    frame = tops[inside[0]] - 26, tops[inside[-1]] + BOX + 14
    parts = [
        f'<svg class="diagram" viewBox="0 0 {WIDTH} {height}" role="group" '
        'aria-label="The encoder from word pieces to a vector, with the shape after each step">',
        f'<rect class="frame" x="8" y="{frame[0]}" width="{WIDTH - 16}" '
        f'height="{frame[1] - frame[0]}" rx="8"/>',
        f'<text class="times" x="{WIDTH - 18}" y="{frame[0] + 18}" text-anchor="end">'
        f"a layer, &times; {layers}</text>",
    ]
    middle = (LEFT + RIGHT) // 2
    for i, (label, place, _) in enumerate(STEPS):
        top = tops[i]
        if i:
            parts.append(f'<path class="flow" d="M{middle} {tops[i - 1] + BOX} V{top}"/>')
        parts.append(
            f'<a href="{escape(address_of(place), quote=True)}">'
            f'<rect x="{LEFT}" y="{top}" width="{RIGHT - LEFT}" height="{BOX}" rx="4"/>'
            f'<text x="{middle}" y="{top + 20}" text-anchor="middle">{escape(label)}</text></a>'
            f'<text class="shape" x="{RIGHT + 12}" y="{top + 20}">{escape(shape_at(place))}</text>'
        )
    for start, end in ((inside[0], inside[5]), (inside[5] + 1, inside[-1])):
        above, below = tops[start] - 6, tops[end] + BOX // 2
        parts.append(f'<path class="flow" d="M{middle} {above} H{LEFT - 10} V{below} H{LEFT}"/>')
    return "".join((*parts, "</svg>"))
