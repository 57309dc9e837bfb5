// What a served page does beyond a static one.

// A lesson that runs: the server tells how far it is. The run ends when this page is left.
for (const box of document.querySelectorAll("[data-events]")) {
  const told = box.querySelector("output"), source = new EventSource(box.dataset.events);
  const end = (text) => {
    source.close();
    box.querySelector("button").hidden = true;
    told.textContent = text;
  };
  source.addEventListener("waiting", (event) => (told.textContent = "In the queue: " + event.data));
  source.addEventListener("running", (event) => (told.textContent = event.data || "Running"));
  source.addEventListener("done", () => (source.close(), location.reload()));
  source.addEventListener("problem", (event) => {
    end(event.data);
    box.className = "problem";
    box.setAttribute("role", "alert");
  });
  source.addEventListener("error", () => end("The server does not answer. Is it still running?"));
  box.querySelector("button").addEventListener("click", () => end("Cancelled. Press Run to begin again."));
  addEventListener("pagehide", () => source.close());
}

// A form that is sent says so, and leaves what is empty out of the address.
for (const form of document.querySelectorAll("form.ask")) {
  const button = form.querySelector("button");
  form.addEventListener("formdata", ({ formData }) => {
    for (const [name, value] of [...formData]) if (value === "") formData.delete(name);
  });
  form.addEventListener("submit", (event) => setTimeout(() => (button.disabled = !event.defaultPrevented)));
  addEventListener("pageshow", () => (button.disabled = false));
}
