"""The folder that `tinymi site OUT --browser` writes: OUT/browser. Any web server can host it."""

import hashlib
import json
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinymi.browser import packages, pyodide
from tinymi.checkpoint import default_model
from tinymi.errors import InputError
from tinymi.teaching.report import html

FOLDER = "browser"
_SHELL = Path(__file__).parent / "shell"
_POLICY = (
    "default-src 'self'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self' 'unsafe-inline'; img-src data:; "
    "object-src 'none'; base-uri 'none'"
)
_LICENCES = f"""\
This folder holds
Pyodide {pyodide.VERSION}: MPL-2.0, https://www.mozilla.org/MPL/2.0/, source https://github.com/pyodide/pyodide
CPython {pyodide.INFO["python"]}: PSF-2.0, https://docs.python.org/3.12/license.html, Python Software Foundation
NumPy {pyodide.NUMPY.split("-")[1]}: BSD-3-Clause, its text is in its wheel
"""


@dataclass(frozen=True)
class Edition:
    """What the folder is made of."""

    model: Path  # a .gguf file
    distribution: Path  # with Pyodide's files
    is_default: bool  # whether the model is the default one

    def write(self, site: Path, pages: Iterable[str]) -> Path:
        """Write the folder into `site`, where the lessons of these names have a page. Returns the page to open.

        Raises InputError when it cannot be written.
        """
        out = site / FOLDER
        try:
            for folder in ("model", "pyodide"):
                shutil.rmtree(out / folder, ignore_errors=True)
                (out / folder).mkdir(parents=True)
            shutil.copyfile(self.model, out / "model" / self.model.name)
            _write_python(out / "pyodide", self.distribution)
            _write_shell(out, {"model": self.model.name, "is_default": self.is_default, "pages": sorted(pages)})
            (out / "LICENCES.txt").write_text(_LICENCES + self._licences(), "utf-8")
        except OSError as error:
            raise InputError(f"site {site}: cannot be written ({error.strerror}); give another folder") from None
        return out / "index.html"

    def _licences(self) -> str:
        """Of the packages that are packed, and of the model."""
        named = packages.licences()
        if self.is_default:
            named.append((f"The model {default_model.NAME}", "Apache-2.0", (self.model.parent / "LICENSE").read_text()))
        rule = "\n\n" + "-" * 80 + "\n\n"
        lines = "".join(f"{name}: {licence}\n" for name, licence, _ in named)
        return lines + "".join(f"{rule}{name}\n\n{text.strip()}" for name, _, text in named) + "\n"


def edition(source: str | None, distribution: str | None) -> Edition:
    """source: the model, as --model names it. distribution: a folder with Pyodide's files. Raises a TinymiError."""
    folder = pyodide.folder(None if distribution is None else Path(distribution))
    if source is None:
        return Edition(default_model.gguf(), folder, True)
    path = Path(source).expanduser()
    if path.suffix.lower() != ".gguf" or not path.is_file():
        raise InputError(f"--model: {source} is no .gguf file, and --browser needs one; give one, or leave --model out")
    return Edition(path, folder, False)


def _write_python(out: Path, distribution: Path) -> None:
    """Pyodide, tinymi and what it needs."""
    for name in pyodide.FILES:
        shutil.copyfile(distribution / name, out / name)
    wheels = packages.wheels()
    for name, data in wheels.items():
        (out / name).write_bytes(data)
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in wheels.items()}
    (out / pyodide.LOCK).write_text(pyodide.lock(hashes), "utf-8")


def _write_shell(out: Path, about: dict[str, Any]) -> None:
    """The page that stays, its scripts, and the list of what it fetches and keeps."""
    kept = {folder: [_about(path) for path in sorted((out / folder).iterdir())] for folder in ("model", "pyodide")}
    about["kept"] = [one for files in kept.values() for one in files]
    (out / "files.json").write_text(json.dumps(about, indent=1), "utf-8")
    sizes = {folder: round(sum(one["bytes"] for one in files) / 1e6) for folder, files in kept.items()}
    for file in _SHELL.iterdir():
        text = file.read_text("utf-8")
        if file.name in ("index.html", "service.js"):
            values = {"model": Path(about["model"]).stem, "sizes": sizes, "style": html.style(), "policy": _POLICY}
            text = html.environment().from_string(text).render(values)
        (out / file.name).write_text(text, "utf-8")


def _about(path: Path) -> dict[str, Any]:
    data = path.read_bytes()
    sha256 = hashlib.sha256(data).hexdigest()
    return {"name": f"{path.parent.name}/{path.name}", "bytes": len(data), "sha256": sha256}
