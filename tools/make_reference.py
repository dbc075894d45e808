"""Write the reference values that tests/test_reference.py compares our values with.

    python -m tools.make_reference [--check]

`transformers` and `sentence-transformers` compute them, so the tests need neither. With --check
they are computed again and compared with those in the tree. The tolerance allows for another
processor's rounding; the versions of the libraries may differ.
"""

import argparse
import importlib.metadata
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from minibert.files import InputError, read_json, sha256, write_json
from minibert.formats.hub import MINILM, find_model
from minibert.formats.tensors import read_tensors, save_tensors

REFERENCE = Path(__file__).parents[1] / "tests" / "reference"
# In float32 and in float64, each with its tolerance.
TENSORS = {"minilm.safetensors": 1e-5, "tiny.safetensors": 1e-12}
DIMENSIONS = 16  # of a token's vector that are kept

TEXTS = (
    "A",
    "Rain.",
    "The cat sits on the mat.",
    "On the mat sits the cat!",
    "Is this a question, or is it not?",
    "Nobody knew who had left the lamp burning in the attic.",
    "3.14159 is close to pi; 22/7 is not as close.",
    "Café Zoë, Århus: crème brûlée for 12 €",
    "snake_case, kebab-case and CamelCase walk into a bar",
    "e-mail someone@example.org or see https://example.org/a?b=c#d",
    "北京 and 東京 are capitals.",
    "Ще не вмерла Україна",
    "The quick brown fox jumps over the lazy dog, and the dog, which had seen it all before, "
    "goes on sleeping.",
    "antidisestablishmentarianism",
    "a a a a a a a a",
    "Buffalo buffalo Buffalo buffalo buffalo buffalo Buffalo buffalo.",
    "She said: “I won't,” and then — after a pause… — she did.",
    "Paris is the [MASK] of France.",
    "The contract, which both parties had read, and which neither had understood, was signed on a "
    "Tuesday in the rain; by Thursday the lawyers of each had found in it, on the same page, "
    "opposite meanings of the word 'promptly'.",
    "Good encoders put sentences that mean the same thing close together, whichever words they "
    "use.",
)

TINY: dict[str, Any] = {
    "vocab_size": 24,
    "hidden_size": 12,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "intermediate_size": 20,
    "max_position_embeddings": 12,
    "type_vocab_size": 2,
    "hidden_act": "gelu",
    "layer_norm_eps": 1e-12,
}


@torch.no_grad()
def minilm_reference(folder: Path) -> dict[str, Tensor]:
    """Each text's token ids, its sentence vector (384), and what leaves the embeddings and each
    layer at its first, middle and last token (7, 3, 16)."""
    from sentence_transformers import SentenceTransformer
    from transformers import AutoModel, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    tensors = {}
    for i, text in enumerate(TEXTS):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        states = torch.cat(model(ids, output_hidden_states=True).hidden_states)  # (7, S, D)
        tensors[f"{i}.ids"] = ids[0]
        tensors[f"{i}.states"] = states[:, [0, ids.size(1) // 2, -1], :DIMENSIONS]
    vectors = SentenceTransformer(str(folder), device="cpu").encode(
        list(TEXTS), convert_to_tensor=True
    )
    return tensors | {"vectors": vectors}


def tiny_reference() -> dict[str, Tensor]:
    """A random model in float64: its weights, a padded batch with token types, all hidden states,
    and the gradients of sum(hidden * hidden_weights) + sum(pooled * pooled_weights). The names are
    transformers'."""
    from transformers import BertConfig, BertModel

    random = torch.Generator().manual_seed(0)
    model = BertModel(BertConfig(**TINY), add_pooling_layer=True).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(
                torch.randn(parameter.shape, generator=random, dtype=torch.float64) * 0.4
            )
    ids = torch.randint(TINY["vocab_size"], (3, 12), generator=random)
    types = torch.randint(2, ids.shape, generator=random)
    mask = (torch.arange(12) < torch.tensor([[12], [5], [1]])).long()
    found = model(ids, mask, types, output_hidden_states=True)
    hidden_weights = (
        torch.randn(found.last_hidden_state.shape, generator=random, dtype=torch.float64)
        * mask[..., None]
    )
    pooled_weights = torch.randn(found.pooler_output.shape, generator=random, dtype=torch.float64)
    (
        (found.last_hidden_state * hidden_weights).sum()
        + (found.pooler_output * pooled_weights).sum()
    ).backward()
    tensors = {
        "input_ids": ids,
        "attention_mask": mask,
        "token_type_ids": types,
        "pooled": found.pooler_output,
    }
    tensors |= {"hidden_weights": hidden_weights, "pooled_weights": pooled_weights}
    tensors |= {f"states.{i}": state for i, state in enumerate(found.hidden_states)}
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None
        tensors |= {f"weight.{name}": parameter, f"gradient.{name}": parameter.grad}
    return tensors


def about(folder: Path) -> dict[str, Any]:
    """The model and the texts of the values, and the versions that computed them."""
    model = find_model("minilm")
    packages = ("torch", "transformers", "sentence-transformers", "tokenizers")
    return {
        "command": "python -m tools.make_reference",
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "minilm": {
            "repository": MINILM,
            "commit": model.commit,
            "sha256": sha256(folder / "model.safetensors"),
        },
        "texts": TEXTS,
        "tiny_config": TINY,
    }


def write(target: Path) -> None:
    """All files of the reference. Raises InputError if MiniLM cannot be had."""
    folder = find_model("minilm").path
    save_tensors(minilm_reference(folder), target / "minilm.safetensors")
    save_tensors(tiny_reference(), target / "tiny.safetensors")
    write_json(target / "about.json", about(folder))


def differences(fresh: Path, kept: Path) -> list[str]:
    """What differs between two references by more than the tolerance. Versions do not count."""
    found = []
    ours, theirs = (read_json(folder / "about.json") for folder in (fresh, kept))
    found += [
        f"about.json: {key}"
        for key in ours.keys() | theirs.keys()
        if ours.get(key) != theirs.get(key)
    ]
    found = [problem for problem in found if problem != "about.json: versions"]
    for file, tolerance in TENSORS.items():
        first, second = read_tensors(fresh / file), read_tensors(kept / file)
        found += [f"{file}: {name} is in one only" for name in sorted(first.keys() ^ second.keys())]
        for name in sorted(first.keys() & second.keys()):
            x, y = first[name].double(), second[name].double()
            if x.shape != y.shape:
                found.append(f"{file}: {name} has {list(x.shape)}, and in the tree {list(y.shape)}")
            elif not (difference := (x - y).abs().max().item()) <= tolerance:
                found.append(
                    f"{file}: {name} differs by {difference:.1e}, and {tolerance:.0e} is allowed"
                )
    return found


def main(arguments: list[str] | None = None) -> int:
    """Write, or compare. The exit status is 1 if values differ, 2 if they cannot be computed."""
    parser = argparse.ArgumentParser(prog="python -m tools.make_reference", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="compare with what is in the tree, and write nothing"
    )
    options = parser.parse_args(arguments)
    try:
        if not options.check:
            write(REFERENCE)
            sizes = {file.name: file.stat().st_size for file in sorted(REFERENCE.iterdir())}
            print(
                f"{REFERENCE}: "
                + ", ".join(f"{name} {size:,} bytes" for name, size in sizes.items())
            )
            return 0
        with TemporaryDirectory() as fresh:
            write(Path(fresh))
            problems = differences(Path(fresh), REFERENCE)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print("\n".join(problems) or "the reference in the tree is what is computed now")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
