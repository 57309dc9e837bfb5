"""tinymi and the pure-Python packages that it needs, as wheels for the browser.

They are packed from where they are installed here: the browser runs the versions that this machine runs, and nothing
is fetched. The same files give the same bytes, so that a visitor's browser keeps what has not changed.
"""

import importlib.metadata
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from tinymi.errors import SourceError
from tinymi.teaching import catalogue
from tinymi.version import __version__

NEEDED = ("gguf", "Jinja2", "MarkupSafe", "PyYAML")  # gguf imports yaml; the others of ours are for terminals and disks
_LEFT_OUT = {"__pycache__", "tests", "scripts"}


def wheels() -> dict[str, bytes]:
    """File name -> the wheel, tinymi's own included. Raises SourceError."""
    return dict([_tinymi(), *map(_installed, NEEDED)])


def licences() -> list[tuple[str, str, str]]:
    """(name and version, licence as the package names it, its text) of each package that is packed."""
    return [_licence(name) for name in NEEDED]


def _tinymi() -> tuple[str, bytes]:
    """The package as it runs here, and the lessons where an installed package has them."""
    package, lessons = Path(__file__).parents[1], catalogue.folder()
    files = _files(package, "tinymi") | _files(lessons, "tinymi/lessons")
    return _wheel("tinymi", __version__, files)


def _files(folder: Path, name: str) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".so")]
    return {f"{name}/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in paths}


def _installed(name: str) -> tuple[str, bytes]:
    """A package of this environment. What is compiled, or only for its makers, is left out."""
    distribution = _distribution(name)
    files = {
        path.as_posix(): path.read_binary()
        for path in distribution.files or ()
        if path.suffix == ".py" and not _LEFT_OUT & set(path.parts) and ".." not in path.parts
    }
    return _wheel(name, distribution.version, files)


def _distribution(name: str) -> importlib.metadata.Distribution:
    try:
        return importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        raise SourceError(f"{name} is not installed, and the browser needs it: install tinymi again") from None


def _wheel(name: str, version: str, files: Mapping[str, bytes]) -> tuple[str, bytes]:
    """A wheel has two files beside those of its package."""
    readable = name.lower()
    about = f"{readable}-{version}.dist-info"
    metadata = f"Metadata-Version: 2.1\nName: {readable}\nVersion: {version}\n"
    kind = "Wheel-Version: 1.0\nGenerator: tinymi\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    all_files = {**files, f"{about}/METADATA": metadata.encode(), f"{about}/WHEEL": kind.encode()}
    return f"{readable}-{version}-py3-none-any.whl", _zipped(all_files)


def _zipped(files: Mapping[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, files[name], zipfile.ZIP_DEFLATED)
    return stream.getvalue()


def _licence(name: str) -> tuple[str, str, str]:
    distribution = _distribution(name)
    about = distribution.metadata.json
    named = str(about.get("license_expression") or about.get("license") or "see its text")
    paths = [path for path in distribution.files or () if "dist-info" in path.parts[0] and _is_licence(path.name)]
    return f"{name} {distribution.version}", named.splitlines()[0], "\n".join(path.read_text("utf-8") for path in paths)


def _is_licence(name: str) -> bool:
    return name.upper().startswith(("LICEN", "COPYING", "NOTICE"))
