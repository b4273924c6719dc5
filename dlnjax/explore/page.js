// The page of the explorer: controls, drawings and the link. It owns the state, which is the query of the link, and asks
// Python for one piece of work at a time: the newest state first, and what is left of its work while nothing moves.

// A panel is about as wide on the screen, so that its letters keep their size.
const WIDTH = 344, HEIGHT = 264, LEFT = 50, RIGHT = 28, TOP = 26, BOTTOM = 40;
const SIXTIETHS = 60; // 1/N moves in sixtieths, so that N = 1, 2, 3, 4, 5, 6, 10 are exact.

const PATIENCE = 60_000, PAUSE = 150; // milliseconds

const depthOf = (k) => (k === 0 ? "inf" : String(SIXTIETHS / k));
const rounded = (x) => String(Number(x.toPrecision(3)));
const power = (x) => rounded(10 ** x);
const shown = (x) => (x === "inf" ? "∞" : String(Number(Number(x).toPrecision(4))));

const SLIDERS = [
  { name: "depth", label: "depth, 1/N", min: 0, max: SIXTIETHS, step: 1, title: "one over the depth; left is infinite depth",
    read: (s) => (s.depth === "inf" ? 0 : SIXTIETHS / s.depth), write: depthOf, show: (s) => `N = ${shown(s.depth)}` },
  { name: "std", label: "log std", min: -3, max: 0.5, step: 0.1, title: "standard deviation of the entries of the starts",
    read: (s) => Math.log10(s.std), write: power, show: (s) => shown(s.std) },
  { name: "t", label: "log t end", min: 0, max: 6, step: 0.25, title: "the last time",
    read: (s) => Math.log10(s.t), write: power, show: (s) => shown(s.t) },
  { name: "cursor", label: "time", min: 0, max: 64, step: 1, title: "the time at which X is shown",
    read: (s) => Number(s.cursor), write: String, show: (s) => `${s.cursor} of 64` },
  { name: "seed", label: "seed", min: 0, max: 99, step: 1, title: "the start that is followed",
    read: (s) => Number(s.seed), write: String, show: (s) => s.seed },
  { name: "beta", label: "log 1/β", min: -4, max: 1, step: 0.25, title: "temperature 1/beta of Langevin noise; left is none",
    read: (s) => (s.beta === "inf" ? -4 : -Math.log10(s.beta)), write: (x) => (x <= -4 ? "inf" : power(-x)),
    show: (s) => `β = ${shown(s.beta)}` },
  { name: "step", label: "log step", min: -4, max: 0, step: 0.25, title: "step of a network trained beside the flow; left is none",
    read: (s) => (Number(s.step) ? Math.log10(s.step) : -4), write: (x) => (x <= -4 ? "0" : power(x)),
    show: (s) => (Number(s.step) ? `h = ${shown(s.step)}` : "none") },
  { name: "g", label: "imbalance g", min: -3, max: 3, step: 0.1, title: "W1 W1' - W2' W2 = g I, for two layers without noise",
    read: (s) => Number(s.g), write: rounded, show: (s) => shown(s.g), off: (s) => s.depth !== "2" || s.beta !== "inf" },
];
const CHOICES = [
  { name: "d", label: "d", of: ["2", "5", "10", "20"] },
  { name: "energy", label: "energy", of: ["diagonal", "rank-one", "random", "decay"] },
];
const VIEWS = ["singular_values", "matrix", "effective_rank", "depth_map", "speed_law", "plane", "geodesic", "network"];

function element(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

function shape(name, attributes, text) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (text !== undefined) node.textContent = text;
  return node;
}

// The place of a number on an axis, from 0 to 1.
function placeOf(axis) {
  const { low, high, first } = axis;
  if (axis.kind === "log") return (v) => Math.log(v / low) / Math.log(high / low);
  if (axis.kind === "symlog") {
    const bend = 0.08; // the linear part
    return (v) => (v <= first ? (bend * v) / first : bend + ((1 - bend) * Math.log(v / first)) / Math.log(high / first));
  }
  return (v) => (v - low) / (high - low);
}

function pathOf(xs, ys, px, py) {
  let path = "", pen = "M";
  for (let i = 0; i < xs.length; i++) {
    if (xs[i] === null || ys[i] === null) { pen = "M"; continue; }
    path += `${pen}${px(xs[i]).toFixed(1)} ${py(ys[i]).toFixed(1)}`;
    pen = "L";
  }
  return path;
}

const MARKS = {
  line(g, m, px, py, label) {
    const style = { fill: "none", stroke: m.color, "stroke-width": m.width ?? 1.2, opacity: m.opacity ?? 1, "stroke-linejoin": "round" };
    if (m.dash) style["stroke-dasharray"] = m.dash;
    g.append(shape("path", { d: pathOf(m.x, m.y, px, py), ...style }));
    const last = m.y.findLastIndex((v) => v !== null);
    if (m.label !== undefined && last >= 0) {
      label(py(m.y[last]), m.label);
    }
  },
  band(g, m, px, py) {
    const back = (a) => [...a].reverse();
    const d = pathOf([...m.x, ...back(m.x)], [...m.low, ...back(m.high)], px, py) + "Z";
    g.append(shape("path", { d, fill: m.color, opacity: 0.18 }));
  },
  dots(g, m, px, py) {
    m.x.forEach((x, i) => {
      if (x === null || m.y[i] === null) return;
      const color = Array.isArray(m.color) ? m.color[i] : m.color;
      const ring = m.ring ? { fill: "none", stroke: color, "stroke-width": 3 } : { fill: color, stroke: "white", "stroke-width": 0.8 };
      g.append(shape("circle", { cx: px(x), cy: py(m.y[i]), r: m.size ?? 3, ...ring }));
    });
  },
  rule(g, m, px) {
    g.append(shape("line", { x1: px(m.x), x2: px(m.x), y1: TOP, y2: HEIGHT - BOTTOM, class: "rule" }));
  },
  cells(g, m, px, py) {
    m.colors.forEach((row, i) => row.forEach((color, j) => {
      const [x, y, right, bottom] = [px(j - 0.5), py(i - 0.5), px(j + 0.5), py(i + 0.5)];
      const cell = shape("rect", { x, y, width: right - x, height: bottom - y, fill: color, class: "cell" });
      if (m.hints) cell.append(shape("title", {}, m.hints[i][j]));
      g.append(cell);
      const light = m.values ? m.values[i][j] > m.light : true;
      const text = { x: (x + right) / 2, y: (y + bottom) / 2 + 4, class: light ? "dark" : "pale", "text-anchor": "middle" };
      if (m.texts[i][j]) g.append(shape("text", text, m.texts[i][j]));
    }));
    // Frames lie above all cells.
    m.framed?.forEach((row, i) => row.forEach((seen, j) => {
      if (!seen) return;
      const [x, y] = [px(j - 0.5) + 1.5, py(i - 0.5) + 1.5];
      g.append(shape("rect", { x, y, width: px(j + 0.5) - x - 1.5, height: py(i + 0.5) - y - 1.5, class: "frame" }));
    }));
  },
};

// A drawing as an SVG, with the inverse of its axes for clicks.
function draw(panel, drawing) {
  panel.hidden = !drawing.marks;
  if (!drawing.marks) return;
  const side = drawing.square ? Math.min(WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM) : 0;
  const [wide, high] = side ? [side, side] : [WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM];
  const left = side ? (WIDTH - side) / 2 : LEFT;
  const [ax, ay] = [placeOf(drawing.x), placeOf(drawing.y)];
  const px = (v) => left + wide * ax(v), py = (v) => TOP + high * (1 - ay(v));
  const svg = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": drawing.title });
  const clip = `clip-${panel.dataset.view}`;
  const defs = shape("clipPath", { id: clip });
  defs.append(shape("rect", { x: left, y: TOP, width: wide, height: high }));
  const marks = shape("g", { "clip-path": `url(#${clip})` });
  svg.append(defs, shape("text", { x: left, y: 15, class: "title" }, drawing.title));
  // The label of a line stands at the right of the frame, where it covers no line.
  const label = (y, text) => svg.append(shape("text", { x: left + wide + 5, y: y + 4, class: "small" }, text));
  for (const mark of drawing.marks) MARKS[mark.kind](marks, mark, px, py, label);
  svg.append(marks, shape("rect", { x: left, y: TOP, width: wide, height: high, class: "box" }));
  for (const [value, text] of drawing.x.ticks) {
    svg.append(shape("line", { x1: px(value), x2: px(value), y1: TOP + high, y2: TOP + high + 4, class: "tick" }));
    svg.append(shape("text", { x: px(value), y: TOP + high + 16, "text-anchor": "middle" }, text));
  }
  for (const [value, text] of drawing.y.ticks) {
    svg.append(shape("line", { x1: left - 4, x2: left, y1: py(value), y2: py(value), class: "tick" }));
    svg.append(shape("text", { x: left - 7, y: py(value) + 4, "text-anchor": "end" }, text));
  }
  svg.append(shape("text", { x: left + wide / 2, y: TOP + high + 33, "text-anchor": "middle" }, drawing.x.label));
  const turn = `rotate(-90 ${left - 38} ${TOP + high / 2})`;
  svg.append(shape("text", { x: left - 38, y: TOP + high / 2, "text-anchor": "middle", transform: turn }, drawing.y.label));
  panel.replaceChildren(svg, element("p", {}, drawing.note ?? ""));
  panel.classList.toggle("clicked", Boolean(drawing.click));
  panel.drawn = { drawing, px, py };
}

// What a click in a drawing changes, from its place in the units of the SVG.
const CLICKS = {
  cursor: (x, y, { drawing, px }) => ({ cursor: String(nearest(drawing.times.map(px), x)) }),
  mask(x, y, { px, py, drawing }, state) {
    const [row, column] = cellAt(x, y, px, py, drawing.marks[0].colors);
    return row < 0 ? {} : { flips: switched(state.flips, row * drawing.marks[0].colors.length + column) };
  },
  seed(x, y, { drawing, px, py }) {
    let best = [Infinity, undefined];
    for (const m of drawing.marks) {
      if (m.seed === undefined) continue;
      const at = nearest(m.x.map(px), x);
      const far = m.y[at] === null ? Infinity : Math.abs(py(m.y[at]) - y);
      if (far < best[0]) best = [far, m.seed];
    }
    return best[1] === undefined ? {} : { seed: String(best[1]) };
  },
  map(x, y, { px, py, drawing }) {
    const [row, column] = cellAt(x, y, px, py, drawing.marks[0].colors);
    const { depth, std } = drawing.values;
    return row < 0 ? {} : { depth: depth[row] === "∞" ? "inf" : depth[row], std: std[column] };
  },
};

function nearest(places, x) {
  let best = 0;
  places.forEach((p, i) => { if (Math.abs(p - x) < Math.abs(places[best] - x)) best = i; });
  return best;
}

function cellAt(x, y, px, py, rows) {
  const row = rows.findIndex((_, i) => py(i - 0.5) <= y && y < py(i + 0.5));
  const column = rows[0].findIndex((_, j) => px(j - 0.5) <= x && x < px(j + 0.5));
  return row < 0 || column < 0 ? [-1, -1] : [row, column];
}

function switched(flips, entry) {
  const all = flips === "" ? [] : flips.split("-").map(Number);
  const others = all.filter((other) => other !== entry);
  return (others.length < all.length ? others : [...all, entry]).sort((a, b) => a - b).join("-");
}

// The state of a link: of its names those that we know.
function stateOf(search, defaults) {
  const given = new URLSearchParams(search);
  return Object.fromEntries(Object.entries(defaults).map(([name, value]) => [name, given.get(name) ?? value]));
}

function render({ model, el }) {
  const defaults = model.get("defaults");
  let state = stateOf(window.location.search, defaults);
  let number = 0, wanted = null, waiting = null, pause = 0;

  const root = element("div", { class: "explorer" });
  const controls = element("div", { class: "controls" });
  const bar = element("progress", { max: 1, value: 0 });
  const doing = element("span", { class: "doing" }, "starting");
  const words = element("p", { class: "words", "aria-live": "polite" });
  const warning = element("p", { class: "warning", role: "alert" });
  const panels = element("div", { class: "panels" });
  const views = VIEWS.map((view) => element("figure", { "data-view": view, hidden: "" }));
  panels.append(...views);

  const query = () => {
    const own = Object.entries(state).filter(([name, value]) => value !== defaults[name]);
    return new URLSearchParams(own).toString();
  };

  function link() {
    const all = new URLSearchParams(window.location.search);
    for (const name of Object.keys(defaults)) all.delete(name);
    for (const [name, value] of new URLSearchParams(query())) all.set(name, value);
    return `${window.location.pathname}${all.size ? "?" + all : ""}`;
  }

  function move(changes) {
    if (changes.d && changes.d !== state.d) changes.flips = ""; // entries of another matrix
    Object.assign(state, changes);
    window.history.replaceState(window.history.state, "", link());
    show();
    wanted = { n: ++number, query: query(), at: performance.now(), moved: Object.keys(changes) };
    // An answer that never came is no longer waited for.
    if (!waiting || performance.now() - waiting.at > PATIENCE) ask();
  }

  function ask() {
    waiting = wanted;
    model.set("asked", { n: waiting.n, query: waiting.query });
    model.save_changes();
  }

  function goOn() {
    if (waiting) return;
    wanted = { n: ++number, query: query(), at: performance.now(), more: true };
    ask();
  }

  function answered() {
    const answer = model.get("answer");
    words.replaceChildren(...Object.entries(answer.words ?? {}).map(([name, text]) => element("span", { class: name }, text)));
    warning.textContent = answer.warning ?? "";
    warning.hidden = !answer.warning;
    bar.max = answer.of || 1;
    bar.value = answer.done ?? 0;
    bar.style.visibility = answer.done < answer.of ? "visible" : "hidden";
    doing.textContent = answer.what ?? "";
    root.dataset.compiling = String((answer.what ?? "").startsWith("compiling"));
    if (!waiting || answer.n !== waiting.n) return;
    const { moved, at, n, more } = waiting;
    if (!more) {
      // After the next frame the drawings are on the screen.
      requestAnimationFrame(() => setTimeout(() => {
        root.dataset.answer = JSON.stringify({ n, moved, ms: performance.now() - at });
        if (moved.length) time.textContent = `answered in ${Math.round(performance.now() - at)} ms`;
      }));
    }
    root.dataset.left = String((answer.of ?? 0) - (answer.done ?? 0));
    if (wanted.n > waiting.n) ask();
    else {
      waiting = null;
      // While somebody drags a control, the next move comes within this pause, and does not wait for more work.
      clearTimeout(pause);
      if (answer.done < answer.of) pause = setTimeout(goOn, more ? 0 : PAUSE);
    }
  }

  const inputs = [];
  for (const { name, label, of } of CHOICES) {
    const select = element("select", { name, "aria-label": label }, ...of.map((v) => element("option", { value: v }, v)));
    select.addEventListener("change", () => move({ [name]: select.value }));
    controls.append(element("label", {}, element("span", {}, label), select));
    inputs.push(() => { select.value = state[name]; });
  }
  for (const s of SLIDERS) {
    const range = element("input", { type: "range", name: s.name, min: s.min, max: s.max, step: s.step, title: s.title, "aria-label": s.label });
    const value = element("output", {});
    range.addEventListener("input", () => move({ [s.name]: s.write(Number(range.value)) }));
    controls.append(element("label", { title: s.title }, element("span", {}, s.label), range, value));
    inputs.push(() => {
      range.value = s.read(state);
      range.disabled = Boolean(s.off?.(state));
      value.textContent = s.show(state);
    });
  }
  const key = element("button", { name: "key", title: "draw other starts, labels and noise" }, "draw again");
  key.addEventListener("click", () => move({ key: String(Number(state.key) + 1) }));
  const reset = element("button", { name: "reset", title: "back to the first state" }, "reset");
  reset.addEventListener("click", () => move({ ...defaults }));
  const copies = ["python", "shell"].map((name) => {
    const button = element("button", { name, title: "the same flows elsewhere" }, `copy as ${name === "python" ? "Python" : "shell"}`);
    button.addEventListener("click", () => copy(model.get("texts")[name] ?? "", name));
    return button;
  });
  const own = element("button", { name: "link", title: "a link that holds this state" }, "copy link");
  own.addEventListener("click", () => copy(window.location.origin + link(), "link"));
  const time = element("span", { class: "time" });
  const text = element("pre", { class: "copied", hidden: "" });

  async function copy(what, name) {
    text.hidden = text.dataset.name === name && !text.hidden;
    text.dataset.name = name;
    text.textContent = what;
    try { await navigator.clipboard.writeText(what); } catch { /* the text is shown below, to be copied by hand */ }
  }

  function show() { for (const input of inputs) input(); }

  for (const panel of views) {
    panel.addEventListener("click", (event) => {
      const svg = event.target.closest("svg");
      const click = panel.drawn && CLICKS[panel.drawn.drawing.click];
      if (!svg || !click) return;
      const box = svg.getBoundingClientRect();
      const [x, y] = [((event.clientX - box.left) * WIDTH) / box.width, ((event.clientY - box.top) * HEIGHT) / box.height];
      const changes = click(x, y, panel.drawn, state);
      if (Object.keys(changes).length) move(changes);
    });
    model.on(`change:${panel.dataset.view}`, () => draw(panel, model.get(panel.dataset.view)));
    draw(panel, model.get(panel.dataset.view));
  }
  model.on("change:answer", answered);

  const tools = element("div", { class: "tools" }, key, reset, ...copies, own, doing, bar, time);
  root.append(element("h1", {}, "The deep linear network, by hand"), controls, tools, text, words, warning, panels);
  el.append(root);
  show();
  move({});
  return () => model.off("change:answer", answered);
}

export default { render };
