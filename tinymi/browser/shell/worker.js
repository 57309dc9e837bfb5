// The Web Worker: Python, the model, and the answers to requests, one after the other.

import { loadPyodide } from "./pyodide/pyodide.mjs";

let python, site;

onmessage = async ({ data }) => {
  try {
    if (data.start) await start(data.start);
    else python.answer(site, "/" + data.path, data.body, post);
    postMessage({ kind: data.start ? "ready" : "end" });
  } catch (error) {
    postMessage({ kind: "failed", text: reason(String(error.message ?? error)) });
  }
};

async function start({ files, path, source, pages, changed }) {
  const pyodide = await loadPyodide({
    indexURL: new URL("pyodide/", location.href).href,
    packages: ["tinymi"],
    env: { HOME: "/home" },
    stdout: () => {},
    stderr: (line) => console.log(line),
  });
  pyodide.FS.mkdirTree("/model");
  pyodide.FS.mount(pyodide.FS.filesystems.WORKERFS, { blobs: files }, "/model");
  python = pyodide.pyimport("tinymi.browser.worker");
  site = python.start("/model/" + path, source ?? undefined, pyodide.toPy(pages), pyodide.toPy(changed), post);
}

// Of Python's traceback the line with the error; notes may follow.
function reason(text) {
  const lines = text.trim().split("\n");
  return lines.findLast((line) => /^[A-Za-z][\w.]*: /.test(line)) ?? lines.at(-1);
}

// What Python says.
function post(kind, first, second) {
  if (kind === "changed") postMessage({ kind, name: first, text: second });
  if (kind === "told") postMessage({ kind, text: first });
  if (kind === "head") postMessage({ kind, status: first, headers: second.toJs({ dict_converter: Object.fromEntries }) });
  if (kind === "body") postMessage({ kind, bytes: first.toJs() });
}
