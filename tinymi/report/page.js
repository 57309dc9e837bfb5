// What can be pointed at, picked and slid. Each part finds its own pictures, once.

// The attention picker: choose a layer and a head; point at a token and the tokens it attends to light up.
for (const box of document.querySelectorAll(".tinymi .attention:not([data-ready])")) {
  box.dataset.ready = "";
  const find = (selector) => box.querySelector(selector);
  const { layers, tokens, patterns } = JSON.parse(find("script").textContent);
  const slider = find(".layer"), output = find("output"), picker = find(".head"), strip = find(".strip");
  const told = find(".told"), cells = [...box.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("td")]);
  let query = tokens.length - 1, pinned = tokens.length - 1;

  // Patterns hold, for each query, its keys up to itself: thousandths in two base-32 digits.
  const share = (from, to) => {
    const at = from * (from + 1) + 2 * to;
    return parseInt(patterns[slider.value][picker.value].slice(at, at + 2), 32) / 1000;
  };
  const percent = (value) => (100 * value).toFixed(0);

  const buttons = tokens.map((token, position) => {
    const button = document.createElement("button");
    const label = document.createElement("span");
    label.textContent = token;
    button.type = "button";
    button.append(label, document.createElement("small"));
    button.addEventListener("mouseenter", () => light(position));
    button.addEventListener("focus", () => light(position));
    button.addEventListener("click", () => light((pinned = position)));
    strip.append(button);
    return button;
  });
  strip.addEventListener("mouseleave", () => light(pinned));
  strip.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -tokens.length, End: tokens.length }[event.key];
    if (!step) return;
    event.preventDefault();
    pinned = Math.min(Math.max(query + step, 0), tokens.length - 1);
    buttons[pinned].focus();
  });

  function light(position) {
    query = position;
    const sources = [];
    buttons.forEach((button, key) => {
      const value = key <= query ? share(query, key) : null;
      button.className = value === null ? "" : "a" + Math.round(10 * value);
      button.querySelector("small").textContent = value === null ? "" : percent(value) + "%";
      button.setAttribute("aria-pressed", key === query);
      button.tabIndex = key === query ? 0 : -1;
      if (value >= 0.005) sources.push([value, key]);
    });
    sources.sort((a, b) => b[0] - a[0]);
    const named = sources.slice(0, 5).map(([value, key]) => `${tokens[key]} (position ${key}) ${percent(value)}%`);
    told.textContent = `${tokens[query]} (position ${query}) attends to ${named.join(", ")}`;
    cells.forEach((row, from) => row[0]?.parentElement.classList.toggle("lit", from === query));
  }

  function draw() {
    output.textContent = layers[slider.value];
    slider.setAttribute("aria-valuetext", "layer " + layers[slider.value]);
    const single = layers.length === 1 && layers[0] === 0;
    find(".name").textContent = (single ? "" : `layer ${layers[slider.value]}, `) + `head ${picker.value}`;
    cells.forEach((row, from) => row.slice(0, from + 1).forEach((cell, to) => {
      const value = share(from, to);
      cell.className = "a" + Math.round(10 * value);
      cell.textContent = percent(value);
      cell.title = `${tokens[from]} (position ${from}) to ${tokens[to]} (position ${to}): ${value.toFixed(3)}`;
    }));
    light(query);
  }

  for (const part of box.querySelectorAll(".controls, .strip, .hint, .told")) part.hidden = false;
  for (const button of box.querySelectorAll(".pick")) {
    button.addEventListener("click", () => {
      slider.value = button.dataset.layer;
      picker.value = button.dataset.head;
      draw();
    });
  }
  slider.addEventListener("input", draw);
  picker.addEventListener("change", draw);
  draw();
}

// Grids of numbers: the cell under the pointer, or the one that Tab and the arrow keys lead to, tells its exact value.
for (const table of document.querySelectorAll(".tinymi table.heat:not([data-ready])")) {
  table.dataset.ready = "";
  const readout = table.closest(".map, .step, .attention").querySelector(".readout");
  const rows = [...table.tBodies[0].rows];
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  let stop = table.querySelector("td[title]");
  const told = (target) => target.closest("td")?.title && target.closest("td");
  const tell = (cell) => (readout.textContent = cell.title);
  const go = (cell) => {
    stop.tabIndex = -1;
    stop = cell;
    stop.tabIndex = 0;
    stop.focus();
  };
  if (!stop) continue;
  stop.tabIndex = 0;
  if (!table.closest(".step")) readout.textContent = "Point at a cell, or go to one with Tab and the arrow keys.";
  readout.hidden = false;
  table.addEventListener("mouseover", (event) => told(event.target) && tell(told(event.target)));
  table.addEventListener("focusin", (event) => told(event.target) && tell(told(event.target)));
  table.addEventListener("click", (event) => told(event.target) && go(told(event.target)));
  table.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const next = rows[stop.parentElement.sectionRowIndex + step[0]]?.cells[stop.cellIndex + step[1]];
    if (next?.title) go(next);
  });
}

// Grids with an axis of depth: the slider lights up one layer and shows it alone, its cells in a strip.
for (const box of document.querySelectorAll(".tinymi .depth:not([data-ready])")) {
  box.dataset.ready = "";
  const slider = box.querySelector("input"), output = box.querySelector("output"), strip = box.querySelector(".strip");
  const table = box.closest(".map").querySelector("table"), rows = [...table.tBodies[0].rows];
  const byRow = box.dataset.axis === "row", heads = [...table.tHead.rows[0].cells];
  const draw = () => {
    const at = Number(slider.value);
    const cells = byRow ? [...rows[at].cells].slice(1) : rows.map((row) => row.cells[at + 1]);
    const names = byRow ? heads.slice(1) : rows.map((row) => row.cells[0]);
    output.textContent = (byRow ? rows[at].cells[0] : heads[at + 1]).textContent;
    slider.setAttribute("aria-valuetext", "layer " + output.textContent);
    for (const lit of table.querySelectorAll(".lit")) lit.classList.remove("lit");
    for (const cell of [...cells, byRow ? rows[at].cells[0] : heads[at + 1]]) cell.classList.add("lit");
    strip.replaceChildren(...cells.map((cell, number) => {
      const item = document.createElement("li"), name = document.createElement("small");
      name.textContent = names[number].textContent;
      item.className = cell.className.replace("lit", "");
      item.append(name, ...[...cell.childNodes].map((node) => node.cloneNode(true)));
      return item;
    }));
  };
  box.hidden = false;
  slider.addEventListener("input", draw);
  draw();
}

// Curves: the slider, or the pointer over the picture, moves a line to one place; the legend tells the values there.
for (const figure of document.querySelectorAll(".tinymi .lines:not([data-ready])")) {
  figure.dataset.ready = "";
  const picture = figure.querySelector("svg"), cursor = figure.querySelector(".cursor");
  const controls = figure.querySelector(".controls"), slider = figure.querySelector("input");
  const xs = picture.dataset.xs.split(" ").map(Number), values = figure.querySelectorAll(".legend .value");
  const rows = [...figure.querySelector("tbody").rows];
  const draw = () => {
    const cells = rows[slider.value].cells;
    figure.querySelector("output").textContent = cells[0].textContent;
    slider.setAttribute("aria-valuetext", [...cells].map((cell) => cell.textContent).join(", "));
    values.forEach((value, number) => (value.textContent = cells[number + 1].textContent));
    cursor.setAttribute("x1", xs[slider.value]);
    cursor.setAttribute("x2", xs[slider.value]);
    cursor.setAttribute("visibility", "visible");
  };
  picture.addEventListener("mousemove", (event) => {
    const frame = picture.getBoundingClientRect();
    const x = (event.clientX - frame.left) * picture.viewBox.baseVal.width / frame.width;
    slider.value = xs.reduce((best, one, number) => (Math.abs(one - x) < Math.abs(xs[best] - x) ? number : best), 0);
    draw();
  });
  controls.hidden = xs.length < 2;
  slider.addEventListener("input", draw);
  draw();
}
