"""Running a lesson as its reader does: as a script, in a process of its own."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent


def run_lesson(name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `lessons/NAME.py`; its exit status, standard output and standard error."""
    command = [sys.executable, str(ROOT / "lessons" / f"{name}.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=600, check=False)


def refusal(name: str, *arguments: str) -> str:
    """Run a lesson that must refuse its options: one line on standard error, which is returned, and status 2."""
    done = run_lesson(name, *arguments)
    assert done.returncode == 2, done.stdout[-2000:] + done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    return done.stderr


def lesson_json(name: str, folder: Path, *arguments: str) -> dict[str, Any]:
    """Run a lesson that must succeed; what it writes with --json, plus its standard output as "stdout"."""
    path = folder / f"{name}.json"
    done = run_lesson(name, *arguments, "--json", str(path), "--html", str(path.with_suffix(".html")))
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    assert all(check["passed"] for check in found["checks"])
    assert len(found["checks"]) > 0
    return found | {"stdout": done.stdout}
