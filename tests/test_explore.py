"""tools/explore: a page says what the model says, in a real browser, by mouse and by keys.

Evidence: the model's own functions, transformers' attention, scikit-learn's principal components;
and a headless Chromium, of which the tests read what a person would see.
"""

import json
import re
import shutil
from base64 import b64decode
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity
from transformers import AutoModel

from minibert import BertConfig, SentenceEncoder
from minibert.pretraining import BertForPreTraining, fill_masks
from minibert.tokenizer import Tokenizer
from minibert.tokens import TruncationWarning
from tests.test_data import VOCABULARY
from tests.test_predict import PAIRS, TASKS, save
from tools.explore import compute
from tools.explore.__main__ import main
from tools.explore.compute import explore, open_model
from tools.explore.page import write_page
from tools.parity import shake
from train.predict import predict_texts
from train.saved import load_run

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore::minibert.formats.hub.PoolingWarning"),
]

NASTY = "a </script><img src=x onerror=\"document.title='broken'\"> <!-- \u2028 & b"
TEXTS = ["ab c, d!", "it's a [MASK] day", NASTY]
PAIR = ("who is it?", "it is ab.")
ABSENT = "Chromium and its driver (chromium, chromium-driver) are not installed"


def write_model(folder: Path, layers: int, heads: int, types: int = 2) -> Path:
    """A random model with the heads of pre-training, 64 positions, and opinions."""
    config = BertConfig(
        vocab_size=len(VOCABULARY),
        hidden_size=4 * heads,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=24,
        max_position_embeddings=64,
        type_vocab_size=types,
        initializer_range=0.3,
    )
    torch.manual_seed(0)
    shake(BertForPreTraining(config), 0.1).save_pretrained(folder)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in VOCABULARY))
    return folder


def values_of(page: Path) -> dict[str, Any]:
    """The values that a page holds."""
    [found] = re.findall(r'id="values">(.*?)</script>', page.read_text("utf-8"), re.DOTALL)
    return json.loads(found)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"), layers=3, heads=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    save(folder, TASKS)
    return folder


@pytest.fixture(scope="module")
def page(model: Path) -> Path:
    """A page of three texts and a pair, made by the program."""
    file = model / "page.html"
    assert main([*TEXTS, "--pair", *PAIR, "--model", str(model), "-o", str(file)]) == 0
    return file


@pytest.fixture(scope="module")
def values(page: Path) -> dict[str, Any]:
    return values_of(page)


def attention_of(values: dict[str, Any], number: int) -> np.ndarray[Any, Any]:
    """The bytes of a sequence's attention as probabilities, (L, H, S, S)."""
    size = len(values["sequences"][number]["tokens"])
    content = np.frombuffer(b64decode(values["sequences"][number]["attention"]), np.uint8)
    about = values["model"]
    return content.reshape(about["layers"], about["heads"], size, size) / 255


# What the page holds


def test_attention_is_that_of_transformers(model: Path, values: dict[str, Any]) -> None:
    """Of a text and of a pair, whose second text has another token type."""
    theirs = AutoModel.from_pretrained(model, attn_implementation="eager").eval()
    for number in (0, 3):
        tokens = values["sequences"][number]["tokens"]
        ids = torch.tensor([[token["id"] for token in tokens]])
        types = torch.tensor([[token["type"] for token in tokens]])
        with torch.no_grad():
            found = theirs(ids, token_type_ids=types, output_attentions=True).attentions
        np.testing.assert_allclose(
            attention_of(values, number), torch.cat(found), rtol=0, atol=0.5 / 255 + 1e-5
        )
    assert {token["type"] for token in tokens} == {0, 1}


def test_moves_are_the_cosines_of_the_states(model: Path, values: dict[str, Any]) -> None:
    bert = BertForPreTraining.from_pretrained(model).bert
    tokenizer = Tokenizer.from_folder(model)
    [tokens] = tokenizer.encode([TEXTS[0]])
    with torch.inference_mode():
        states = torch.cat(bert.hidden_states(torch.tensor([tokens.ids])))
    moves = values["sequences"][0]["moves"]
    for token, (before, first) in enumerate(zip(moves["before"], moves["first"], strict=True)):
        for layer in range(len(states) - 1):
            now = states[layer + 1, token]
            assert before[layer] == pytest.approx(
                float(cosine_similarity(now, states[layer, token], dim=0)), abs=1e-6
            )
            assert first[layer] == pytest.approx(
                float(cosine_similarity(now, states[0, token], dim=0)), abs=1e-6
            )
    assert np.shape(moves["path"]) == (len(tokens.ids), len(states), 2)


def test_a_map_has_the_principal_components() -> None:
    peers = pytest.importorskip("sklearn.decomposition")
    points = np.random.default_rng(0).normal(size=(9, 5)) * [5, 3, 1, 1, 1]
    ours, shares = compute.project(points)
    theirs = peers.PCA(2).fit(points)
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs.transform(points)), atol=1e-12)
    np.testing.assert_allclose(shares, theirs.explained_variance_ratio_)
    assert compute.project(np.ones((2, 5)))[1] == [0, 0]  # texts that do not differ


def test_hidden_words_are_those_of_fill_masks(model: Path, values: dict[str, Any]) -> None:
    """[MASK] itself, and a token that somebody else hides."""
    whole, tokenizer = BertForPreTraining.from_pretrained(model), Tokenizer.from_folder(model)
    for number, text, position in ((1, TEXTS[1], 6), (0, "ab [MASK], d!", 3)):
        [wanted] = fill_masks(whole, tokenizer, text, compute.TOP)
        found = values["sequences"][number]["words"]
        [hidden] = [word for word in found if word["position"] == position]
        assert hidden["best"] == [list(pair) for pair in wanted]
    words = values["sequences"][1]["words"]
    assert [word["position"] for word in words if word["own"] is None] == [6]


def test_cosines_are_those_of_the_encoder(model: Path, values: dict[str, Any]) -> None:
    """The texts of the pair are compared too."""
    assert values["sentences"]["texts"] == [*TEXTS, *PAIR]
    vectors = SentenceEncoder.from_pretrained(model).encode([*TEXTS, *PAIR], normalize=True)
    np.testing.assert_allclose(values["sentences"]["cosines"], vectors @ vectors.T, atol=1e-6)


def test_a_runs_tasks_say_what_predict_says(run: Path) -> None:
    found = explore(open_model(str(run)), TEXTS[:1])
    assert found["sentences"] is None
    [wanted] = predict_texts(load_run(run), TEXTS[:1])
    tasks = {task["name"]: task for task in found["sequences"][0]["tasks"]}
    assert list(tasks) == [task.name for task in TASKS]
    assert tasks["mood"]["scores"] == wanted["mood"]["scores"]
    assert tasks["mood"]["says"].startswith(wanted["mood"]["label"])
    assert tasks["stars"]["says"] == f"{wanted['stars']['score']:.4f}"
    assert found["sequences"][0]["words"] is None  # the run has no such head


def test_a_pair_is_read_by_a_task_of_pairs(tmp_path: Path) -> None:
    save(tmp_path, PAIRS)
    [wanted] = predict_texts(load_run(tmp_path), [PAIR])
    [sequence] = explore(open_model(str(tmp_path)), [PAIR])["sequences"]
    assert sequence["tasks"][0]["says"] == f"{wanted['likeness']['score']:.4f}"


def test_a_long_text_is_cut_and_the_page_says_so(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compute, "MOST_TOKENS", 6)
    with pytest.warns(TruncationWarning, match="longer than 6 tokens"):
        found = explore(open_model(str(model)), ["a b c d e f"])
    [sequence] = found["sequences"]
    assert (len(sequence["tokens"]), sequence["lost"]) == (6, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["a", "--model", "no/such/model/there"], "no/such/model/there"),
        (["--input", "no-such-file.txt"], "no-such-file.txt"),
        (["a", "--pair", "a", "b", "--model", "RUN"], "no task here reads"),
        (["--input", "EMPTY"], "there is no text to explore"),
    ],
)
def test_a_misuse_is_one_line(
    run: Path,
    tmp_path: Path,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "empty.txt").touch()
    named = {"RUN": str(run), "EMPTY": str(tmp_path / "empty.txt")}
    output = tmp_path / "page.html"
    assert main([*(named.get(a, a) for a in arguments), "-o", str(output)]) == 2
    assert message in capsys.readouterr().err
    assert not output.exists()


def test_a_model_without_a_second_token_type_reads_no_pairs(tmp_path: Path) -> None:
    opened = open_model(str(write_model(tmp_path, layers=1, heads=1, types=1)))
    with pytest.raises(compute.InputError, match="no token type for the second text"):
        explore(opened, [PAIR])


def test_weights_that_are_no_numbers_are_told(model: Path) -> None:
    opened = open_model(str(model))
    opened.whole.bert.embeddings.word.weight.data[:] = torch.nan
    with pytest.raises(compute.InputError, match="not finite numbers"):
        explore(opened, ["a"])


# What a person sees


class Browser:
    """A headless Chromium: what it shows, and what it complains of."""

    def __init__(self, driver: Any, keys: Any, actions: Callable[[], Any]) -> None:
        self.driver, self.keys, self.actions = driver, keys, actions

    def open(self, page: Path) -> None:
        for kind in ("browser", "performance"):
            self.driver.get_log(kind)  # which forgets what came before
        self.driver.get(page.as_uri())
        assert (
            self.driver.execute_script("return Number(document.documentElement.dataset.drawn)") >= 0
        )

    def run(self, script: str) -> Any:
        return self.driver.execute_script(f"return {script}")

    def all(self, selector: str) -> list[Any]:
        return self.driver.find_elements("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        return self.run(f"[...document.querySelectorAll({selector!r})].map((e) => e.textContent)")

    def text(self, selector: str) -> str:
        [found] = self.texts(selector)
        return found

    def numbers(self, selector: str) -> list[float]:
        """The whole numbers behind the rounded ones that cells show."""
        cells = self.all(selector)
        found = [float(cell.get_attribute("title")) for cell in cells]
        rounded = [f"{number:.2f}".replace("-0.00", "0.00") for number in found]
        assert rounded == self.texts(selector)
        return found

    def press(self, *names: str) -> None:
        """Press keys, wherever the focus is."""
        self.actions().send_keys(*(getattr(self.keys, name) for name in names)).perform()

    def requests(self) -> set[str]:
        messages = [json.loads(e["message"])["message"] for e in self.driver.get_log("performance")]
        sent = [m["params"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return {parameters["request"]["url"] for parameters in sent}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = SimpleNamespace(
        browser=shutil.which("chromium"), driver=shutil.which("chromedriver")
    )
    if programs.browser is None or programs.driver is None:
        pytest.skip(ABSENT)
    options = webdriver.ChromeOptions()
    options.binary_location = programs.browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1400,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(programs.driver))
    yield Browser(driver, webdriver.Keys, lambda: webdriver.ActionChains(driver))
    driver.quit()


@pytest.fixture
def shown(browser: Browser, page: Path) -> Iterator[Browser]:
    """The page of three texts and a pair. Nothing may be wrong with it after a test either."""
    browser.open(page)
    yield browser
    assert browser.driver.get_log("browser") == []
    assert browser.requests() == {page.as_uri()}


def test_a_page_shows_the_values(shown: Browser, values: dict[str, Any]) -> None:
    sequence = values["sequences"][0]
    names = [token["text"] for token in sequence["tokens"]]
    ids = [str(token["id"]) for token in sequence["tokens"]]
    assert shown.texts("#pieces [role=option]") == [a + b for a, b in zip(names, ids, strict=True)]
    assert names[:3] == ["[CLS]", "a", "##b"]
    assert shown.texts("#moves tbody th") == names
    assert shown.numbers("#moves td") == [x for row in sequence["moves"]["before"] for x in row]
    shown.all("#against input")[1].click()
    assert shown.numbers("#moves td") == [x for row in sequence["moves"]["first"] for x in row]
    cosines = [x for row in values["sentences"]["cosines"] for x in row]
    assert shown.numbers("#cosines td") == cosines
    words = sequence["words"]
    assert shown.texts("#words tbody th") == [names[word["position"]] for word in words]
    assert shown.numbers("#words td:nth-child(2)") == [word["own"] for word in words]
    best = [f"{token}{p:.2f}" for word in words for token, p in word["best"]]
    assert shown.texts("#words td.word") == best
    assert not shown.all("#tasks-section")[0].is_displayed()


def test_a_click_on_a_square_shows_its_head(shown: Browser, values: dict[str, Any]) -> None:
    attention = attention_of(values, 0)
    squares = shown.all("#grid button")
    assert len(squares) == 3 * 4
    shown.all("#matrix-details summary")[0].click()
    for layer, head in ((0, 0), (2, 1)):
        squares[layer * 4 + head].click()
        assert shown.text("#head-title") == f"Layer {layer}, head {head}"
        np.testing.assert_array_equal(shown.numbers("#matrix td"), attention[layer, head].ravel())
        assert len(shown.all("#threads line")) == (attention[layer, head] >= 0.05).sum()
        alphas = shown.run(
            f"[...document.querySelectorAll('#grid canvas')[{layer * 4 + head}]"
            ".getContext('2d').getImageData(0, 0, 64, 64).data].filter((_, i) => i % 4 == 3)"
        )
        size = len(attention[0, 0])
        painted = np.reshape(alphas, (64, 64))[:size, :size]
        wanted = np.sqrt(attention[layer, head]) * 255
        np.testing.assert_allclose(painted, wanted, rtol=0, atol=0.51)


def test_the_grid_is_walked_by_arrow_keys(shown: Browser) -> None:
    """With Tab to reach it: only one square is a stop."""
    shown.all("#pieces")[0].click()
    shown.press("TAB")
    for key, head in (
        ("ARROW_RIGHT", "Layer 0, head 1"),
        ("ARROW_DOWN", "Layer 1, head 1"),
        ("END", "Layer 1, head 3"),
        ("ARROW_RIGHT", "Layer 1, head 3"),  # there is no more
        ("ARROW_UP", "Layer 0, head 3"),
        ("HOME", "Layer 0, head 0"),
    ):
        shown.press(key)
        assert shown.text("#head-title") == head
        focused = shown.driver.switch_to.active_element
        assert focused.get_attribute("aria-label") == head.lower()
        assert focused.get_attribute("aria-selected") == "true"
        assert focused.value_of_css_property("outline-style") == "solid"
    assert len(shown.all("#grid [aria-selected=true]")) == 1
    assert len(shown.all("#grid [tabindex='0']")) == 1


def test_a_token_is_followed_by_mouse_and_keys(shown: Browser, values: dict[str, Any]) -> None:
    attention = attention_of(values, 0)[0, 0]
    names = [token["text"] for token in values["sequences"][0]["tokens"]]
    shown.all("#pieces [role=option]")[1].click()
    for key, token in ((None, 1), ("ARROW_RIGHT", 2), ("END", len(names) - 1), ("HOME", 0)):
        if key:
            shown.press(key)
        assert shown.text("#from [aria-selected=true]") == names[token]
        assert shown.text("#moves tr.chosen th") == names[token]
        most = int(attention[token].argmax())
        said = f"{names[token]} looks most at {names[most]} ({attention[token, most]:.2f}), "
        assert shown.text("#said").startswith(said)
        shares = [f"{share:.2f}" for share in attention[token]]
        assert shown.texts("#to small") == shares
        ends = "[...document.querySelectorAll('#threads line')].map((e) => [e.y1, e.y2]"
        wanted = [[10 * token + 5, 10 * to + 5] for to in np.flatnonzero(attention[token] >= 0.05)]
        assert shown.run(f"{ends}.map((y) => y.baseVal.value))") == wanted
        assert len(shown.all("#paths circle")) == 1 + values["model"]["layers"]
    shown.press("ESCAPE")
    assert not shown.all("#pieces [aria-selected=true]")
    assert not shown.all("#paths circle")
    assert shown.text("#said").startswith("Each line")


def test_another_text_can_be_chosen(shown: Browser, values: dict[str, Any]) -> None:
    """The pair: its second text's tokens are marked."""
    shown.all("#choice input")[3].click()
    tokens = values["sequences"][3]["tokens"]
    assert shown.texts("#from [role=option]") == [token["text"] for token in tokens]
    marked = [i for i, token in enumerate(tokens) if token["type"]]
    is_marked = "[...document.querySelectorAll('#pieces .second')].map((e) => e.id)"
    assert shown.run(is_marked) == [f"pieces-{i}" for i in marked]


def test_a_map_keeps_distances(shown: Browser, values: dict[str, Any]) -> None:
    points = np.array(values["sentences"]["points"])
    centres = "[...document.querySelectorAll('#map circle')].map((e) => [e.cx, e.cy]"
    placed = np.array(shown.run(f"{centres}.map((x) => x.baseVal.value))"))
    distances = [np.linalg.norm(x[:, None] - x, axis=-1) for x in (points, placed)]
    scale = distances[1].max() / distances[0].max()
    np.testing.assert_allclose(distances[1], scale * distances[0], atol=1e-3)
    assert scale > 1


def test_text_stays_text(shown: Browser) -> None:
    assert shown.texts("#choice label")[2] == f" {NASTY}"
    assert f"3. {NASTY}" in shown.texts("#cosines th")
    assert not shown.all("img")
    assert shown.driver.title.startswith("Inside ")


def test_every_control_and_picture_has_a_name(shown: Browser) -> None:
    """By the browser's own accessibility tree."""
    tree = shown.driver.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    named = [
        (node["role"]["value"], node.get("name", {}).get("value"))
        for node in tree
        if not node["ignored"]
    ]
    roles = {"button", "gridcell", "grid", "image", "listbox", "option", "radio", "region", "table"}
    found = [(role, name) for role, name in named if role in roles]
    assert all(name for _, name in found), found
    assert {"grid", "gridcell", "listbox", "option", "radio", "region", "table"} <= dict(
        found
    ).keys()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_sticks_out(shown: Browser, scheme: str, width: int) -> None:
    """Light and dark, narrow and wide; text is readable by WCAG's measure of contrast."""
    command = shown.driver.execute_cdp_cmd
    feature = {"name": "prefers-color-scheme", "value": scheme}
    size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    command("Emulation.setEmulatedMedia", {"features": [feature]})
    command("Emulation.setDeviceMetricsOverride", size)
    try:
        assert shown.run("document.documentElement.scrollWidth") <= width
        page, *colors = shown.run(
            "['--page', '--text', '--quiet', '--chosen', '--ink'].map((name) => "
            "getComputedStyle(document.documentElement).getPropertyValue(name))"
        )
        assert (luminance(page) < 0.5) is (scheme == "dark")
        for color in colors:
            low, high = sorted((luminance(page), luminance(color)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, color
    finally:
        command("Emulation.clearDeviceMetricsOverride", {})
        command("Emulation.setEmulatedMedia", {"features": []})


def luminance(color: str) -> float:
    """The relative luminance of #rrggbb, as WCAG 2 defines it."""
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def test_a_run_shows_its_labels_with_their_probabilities(browser: Browser, run: Path) -> None:
    found = explore(open_model(str(run)), TEXTS[:1])
    (run / "page.html").write_text(write_page(found), encoding="utf-8")
    browser.open(run / "page.html")
    tasks = found["sequences"][0]["tasks"]
    assert browser.texts("#tasks h3") == [task["name"] for task in tasks]
    assert browser.texts("#tasks p") == [task["says"] for task in tasks]
    scores = sorted(tasks[0]["scores"].items(), key=lambda pair: -pair[1])
    assert browser.texts("#tasks th") == [label for label, _ in scores]
    numbers = [float(cell.get_attribute("title")) for cell in browser.all("#tasks td[title]")]
    assert numbers == [score for _, score in scores]
    assert not browser.all("#words-section")[0].is_displayed()
    assert not browser.all("#sentences-section")[0].is_displayed()
    assert browser.driver.get_log("browser") == []


def test_a_page_of_64_tokens_and_144_heads(browser: Browser, tmp_path: Path) -> None:
    """It reports itself how long it took."""
    folder = write_model(tmp_path / "model", layers=12, heads=12)
    page = tmp_path / "page.html"
    text = " ".join("abcdefghijklmnopqrstuvwxyz" * 3)[: 2 * 62]
    assert main([text, "--model", str(folder), "-o", str(page)]) == 0
    browser.open(page)
    assert len(browser.all("#pieces [role=option]")) == 64
    assert len(browser.all("#grid canvas")) == 144
    assert re.fullmatch(r"Drawn in \d+ ms\.", browser.text("#drawn"))
    last = values_of(page)
    shares = attention_of(last, 0)[11, 11]
    browser.all("#grid button")[-1].click()
    browser.all("#from [role=option]")[63].click()
    assert browser.texts("#to small") == [f"{share:.2f}" for share in shares[63]]
    assert browser.driver.get_log("browser") == []
