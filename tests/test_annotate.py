"""The annotated source: what its pages say is what the source says and a run computes.

Evidence: transformers computes the values; the prose and the code are taken from the source by
other means than the tool's.
"""

import ast
import io
import re
import runpy
import sys
import tokenize
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from posixpath import dirname, join, normpath

import pytest
import torch
from safetensors import safe_open

from tools import exercises
from tools.annotate import __main__ as program
from tools.annotate.example import TEXTS
from tools.annotate.formulas import to_mathml
from tools.annotate.guide import GLOSSARY, QUESTIONS, Place
from tools.annotate.pages import Site
from tools.annotate.source import ROOT, Source, find_place

pytestmark = pytest.mark.usefixtures("one_thread")


class Page(HTMLParser):
    """What the tests look at in a page."""

    VOID = ("meta", "link", "br", "wbr", "mspace")

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []  # the tag and class of each element that is open
        self.prose: list[str] = []
        self.lines: dict[int, str] = {}  # of code
        self.runs: dict[int, str] = {}  # what stands below a line of code
        self.feed(html)
        self.close()
        assert not self.open, "every element is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attributes}
        self.tags.append((tag, found))
        if tag not in self.VOID:
            self.open.append(f"{tag}.{found.get('class', '')}")
        if tag == "math":
            self.prose.append(found["alttext"])
        if found.get("class") == "line":
            self.row = int(found["data-row"])
            assert found["id"] == f"L{self.row}"
            assert self.row not in self.lines, "a line stands on the page once"
            self.lines[self.row] = ""
        if found.get("class") == "run":
            self.runs[self.row] = ""

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, {name: value or "" for name, value in attributes}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop().startswith(f"{tag}."), tag

    def handle_data(self, data: str) -> None:
        inside = {name.partition(".")[0] for name in self.open}
        if "span.line" in self.open:
            self.lines[self.row] += data
        elif "span.run" in self.open:
            self.runs[self.row] += data
        elif "div.prose" in self.open and not inside & {"h2", "h3", "h4", "math"}:
            self.prose.append(data)

    def ids(self) -> set[str]:
        return {attributes["id"] for _, attributes in self.tags if "id" in attributes}


@pytest.fixture(scope="module")
def site(minilm: Path, one_thread: None) -> Site:
    return program.build(str(minilm))


@pytest.fixture(scope="module")
def pages(site: Site) -> dict[str, Page]:
    return {name: Page(html) for name, html in site.pages.items() if name.endswith(".html")}


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text)


def prose_of(text: str) -> list[str]:
    """The words of a file's docstrings and of its comments on lines of their own, in order. A
    function within a function keeps its docstring."""
    tree = ast.parse(text)
    found = {}
    holders = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef)]
    methods = [f for h in holders for f in h.body if isinstance(f, ast.FunctionDef)]
    for node in (*holders, *methods):
        if (docstring := ast.get_docstring(node)) is not None:
            found[node.body[0].lineno] = re.sub(r"(?m)^\d+\. ", "", docstring)
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT and token.line.lstrip().startswith("#"):
            found[token.start[0]] = token.string
    return [word for _, part in sorted(found.items()) for word in words(part)]


def test_every_file_has_a_page_and_stands_once_in_the_index(pages: dict[str, Page]) -> None:
    files = [file for package in ("minibert", "train") for file in (ROOT / package).rglob("*.py")]
    wanted = {f.relative_to(ROOT).with_suffix(".html").as_posix() for f in files if f.read_text()}
    assert wanted | {"tools/exercises.html", "index.html"} == pages.keys()
    tags = iter(pages["index.html"].tags)
    listed = Counter(next(tags)[1]["href"] for tag, about in tags if about.get("scope") == "row")
    assert listed == Counter(wanted | {"tools/exercises.html"})


def test_the_prose_is_that_of_the_source_and_so_is_the_code(
    site: Site, pages: dict[str, Page]
) -> None:
    for source in site.sources:
        page, text = pages[source.page], (ROOT / source.path).read_text(encoding="utf-8")
        assert words(" ".join(page.prose)) == prose_of(text), source.path
        lines = text.split("\n")
        for row, code in page.lines.items():
            assert code.rstrip() == lines[row - 1].rstrip()
        # All statements are there, but for the docstrings.
        statements = [n for n in ast.walk(ast.parse(text)) if isinstance(n, ast.stmt)]
        for node in statements:
            is_docstring = isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
            assert is_docstring or node.lineno in page.lines, source.path


def test_every_link_resolves_and_nothing_comes_from_elsewhere(pages: dict[str, Page]) -> None:
    ids = {name: page.ids() for name, page in pages.items()}
    style = (ROOT / "tools/annotate/style.css").read_text()
    assert "url(" not in style
    assert "@import" not in style
    for name, page in pages.items():
        assert len(page.ids()) == sum("id" in attributes for _, attributes in page.tags)
        for tag, attributes in page.tags:
            assert tag not in ("script", "img", "iframe", "object")
            assert "src" not in attributes
            address = attributes.get("href", "")
            if address.startswith("https:"):
                assert tag == "a"
                assert re.fullmatch(r"https://arxiv\.org/abs/\d{4}\.\d{5}", address)
            elif tag == "link":
                assert normpath(join(dirname(name), address)) == "style.css"
            elif address:
                file, _, identity = address.partition("#")
                other = normpath(join(dirname(name), file)) if file else name
                assert other in pages, (name, address)
                assert not identity or identity in ids[other], (name, address)


def test_every_paper_is_linked(site: Site, pages: dict[str, Page]) -> None:
    for source in site.sources:
        linked = Counter(about["href"] for tag, about in pages[source.page].tags if tag == "a")
        for number in re.findall(r"arXiv:(\d{4}\.\d{5})", " ".join(pages[source.page].prose)):
            assert linked[f"https://arxiv.org/abs/{number}"] >= 2, (source.path, number)
    heads = Counter(about.get("href") for _, about in pages["minibert/heads.html"].tags)
    assert heads["https://arxiv.org/abs/1810.04805"] == 4, "sections whose number stands elsewhere"


def test_every_shape_comment_has_the_sizes_of_a_run(site: Site, pages: dict[str, Page]) -> None:
    for (path, row), comment in site.watched.items():
        run = pages[path.removesuffix(".py") + ".html"].runs[row]
        assert re.match(r"→ \((\d+(, \d+)*)?\)", run), (path, comment.text)
        assert ("\N{ASTERISK OPERATOR}" in run) != comment.is_example
    is_example = {path: [] for path, _ in site.watched}
    for (path, _), comment in site.watched.items():
        is_example[path].append(comment.is_example)
    assert sum(is_example["minibert/model.py"]) >= 0.9 * len(is_example["minibert/model.py"])


def test_values_are_those_of_a_run_by_transformers(
    site: Site, pages: dict[str, Page], minilm: Path
) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    model = transformers.AutoModel.from_pretrained(minilm, attn_implementation="eager").eval()
    inputs = tokenizer(list(TEXTS), padding=True, return_tensors="pt")
    with torch.inference_mode():
        output = model(**inputs, output_hidden_states=True, output_attentions=True)
    with safe_open(minilm / "model.safetensors", "pt") as file:
        word = file.get_tensor("embeddings.word_embeddings.weight")[inputs["input_ids"]]
    wanted = {
        ("Embeddings.forward", "self.word("): word,
        ("Embeddings.forward", "self.norm("): output.hidden_states[0],
        ("attention", "softmax(-1) * mask"): output.attentions[0],
        ("Layer.forward", "self.feed_forward_norm("): output.hidden_states[1],
    }
    for (name, containing), tensor in wanted.items():
        source, row = find_place(site.sources, f"minibert.model.{name}", containing)
        run = pages[source.page].runs[row].replace("\N{MINUS SIGN}", "-")
        shape, values = re.fullmatch(r"→ \(([\d, ]+)\) ([-\d., ]+), …", run).groups()
        assert tuple(map(int, shape.split(", "))) == tuple(tensor.shape)
        shown = torch.tensor([float(value) for value in values.split(", ")])
        torch.testing.assert_close(shown, tensor.flatten()[:3], atol=6e-5, rtol=0)
    assert "(2, 11, 1536)" in site.index()  # the picture has the shape within feed-forward


def test_each_question_and_term_has_its_place(site: Site) -> None:
    assert len(QUESTIONS) >= 9
    for _, place in QUESTIONS:
        source, row = find_place(site.sources, place.symbol, place.containing)
        name = place.symbol.removeprefix(source.module).removeprefix(".")
        pieces = [p for p in source.pieces if row in p.rows or (p.name == name and not p.rows)]
        assert (pieces or source.pieces)[0].prose, "the answer is in words"
    terms = [term for term, _, _ in GLOSSARY]
    assert terms == sorted(terms, key=str.lower)


@pytest.mark.parametrize(
    "place",
    [
        Place("minibert.model.gone"),
        Place("minibert.gone"),
        Place("minibert.model.attention", "gone"),
        Place("minibert.model.Layer", "masked_fill"),  # which stands elsewhere
    ],
)
def test_a_place_that_is_gone_is_an_error(place: Place) -> None:
    source = Source.read("minibert/model.py")
    with pytest.raises(KeyError):
        find_place([source], place.symbol, place.containing)


def test_the_program_writes_the_pages(
    site: Site,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(program, "build", lambda model: site)
    assert program.main(["-o", str(tmp_path / "site")]) == 0
    assert f"open {tmp_path / 'site/index.html'}" in capsys.readouterr().out
    for name, text in site.pages.items():
        assert (tmp_path / "site" / name).read_text(encoding="utf-8") == text


def test_text_of_the_source_is_escaped(site: Site) -> None:
    source = Source("minibert/odd.py", '"""1 < 2 & `<b>` <script> -> <-> `->`."""\n')
    prose = Site([source, *site.sources], site.encoder, {}).prose
    assert prose.html(source.pieces[0].prose, source) == (
        "<p>1 &lt; 2 &amp; <code>&lt;b&gt;</code> &lt;script&gt; → ↔ <code>-&gt;</code>.</p>\n"
    )


def test_a_name_leads_to_the_file_that_the_text_says(site: Site) -> None:
    source = next(source for source in site.sources if source.path == "minibert/fast/attention.py")
    html = site.prose.html("`attention` of model.py, `attention`, fit.py", source)
    assert re.findall('href="(.*?)"', html) == [
        "../model.html#attention",
        "../model.html",
        "#attention",
    ]


def test_comments_and_docstrings_stand_beside_what_they_are_about() -> None:
    source = Source(
        "a.py",
        '"""A module."""\n\n# Before.\n@decorator\ndef f():\n    """F."""\n    one()\n'
        "    # Two lines\n    # of it.\n    two()\n\n\nX = 1\n",
    )
    pieces = [(piece.name, piece.prose, piece.rows) for piece in source.pieces]
    assert pieces == [
        ("", "A module.", []),
        ("f", "Before.\n\nF.", [4, 5, 7]),
        ("", "Two lines\nof it.", [10]),
        ("", "", [13]),
    ]


@pytest.mark.parametrize(
    ("plain", "mathml"),
    [
        (
            "x_i / 2",
            "<mfrac><mrow><msub><mi>x</mi><mi>i</mi></msub></mrow><mrow><mn>2</mn></mrow></mfrac>",
        ),
        ("b_1^t", "<msubsup><mi>b</mi><mn>1</mn><mi>t</mi></msubsup>"),
        ("sum_i x", '<munder><mo>∑</mo><mi>i</mi></munder><mspace width="0.17em"/><mi>x</mi>'),
        ("sqrt(v)", "<msqrt><mi>v</mi></msqrt>"),
        ("a = -b", "<mi>a</mi><mo>=</mo><mo>\N{MINUS SIGN}</mo><mi>b</mi>"),
        ("feed_forward", "<mtext>feed_forward</mtext>"),
        # The brackets of a whole numerator go; those of two factors stay.
        ("(a) / 2", "<mfrac><mrow><mi>a</mi></mrow><mrow><mn>2</mn></mrow></mfrac>"),
        (
            "(a) (b) / 2",
            "<mfrac><mrow><mrow><mo>(</mo><mi>a</mi><mo>)</mo></mrow>"
            '<mspace width="0.17em"/><mrow><mo>(</mo><mi>b</mi><mo>)</mo></mrow></mrow>'
            "<mrow><mn>2</mn></mrow></mfrac>",
        ),
    ],
)
def test_formulas(plain: str, mathml: str) -> None:
    assert to_mathml(plain) == f'<math display="block" alttext="{plain}">{mathml}</math>'


@pytest.mark.parametrize(
    ("name", "formulas"),
    [
        ("minibert/heads.html", ["mean(x)"]),
        (
            "minibert/model.html",
            ["attention(Q, K, V)", "feed_forward(x)", "gelu(x)", "x", "x", "norm(x)"],
        ),
        ("train/optimizer.html", ["m", "v", "M", "w"]),
        ("train/tasks/contrastive.html", ["loss"]),
    ],
)
def test_the_central_formulas_are_rendered(
    pages: dict[str, Page], name: str, formulas: list[str]
) -> None:
    found = [about["alttext"] for tag, about in pages[name].tags if tag == "math"]
    assert [formula.partition(" = ")[0] for formula in found] == formulas


@pytest.mark.parametrize("plain", ["x +", "(x", "x)", "a / * b", "a ? b", "^2", ""])
def test_what_is_no_formula_is_an_error(plain: str) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(plain))):
        to_mathml(plain)


# What each exercise teaches, said of its rows.
LESSONS = {
    "Leave out the root": lambda wide, sharp, near: sharp < wide / 2 and near < 0.95,
    "Freeze layers": lambda *moved: (
        moved[:5] == (0,) * 5
        and moved[7] == 0
        and moved[5:7] == pytest.approx((1e-4,) * 2, rel=0.1)
    ),
    "Add a relative bias": lambda plain, biased: biased < plain / 2,
    "Forget the mask": lambda masked, unmasked: masked < 1e-5 < 0.1 < unmasked,
    "Forget the positions": lambda plain, without: without == pytest.approx(1) and plain < 0.99,
    "Change the pooling": lambda *gaps: min(gaps) > 0 and gaps[3] == pytest.approx(gaps[2]),
    "Count the parameters": lambda word, layers, attention, forward: (
        word + layers < 100 and forward == pytest.approx(2 * attention, rel=0.01)
    ),
    "Encode twice with dropout": lambda *rows: (
        rows[0] == pytest.approx(1) and rows[0] > rows[2] > rows[4] and rows[2] > rows[3]
    ),
    "Divide by what?": lambda exact, means: exact < 1e-5 < 0.1 < means,
    "Look at the row of [PAD]": lambda pad, cls, tied: pad == 0 < min(cls, tied),
}


@pytest.mark.parametrize("number", range(1, 11))
def test_each_exercise_runs_and_teaches_what_it_says(
    minilm: Path, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    title = list(exercises.EXERCISES)[number - 1]
    assert exercises.main([str(number)]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert LESSONS[title](*(float(row.split()[-1]) for row in rows)), rows


@pytest.mark.parametrize("package", ["markdown_it", "pygments"])
def test_a_missing_package_is_one_sentence(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("tools.annotate.__main__", "tools.annotate.pages", "tools.annotate.prose"):
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("tools.annotate", run_name="__main__")
    assert caught.value.code == (
        f"{package} is not installed, which the pages need: pip install -e '.[annotate]'"
    )


def test_the_exercises_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert exercises.main([]) == 0
    titles = [line[4:] for line in capsys.readouterr().out.splitlines()]
    assert titles == list(LESSONS)
    assert exercises.main(["11"]) == 2
    assert "there is no exercise 11" in capsys.readouterr().err
