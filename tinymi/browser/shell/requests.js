// Requests wait in line for the worker. The service worker brings each with a port for its answer.

const line = [];
const changed = JSON.parse(sessionStorage.getItem("changed") ?? "{}"); // lessons, as the visitor changed them
let worker = null, ready = false, current = null, told = {}, settings = null;

navigator.serviceWorker?.addEventListener("message", ({ data, ports: [port] }) => {
  const one = { ...data, port };
  port.onmessage = () => cancel(one);
  line.push(one);
  next();
});

// Begin anew, with a worker of its own. listeners: tell(text), ready(), failed(text).
export function start(given, listeners) {
  [settings, told] = [given, listeners];
  worker?.terminate();
  end();
  ready = false;
  told.tell("Starting Python");
  worker = new Worker("worker.js", { type: "module" });
  worker.onmessage = ({ data }) => heard[data.kind](data);
  worker.onerror = (event) => told.failed(event.message ?? "Python cannot be started here");
  worker.postMessage({ start: { ...settings, changed } });
}

const heard = {
  told: ({ text }) => told.tell(text),
  head: (data) => current.port.postMessage(data),
  body: ({ bytes }) => current.port.postMessage(bytes, [bytes.buffer]),
  changed({ name, text }) {
    changed[name] = text;
    sessionStorage.setItem("changed", JSON.stringify(changed));
  },
  end() {
    end();
    next();
  },
  ready() {
    ready = true;
    told.ready();
    next();
  },
  failed({ text }) {
    end();
    if (ready) start(settings, told); // what ran out of memory cannot go on
    else told.failed(text);
  },
};

function next() {
  if (!ready || current || !line.length) return;
  current = line.shift();
  worker.postMessage({ path: current.path, body: current.body });
}

function end() {
  current?.port.postMessage(null);
  current = null;
}

// Nobody waits for this answer any more. Python cannot be interrupted: a lesson that runs ends with its worker.
function cancel(one) {
  if (line.includes(one)) line.splice(line.indexOf(one), 1);
  else if (one === current && one.path.startsWith("events/")) start(settings, told);
}

// The service worker sleeps when it hears nothing for half a minute, and an answer in the middle of it would be lost.
setInterval(() => current && navigator.serviceWorker.controller?.postMessage("awake"), 10_000);
