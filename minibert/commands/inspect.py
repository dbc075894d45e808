"""Tell what a model is, and what it lacks: where it comes from, its sizes and parameters, how its
vectors are made, its heads, and the precision that would be chosen here."""

import argparse
import warnings
from pathlib import Path
from typing import Any

from minibert.commands.options import add_json, add_model_argument, print_json
from minibert.devices import as_device
from minibert.encoder import SentenceEncoder
from minibert.files import InputError, escaped, read_object, sha256
from minibert.formats.checkpoint import LoadReport
from minibert.formats.hub import KNOWN_WEIGHTS, find_model
from minibert.formats.sentence_transformers import read_encoder_folder
from minibert.precision import processor, uses_bfloat16
from minibert.pretraining import BertForPreTraining
from minibert.terminal import painted

USAGE = "%(prog)s MODEL [options]"
EXAMPLES = """\
%(prog)s minilm
%(prog)s google-bert/bert-base-uncased --tensors
%(prog)s runs/newsroom/model --json"""


def add_options(command: argparse.ArgumentParser) -> None:
    add_model_argument(command)
    group = command.add_argument_group("output")
    group.add_argument(
        "--tensors",
        action="store_true",
        help="also list every tensor of the files, and what became of it",
    )
    add_json(group, "one JSON object")


def run(options: argparse.Namespace) -> None:
    found = find_model(options.model, options.revision)
    # A sentence encoder may have the files of its BERT in a folder of their own.
    is_whole = (found.path / "config.json").exists() or not (found.path / "modules.json").exists()
    folder = found.path if is_whole else read_encoder_folder(found.path).transformer
    whole, report = BertForPreTraining.from_folder(folder)
    missing = missing_parts(whole)
    facts = {
        "name": found.name,
        "folder": str(found.path),
        "source": found.source,
        "commit": found.commit,
        "files": [file_facts(file) for file in report.files],
        "config": vars(whole.config),
        "parameters": count_parameters(whole),
        "vectors": vector_facts(found.path, missing),
        "heads": heads(whole, report, folder),
        "precision": {"default": "float32", "auto": chosen_by_auto(), "processor": processor()},
        "tensors": dict(report.counts),
        "missing": missing,
    }
    if options.json:
        listed = {"tensor_list": [vars(entry) for entry in report.entries]}
        print_json(facts | (listed if options.tensors else {}))
        return
    for label, text in lines(facts):
        print(f"{painted(f'{label:<10}', 'strong')}  {escaped(text)}")
    if options.tensors:
        for entry in report.entries:
            shape = "x".join(map(str, entry.shape))
            name = escaped(entry.name)
            print(f"{entry.status:<8}  {entry.dtype:<4}  {shape:>10}  {name}  ->  {entry.note}")


def lines(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The facts for people, each with its label."""
    config, vectors, precision = facts["config"], facts["vectors"], facts["precision"]
    commit = f", commit {facts['commit']}" if facts["commit"] else ""
    total = sum(facts["parameters"].values())
    parts = ", ".join(f"{part} {count:,}" for part, count in facts["parameters"].items())
    limit = config["max_position_embeddings"] if vectors is None else vectors["max_length"]
    counts = ", ".join(f"{count} {status}" for status, count in facts["tensors"].items())
    return [
        ("model", f"{facts['name']}: {facts['folder']} ({facts['source']}{commit})"),
        *(
            (
                "weights",
                f"{file['name']}: {file['bytes']:,} bytes, SHA-256 {file['sha256']} "
                f"({file['published'] or 'unknown'})",
            )
            for file in facts["files"]
        ),
        (
            "sizes",
            f"{config['num_hidden_layers']} layers, {config['hidden_size']} numbers a token, "
            f"{config['num_attention_heads']} attention heads, feed-forward "
            f"{config['intermediate_size']}; {config['vocab_size']:,} word pieces, "
            f"{config['max_position_embeddings']} positions",
        ),
        ("parameters", f"{total:,} ({total * 4 / 2**20:.1f} MiB as float32): {parts}"),
        ("vectors", "none" if vectors is None else describe_vectors(vectors)),
        ("limit", f"{limit} tokens of a text, with those that begin and end it"),
        ("heads", "; ".join(facts["heads"]) or "none"),
        (
            "precision",
            f"{precision['default']} by default; auto chooses {precision['auto']} here "
            f"({precision['processor']})",
        ),
        ("tensors", f"{counts} (--tensors lists them)"),
        ("missing", "; ".join(facts["missing"]) or "nothing"),
    ]


def describe_vectors(vectors: dict[str, Any]) -> str:
    scaled = "scaled to length 1" if vectors["normalize"] else "not scaled"
    prompts = ", ".join(vectors["prompts"]) or "none"
    return (
        f"{vectors['dimensions']} numbers: pooled by {vectors['pooling']}, {scaled}, compared by "
        f"{vectors['similarity']}; prompts: {prompts}"
    )


def file_facts(file: Path) -> dict[str, Any]:
    """A file of weights, and where it was published, if we know it."""
    digest = sha256(file)
    published = " ".join(KNOWN_WEIGHTS[digest]) if digest in KNOWN_WEIGHTS else None
    size = file.stat().st_size
    return {"name": file.name, "bytes": size, "sha256": digest, "published": published}


def count_parameters(whole: BertForPreTraining) -> dict[str, int]:
    """How many parameters each part has, of those that are there."""
    bert = whole.bert
    parts = {
        "embeddings": bert.embeddings,
        f"{len(bert.layers)} layers": bert.layers,
        "pooler": bert.pooler,
        "masked-word head": whole.masked_words,
        "next-sentence head": whole.next_sentence,
    }
    return {
        name: sum(p.numel() for p in part.parameters())
        for name, part in parts.items()
        if part is not None
    }


def vector_facts(path: Path, missing: list[str]) -> dict[str, Any] | None:
    """How sentence vectors are made; None if they cannot be. What lacks for them is added to
    `missing`."""
    try:
        with warnings.catch_warnings(action="ignore"):  # here, what they tell is among the facts
            encoder = SentenceEncoder.from_pretrained(path, device="cpu")
    except InputError as error:
        missing.append(f"what sentence vectors need: {error}")
        return None
    if not (path / "modules.json").exists():
        missing.append("modules.json, which says how to pool: the mean is assumed")
    settings = encoder.settings
    return {
        "dimensions": encoder.dim(),
        "pooling": settings.pooling,
        "normalize": settings.normalize,
        "similarity": settings.similarity,
        "prompts": dict(settings.prompts),
        "max_length": encoder.tokenizer.max_length,
    }


def heads(whole: BertForPreTraining, report: LoadReport, folder: Path) -> list[str]:
    """The heads in the files."""
    there = {
        "masked words": whole.masked_words,
        "next sentence": whole.next_sentence,
    }
    found = [name for name, head in there.items() if head is not None]
    if names := report.head():
        architectures = read_object(folder / "config.json").get("architectures") or ["fine-tuned"]
        parts = ", ".join(dict.fromkeys(f"{name.partition('.')[0]}.*" for name in names))
        found.append(f"{', '.join(map(str, architectures))} ({parts})")
    return found


def missing_parts(whole: BertForPreTraining) -> list[str]:
    """The parts of a pre-trained BERT that the files do not have."""
    parts = {
        "the pooler": whole.bert.pooler,
        "the masked-word head, which fill-mask needs": whole.masked_words,
        "the next-sentence head": whole.next_sentence,
    }
    return [name for name, part in parts.items() if part is None]


def chosen_by_auto() -> str:
    """The precision that --precision auto chooses on this machine."""
    return "bfloat16" if uses_bfloat16("auto", as_device(None)) else "float32"
