// The page that stays: it fetches what is needed, owns the worker in which Python runs, and shows its pages in a frame.

import * as requests from "./requests.js";
import * as store from "./store.js";

const find = (id) => document.getElementById(id);
const [frame, told, progress, load] = ["frame", "told", "progress", "load"].map(find);
const megabytes = (bytes) => Math.round(bytes / 1e6);

function tell(text, share) {
  told.textContent = text;
  progress.hidden = share === undefined;
  if (share !== undefined) progress.value = share;
}

function failed(text) {
  tell(text);
  load.disabled = false;
}

// --- what runs ---

const { model, is_default, pages, kept } = await (await fetch("files.json")).json();
const isModel = (file) => file.name.startsWith("model/");
let chosen = null; // a model of the visitor's own

async function start() {
  load.disabled = true;
  try {
    const missing = await store.missing(chosen ? kept.filter((file) => !isModel(file)) : kept);
    const total = missing.reduce((sum, file) => sum + file.bytes, 0);
    await store.fetchAll(missing, (bytes) => tell(`${megabytes(bytes)} of ${megabytes(total)} MB`, bytes / total));
    await store.tidy(kept);
    requests.start({ pages, ...(chosen ?? (await stored())) }, { tell, ready, failed });
  } catch (error) {
    failed(error.message);
  }
}

async function stored() {
  const data = await store.get(kept.find(isModel));
  return { files: [{ name: model, data }], path: model, source: is_default ? null : model };
}

function ready() {
  tell(`${(chosen?.source ?? model).replace(/\.gguf$/i, "")} runs in this tab`);
  document.body.classList.add("running");
  find("start").hidden = true;
  frame.hidden = false;
  if (frame.src) return;
  frame.src = root + (location.hash.slice(1) || "index.html");
  frame.focus();
}

// --- a model of the visitor's own ---

for (const input of [find("file"), find("folder")]) {
  input.addEventListener("change", () => {
    if (!input.files.length) return;
    const files = [...input.files].map((data) => ({ name: data.name, data }));
    const folder = input.files[0].webkitRelativePath.split("/")[0];
    chosen = { files, path: folder ? "" : files[0].name, source: folder || files[0].name };
    find("own").open = false;
    start();
  });
}

// --- the frame's address is this page's, behind a # ---

let root = "", shown = "";

function follow() {
  const { href } = frame.contentWindow.location;
  document.title = frame.contentDocument.title || document.title;
  if (href === shown || !href.startsWith(root)) return;
  shown = href;
  history.replaceState("followed", "", "#" + href.slice(root.length));
}

addEventListener("hashchange", () => {
  const typed = history.state !== "followed"; // Back and Forward move the frame by themselves
  if (typed && frame.src) frame.contentWindow.location.replace(root + location.hash.slice(1));
});

frame.addEventListener("load", () => {
  frame.contentDocument.addEventListener("click", ({ target }) => {
    const link = target.closest("a");
    if (link && link.origin !== location.origin) link.target = "_blank"; // a paper: not inside the frame
  });
});

// --- the start ---

// The name by which the service worker finds this page.
async function name() {
  await navigator.serviceWorker.register("service.js");
  const { active } = await navigator.serviceWorker.ready;
  const { port1, port2 } = new MessageChannel();
  active.postMessage("name", [port2]);
  return new Promise((resolve) => (port1.onmessage = ({ data }) => resolve(data)));
}

if (navigator.serviceWorker) {
  root = new URL(`tab-${await name()}/`, location.href.split("#")[0]).href;
  setInterval(follow, 300);
  load.addEventListener("click", start);
  load.disabled = false;
  if (!(await store.missing(kept.filter(isModel))).length) start();
} else tell("Open this page over https, or from this computer, in a window that is not private.");
