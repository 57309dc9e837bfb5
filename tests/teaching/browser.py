"""A site in a real browser: `python -m tests.teaching.browser SITE AXE`.

SITE is made by `tinymi site`, AXE is axe-core's axe.min.js.

Every page is opened from the disk by headless Chromium with the network off, in light and dark, on a wide screen and a
phone's. There must be no message on the console, no request but for the page itself, no violation of WCAG's levels A
and AA that axe-core finds, all that is folded unfolded, nothing wider than the screen, no bar a stub and no letter of a
picture too small to read. Head pickers, sliders, token buttons, the picker of steps, words and the cells of every grid
are driven by the mouse and by keys; what they say must be what the page's tables and lists say. On paper a page is
light, without its controls and what is folded. Every link leads somewhere. In a notebook an item follows the notebook's
theme. Prints what is wrong; exit status 1 if anything is. Before all this it looks at a page with one fault of each
kind, and must find them.

Needs playwright (extra "dev") and a Chromium on PATH.
"""

import json
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinymi.teaching.report import items
from tinymi.teaching.report.html import fragment, notebook_head

from playwright.sync_api import Browser, ConsoleMessage, Error, Locator, Page, Request, sync_playwright

SCHEMES: tuple[Any, ...] = ("light", "dark")
WIDTHS = {"wide": 1200, "phone": 375}
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
MOST_BYTES = 1_000_000
FAULTY = """<!doctype html><html lang="en"><title>x</title><body class="tinymi" style="background:#eee"><nav>x</nav>
<p style="width:3000px">x</p><p style="color:#bbb">pale words</p>
<img src="https://127.0.0.1/x.png"><script>console.log("x"); f()</script>
<div class="attention"><p class="name">x</p><table><tbody><tr><th>x</th><td title="y">1</td></tr></tbody></table>
<select class="head"><option>0<option>1</select><input class="layer" type="range" min="0" max="2">
<div class="strip"><button>a</button><button>b</button><button>c</button></div><p class="told">x</p></div>
<div class="map"><table class="heat"><thead><tr><th>x<th>y</thead><tbody><tr><th>x</th><td title="y">1</td></tr></tbody>
</table><p class="readout">x</p></div><span class="track" style="display:block;width:9px">x</span>
<svg class="drawing" viewBox="0 0 400 9" style="width:200px"><text y="9" font-size="11">x</text></svg>
<div class="scroll" style="width:9px;overflow-x:auto"><p style="width:99px">x</p></div>
<a class="term" href="#word">x</a><div id="word"><dd>what x means</dd></div><div id="meaning">y</div>
<form class="picks"><select data-axis="a"><option>0<option>1</select></form>
<div class="step"><script type="application/json">{"axes":["a"],"shape":[2,1],"numbers":"1 2"}</script>
<table class="excerpt"><tbody><tr><th>a 0</th><td>1</td></tr></tbody></table></div>
<figure class="lines"><svg></svg><input type="range"><ul><li><span class="value">7</span></li></ul><table>
<tbody><tr><th>0</th><td>8</td></tr></tbody></table></figure></body></html>"""
SIGNLESS = """[...document.querySelectorAll('.scroll')].filter(one => one.scrollWidth > one.clientWidth
  && getComputedStyle(one).maskImage === 'none').length"""
FAULTS = (
    "console: x",
    "error: f is not",
    "asks for https://127.0.0.1",
    "color-contrast",
    "image-alt",
    "wider than the screen",
    "1 tables scroll without a sign",
    "another head",
    "another layer",
    "tokens do not answer",
    "does not tell its value",
    "1 bars are stubs",
    "1 pictures with letters too small",
    "is not explained",
    "does not show what is picked",
    "slider of c",
    "on paper",
)


@contextmanager
def opened(browser: Browser, file: Path, problems: list[str], **settings: Any) -> Iterator[Page]:
    """The page, without a network; whatever it says or asks for is a problem."""
    context = browser.new_context(offline=True, **settings)
    page = context.new_page()
    where = f"{file.name} {settings}"

    def said(message: ConsoleMessage) -> None:
        problems.append(f"{where}: console: {message.text}")

    page.on("console", said)
    page.on("pageerror", lambda error: problems.append(f"{where}: error: {error}"))

    def asked(request: Request) -> None:
        if request.url != file.as_uri() and not request.url.startswith("data:"):
            problems.append(f"{where}: asks for {request.url}")

    page.on("request", asked)
    page.goto(file.as_uri())
    yield page
    context.close()


def look_at(browser: Browser, file: Path, axe: str) -> list[str]:
    """One page in every scheme and width."""
    problems: list[str] = []
    if file.stat().st_size > MOST_BYTES:
        problems.append(f"{file.name}: {file.stat().st_size:,} bytes")
    for scheme in SCHEMES:
        for width in WIDTHS.values():
            view = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            with opened(browser, file, problems, bypass_csp=True, **view) as page:  # axe is a script of ours
                page.evaluate("document.querySelectorAll('details').forEach(one => { one.open = true })")
                page.evaluate(axe)
                found = page.evaluate("levels => axe.run(document, {runOnly: levels})", LEVELS)
                for violation in found["violations"]:
                    place = violation["nodes"][0]["html"][:120]
                    problems.append(f"{file.name} {scheme} {width}: {violation['id']}: {violation['help']}: {place}")
                overhang = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                if overhang > 0:
                    problems.append(f"{file.name} {scheme} {width}: {overhang} pixels wider than the screen")
                if (hidden := page.evaluate(SIGNLESS)) > 0:
                    problems.append(f"{file.name} {scheme} {width}: {hidden} tables scroll without a sign")
                problems += [f"{file.name} {scheme} {width}: {problem}" for problem in too_small(page)]
    with opened(browser, file, problems, color_scheme="dark") as page:
        page.set_default_timeout(5000)
        for part in (attention, grids, picks, words, curves, paper):
            try:
                for problem in part(page):
                    problems.append(f"{file.name}: {problem}")
            except Error as error:  # what it would click is not there, or hidden
                problems.append(f"{file.name}: {part.__name__}: {str(error).splitlines()[0]}")
    return problems


def too_small(page: Page) -> Iterator[str]:
    """Bars that are stubs, and pictures whose letters are."""
    stubs = page.evaluate("[...document.querySelectorAll('.track')].filter(e => e.clientWidth < 80).length")
    if stubs:
        yield f"{stubs} bars are stubs"
    letters = """[...document.querySelectorAll('svg')].filter(e => {
        const text = e.querySelector('text'), scale = e.clientWidth / e.viewBox.baseVal?.width
        return text && scale && getComputedStyle(text).display !== 'none'
            && scale * parseFloat(getComputedStyle(text).fontSize) < 8 }).length"""
    if count := page.evaluate(letters):
        yield f"{count} pictures with letters too small"


# --- a page's own script, under its own content security policy, driven as a reader would ------------------------


def all_of(page: Page, selector: str) -> list[Locator]:
    found: list[Locator] = page.locator(selector).all()
    return found


def attention(page: Page) -> Iterator[str]:
    """Head picker, layer slider, tokens."""
    for number, picture in enumerate(all_of(page, ".attention")):
        heads, layers = picture.locator(".head"), picture.locator(".layer")
        if heads.count() and heads.locator("option").count() > 1:
            last = heads.locator("option").count() - 1
            before = shown(picture)
            heads.press("Home" if heads.evaluate("e => e.selectedIndex") == last else "End")
            yield from changed(picture, before, f"attention {number}: another head")
        if layers.count() and layers.get_attribute("min") != layers.get_attribute("max"):
            layers.click(position={"x": 2, "y": 8})
            if layers.input_value() != layers.get_attribute("min"):
                yield f"attention {number}: the slider of layers does not answer to a click"
            before = shown(picture)
            layers.press("ArrowRight")
            yield from changed(picture, before, f"attention {number}: another layer")
        for pick in picture.locator(".pick").all():
            pick.click()
            if not (picture.locator(".name").text_content() or "").startswith(pick.text_content() or "-"):
                yield f"attention {number}: the button {pick.text_content()} leads to another head"
        tokens = picture.locator(".strip button")
        for query, key in ((2, None), (1, "ArrowLeft")):
            if key is None:
                tokens.nth(query).click()
            else:
                page.keyboard.press(key)
            if not lights_up(picture, query):
                yield f"attention {number}: tokens do not answer to click and key"


def lights_up(picture: Locator, query: int) -> bool:
    """Whether the tokens that `query` attends to are told and coloured as its row of the table is."""
    cells = picture.locator("tbody tr").nth(query).locator("td").all()[: query + 1]
    buttons = picture.locator(".strip button").all()
    shares = [button.locator("small").all_text_contents() for button in buttons]
    colours = [button.get_attribute("class") or "" for button in buttons]
    wanted = [[f"{cell.text_content()}%"] for cell in cells] + [[""]] * (len(buttons) - query - 1)
    told = picture.locator(".told").text_content() or ""
    same = colours == [cell.get_attribute("class") for cell in cells] + [""] * (len(buttons) - query - 1)
    return shares == wanted and same and f"(position {query}) attends to " in told


def grids(page: Page) -> Iterator[str]:
    """Cells tell their exact value under the pointer and when Tab and the arrow keys reach them."""
    for number, box in enumerate(all_of(page, ":is(.map, .attention):has(.readout)")):
        grid, readout = box.locator("table.heat, .shaded"), box.locator(".readout")
        last = grid.locator("[title]:not([title=''])").last
        last.hover()
        if readout.text_content() != last.get_attribute("title"):
            yield f"grid {number}: a cell under the pointer does not tell its value"
        page.mouse.move(0, 0)  # what scrolls below a resting pointer would be pointed at, too
        start = grid.locator("[tabindex='0']")
        if not start.count():
            yield f"grid {number}: no key leads to a cell"
            continue
        start.focus()
        told = [readout.text_content()]
        for key in ("ArrowDown", "ArrowRight"):
            page.keyboard.press(key)
            told.append(readout.text_content())
        at = page.evaluate("document.activeElement.title")
        if not at or told[-1] != at or (grid.locator("[title]").count() > 2 and told[0] == at):
            yield f"grid {number}: a cell that keys lead to does not tell its value"


def picks(page: Page) -> Iterator[str]:
    """What is picked for the page is what every step shows."""
    for picker in all_of(page, ".picks select"):
        picker.press("Home" if picker.evaluate("e => e.selectedIndex") else "End")
    chosen = {
        picker.get_attribute("data-axis"): (picker.evaluate("e => e.selectedIndex"), picker.input_value())
        for picker in all_of(page, ".picks select")
    }
    for number, step in enumerate(all_of(page, ".step:has(script)")):
        data = json.loads(step.locator("script").text_content() or "")
        at = [chosen.get(axis, (0, ""))[0] for axis in data["axes"]]
        if any(place >= size for place, size in zip(at, data["shape"])):
            continue  # this step has no such place
        start = 0
        for place, size in zip([*at, 0], data["shape"]):
            start = start * size + place
        numbers = data["numbers"].split()[start : start + data["shape"][-1]]
        cells = [text for text in step.locator("td").all_text_contents() if text != "…"]
        if cells != numbers:
            yield f"step {number}: does not show what is picked"


def words(page: Page) -> Iterator[str]:
    """A word tells its meaning under the pointer and with the focus; Escape takes it away."""
    for term in all_of(page, "a.term")[:3]:
        name, entry = term.text_content(), page.locator(f"{term.get_attribute('href')} dd").text_content()
        meaning = page.locator("#meaning")
        for reach in (term.hover, term.focus):
            page.keyboard.press("Escape")
            reach()
            if not meaning.is_visible() or meaning.text_content() != entry:
                yield f"{name!r} is not explained"
        page.keyboard.press("Escape")
        if meaning.is_visible():
            yield f"{name!r} is not explained: Escape does not take it away"
        page.mouse.move(0, 0)


def curves(page: Page) -> Iterator[str]:
    """The slider, and the pointer over the picture, tell the curves' values at one place."""
    for number, figure in enumerate(all_of(page, ".lines")):
        rows, slider = figure.locator("tbody tr"), figure.locator("input")
        if rows.count() > 1 or not figure.locator(".cursor").count():
            slider.press("Home")
            first = figure.locator(".value").all_text_contents()
            figure.locator("svg").first.hover()
            middle = slider.input_value()
            if first != rows.first.locator("td").all_text_contents() or middle == "0":
                yield f"slider of curves {number}: does not tell the values of its place"


def paper(page: Page) -> Iterator[str]:
    """Printed by a reader whose screen is dark."""
    page.emulate_media(media="print", color_scheme="dark")
    if page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)":
        yield "on paper: not on white"
    for selector in ("nav", ".controls", ".picks", ".strip", ".readout", "details:not([open])"):
        if any(part.is_visible() for part in all_of(page, selector)):
            yield f"on paper: {selector} is still there"


def shown(picture: Any) -> str:
    return str(picture.locator(".name").text_content()) + str(picture.locator("table").first.inner_text())


def changed(picture: Any, before: str, what: str) -> Iterator[str]:
    """A problem unless the picture shows something else than before."""
    if shown(picture) == before:
        yield f"{what} changes nothing"


def dead_links(file: Path) -> Iterator[str]:
    """Links to files that are not there, or to places that they do not have."""
    for link in sorted(set(re.findall(r'<a [^>]*href="([^"]+)"', file.read_text("utf-8")))):
        name, _, place = link.partition("#")
        target = file.parent / (name or file.name)
        if link.startswith(("http://", "https://")):
            continue
        if not target.exists() or (place and f'id="{place}"' not in target.read_text("utf-8")):
            yield f"{file.name}: links to {link}"


def theme(browser: Browser) -> Iterator[str]:
    """In a notebook an item is dark where the notebook is, whatever the system prefers, and when the theme changes."""
    inks = {"light": "rgb(27, 30, 36)", "dark": "rgb(233, 235, 238)"}
    styles = {"light": "color: #000000de", "dark": "color: #ffffffde; background: #111"}
    item = fragment(items.Prose("words"))
    for system in SCHEMES:
        page = browser.new_context(color_scheme=system).new_page()
        page.set_content(f"<!doctype html><body style='{styles['dark']}'><div>{notebook_head()}</div>{item}")
        for scheme in ("dark", "light", "dark"):
            page.evaluate("style => document.body.setAttribute('style', style)", styles[scheme])
            ink = page.evaluate("getComputedStyle(document.querySelector('.tinymi p')).color")
            if ink != inks[scheme]:
                yield f"a notebook's theme is {scheme} and the system's {system}: the text is {ink}"
        page.context.close()


def main(site: Path, axe: Path) -> int:
    pages = sorted(site.glob("*.html"))
    problems = [problem for page in pages for problem in dead_links(page)]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        faulty = Path(folder) / "faulty.html"
        faulty.write_text(FAULTY, "utf-8")
        seen = "\n".join(look_at(browser, faulty, axe.read_text("utf-8")))
        problems += [f"faulty page: nothing was said of {fault!r}" for fault in FAULTS if fault not in seen]
        for page in pages:
            found = look_at(browser, page, axe.read_text("utf-8"))
            print(f"{page.name}: {len(found)} problems", flush=True)
            problems += found
        problems += theme(browser)
        browser.close()
    print("\n".join(problems))
    return 1 if problems or len(pages) < 2 else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), Path(sys.argv[2])))
