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
