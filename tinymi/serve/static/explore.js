// The explorer. All that is set is in the address; a new answer takes the place of the old one without leaving the page.

const form = document.getElementById("ask"), panels = document.getElementById("panels");
const knobs = document.getElementById("knobs"), told = document.getElementById("told");
let latest = null, waiting = 0;

// What is empty or as it was at first is left out of the address.
form.addEventListener("formdata", ({ formData }) => {
  for (const { name, value, dataset } of form.elements) {
    if (value === "" || value === dataset.default || Number(value) === Number(dataset.default)) formData.delete(name);
  }
});
const address = () => "explore?" + new URLSearchParams(new FormData(form));

async function ask() {
  const asked = address();
  clearTimeout(waiting);
  latest?.abort();
  const request = (latest = new AbortController());
  panels.setAttribute("aria-busy", "true");
  told.textContent = "Running the model";
  try {
    const response = await fetch(asked, { signal: request.signal });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
    if (location.href !== new URL(asked, location.href).href) history.pushState(null, "", asked);
    show(fresh);
    told.textContent = fresh.getElementById("panels") ? "" : fresh.body.textContent;
  } catch {
    if (request.signal.aborted) return; // a later question has taken its place
    told.textContent = "The server does not answer. Is it still running?";
  }
  panels.removeAttribute("aria-busy");
}

function show(fresh) {
  const source = fresh.getElementById("panels");
  if (!source) return;
  for (const old of [...panels.children]) if (old !== knobs) old.remove();
  let before = true; // the knobs stay where they are, with the focus
  for (const part of [...source.children]) {
    if (part.id === "knobs") before = false;
    else if (before) knobs.before(part);
    else panels.append(part);
  }
  panels.className = source.className;
  document.title = fresh.title;
  document.getElementById("change").replaceWith(fresh.getElementById("change"));
  document.querySelector("footer").replaceWith(fresh.querySelector("footer"));
  const script = document.createElement("script"); // the pictures' own, once more: it sets up those that are new
  script.textContent = document.getElementById("shared").textContent;
  document.body.append(script);
  script.remove();
  ready();
}

// What works only with this script is shown by it.
function ready() {
  for (const part of document.querySelectorAll(".copy, .cut, #undo")) part.hidden = false;
  for (const lens of document.querySelectorAll(".panel-lens .scroll")) lens.scrollLeft = lens.scrollWidth; // the last token
  follow(document.querySelector(".attention"));
}

form.addEventListener("submit", (event) => {
  event.preventDefault();
  ask();
});
knobs.addEventListener("input", ({ target }) => {
  const output = target.closest("label")?.querySelector("output");
  if (output) output.textContent = target.value;
});
knobs.addEventListener("change", () => {
  clearTimeout(waiting);
  waiting = setTimeout(ask, 250);
});
addEventListener("popstate", () => location.reload());

// --- heads: one layer and head for all pictures, in the address without a new run ---

const chosen = (box) => [box.querySelector("output").textContent, box.querySelector(".head").value];

function follow(box) {
  if (!box) return;
  const [layer, head] = chosen(box);
  for (const other of document.querySelectorAll(".attention")) if (other !== box) look(other, layer, head);
  for (const grid of document.querySelectorAll(".panel-heads tbody")) {
    grid.querySelector(".chosen")?.classList.remove("chosen");
    grid.rows[layer]?.cells[Number(head) + 1]?.classList.add("chosen");
  }
  for (const line of document.querySelectorAll(".panel-attention .code span")) {
    if (line.textContent.startsWith("layer, head =")) line.textContent = `layer, head = ${layer}, ${head}\n`;
  }
}

function look(box, layer, head) {
  const index = JSON.parse(box.querySelector("script").textContent).layers.indexOf(Number(layer));
  if (index < 0 || String(chosen(box)) === String([layer, head])) return;
  box.querySelector(".layer").value = index;
  box.querySelector(".head").value = head;
  box.querySelector(".head").dispatchEvent(new Event("change", { bubbles: true }));
}

function note(box) {
  [form.elements.layer.value, form.elements.head.value] = chosen(box);
  history.replaceState(null, "", address());
  document.getElementById("save").href = "save/" + address();
  follow(box);
}

function press(cell) {
  const box = document.querySelector(".attention");
  look(box, cell.parentElement.rowIndex - 1, cell.cellIndex - 1);
  note(box);
}

for (const kind of ["input", "change"]) {
  panels.addEventListener(kind, ({ target }) => {
    const box = target.closest(".attention");
    if (box) note(box);
  });
}

panels.addEventListener("keydown", (event) => {
  const cell = event.target.closest(".panel-heads td");
  if (cell && event.key === "Enter") press(cell);
});

addEventListener("click", async ({ target }) => {
  const cell = target.closest(".panel-heads td"), button = target.closest("button");
  if (cell) press(cell);
  if (button?.matches(".cut")) {
    const cut = form.elements.cut, head = chosen(document.querySelector(".attention")).join(".");
    if (!cut.value.split(" ").includes(head)) cut.value = `${cut.value} ${head}`.trim();
    ask();
  }
  if (button?.id === "undo") {
    for (const part of form.elements) {
      if (knobs.contains(part) && part.name) part.value = part.dataset.default ?? "";
    }
    for (const output of knobs.querySelectorAll("output")) output.textContent = output.previousElementSibling.value;
    ask();
  }
  if (button?.matches(".copy")) {
    await navigator.clipboard.writeText(button.id === "share" ? location.href : button.previousElementSibling.textContent);
    button.textContent = "Copied";
  }
});

ready();
