"""Running a lesson as its reader does: as a script, in a process of its own."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
# Python with everything imported, that forks a process for each of many runs of one lesson: no start-up time, and each
# run ends as a script ends. A run that hangs for a minute is ended by its alarm.
ONE_AFTER_ANOTHER = """
import gc, json, os, runpy, signal, sys
import tabulate, tokenizers, tqdm, tinymi, tinymi.teaching
lesson, folder = sys.argv[1:]
gc.collect()
gc.freeze()  # else each process, when it ends, touches and so copies whatever was imported: three times the work
for number, arguments in enumerate(json.load(sys.stdin)):
    if (child := os.fork()) == 0:
        for stream in (1, 2):
            os.dup2(os.open(f"{folder}/{number}.{stream}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream)
        sys.argv, sys.path[0] = [lesson, *arguments], os.path.dirname(lesson)
        signal.alarm(60)
        runpy.run_path(lesson, run_name="__main__")
        sys.exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    print(status, flush=True)
"""


def run_lesson(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `lessons/NAME.py`, such as deeper/07_activation_patching; its exit status and what it prints."""
    command = [sys.executable, str(ROOT / "lessons" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)


def run_lesson_often(
    name: str, runs: Sequence[Sequence[str]], folder: Path, **environment: str
) -> list[subprocess.CompletedProcess[str]]:
    """Run `lessons/NAME.py` once per list of arguments.

    folder: an empty one, for what the runs print; files that they write under relative names land in its `work`.
    """
    lesson = str(ROOT / "lessons" / f"{name}.py")
    (folder / "work").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", ONE_AFTER_ANOTHER, lesson, str(folder)],
        input=json.dumps([list(arguments) for arguments in runs]),
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"} | environment,
        cwd=folder / "work",
        capture_output=True,
        text=True,
        timeout=1200,
        check=True,
    )
    statuses = [int(line) for line in done.stdout.split()]
    assert len(statuses) == len(runs), done.stderr
    printed = [[(folder / f"{n}.{stream}").read_text("utf-8") for stream in (1, 2)] for n in range(len(runs))]
    return [
        subprocess.CompletedProcess([lesson, *arguments], status, out, err)
        for arguments, status, (out, err) in zip(runs, statuses, printed, strict=True)
    ]


def refusal(name: str, *arguments: str) -> str:
    """Run a lesson that must refuse its options: one line on standard error, which is returned, and status 2."""
    done = run_lesson(name, *arguments)
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def lesson_json(name: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a lesson that must succeed; what it writes with --json, plus its standard output as "stdout"."""
    path = folder / f"{in_a_site(name)}.json"
    done = run_lesson(name, *arguments, "--json", str(path), "--html", str(path.with_suffix(".html")))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    return checked_json(path) | {"stdout": done.stdout}


def default_lesson_json(name: str, folder: Path) -> dict[str, Any]:
    """What a lesson writes with --json as it stands, on the default model.

    TINYMI_TEST_SITE names a folder in which `tinymi site` has just run all lessons so: the gate does that anyway.
    """
    site = os.environ.get("TINYMI_TEST_SITE")
    return checked_json(Path(site) / f"{in_a_site(name)}.json") if site else lesson_json(name, folder)


def in_a_site(name: str) -> str:
    """How a site calls the files of a lesson: deeper_07_activation_patching."""
    return name.replace("/", "_")


def checked_json(path: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert all(check["passed"] for check in result["checks"])
    assert len(result["checks"]) > 0
    return result
