// The service worker. Pages below the folder tab-NAME are answered by the tab of this name, in which Python runs; all
// other files come from what the browser keeps, or from the server.

const POLICY = "{{ policy|safe }}";
const SHELL = ["", "files.json", "requests.js", "shell.css", "shell.js", "store.js", "worker.js"];
const here = registration.scope;

addEventListener("install", (event) => {
  skipWaiting();
  event.waitUntil(caches.open(here).then((cache) => cache.addAll(SHELL.map((path) => here + path))));
});
addEventListener("activate", (event) => event.waitUntil(clients.claim()));

// A page asks for its own name. It may have been loaded past this worker: take it over.
addEventListener("message", (event) => {
  if (event.data !== "name") return;
  event.waitUntil(clients.claim().then(() => event.ports[0].postMessage(event.source.id)));
});

addEventListener("fetch", (event) => {
  const { request } = event;
  if (!request.url.startsWith(here)) return;
  const path = request.url.slice(here.length);
  const [, tab, asked] = /^tab-([\w-]+)\/(.*)/s.exec(path) ?? [];
  event.respondWith(tab ? ask(tab, asked, request) : file(request, path));
});

async function ask(tab, path, request) {
  const shell = await clients.get(tab);
  if (!shell || request.destination === "document") return Response.redirect(here + "#" + path); // needs a tab around it
  const { port1, port2 } = new MessageChannel();
  const head = new Promise((resolve) => (port1.onmessage = ({ data }) => resolve(data)));
  const cancel = () => port1.postMessage("cancel");
  request.signal.addEventListener("abort", cancel);
  shell.postMessage({ path, body: await request.text() }, [port2]);
  const answer = await head;
  if (!answer) return Response.error(); // Python was started anew
  const start = (body) => (port1.onmessage = ({ data }) => (data ? body.enqueue(data) : body.close()));
  return new Response(new ReadableStream({ start, cancel }), answer);
}

async function file(request, path) {
  const cache = await caches.open(here);
  if (/^(model|pyodide)\//.test(path)) {
    const found = await cache.match(request, { ignoreSearch: !path.includes("?") });
    return found ? guarded(found) : fetch(request);
  }
  const name = path.replace(/#.*/s, "").replace(/^index\.html$/, "");
  try {
    const response = await fetch(request, { cache: "no-cache" });
    if (response.ok && SHELL.includes(name)) await cache.put(here + name, response.clone());
    return guarded(response);
  } catch {
    const found = await cache.match(here + name); // there is no network
    return found ? guarded(found) : Response.error();
  }
}

// A worker obeys the policy of its own file only.
function guarded(response) {
  const headers = new Headers(response.headers);
  headers.set("Content-Security-Policy", POLICY);
  return new Response(response.body, { status: response.status, headers });
}
