"""`tinymi site OUT --browser` as a visitor uses it, in Chromium: `python -m tests.browser_edition.tab OUT AXE`.

AXE is axe-core's axe.min.js. A plain web server has the folder; the rest of the network is cut, and a request for it is
a problem. The model is loaded by its button. Three prompts give in the explorer, and in a changed code cell of lesson
0, what they give here. Lesson 0 passes its checks, a run is cancelled, and a model from the disk takes the place of the
first one. Then the server is stopped, and the page starts again from what the browser keeps. Wide and light, on a
phone and dark, axe-core finds no violation of WCAG's levels A and AA. Prints what is wrong, with seconds and memory;
exit status 1 if anything is.

Needs playwright (extra "dev") and a Chromium on PATH.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tinymi
from tests.checkpoint.gguf_files import bpe_metadata, save_pair
from tests.serve.browser import chromium
from tests.serving import serving
from tests.teaching.browser import LEVELS, SCHEMES, WIDTHS

import numpy as np
from playwright.sync_api import Browser, Error, FrameLocator, Page, sync_playwright

PROMPTS = ("The capital of France is", "When Mary and John went to the store, John gave a drink to", "1, 2, 3, 4,")
LENGTH = 5  # of the likeliest tokens
PRINTS = f"""
for prompt in {PROMPTS!r}:
    for text, token, probability in model.top_tokens(model(prompt), {LENGTH}):
        print(f"{{token}}={{probability:.6f}}", end=" ")
"""
KEPT = "async () => (await (await caches.open(new URL('./', location.href).href)).keys()).map(({ url }) => url)"
PATIENCE = 120_000  # milliseconds


class Plain(SimpleHTTPRequestHandler):
    """A server that knows few types."""

    extensions_map = {".html": "text/html", ".js": "text/javascript", ".css": "text/css", "": "text/plain"}  # noqa: RUF012

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def plain(site: Path) -> ThreadingHTTPServer:
    return ThreadingHTTPServer(("127.0.0.1", 0), partial(Plain, directory=site))


def frame_of(page: Page) -> FrameLocator:
    return page.frame_locator("#frame")


def go(page: Page, path: str) -> None:
    page.evaluate("path => { location.hash = path }", path)


def runs(page: Page) -> None:
    """Until Python is ready."""
    page.locator("#told", has_text="runs in this tab").wait_for(timeout=PATIENCE)


# --- what a visitor does -----------------------------------------------------------------------------------------


def load(page: Page, expected: list[list[tuple[int, float]]]) -> Iterator[str]:
    """The button names the size, and nothing is fetched before it is pressed."""
    button = page.locator("#load:not([disabled])")
    if not re.fullmatch(r"Load the model, \d+ MB", button.inner_text()):
        yield f"the button says {button.inner_text()}"
    if large := [name for name in page.evaluate(KEPT) if "?" in name]:
        yield f"before the button is pressed, the browser keeps {large}"
    button.click()
    page.locator("#told", has_text="Reading the model").wait_for(timeout=PATIENCE)
    runs(page)
    frame_of(page).locator("ol.served").wait_for()


def explorer(page: Page, expected: list[list[tuple[int, float]]]) -> Iterator[str]:
    frame = frame_of(page)
    go(page, "explore")
    for prompt, likeliest in zip(PROMPTS, expected):
        frame.locator("#prediction-0").wait_for(timeout=PATIENCE)
        frame.locator("[name=prompt]").fill(prompt)
        frame.locator("#ask button").click()
        frame.locator("#panels:not([aria-busy])").wait_for(timeout=PATIENCE)
        values = frame.locator("#prediction-0 tbody .value").all_inner_texts()[:LENGTH]
        if values != [f"{probability:.3f}" for _, probability in likeliest]:
            yield f"{prompt!r}: {values}, here {likeliest}"
    page.wait_for_url("**/*#explore?prompt=1%2C+2%2C+3%2C+4%2C")
    with page.context.expect_page() as second:
        frame.locator("#lens-0 .learn").click(modifiers=["ControlOrMeta"])
    second.value.wait_for_url("**/browser/#05_logit_lens.html")
    second.value.close()
    with page.expect_download() as saved:
        frame.locator("#save").click()
    if "tinymi explore" not in saved.value.path().read_text("utf-8"):
        yield "the explorer's page is not saved"


def lesson(page: Page, expected: list[list[tuple[int, float]]]) -> Iterator[str]:
    """Run as it is; with a code cell changed; reset."""
    frame = frame_of(page)
    go(page, "00_quick_start.html")
    frame.get_by_role("button", name="Run", exact=True).click()
    frame.locator("p.answer").wait_for(timeout=PATIENCE)
    if frame.locator(".check.passed").count() != 3 or frame.locator(".check.failed").count():
        yield "lesson 0 does not pass its checks"
    frame.get_by_role("button", name="Change this code").first.click()
    cell = frame.locator("textarea")
    cell.fill(cell.input_value() + PRINTS)
    cell.press("Control+Enter")
    frame.locator("main pre:not(.code)").wait_for(timeout=PATIENCE)
    printed = [pair.split("=") for pair in frame.locator("main pre:not(.code)").inner_text().split()]
    here = [pair for likeliest in expected for pair in likeliest]
    if [int(token) for token, _ in printed] != [token for token, _ in here]:
        yield f"other tokens than here: {printed}, {here}"
    error = np.abs(np.array([float(probability) for _, probability in printed]) - [p for _, p in here]).max()
    print(f"the {len(here)} probabilities differ by {error:.1e} at most")
    if not error <= 1e-4:
        yield f"other probabilities than here, by {error:.1e}"
    frame.locator("#reset").click()
    frame.locator("#reset").wait_for(state="detached")
    if PRINTS.strip() in frame.locator("main").inner_text():
        yield "the code is not reset"


def cancel(page: Page, expected: list[list[tuple[int, float]]]) -> Iterator[str]:
    """A cell that never ends. The page answers all the while, and afterwards Python starts again, with the cell."""
    frame = frame_of(page)
    frame.get_by_role("button", name="Change this code").first.click()
    frame.locator("textarea").fill("while True: pass")
    frame.get_by_role("button", name="Run the lesson").click()
    frame.locator(".run button").wait_for()
    time.sleep(1)
    frame.locator(".run button").click()
    if "Cancelled" not in frame.locator(".run output").inner_text():
        yield "a run cannot be cancelled"
    page.locator("#told", has_text=re.compile("Starting|Reading")).wait_for(timeout=PATIENCE)
    runs(page)
    if "while True: pass" not in frame.locator("main").inner_text():
        yield "the changed cell is lost"


def own_model(page: Page, expected: list[list[tuple[int, float]]]) -> Iterator[str]:
    """From the disk; and a file that is no model."""
    with TemporaryDirectory() as folder:
        path = save_pair(Path(folder), tokenizer=bpe_metadata("smollm"))[1]
        page.set_input_files("#file", path)
        page.locator("#told", has_text=f"{path.stem} runs in this tab").wait_for(timeout=PATIENCE)
        go(page, "explore?prompt=a+b")
        frame_of(page).locator("#prediction-0").wait_for(timeout=PATIENCE)
        if page.locator("#told").inner_text() != "model runs in this tab":
            yield "the model from the disk has another name"
        page.set_input_files("#file", {"name": "x.gguf", "mimeType": "", "buffer": b"x"})
        page.locator("#told", has_text="not a GGUF file").wait_for(timeout=PATIENCE)


def from_storage(page: Page, expected: list[list[tuple[int, float]]]) -> Iterator[str]:
    """The server is gone."""
    go(page, "explore?prompt=The+sky+is")
    page.reload()
    runs(page)
    frame_of(page).locator("#prediction-0").wait_for(timeout=PATIENCE)
    if not page.url.endswith("#explore?prompt=The+sky+is"):
        yield f"reload leads to {page.url}"


def accessible(page: Page, expected: list[list[tuple[int, float]]]) -> Iterator[str]:
    """Nothing that axe-core finds in the page or its frame, nothing too wide, all unfolded."""
    if not page.locator("#load").is_visible():
        for path, sign in SHOWN.items():
            go(page, path)
            frame_of(page).locator(sign).first.wait_for(state="attached", timeout=PATIENCE)
            yield from looks(page, path)
    else:
        yield from looks(page, "the start")


def looks(page: Page, where: str) -> Iterator[str]:
    for frame in page.frames:
        frame.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    for scheme, (name, width) in zip(SCHEMES, WIDTHS.items()):
        page.emulate_media(color_scheme=scheme)
        page.set_viewport_size({"width": width, "height": 900})
        found = page.evaluate("levels => axe.run(document, {runOnly: levels})", LEVELS)
        for violation in found["violations"]:
            node = violation["nodes"][0]["html"][:120]
            yield f"{where}, {name}, {scheme}: {violation['id']}: {violation['help']}: {node}"
        overhang = max(frame.evaluate("document.documentElement.scrollWidth - innerWidth") for frame in page.frames)
        if overhang > 0:
            yield f"{where}, {name}: {overhang} pixels wider than the screen"


# --- all of it ---------------------------------------------------------------------------------------------------

SHOWN = {"index.html": "ol.served", "explore": "#prediction-0", "00_quick_start.html": "button.cell"}
BEFORE = (accessible, load, explorer, lesson, cancel, accessible, own_model)
AFTER = (from_storage,)


def likeliest(model: tinymi.Model, prompt: str) -> list[tuple[int, float]]:
    return [(token, probability) for _, token, probability in model.top_tokens(model(prompt), LENGTH)]


def visit(page: Page, parts: Any, expected: Any) -> list[str]:
    """Each of the parts, with its seconds."""
    problems = []
    for part in parts:
        start = time.perf_counter()
        found: list[str] = []
        try:
            found += part(page, expected)
        except Error as error:  # what it would press is not there, or nothing comes of it
            found.append(" ".join(str(error).split())[:300])
        print(f"{part.__name__}: {len(found)} problems, {time.perf_counter() - start:.1f} s", flush=True)
        problems += [f"{part.__name__}: {problem}" for problem in found]
    return problems


def usage(browser: Browser) -> str:
    """Processor time of the whole browser, and the most memory that one of its processes had."""
    processes = browser.new_browser_cdp_session().send("SystemInfo.getProcessInfo")["processInfo"]
    peaks = [Path(f"/proc/{process['id']}/status").read_text() for process in processes]
    peak = max(int(match[1]) for text in peaks if (match := re.search(r"VmHWM:\s+(\d+) kB", text)))
    return f"{sum(process['cpuTime'] for process in processes):.0f} s of processor time, {peak / 1024:,.0f} MiB at most"


def main(site: Path, axe: Path) -> int:
    model = tinymi.load()
    expected = [likeliest(model, prompt) for prompt in PROMPTS]
    problems: list[str] = []
    os.environ["PW_EXPERIMENTAL_SERVICE_WORKER_NETWORK_EVENTS"] = "1"  # what it asks for is told, too
    with sync_playwright() as playwright, serving(plain(site)) as server:
        home = f"http://127.0.0.1:{server.server_port}/browser/"
        browser = playwright.chromium.launch(
            executable_path=chromium(),
            args=["--no-sandbox", "--disable-gpu"],
            proxy={"server": "127.0.0.1:9", "bypass": "127.0.0.1"},  # where nobody is: all other hosts are cut off
        )
        asked: list[str] = []
        context = browser.new_context()
        context.on("request", lambda request: asked.append(request.url))
        page = context.new_page()
        page.add_init_script(path=axe)
        page.on("pageerror", lambda error: problems.append(f"error: {error}"))
        page.on("console", lambda message: problems.append(f"console: {message.text}"))
        page.goto(f"{home}index.html")
        page.locator("#load:not([disabled])").wait_for()
        problems += visit(page, BEFORE, expected)
        server.shutdown()
        server.server_close()
        problems += visit(page, AFTER, expected)
        print(f"in all: {usage(browser)}")
        browser.close()
    problems += [f"asks for {url}" for url in asked if not url.startswith(home)]
    if not any(url.endswith("pyodide.asm.wasm") for url in asked):
        problems.append("the requests of the worker are not told, so they may go anywhere")
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2])))
