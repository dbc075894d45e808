"""Find the lines of a corpus that are nearest in meaning to a query. The corpus may be of any size:
it is read once, some lines at a time, and only the best are kept.

Every line is encoded in each search. For many searches of one corpus, `encode` it once, and compare
with the vectors.
"""

import argparse

import numpy as np

from minibert.commands.options import add_encoder, add_json, add_top, load_encoder, print_json
from minibert.files import InputError, one_line
from minibert.nearest import Nearest
from minibert.terminal import painted
from minibert.texts import count_texts, is_input_piped, lines_of

USAGE = "%(prog)s [QUERY ...] [--input FILE] [options]"
EXAMPLES = """\
%(prog)s "how do I get a refund" --input corpus.txt --top 5
grep -v '^#' notes.txt | %(prog)s "trains" --json
%(prog)s --queries queries.txt --input corpus.txt"""


def add_options(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("texts")
    group.add_argument("query", nargs="*", metavar="QUERY", help="what to search for")
    group.add_argument(
        "--queries",
        metavar="FILE",
        help="queries, one a line; - for standard input (default: the arguments)",
    )
    group.add_argument(
        "--input",
        metavar="FILE",
        help="the corpus, a text on each line; blank lines are never found; - for standard input "
        "(default: standard input)",
    )
    group.add_argument(
        "--query-prompt",
        metavar="TEXT",
        help="put before each query (default: the model's own prompt for queries, if any)",
    )
    group.add_argument(
        "--document-prompt",
        metavar="TEXT",
        help="put before each line of the corpus (default: the model's own for documents, if any)",
    )
    add_encoder(command)
    group = command.add_argument_group("output")
    add_top(group, 10, "how many lines for each query")
    add_json(group, "JSON lines, of query, rank, score, line (counted from 1) and text")


def run(options: argparse.Namespace) -> None:
    if options.top < 1:
        raise InputError(f"--top {options.top}: must be at least 1")
    queries, source = read_queries(options), options.input or "-"
    lines, total = lines_of(source), count_texts([], source)
    encoder = load_encoder(options)
    of_queries = encoder.encode_query(queries, prompt=options.query_prompt)
    name = None if options.document_prompt is not None else "document"
    nearest = Nearest(len(queries), options.top)
    texts: dict[int, str] = {}  # of the lines that are among the nearest
    for window, vectors in encoder.stream(
        lines, prompt=options.document_prompt, prompt_name=name, progress=True, total=total
    ):
        scores = encoder.similarity(of_queries, vectors).numpy()
        if not np.isfinite(scores).all():
            raise InputError(
                f"{options.model}: its vectors are not finite numbers: the weights are damaged"
            )
        scores[:, [not text.strip() for text in window]] = -np.inf
        start = nearest.seen
        nearest.add(scores)
        found = np.unique(nearest.numbers).tolist()
        texts = {n: texts[n] if n < start else window[n - start] for n in found}
    if not np.isfinite(nearest.scores).any():
        where = "standard input" if source == "-" else source
        raise InputError(f"there is no text to search in {where}: every line is blank")
    for i, query in enumerate(queries):
        if len(queries) > 1 and not options.json:
            print(painted(one_line(query), "strong"))
        for rank, (number, score) in enumerate(
            zip(nearest.numbers[i].tolist(), nearest.scores[i].tolist(), strict=True), start=1
        ):
            if np.isfinite(score):
                show(options, query, rank, score, number + 1, texts[number])


def show(
    options: argparse.Namespace, query: str, rank: int, score: float, line: int, text: str
) -> None:
    """Print a line of the corpus that was found."""
    if options.json:
        print_json({"query": query, "rank": rank, "score": score, "line": line, "text": text})
    else:
        place = painted(f"{line:>6}", "faint")
        print(f"{painted(f'{score:7.4f}', 'number')}  {place}  {one_line(text)}")


def read_queries(options: argparse.Namespace) -> list[str]:
    """The queries. Raises InputError if there is none, or a blank one, and if queries and corpus
    cannot both be read."""
    if (not options.query) is (options.queries is None):
        raise InputError("give queries as arguments, or as --queries FILE (one a line)")
    file = "-" if options.query == ["-"] else options.queries
    is_corpus_standard = options.input in (None, "-")
    if file == "-" and is_corpus_standard:
        raise InputError("the queries are standard input: name the corpus with --input FILE")
    if options.input is None and not is_input_piped():
        raise InputError("no corpus: give it as --input FILE (a text on each line), or pipe it")
    if file is None:
        queries = options.query
    else:
        queries = [line for line in lines_of(file) if line.strip()]
        if not queries:
            raise InputError(f"there is no query in {'standard input' if file == '-' else file}")
    if not all(query.strip() for query in queries):
        raise InputError("a query is blank: say what to search for")
    return queries
