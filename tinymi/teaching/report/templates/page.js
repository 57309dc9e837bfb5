// What can be pointed at, picked and slid. Each part finds its own pictures, once.

// The attention picker: choose a layer and a head; point at a token and the tokens it attends to light up.
for (const box of document.querySelectorAll(".tinymi .attention:not([data-ready])")) {
  box.dataset.ready = "";
  const find = (selector) => box.querySelector(selector);
  const { layers, tokens, patterns } = JSON.parse(find("script").textContent);
  const slider = find(".layer"), output = find("output"), picker = find(".head"), strip = find(".strip");
  const told = find(".told"), cells = [...box.querySelectorAll("tbody tr")].map((row) => [...row.querySelectorAll("td")]);
  let query = tokens.length - 1, pinned = tokens.length - 1;

  // Patterns hold, for each query, its keys up to itself: half thousandths, rounded down, in two base-64 digits.
  const digits = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ-_";
  const share = (from, to) => {
    const at = from * (from + 1) + 2 * to, text = patterns[slider.value][picker.value];
    return 64 * digits.indexOf(text[at]) + digits.indexOf(text[at + 1]);
  };
  const percent = (share) => Math.floor((share + 10) / 20);
  const colour = (share) => "a" + Math.floor((share + 100) / 200);

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
      button.className = value === null ? "" : colour(value);
      button.querySelector("small").textContent = value === null ? "" : percent(value) + "%";
      button.setAttribute("aria-pressed", key === query);
      button.tabIndex = key === query ? 0 : -1;
      if (value >= 10) sources.push([value, key]);
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
      const value = share(from, to), exact = (Math.floor((value + 1) / 2) / 1000).toFixed(3);
      cell.className = colour(value);
      cell.textContent = percent(value);
      cell.title = `${tokens[from]} (position ${from}) to ${tokens[to]} (position ${to}): ${exact}`;
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

// Grids and shaded texts: the cell under the pointer, or the one that Tab and the arrow keys lead to, tells its value.
for (const box of document.querySelectorAll(".tinymi :is(.map, .attention):not([data-told])")) {
  box.dataset.told = "";
  const readout = box.querySelector(".readout"), rows = [...box.querySelectorAll("tbody tr, .row")];
  const grid = rows[0]?.parentElement, cellsOf = (row) => [...row.querySelectorAll("[title]")];
  const steps = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
  let stop = grid?.querySelector("[title]");
  if (!stop) continue;
  const tell = (event) => {
    const cell = event.target.closest("[title]");
    if (cell) readout.textContent = cell.title;
  };
  const go = (cell) => {
    if (!cell) return;
    stop.tabIndex = -1;
    stop = cell;
    stop.tabIndex = 0;
    stop.focus();
  };
  stop.tabIndex = 0;
  readout.hidden = false;
  grid.addEventListener("mouseover", tell);
  grid.addEventListener("focusin", tell);
  grid.addEventListener("click", (event) => go(event.target.closest("[title]")));
  grid.addEventListener("keydown", (event) => {
    const step = steps[event.key];
    if (!step) return;
    event.preventDefault();
    const row = stop.closest("tr, .row"), next = rows[rows.indexOf(row) + step[0]];
    if (next) go(cellsOf(next)[cellsOf(row).indexOf(stop) + step[1]]);
  });
}

// Curves: the slider, or the pointer over the picture, moves a line to one place; the legend tells the values there.
for (const figure of document.querySelectorAll(".tinymi figure.lines:not([data-ready])")) {
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

// Steps of a run: what is picked for the page (a position, a head, a layer) chooses the numbers that each step shows.
for (const form of document.querySelectorAll(".tinymi .picks")) {
  const pickers = [...form.querySelectorAll("select")];
  const steps = [...document.querySelectorAll(".tinymi .step:has(script)")].map((step) => {
    const { axes, shape, numbers } = JSON.parse(step.querySelector("script").textContent);
    return { axes, shape, numbers: numbers.split(" "), row: step.querySelector("tbody tr") };
  });
  form.hidden = false;
  form.addEventListener("change", () => {
    for (const { axes, shape, numbers, row } of steps) {
      const chosen = axes.map((axis) => pickers.find((picker) => picker.dataset.axis === axis));
      if (chosen.some((picker, axis) => picker && Number(picker.value) >= shape[axis])) continue;
      const at = chosen.reduce((sum, picker, axis) => sum * shape[axis] + Number(picker?.value ?? 0), 0);
      const width = shape.at(-1), texts = numbers.slice(at * width, (at + 1) * width);
      const largest = Math.max(...texts.map((text) => Math.abs(parseFloat(text)) || 0)) || 1;
      row.cells[0].textContent = axes.map((axis, n) => `${axis} ${chosen[n]?.selectedOptions[0].text ?? 0}`).join(", ");
      texts.forEach((text, number) => {
        const value = parseFloat(text);
        row.cells[number + 1].textContent = text;
        const colour = (value < 0 ? "n" : "p") + Math.round(10 * Math.abs(value) / largest);
        row.cells[number + 1].className = Number.isNaN(value) ? "" : colour;
      });
    }
  });
}

// Words: under the pointer, with the focus, or touched, a word tells its meaning; Escape takes it away.
for (const page of document.querySelectorAll(".tinymi.page:not([data-words]):has(a.term)")) {
  page.dataset.words = "";
  const terms = page.querySelectorAll("a.term");
  const meaning = document.createElement("div");
  meaning.className = "meaning";
  meaning.id = "meaning";
  meaning.setAttribute("role", "tooltip");
  meaning.hidden = true;
  document.body.append(meaning);
  let leaving;
  const hide = () => (meaning.hidden = true);
  const leave = () => (leaving = setTimeout(hide, 200));
  meaning.addEventListener("mouseenter", () => clearTimeout(leaving));
  meaning.addEventListener("mouseleave", leave);
  document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
  for (const term of terms) {
    const entry = document.querySelector(term.hash + " dd");
    const show = () => {
      clearTimeout(leaving);
      meaning.replaceChildren(...[...entry.childNodes].map((node) => node.cloneNode(true)));
      meaning.hidden = false;
      const place = term.getBoundingClientRect();
      const left = Math.min(place.left, document.documentElement.clientWidth - meaning.offsetWidth - 12);
      meaning.style.left = `${Math.max(left, 12) + scrollX}px`;
      meaning.style.top = `${place.bottom + scrollY + 6}px`;
    };
    term.setAttribute("aria-describedby", "meaning");
    term.addEventListener("mouseenter", show);
    term.addEventListener("focus", show);
    term.addEventListener("click", (event) => (event.preventDefault(), show()));
    term.addEventListener("mouseleave", leave);
    term.addEventListener("blur", leave);
  }
}
