"""The time of whole processes: from their start to the first vector, and for files of many
sentences."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from minibert.files import InputError
from minibert.formats.hub import find_model
from minibert.tokenizer import Tokenizer
from tools.benchmark.corpora import sentences
from tools.benchmark.race import Result, environment, version

# name -> the package it needs, and a program that ends with one vector; {model} is MiniLM's folder
STARTS = {
    "minibert": (
        "torch",
        "from minibert import SentenceEncoder\n"
        "SentenceEncoder.from_pretrained('minilm').encode('a sentence')",
    ),
    "sentence-transformers": (
        "sentence-transformers",
        "from sentence_transformers import SentenceTransformer\n"
        "SentenceTransformer({model!r}, device='cpu').encode('a sentence')",
    ),
    "transformers": (
        "transformers",
        "import torch\n"
        "from transformers import AutoModel, AutoTokenizer\n"
        "tokenizer = AutoTokenizer.from_pretrained({model!r})\n"
        "bert = AutoModel.from_pretrained({model!r})\n"
        "with torch.inference_mode():\n"
        "    inputs = tokenizer('a sentence', return_tensors='pt')\n"
        "    bert(**inputs).last_hidden_state.mean(1).numpy()",
    ),
    "import torch": ("torch", "import torch"),
}


def starts(rounds: int, threads: int) -> list[Result]:
    """The seconds from a process's start to its end, after one vector.

    The programs take turns. A first round, which brings the files into memory, is not counted.
    """
    results = {}
    for name, (package, _) in STARTS.items():
        if version(package) is None:
            print(f"not measured: {name}: package {package} is not installed")
        else:
            results[name] = Result(name, "")
    model = str(find_model("minilm").path)
    for i in range(rounds + 1):
        for name, result in results.items():
            measured = run(["-c", STARTS[name][1].format(model=model)], threads)
            if i:
                result.rounds.append(measured)
    return list(results.values())


def files(counts: Sequence[int], threads: int) -> list[Result]:
    """Encode files of so many sentences to files of vectors, each in a process of its own."""
    tokenizer = Tokenizer.from_folder(find_model("minilm").path)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            texts, vectors = Path(folder) / "texts.txt", Path(folder) / "vectors.npy"
            texts.write_text(
                "".join(f"{text}\n" for text in sentences(tokenizer, count)), encoding="utf-8"
            )
            command = ["-m", "minibert", "encode", "--input", str(texts), "--output", str(vectors)]
            measured = run(command, threads)
            found = len(np.load(vectors, mmap_mode="r"))
            if found != count:
                raise InputError(f"{count} sentences gave {found} vectors")
            vectors.unlink()
            results.append(Result(f"{count:,} sentences", "", [measured | {"done": count}]))
    return results


def run(command: Sequence[str], threads: int) -> dict[str, float]:
    """Run Python once: the seconds from start to end, and the peak memory. What it prints goes to
    stderr."""
    start = time.perf_counter()
    process = subprocess.Popen([sys.executable, *command], env=environment(threads), stdout=2)
    _, status, usage = os.wait4(process.pid, 0)  # as wait(), and tells this process's own peak
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise InputError(f"python {' '.join(command)} failed; its own message stands above")
    return {"seconds": seconds, "peak_mib": usage.ru_maxrss / 1024}
