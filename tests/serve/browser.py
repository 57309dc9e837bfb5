"""`tinymi serve` as a reader uses it, in headless Chromium on the default model: `python -m tests.serve.browser AXE`.

AXE is axe-core's axe.min.js. Ten prompts (right to left, emoji, too long, an answer of two tokens) are typed; knobs,
heads and tokens are driven by the mouse and by keys alone; back, reload, a second tab, and a link that someone saved
give the same picture. Wide and on a phone, in light and dark, nothing is wider than the screen and axe-core finds no
violation of WCAG's levels A and AA. There must be no message on the console. Prints what is wrong; exit status 1 if
anything is.

Needs playwright (extra "dev") and a Chromium on PATH.
"""

import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import parse_qs, urlsplit

import tinymi
from tests.serving import serving
from tests.teaching.browser import LEVELS, SCHEMES, WIDTHS
from tinymi.serve.server import Server

from playwright.sync_api import Browser, Error, Page, sync_playwright

PROMPTS = {
    "The capital of France is": {},
    "When Mary and John went to the store, John gave a drink to": {"answer": "Mary", "wrong": "John"},
    "The Eiffel Tower is in": {"answer": " Paris", "wrong": " Rome"},
    "\u05e9\u05dc\u05d5\u05dd \u05e2\u05d5\u05dc\u05dd": {},
    "\u0645\u0631\u062d\u0628\u0627 a\u202eb": {},
    "\U0001f600 and \U0001f469\u200d\U0001f680 are": {},
    "<b>1 & 2</b> \"x\" 'y' {{ 7*7 }}": {},
    "x": {},
    "The sky is": {"answer": "supercalifragilistic"},
    "word " * 60: {},
}
N_TOKENS = 12  # of the prompts whose round trip is measured
REFUSED = {"The sky is": "tokens, not one", "word " * 60: "the explorer takes 1 to 40"}


@contextmanager
def opened(browser: Browser, server: Server, problems: list[str], **settings: Any) -> Iterator[Page]:
    """A page at the front door; whatever it says is a problem."""
    context = browser.new_context(**settings)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    context.set_default_timeout(30_000)
    page = context.new_page()
    watch(page, problems)
    page.goto(server.guard.address)
    yield page
    context.close()


def watch(page: Page, problems: list[str]) -> None:
    def said(text: str) -> None:
        if "status of 400" not in text:  # Chromium tells of what is refused
            problems.append(f"console: {text}")

    page.on("console", lambda message: said(message.text))
    page.on("pageerror", lambda error: problems.append(f"error: {error}"))


def wait(page: Page) -> None:
    """Until the answer is there."""
    page.wait_for_selector("#panels:not([aria-busy])", state="attached")


def explore(page: Page, **fields: str) -> None:
    """Fill in the form and press its button, as from the front page."""
    for name, value in fields.items():
        page.fill(f"[name={name}]", value)
    page.click("form.ask button")  # the page is busy at once
    wait(page)


def query(page: Page) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(page.url).query).items()}


def picture(page: Page) -> str:
    """All that the panels show."""
    return str(page.locator("#panels").inner_text())


def tokens(page: Page, number: int = 0) -> list[str]:
    return list(page.locator(f"#prediction-{number} tbody th").all_inner_texts())


# --- what a reader does ------------------------------------------------------------------------------------------


def front_door(page: Page) -> Iterator[str]:
    """From the first page to the explorer, and on to a lesson."""
    page.fill("[name=prompt]", "The Colosseum is in")
    page.press("[name=prompt]", "Enter")
    page.wait_for_url("**/explore?**")
    if query(page) != {"prompt": "The Colosseum is in"} or page.locator(".panel").count() != 6:
        yield f"the front page leads to {page.url}"
    page.click(".panel-lens .learn")
    page.wait_for_url("**/05_logit_lens.html")
    page.go_back()
    if page.locator(".panel").count() != 6:
        yield "back from a lesson: no panels"


def ten_prompts(page: Page) -> Iterator[str]:
    for prompt, fields in PROMPTS.items():
        explore(page, **{"answer": "", "wrong": "", "prompt": prompt} | fields)
        problem = page.locator(".problem")
        if prompt in REFUSED:
            if problem.count() != 1 or REFUSED[prompt] not in problem.inner_text():
                yield f"{prompt[:20]!r} is not refused"
            elif page.input_value("[name=prompt]") != prompt:
                yield f"{prompt[:20]!r}: the form does not keep what was typed"
        elif problem.count() or len(tokens(page)) != 12 or page.locator(".strip button").count() == 0:
            yield f"{prompt!r} is not answered"
        elif query(page)["prompt"] != prompt:
            yield f"{prompt!r}: the address has another prompt"
        if page.evaluate("document.documentElement.scrollWidth - innerWidth") > 0:
            yield f"{prompt[:20]!r}: wider than the screen"


def knobs(page: Page) -> Iterator[str]:
    """By the mouse, and by keys alone; undone; back and reload."""
    explore(page, prompt="The capital of France is")
    plain = picture(page)
    page.click(".panel-heads tbody tr:nth-child(24) td:nth-of-type(5)")
    if page.locator(".attention .name").inner_text().lower() != "layer 23, head 4":
        yield "a head that is pressed is not shown"
    if (query(page).get("layer"), query(page).get("head")) != ("23", "4"):
        yield "a head that is pressed is not in the address"
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    if query(page).get("layer") != "24":
        yield "keys do not pick a head"
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    page.hover(".strip button:nth-child(5)")
    if "France (position 3) 9" not in page.locator(".told").inner_text():
        yield "a token does not say where it looks"
    page.click(".cut")
    page.wait_for_selector("#prediction-0 .several")
    wait(page)
    values = page.locator("#prediction-0 tbody tr").first.locator(".value").all_inner_texts()
    if query(page).get("cut") != "23.4" or not float(values[0]) > 0.5 > 0.3 > float(values[1]):
        yield f"a head that is cut changes nothing: {values}"
    page.focus("[name=scale_layer]")
    page.keyboard.type("20")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.wait_for_url("**scale_layer=20**")
    wait(page)
    if page.evaluate("document.activeElement.name") != "scale_by":
        yield "an answer takes the focus away"
    page.keyboard.press("ArrowRight")
    page.wait_for_url("**scale_by=0.1**")
    wait(page)
    both = picture(page)
    page.reload()
    if picture(page) != both:
        yield "reload shows something else"
    with page.context.expect_page() as second:
        page.evaluate("open(location.href)")
    second.value.wait_for_load_state()
    if picture(second.value) != both:
        yield "the address shows something else in a second tab"
    second.value.close()
    with page.expect_event("load"):
        page.go_back()
    if page.input_value("[name=scale_by]") != "0":
        yield "back does not set the knob back"
    page.click("#undo")
    page.wait_for_url(lambda url: "cut" not in url)
    wait(page)
    if len(page.locator("#prediction-0 .several").all()) or tokens(page)[0] not in plain:
        yield "undo does not undo"


def direction(page: Page) -> Iterator[str]:
    explore(page, prompt="The capital of France is")
    page.fill("[name=minus]", "France")
    page.press("[name=minus]", "Tab")
    page.fill("[name=plus]", "Italy")
    page.press("[name=plus]", "Enter")
    page.wait_for_selector("#change details")
    wait(page)
    if "stop_at_layer=12" not in (page.locator("#change").text_content() or ""):
        yield "the Python of a direction is not shown"
    values = page.locator("#prediction-0 tbody tr").first.locator(".value").all_inner_texts()
    if len(values) != 2 or values[0] == values[1]:
        yield f"a direction changes nothing: {values}"


def two_prompts(page: Page) -> Iterator[str]:
    explore(page, prompt="The capital of France is", second="The capital of Italy is")
    if page.locator(".panel").count() != 11 or tokens(page)[0] == tokens(page, 1)[0]:
        yield "two prompts are not shown side by side"
    page.locator("#attention-1 .head").select_option("2")
    names = page.locator(".attention .name").all_inner_texts()
    if len(names) != 2 or names[0] != names[1] or not names[0].endswith("head 2"):
        yield f"two prompts show different heads: {names}"


def keep(page: Page) -> Iterator[str]:
    """Copy, share, save; what is saved works without the server."""
    explore(page, prompt="The capital of France is")
    page.click("#heads-0 summary")
    page.click("#heads-0 .copy")
    copied = page.evaluate("navigator.clipboard.readText()")
    if not copied.startswith("import tinymi\n") or "block.heads.W_O" not in copied:
        yield f"copied: {copied[:40]!r}"
    page.click("#share")
    if page.evaluate("navigator.clipboard.readText()") != page.url:
        yield "the address is not copied"
    with page.expect_download() as saved:
        page.click("#save")
    text = saved.value.path().read_text("utf-8")
    if saved.value.suggested_filename != "explore.html" or "tinymi explore" not in text or "<script src" in text:
        yield "the page that is saved does not stand alone"


def lesson(page: Page) -> Iterator[str]:
    """Run with a prompt of one's own; and one is cancelled."""
    page.goto(page.url.rpartition("/")[0] + "/00_quick_start.html")
    page.fill("[name=prompt]", "The Colosseum is in")
    page.press("[name=prompt]", "Enter")
    page.wait_for_selector("p.answer")
    if "Colosseum" not in (page.locator("footer").text_content() or ""):
        yield "a lesson does not take the prompt"
    page.goto(page.url.rpartition("/")[0] + "/deeper_10_ioi_circuit.html")
    page.click("form.ask button")
    page.click(".run button")
    if "Cancelled" not in page.locator(".run output").inner_text():
        yield "a lesson cannot be cancelled"


def looks(page: Page, axe: str, where: str) -> Iterator[str]:
    """Nothing that axe-core finds, nothing too wide, all unfolded."""
    page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
    page.evaluate(axe)
    for violation in page.evaluate("levels => axe.run(document, {runOnly: levels})", LEVELS)["violations"]:
        yield f"{where}: {violation['id']}: {violation['help']}: {violation['nodes'][0]['html'][:120]}"
    overhang = page.evaluate("document.documentElement.scrollWidth - innerWidth")
    if overhang > 0:
        yield f"{where}: {overhang} pixels wider than the screen"


PAGES = {
    "front": "/",
    "explorer": "/explore?prompt=The+capital+of+France+is&second=%D7%A9%D7%9C%D7%95%D7%9D&cut=23.4",
    "refused": "/explore?cut=x",
    "lesson": "/07_activation_patching.html",
}
PARTS = (front_door, ten_prompts, knobs, direction, two_prompts, keep, lesson)


def chromium() -> str | None:
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@contextmanager
def served(model: tinymi.Model) -> Iterator[tuple[Server, Browser]]:
    """A server of this process, and a browser."""
    with sync_playwright() as playwright, serving(Server(model)) as server:
        browser = playwright.chromium.launch(executable_path=chromium(), args=["--no-sandbox", "--disable-gpu"])
        yield server, browser
        browser.close()


def round_trip(model: tinymi.Model, forward: Callable[[], object], repeat: int) -> tuple[float, float]:
    """Median seconds from the press of the button to the new panels drawn, and of `forward`, in turns."""
    trip = """prompt => new Promise(done => {
        document.querySelector("[name=prompt]").value = prompt
        const start = performance.now()
        new MutationObserver(() => panels.hasAttribute("aria-busy") || requestAnimationFrame(() => setTimeout(() =>
            done((performance.now() - start) / 1000)))).observe(panels, {attributeFilter: ["aria-busy"]})
        document.querySelector("#ask button").click() })"""
    words = ("it", "a", "the", "her", "his", "one", "two", "three", "some", "this")
    with served(model) as (server, browser):
        page = browser.new_page()
        page.goto(server.guard.address)
        page.goto(page.url + "explore")

        def ask(number: int) -> float:
            prompt = f"When Mary and John went to the store, John gave {words[number % len(words)]}"
            seconds: float = page.evaluate(trip, prompt)
            assert page.locator(".strip button").count() == N_TOKENS
            return seconds

        rounds = []
        for number in range(repeat + 1):
            time.sleep(0.1)  # as in timing.side_by_side
            start = time.perf_counter()
            forward()
            between = time.perf_counter() - start
            time.sleep(0.1)
            rounds.append((ask(number), between))
    trips, forwards = zip(*rounds[1:])
    return median(trips), median(forwards)


def main(axe: Path) -> int:
    problems: list[str] = []
    with served(tinymi.load()) as (server, browser):
        for part in PARTS:
            start = time.perf_counter()
            found: list[str] = []
            with opened(browser, server, found, color_scheme="dark") as page:
                if part not in (front_door, lesson):
                    page.goto(page.url + "explore")
                try:
                    found += part(page)
                except Error as error:  # what it would press is not there, or nothing comes of it
                    found.append(str(error).splitlines()[0])
            print(f"{part.__name__}: {len(found)} problems, {time.perf_counter() - start:.1f} s", flush=True)
            problems += [f"{part.__name__}: {problem}" for problem in found]
        source = axe.read_text("utf-8")
        for scheme in SCHEMES:
            for width in WIDTHS.values():
                view: dict[str, Any] = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
                found = []
                with opened(browser, server, found, bypass_csp=True, **view) as page:  # axe is a script of ours
                    for name, path in PAGES.items():
                        page.goto(f"http://127.0.0.1:{server.server_port}{path}")
                        found += looks(page, source, name)
                print(f"{scheme}, {width} pixels: {len(found)} problems", flush=True)
                problems += [f"{scheme} {width}: {problem}" for problem in found]
    print("\n".join(problems))
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
