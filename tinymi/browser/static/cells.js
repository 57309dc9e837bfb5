// A lesson's code can be changed, cell by cell, and the lesson run with the changes.

const { cells } = document.currentScript.dataset;
const ask = document.querySelector("form.ask");
const fields = []; // { text: the text area, old: the code as the lesson's file has it }

document.querySelectorAll("main > pre.code, main > .cell pre.code").forEach((code, number) => {
  code.id = `code-${number}`;
  code.after(button("Change this code", ({ target }) => target.replaceWith(edit(code))));
});
document.getElementById(location.hash.slice(1))?.scrollIntoView(); // what was changed and run, once it has an id

function button(label, press) {
  const made = document.createElement("button");
  [made.type, made.className, made.textContent] = ["button", "cell", label];
  made.addEventListener("click", press);
  return made;
}

// Puts a text area in the code's place. Returns the button that comes below it.
function edit(code) {
  const text = document.createElement("textarea");
  const old = (text.value = code.textContent.trimEnd());
  const fit = () => (text.rows = text.value.split("\n").length + 1);
  [text.id, text.spellcheck] = [code.id, false];
  text.setAttribute("aria-label", "Code. Control and Enter run the lesson.");
  text.addEventListener("input", fit);
  text.addEventListener("keydown", (event) => {
    if (event.key !== "Enter") return;
    event.preventDefault();
    const line = text.value.slice(0, text.selectionStart).split("\n").at(-1);
    if (event.ctrlKey || event.metaKey) ask.requestSubmit();
    else document.execCommand("insertText", false, "\n" + /^ */.exec(line)[0]); // as far in as the line above
  });
  fields.push({ text, old });
  fit();
  code.replaceWith(text);
  text.focus();
  return button("Run the lesson", () => ask.requestSubmit());
}

async function send(change) {
  const response = await fetch(cells, { method: "POST", body: new URLSearchParams(change) });
  if (!response.ok) throw new Error(await response.text());
}

// Before the lesson runs, its file is changed.
ask.addEventListener("submit", async (event) => {
  const changed = fields.filter(({ text, old }) => text.value !== old);
  if (!changed.length) return;
  event.preventDefault();
  try {
    for (const field of changed) {
      await send({ old: field.old, new: field.text.value });
      field.old = field.text.value;
    }
    run(changed[0].text.id);
  } catch (error) {
    const problem = document.createElement("p");
    [problem.className, problem.role, problem.textContent] = ["problem", "alert", error.message];
    ask.after(problem);
  }
});

// As the form does, but back to the cell.
function run(id) {
  const target = new URL(ask.action);
  target.search = new URLSearchParams(new FormData(ask));
  const again = target.href === location.href.split("#")[0];
  target.hash = id;
  location.assign(target);
  if (again) location.reload(); // only what is behind the # is new
}

document.getElementById("reset")?.addEventListener("click", async () => {
  await send({ reset: "1" });
  location.assign(location.pathname);
});
