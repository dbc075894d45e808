"use strict";

// The values are text from files and users. They enter the page as text only, never as HTML.
const values = JSON.parse(document.getElementById("values").textContent);
const { layers, heads } = values.model;
const FAINTEST = 0.05; // the least share of attention that is drawn as a line
const ROW = 10; // the height of a token in the coordinates of the lines
const TOKEN_ROOM = 30, TEXT_ROOM = 80; // of a map's width for each label, in pixels

// What is chosen. Each `show` function below draws what it says of it.
const chosen = { sequence: 0, layer: 0, head: 0, token: null, against: "before" };
let sequence, attention; // the chosen sequence, and its attention as bytes

const find = (id) => document.getElementById(id);
const two = (number) => number.toFixed(2).replace("-0.00", "0.00");
const svg = "http://www.w3.org/2000/svg";

/** An element with attributes and children; a child may be text. */
function make(tag, attributes = {}, ...children) {
  const isDrawn = ["circle", "line", "polyline", "text", "title"].includes(tag);
  const element = isDrawn ? document.createElementNS(svg, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A cell of a table whose background says how large its number is. */
function cell(number) {
  const made = make("td", { title: number }, two(number));
  made.style.setProperty("--v", Math.max(0, number));
  return made;
}

/** Fill a table. rows: [heading, cells] each. */
function fill(table, label, columns, rows) {
  const head = columns.map((name) => make("th", { scope: "col" }, String(name)));
  const body = rows.map(([name, cells]) =>
    make("tr", {}, make("th", { scope: "row", title: name }, name), ...cells));
  table.setAttribute("aria-label", label);
  table.replaceChildren(
    make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...body));
}

const names = () => sequence.tokens.map((token) => token.text);

/** The attention of the chosen head from one token to all: a byte each. */
function row(token) {
  const size = sequence.tokens.length;
  const start = ((chosen.layer * heads + chosen.head) * size + token) * size;
  return attention.subarray(start, start + size);
}

// Word pieces

/** Make an element a list of which one option may be chosen, by mouse or keys. */
function listbox(element, options) {
  element.replaceChildren(...options);
  options.forEach((option, i) => {
    option.id = `${element.id}-${i}`;
    option.setAttribute("role", "option");
    option.onclick = () => chooseToken(i === chosen.token ? null : i);
  });
  element.setAttribute("role", "listbox");
  element.tabIndex = 0;
  element.onkeydown = (event) => {
    const last = options.length - 1;
    const now = chosen.token;
    const moves = {
      ArrowLeft: now === null ? last : Math.max(now - 1, 0),
      ArrowRight: now === null ? 0 : Math.min(now + 1, last),
      Home: 0,
      End: last,
      Escape: null,
    };
    moves.ArrowUp = moves.ArrowLeft;
    moves.ArrowDown = moves.ArrowRight;
    if (!(event.key in moves)) return;
    event.preventDefault();
    chooseToken(moves[event.key]);
    options[chosen.token]?.scrollIntoView({ block: "nearest" });
  };
}

function showPieces() {
  listbox(find("pieces"), sequence.tokens.map((token) => {
    const option = make("span", {}, token.text, make("small", {}, String(token.id)));
    option.classList.toggle("continues", token.continues);
    option.classList.toggle("second", token.type > 0);
    return option;
  }));
  listbox(find("from"), names().map((name) => make("div", {}, name)));
  find("lost").hidden = !sequence.lost;
  find("lost").textContent =
    `The text is longer: ${sequence.lost} more tokens were cut off, and are not shown here.`;
}

function chooseToken(token) {
  chosen.token = token;
  showToken();
}

/** Mark the chosen token wherever it stands, and show what belongs to it. */
function showToken() {
  for (const list of [find("pieces"), find("from")]) {
    [...list.children].forEach((option, i) =>
      option.setAttribute("aria-selected", String(i === chosen.token)));
    if (chosen.token === null) list.removeAttribute("aria-activedescendant");
    else list.setAttribute("aria-activedescendant", `${list.id}-${chosen.token}`);
  }
  showLines();
  markMoves();
  showPaths();
}

// Attention

/** The grid of all heads. Arrow keys move in it; only the chosen head can be tabbed to. */
function showGrid() {
  const size = sequence.tokens.length;
  const numbers = [...Array(heads).keys()];
  const top = numbers.map((head) => make("th", { scope: "col" }, String(head)));
  const rows = [...Array(layers).keys()].map((layer) => {
    const cells = numbers.map((head) => {
      const canvas = make("canvas", { width: size, height: size });
      const label = `layer ${layer}, head ${head}`;
      const button = make("button", { type: "button", "aria-label": label, title: label }, canvas);
      button.setAttribute("role", "gridcell");
      button.onclick = () => chooseHead(layer, head);
      return make("td", { role: "presentation" }, button);
    });
    return make("tr", {}, make("th", { scope: "row" }, String(layer)), ...cells);
  });
  const corner = make("td", { role: "presentation" });
  find("grid").style.setProperty("--heads", heads);
  find("grid").replaceChildren(
    make("thead", {}, make("tr", {}, corner, ...top)), make("tbody", {}, ...rows));
  paint();
}

/** Paint all squares. The root makes small probabilities visible. */
function paint() {
  const size = sequence.tokens.length;
  const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink").trim();
  const [red, green, blue] = [1, 3, 5].map((i) => parseInt(ink.slice(i, i + 2), 16));
  const alpha = Array.from({ length: 256 }, (_, byte) => Math.sqrt(byte / 255) * 255);
  find("grid").querySelectorAll("canvas").forEach((canvas, number) => {
    const image = new ImageData(size, size);
    const start = number * size * size;
    for (let i = 0; i < size * size; i++) {
      image.data.set([red, green, blue, alpha[attention[start + i]]], 4 * i);
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  });
}

find("grid").onkeydown = (event) => {
  const { layer, head } = chosen;
  const moves = {
    ArrowLeft: [layer, head - 1],
    ArrowRight: [layer, head + 1],
    ArrowUp: [layer - 1, head],
    ArrowDown: [layer + 1, head],
    Home: [layer, 0],
    End: [layer, heads - 1],
  };
  if (!(event.key in moves)) return;
  event.preventDefault();
  const [y, x] = moves[event.key];
  if (y < 0 || y >= layers || x < 0 || x >= heads) return;
  chooseHead(y, x);
  find("grid").querySelectorAll("button")[y * heads + x].focus();
};

function chooseHead(layer, head) {
  Object.assign(chosen, { layer, head });
  showHead();
}

function showHead() {
  find("grid").querySelectorAll("button").forEach((button, number) => {
    const isChosen = number === chosen.layer * heads + chosen.head;
    button.setAttribute("aria-selected", String(isChosen));
    button.tabIndex = isChosen ? 0 : -1;
  });
  find("head-title").textContent = `Layer ${chosen.layer}, head ${chosen.head}`;
  showLines();
  showMatrix();
}

/** The chosen head as lines between tokens: those of the chosen token, or of all. */
function showLines() {
  const size = sequence.tokens.length;
  const lines = [];
  for (let token = 0; token < size; token++) {
    if (chosen.token !== null && token !== chosen.token) continue;
    row(token).forEach((byte, to) => {
      const share = byte / 255;
      if (share < FAINTEST) return;
      const ends = { x1: 0, y1: (token + 0.5) * ROW, x2: 100, y2: (to + 0.5) * ROW };
      lines.push(make("line", { ...ends, "stroke-opacity": Math.sqrt(share) }));
    });
  }
  find("threads").setAttribute("viewBox", `0 0 100 ${size * ROW}`);
  find("threads").replaceChildren(...lines);
  const shares = chosen.token === null ? null : [...row(chosen.token)].map((byte) => byte / 255);
  find("to").replaceChildren(...names().map((name, i) => {
    const item = make("li", {}, name);
    if (shares) {
      item.append(make("small", {}, two(shares[i])));
      item.style.setProperty("--v", shares[i]);
    }
    return item;
  }));
  find("said").textContent = shares ? most(shares) :
    `Each line is a share of attention, the stronger the larger. Shares under ${FAINTEST} are ` +
    "left out. Choose a token on the left to see its lines alone.";
}

/** The tokens that the chosen one looks at most, in words. */
function most(shares) {
  const order = [...shares.keys()].sort((a, b) => shares[b] - shares[a]).slice(0, 3);
  const told = order.map((i) => `${names()[i]} (${two(shares[i])})`);
  return `${names()[chosen.token]} looks most at ${told.join(", ")}.`;
}

/** The chosen head as a table, which is large: it is made when somebody opens it. */
function showMatrix() {
  if (!find("matrix-details").open) return;
  const rows = names().map((name, token) =>
    [name, [...row(token)].map((byte) => cell(byte / 255))]);
  const label = `${find("head-title").textContent}: from each row's token to each column's`;
  fill(find("matrix"), label, ["", ...names()], rows);
}
find("matrix-details").ontoggle = showMatrix;

// How each vector moves

function showMoves() {
  const against = sequence.moves[chosen.against];
  const columns = ["layer", ...Array(layers).keys()];
  const label = `Cosine with the ${chosen.against === "before" ? "layer before" : "embedding"}`;
  fill(find("moves"), label, columns, names().map((name, i) => [name, against[i].map(cell)]));
  markMoves();
}

function markMoves() {
  find("moves").querySelectorAll("tbody tr").forEach((line, i) =>
    line.classList.toggle("chosen", i === chosen.token));
}

for (const input of find("against").querySelectorAll("input")) {
  input.onchange = () => {
    chosen.against = input.value;
    showMoves();
  };
}

/** From points of the plane to points of a map; both directions have one scale. */
function placing(map, points) {
  const margin = 36;
  const { clientWidth: width, clientHeight: height } = map;
  const [xs, ys] = [points.map((p) => p[0]), points.map((p) => p[1])];
  const [left, right, low, high] =
    [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const scale = Math.min(
    (width - 2 * margin) / (right - left || 1), (height - 2 * margin) / (high - low || 1));
  return ([x, y]) => [
    width / 2 + (x - (left + right) / 2) * scale, height / 2 - (y - (low + high) / 2) * scale];
}

/** Replace what a map shows. labels: [[x, y], text, class] each; left out if they have no room. */
function draw(map, label, shapes, labels) {
  const { clientWidth: width, clientHeight: height } = map;
  const kept = apart(labels, width).filter((text) => text.getAttribute("y") < height);
  map.setAttribute("viewBox", `0 0 ${width} ${height}`);
  map.setAttribute("aria-label", label);
  map.replaceChildren(...shapes, ...kept);
}

/** Labels beside their points. One that would lie on another moves down. */
function apart(labels, width) {
  const taken = [];
  return labels.map(([[x, y], text, kind]) => {
    const short = text.length > width / 16 ? `${text.slice(0, width / 16 - 1)}…` : text;
    const isLeft = x < width / 2;
    const wide = 7 * short.length;
    const left = isLeft ? x + 8 : x - 8 - wide;
    const lies = (other) => Math.abs(other.y - y) < 14 &&
      left < other.left + other.wide && other.left < left + wide;
    while (taken.some(lies)) y += 2;
    taken.push({ left, wide, y });
    const place = { x: isLeft ? x + 8 : x - 8, y: y + 4, "text-anchor": isLeft ? "start" : "end" };
    return make("text", { ...place, class: kind }, short);
  });
}

const percent = (shares) => `${Math.round(100 * (shares[0] + (shares[1] ?? 0)))} %`;

/** The path of each token's vector from its embedding to the last layer. */
function showPaths() {
  const { path, shares } = sequence.moves;
  const map = find("paths");
  const place = placing(map, path.flat());
  const placed = path.map((points) => points.map(place));
  const line = (points, kind) => make("polyline", { points: points.join(" "), class: kind });
  const shapes = placed.map((points) => line(points, ""));
  let labels = placed.length > map.clientWidth / TOKEN_ROOM ? [] :
    placed.map((points, i) => [points.at(-1), names()[i], ""]);
  if (chosen.token !== null) {
    const points = placed[chosen.token];
    shapes.push(line(points, "chosen"));
    points.forEach(([cx, cy], i) => {
      const name = i ? `after layer ${i - 1}` : "embedding";
      shapes.push(make("circle", { cx, cy, r: 3.5, class: "chosen" }, make("title", {}, name)));
    });
    labels = [[points[0], "embedding", "chosen"], [points.at(-1), `layer ${layers - 1}`, "chosen"]];
  }
  const whose = chosen.token === null ? "Choose a token to follow it." :
    `The thick one is that of ${names()[chosen.token]}.`;
  draw(map, "The paths of the tokens' vectors; the table beside has their cosines", shapes, labels);
  find("paths-caption").textContent =
    "The path of each token's vector through the layers, on the plane on which all states differ " +
    `most. It has ${percent(shares)} of their variance. ${whose}`;
}

// Words, tasks, texts

function showWords() {
  find("words-section").hidden = !sequence.words;
  const places = sequence.words?.[0]?.best.map((_, i) => `${i + 1}.`) ?? [];
  const rows = (sequence.words ?? []).map(({ position, own, best }) => {
    const words = best.map(([word, probability]) => {
      const parts = [make("bdi", {}, word), make("small", {}, two(probability))];
      return make("td", { class: "word", title: probability }, ...parts);
    });
    return [names()[position], [own === null ? make("td", {}, "") : cell(own), ...words]];
  });
  fill(find("words"), "Expected words", ["hidden token", "its probability", ...places], rows);
}

function showTasks() {
  find("tasks-section").hidden = !sequence.tasks.length;
  find("tasks").replaceChildren(...sequence.tasks.map(({ name, says, scores }) => {
    const bars = Object.entries(scores ?? {}).sort((a, b) => b[1] - a[1]).map(([label, score]) => {
      const bar = make("div", { class: "bar" });
      bar.style.setProperty("--v", score);
      const number = make("td", { title: score }, score.toFixed(4));
      return make("tr", {}, make("th", { scope: "row" }, label), make("td", {}, bar), number);
    });
    const about = { class: "bars", "aria-label": `Probabilities of ${name}` };
    const table = make("table", about, ...bars);
    return make("div", { class: "task" },
      make("h3", {}, name), make("p", {}, says), ...(bars.length ? [table] : []));
  }));
}

function showSentences() {
  const { texts, cosines, points, shares } = values.sentences;
  const numbered = texts.map((text, i) => `${i + 1}. ${text}`);
  find("sentences-section").hidden = false;
  const rows = numbered.map((text, i) => [text, cosines[i].map(cell)]);
  fill(find("cosines"), "Cosines of texts", ["", ...texts.map((_, i) => i + 1)], rows);
  find("cosines").querySelectorAll("tbody th").forEach((th) => th.classList.add("long"));
  const placed = points.map(placing(find("map"), points));
  const dots = placed.map(([cx, cy], i) =>
    make("circle", { cx, cy, r: 5 }, make("title", {}, numbered[i])));
  const isRoomy = texts.length <= find("map").clientWidth / TEXT_ROOM;
  const labels = placed.map((point, i) => [point, isRoomy ? numbered[i] : String(i + 1), ""]);
  draw(find("map"), "A map of the texts; the table beside has their cosines", dots, labels);
  find("map-caption").textContent =
    "The texts' vectors on the plane on which they differ most. It has " +
    `${percent(shares)} of their variance.`;
}

// The whole page

function chooseSequence(number) {
  Object.assign(chosen, { sequence: number, token: null });
  sequence = values.sequences[number];
  attention = Uint8Array.from(atob(sequence.attention), (letter) => letter.charCodeAt(0));
  showPieces();
  showGrid();
  showHead();
  showMoves();
  showToken();
  showWords();
  showTasks();
}

function showChoice() {
  find("choice").hidden = values.sequences.length < 2;
  find("choice").append(...values.sequences.map(({ texts }, i) => {
    const input = make("input", { type: "radio", name: "sequence", value: i });
    input.checked = i === 0;
    input.onchange = () => chooseSequence(i);
    return make("label", {}, input, ` ${texts.join(" | ")}`);
  }));
}

const before = performance.now();
document.title = find("title").textContent = `Inside ${values.model.name}`;
find("about").textContent =
  `${layers} layers of ${heads} heads each; vectors of ${values.model.hidden} numbers.`;
for (const share of [0, 0.01, 0.1, 0.25, 0.5, 1]) {
  const tick = make("span", {}, String(share));
  tick.style.left = `${100 * Math.sqrt(share)}%`;
  find("scale").append(tick);
}
showChoice();
chooseSequence(0);
if (values.sentences) showSentences();
matchMedia("(prefers-color-scheme: dark)").onchange = paint;
window.onresize = () => {
  showPaths();
  if (values.sentences) showSentences();
};
const took = Math.round(performance.now() - before);
find("drawn").textContent = `Drawn in ${took} ms.`;
document.documentElement.dataset.drawn = took;
