"""A site in a real browser: `python -m tests.browser SITE AXE`, SITE made by `tinymi site`, AXE axe-core's axe.min.js.

Every page is opened from the disk by headless Chromium with the network off, in light and dark, on a wide screen and a
phone's. There must be no message on the console, no request but for the page itself, no violation of WCAG's levels A
and AA that axe-core finds, and nothing wider than the screen. Head pickers, layer sliders and token buttons are driven
by the mouse and by keys; what they say must change as it should. Prints what is wrong; exit status 1 if anything is.

Needs playwright (extra "browser") and a Chromium on PATH.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, ConsoleMessage, Page, Request, sync_playwright

SCHEMES: tuple[Any, ...] = ("light", "dark")
WIDTHS = {"wide": 1200, "phone": 375}
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
MOST_BYTES = 1_000_000


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
                page.evaluate(axe)
                found = page.evaluate("levels => axe.run(document, {runOnly: levels})", LEVELS)
                for violation in found["violations"]:
                    place = violation["nodes"][0]["html"][:120]
                    problems.append(f"{file.name} {scheme} {width}: {violation['id']}: {violation['help']}: {place}")
                overhang = page.evaluate("document.documentElement.scrollWidth - innerWidth")
                if overhang > 0:
                    problems.append(f"{file.name} {scheme} {width}: {overhang} pixels wider than the screen")
    with opened(browser, file, problems) as page:
        problems += [f"{file.name}: {problem}" for problem in drive(page)]
    return problems


def drive(page: Page) -> Iterator[str]:
    """Work every attention picture of the page, under its own content security policy, as a reader would."""
    for number in range(page.locator(".attention").count()):
        picture = page.locator(".attention").nth(number)
        heads, layers = picture.locator(".head"), picture.locator(".layer")
        seen = {shown(picture)}
        if heads.count() and heads.locator("option").count() > 1:
            last = heads.locator("option").count() - 1
            heads.select_option(index=0 if heads.evaluate("e => e.selectedIndex") == last else last)
            yield from changed(picture, seen, f"attention {number}: another head")
        if layers.count() and layers.get_attribute("min") != layers.get_attribute("max"):
            layers.focus()
            layers.press("End")
            layers.press("Home")
            layers.press("ArrowRight")
            yield from changed(picture, seen, f"attention {number}: another layer")
        tokens = picture.locator(".strip button")
        if tokens.count() > 2:
            told = picture.locator(".told")
            tokens.nth(2).click()
            clicked = told.text_content()
            page.keyboard.press("ArrowLeft")
            if told.text_content() == clicked or not clicked:
                yield f"attention {number}: tokens do not answer to click and key"
            lit = picture.locator(".strip button[style], .strip button[class]").count()
            if not lit:
                yield f"attention {number}: no token lights up"


def shown(picture: Any) -> str:
    return str(picture.locator(".name").text_content()) + str(picture.locator("table").first.inner_text())


def changed(picture: Any, seen: set[str], what: str) -> Iterator[str]:
    """A problem unless the picture shows something that it has not shown before."""
    now = shown(picture)
    if now in seen:
        yield f"{what} changes nothing"
    seen.add(now)


def links_of(file: Path) -> set[str]:
    return {link for link in re.findall(r'href="([^"#:]+)"', file.read_text("utf-8")) if link != "data:,"}


def main(site: Path, axe: Path) -> int:
    pages = sorted(site.glob("*.html"))
    problems = [
        f"{page.name}: links to {link}" for page in pages for link in links_of(page) if not (site / link).exists()
    ]
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        for page in pages:
            found = look_at(browser, page, axe.read_text("utf-8"))
            print(f"{page.name}: {len(found)} problems", flush=True)
            problems += found
        browser.close()
    print("\n".join(problems))
    return 1 if problems or len(pages) < 2 else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).absolute(), Path(sys.argv[2])))
