"""python -m tools.fidelity: how far MiniLM's numbers here are from those of transformers and sentence-transformers.

Over texts of the project's own data set, single ones and runs of several up to 256 tokens, so that it runs anywhere.
Prints the largest absolute difference after each layer, in both layouts, and of the sentence vectors.
"""

import sys

import torch
from torch import Tensor

from minibert.encoder import SentenceEncoder
from minibert.files import InputError
from minibert.hub import find_model
from minibert.layout import Packed
from train.readers import load_data
from train.report import table


def texts(count: int = 120) -> list[str]:
    """Sentences of newsroom's test split: every third alone, the others joined to the next 2 to 12."""
    sentences = [example.text for example in load_data("newsroom", seed=0).splits["test"]]
    return [sentences[i] if i % 3 == 0 else " ".join(sentences[i : i + 2 + i % 11]) for i in range(count)]


@torch.no_grad()
def main() -> int:
    """Compare, and print; the exit status is 0, or 2 if the model cannot be had."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel

    try:
        folder = find_model("minilm").path
        encoder = SentenceEncoder.from_pretrained("minilm", device="cpu")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    theirs = AutoModel.from_pretrained(folder, attn_implementation="sdpa").eval()
    corpus = texts()
    ids = sorted((tokens.ids for tokens in encoder.tokenizer.encode(corpus, "silent")), key=len)
    names = ["embeddings", *(f"layer {i + 1}" for i in range(len(encoder.bert.layers)))]
    worst = {name: [0.0, 0.0] for name in names}
    for start in range(0, len(ids), 8):
        batch = ids[start // 8 :: len(ids) // 8]  # lengths mixed
        lengths = [len(row) for row in batch]
        rows = [torch.tensor(row) for row in batch]
        input_ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        expected = theirs(input_ids, attention_mask=mask, output_hidden_states=True).hidden_states
        padded = encoder.bert.hidden_states(input_ids, mask)
        packed = encoder.bert.hidden_states(torch.cat(rows), Packed(lengths))
        for name, reference, ours, ours_packed in zip(names, expected, padded, packed, strict=True):
            real = reference[mask.bool()]
            found = (difference(ours[mask.bool()], real), difference(ours_packed, real))
            worst[name] = [max(pair) for pair in zip(worst[name], found, strict=True)]
    vectors = torch.from_numpy(encoder.encode(corpus, truncation="silent"))
    reference = SentenceTransformer(str(folder), device="cpu").encode(corpus, convert_to_tensor=True)
    print(f"MiniLM, {len(corpus)} texts of {len(ids[0])} to {len(ids[-1])} tokens, float32; largest differences")
    print(table([("after", "padded", "packed"), *((n, f"{a:.1e}", f"{b:.1e}") for n, (a, b) in worst.items())]))
    print(f"sentence vectors, against sentence-transformers: {difference(vectors, reference):.1e}")
    return 0


def difference(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max())


if __name__ == "__main__":
    sys.exit(main())
