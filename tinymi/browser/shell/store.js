// What the browser keeps: each file under its name and hash, so that a new edition fetches only what has changed.

const cache = globalThis.caches?.open(new URL("./", location.href.split("#")[0]).href);
const key = (file) => `${file.name}?${file.sha256}`;
const TYPES = { js: "text/javascript", mjs: "text/javascript", wasm: "application/wasm" }; // not every server knows them

export async function missing(files) {
  const kept = await Promise.all(files.map(async (file) => (await cache).match(key(file))));
  return files.filter((file, number) => !kept[number]);
}

export async function get(file) {
  return (await (await cache).match(key(file))).blob();
}

// Fetch these files, check and keep them; tell is called with the number of bytes that have come.
export async function fetchAll(files, tell) {
  let bytes = 0;
  for (const file of files) await fetchOne(file, (more) => tell((bytes += more)));
}

async function fetchOne(file, tell) {
  const response = await fetch(key(file), { cache: "no-store" });
  if (!response.ok) throw new Error(`${file.name}: the server answers ${response.status}`);
  const chunks = [];
  for (const reader = response.body.getReader(); ; ) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    tell(value.length);
  }
  const blob = new Blob(chunks);
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", await blob.arrayBuffer()));
  const hash = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  if (hash !== file.sha256) throw new Error(`${file.name}: is not the file that belongs to this page`);
  const headers = { "Content-Type": TYPES[file.name.split(".").at(-1)] ?? "application/octet-stream" };
  await (await cache).put(key(file), new Response(blob, { headers }));
}

// Forget what belongs to another edition.
export async function tidy(files) {
  const ours = new Set(files.map((file) => new URL(key(file), location.href).href));
  for (const request of await (await cache).keys()) {
    if (request.url.includes("?") && !ours.has(request.url)) (await cache).delete(request);
  }
}
