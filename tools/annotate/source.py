"""A Python file, cut into pieces of prose and the code beside it; and where a symbol stands."""

import ast
import io
import tokenize
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Piece:
    """Some lines of code, and the docstring or comment that is about them."""

    name: str = ""  # of the class or function that starts here, such as Attention.forward
    prose: str = ""
    rows: list[int] = field(default_factory=list)  # numbers of lines, counted from 1


@dataclass(frozen=True)
class Source:
    """A Python file. path: relative to the repository, such as minibert/model.py."""

    path: str
    text: str

    @classmethod
    def read(cls, path: str) -> "Source":
        return cls(path, (ROOT / path).read_text(encoding="utf-8"))

    @property
    def page(self) -> str:
        """Its page, relative to the site."""
        return self.path.removesuffix(".py") + ".html"

    @property
    def module(self) -> str:
        return self.path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")

    @cached_property
    def lines(self) -> list[str]:
        return self.text.split("\n")

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.text)

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """Each class, function and method by its qualified name. Of several of one name, such as
        overloads or a property's setter, it is the last that has a docstring."""
        found: dict[str, Definition] = {}
        for name, node in _definitions(self.tree, ""):
            if ast.get_docstring(node) or not ast.get_docstring(found.get(name, node)):
                found[name] = node
        return found

    @cached_property
    def summary(self) -> str:
        """The first sentence of the module's docstring."""
        first, dot, _ = " ".join((ast.get_docstring(self.tree) or "").split()).partition(". ")
        return first + dot.strip()

    def row(self, name: str, containing: str = "") -> int:
        """The line of a definition, or the first line of it that contains some text; with an empty
        name, of the whole file. Raises KeyError if there is no such definition or line."""
        rows = range(1, len(self.lines) + 1)
        if name:
            node = self.definitions[name]
            rows = range(node.lineno, (node.end_lineno or node.lineno) + 1)
        for row in rows:
            if containing in self.lines[row - 1]:
                return row
        raise KeyError(f"{self.path}: {name} has no line with {containing!r}")

    @cached_property
    def pieces(self) -> list[Piece]:
        """The whole file, in order. Docstrings and comments on lines of their own are prose, and no
        code."""
        starts, ends, hidden = {}, set(), set(_docstring_rows(self.tree))
        for name, node in _definitions(self.tree, ""):
            own = name if self.definitions[name] is node else ""
            starts[min(n.lineno for n in (node, *node.decorator_list))] = own, node
            ends.add((node.end_lineno or node.lineno) + 1)
        comments = _comments(self.text)
        pieces = [Piece("", ast.get_docstring(self.tree) or "")]
        for row in range(1, len(self.lines) + 1):
            last = pieces[-1]
            if row in starts:
                name, node = starts[row]
                if last.rows or last.name or not last.prose or last is pieces[0]:
                    pieces.append(last := Piece())
                last.name = name
                last.prose = "\n\n".join(filter(None, (last.prose, ast.get_docstring(node))))
            elif row in ends and last.rows:
                pieces.append(last := Piece())
            if row in comments:
                if last.rows or row - 1 not in comments:
                    pieces.append(last := Piece())
                last.prose = f"{last.prose}\n{comments[row]}".strip("\n")
            elif row not in hidden and (
                self.lines[row - 1].strip() or (last.rows and row - 1 not in hidden)
            ):
                last.rows.append(row)
        for piece in pieces:
            while piece.rows and not self.lines[piece.rows[-1] - 1].strip():
                piece.rows.pop()
        return [piece for piece in pieces if piece.rows or piece.prose]


def _definitions(node: ast.Module | ast.ClassDef, before: str) -> Iterator[tuple[str, Definition]]:
    for child in node.body:
        if isinstance(child, Definition):
            yield before + child.name, child
        if isinstance(child, ast.ClassDef):
            yield from _definitions(child, f"{before}{child.name}.")


def _docstring_rows(tree: ast.Module) -> Iterator[int]:
    """The lines of the docstrings that become prose; a nested function keeps its own."""
    for node in (tree, *(n for _, n in _definitions(tree, ""))):
        if ast.get_docstring(node) is not None:
            first = node.body[0]
            yield from range(first.lineno, (first.end_lineno or first.lineno) + 1)


def _comments(text: str) -> dict[int, str]:
    """The comments that have a line for themselves, by their lines."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {
        token.start[0]: token.string.lstrip("#").removeprefix(" ")
        for token in tokens
        if token.type == tokenize.COMMENT and not token.line[: token.start[1]].strip()
    }


def find_place(sources: Sequence[Source], symbol: str, containing: str = "") -> tuple[Source, int]:
    """The file and line of a symbol, such as minibert.model.attention, or of the first line of it
    that contains some text. Raises KeyError if it is gone."""
    for source in sources:
        name = symbol.removeprefix(source.module).removeprefix(".")
        if symbol == source.module or (
            symbol.startswith(f"{source.module}.") and name in source.definitions
        ):
            return source, source.row(name, containing)
    raise KeyError(f"no file has {symbol}")
