"""Sweeps: the same results on every executor, a file to go on from, workers that die, an end at Ctrl-C."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import tinymi
from tests.checkpoints import save_tiny
from tests.running import ROOT, checked_json
from tinymi import Model, SweepError
from tinymi.sweep import Journal, Sweep, cached, dask_cluster, identity, process_pool, run_task

import pytest

LESSON = ROOT / "tests" / "engine" / "sweep_lesson.py"
ABOUT = {"model": "a", "prompts": "p"}
TASKS = [{"layer": layer, "ids": [[1, 2, 3], [4, 5, 6]]} for layer in (0, 1, 2, 0.5)]


def last_logit(model: Model, task: Any) -> list[float]:
    logits = model(task["ids"], positions=-1)[:, 0]
    return [float(row[int(task["layer"] * 2)]) for row in logits]


def die(model: Model, task: Any) -> list[float]:
    if task["layer"] == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return last_logit(model, task)


def sweep(folder: Path, executor: Executor | None = None, journal: Journal | None = None) -> Sweep:
    return Sweep(tinymi.load(folder), str(folder), executor, journal)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A scheduler and two worker processes, over TCP on loopback."""
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, protocol="tcp", host="127.0.0.1", dashboard_address=":0",
    ) as found:  # fmt: skip
        yield found


def executor_of(kind: str, cluster: Any) -> Executor | None:
    if kind == "processes":
        return process_pool(2)
    if kind == "threads":
        return ThreadPoolExecutor(2)
    return dask_cluster(cluster.scheduler_address) if kind == "dask" else None


@pytest.mark.parametrize("kind", ["processes", "threads", "dask"])
def test_results_are_those_of_one_process(kind: str, tiny_folder: Path, cluster: Any) -> None:
    expected = sweep(tiny_folder).run(last_logit, TASKS)
    running = sweep(tiny_folder, executor_of(kind, cluster))
    assert numbers(running.run(last_logit, TASKS)) == pytest.approx(numbers(expected), abs=1e-5)
    assert numbers(running.run(last_logit, TASKS[::-1])) == pytest.approx(numbers(expected[::-1]), abs=1e-5)
    running.close()


def numbers(value: Any) -> list[float]:
    return [x for entry in value for x in numbers(entry)] if isinstance(value, list) else [value]


def start_lesson(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, str(LESSON), "--model", str(folder), *options]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, env=env, start_new_session=True
    )


def lesson_logits(folder: Path, tmp_path: Path, *options: str) -> Any:
    """What the lesson keeps when it runs to its end."""
    path = tmp_path / "lesson.json"
    running = start_lesson(folder, *options, "--json", str(path))
    _, errors = running.communicate(timeout=600)
    assert running.returncode == 0, errors
    return checked_json(path)["logits"]


def refusal(folder: Path, *options: str) -> str:
    """The one line with which the lesson refuses its options, with status 2."""
    running = start_lesson(folder, *options)
    _, errors = running.communicate(timeout=600)
    assert running.returncode == 2, errors
    assert len(errors.splitlines()) == 1, errors
    return errors


@pytest.mark.parametrize("kind", ["jobs", "dask"])
def test_a_lesson_gives_the_same_everywhere(kind: str, tiny_folder: Path, cluster: Any, tmp_path: Path) -> None:
    elsewhere = ["--jobs", "2"] if kind == "jobs" else ["--dask", cluster.scheduler_address]
    expected = lesson_logits(tiny_folder, tmp_path)
    assert len(expected) == 40
    assert numbers(lesson_logits(tiny_folder, tmp_path, *elsewhere)) == pytest.approx(numbers(expected), abs=1e-5)


def test_what_is_finished_is_not_done_again(tiny_folder: Path, tmp_path: Path) -> None:
    path, calls = tmp_path / "done.jsonl", []

    def counted(model: Model, task: Any) -> list[float]:
        calls.append(task["layer"])
        return last_logit(model, task)

    for end in (2, 4, 4):
        journal = Journal(path, ABOUT)
        running = sweep(tiny_folder, journal=journal)
        found = running.run(counted, TASKS[:end])
        running.close()
    assert calls == [0, 1, 2, 0.5]
    assert found == sweep(tiny_folder).run(last_logit, TASKS)
    assert not Path(f"{path}.lock").exists()


def test_a_last_line_that_was_cut_off_is_taken_away(tiny_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "done.jsonl"
    whole = sweep(tiny_folder, journal=Journal(path, ABOUT))
    expected = whole.run(last_logit, TASKS)
    whole.close()
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        journal = Journal(path, ABOUT)
        n_lines = content[:end].count(b"\n")
        assert len(journal.results) == max(n_lines - 1, 0)
        running = sweep(tiny_folder, journal=journal) if end % 50 == 0 else None
        if running is not None:
            assert running.run(last_logit, TASKS) == expected
        journal.close()
        assert all(json.loads(line) for line in path.read_text().splitlines())


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ('{"sweep": {"model": "b", "prompts": "p"}}\n', "model 'b', this one has model 'a'"),
        ('{"sweep": {"model": "a", "prompts": "q"}}\n', "prompts 'q', this one has prompts 'p'"),
        ('{"sweep": {"model": "a"}}\n', "prompts None"),
        ("my thesis", "not a file of finished tasks"),
        ("my thesis\n", "not a file of finished tasks"),
        ("[]\n", "not a file of finished tasks"),
        ("[" * 100_000 + "\n", "not a file of finished tasks"),
        (f"{json.dumps({'sweep': ABOUT})}\n{'[' * 100_000}\n", "line 2 is damaged"),
        (f"{json.dumps({'sweep': ABOUT})}\nnonsense\n", "line 2 is damaged"),
        (f"{json.dumps({'sweep': ABOUT})}\n[1]\n", "line 2 is damaged"),
    ],
)
def test_a_file_of_something_else_is_refused_and_left_alone(content: str, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "done.jsonl"
    path.write_text(content)
    with pytest.raises(SweepError, match=re.escape(problem)):
        Journal(path, ABOUT)
    assert path.read_text() == content


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_what_is_no_file_is_not_read(make: Any, tmp_path: Path) -> None:
    make(tmp_path / "done.jsonl")
    with pytest.raises(SweepError, match="is not a regular file"):
        Journal(tmp_path / "done.jsonl", ABOUT)
    assert [path.name for path in tmp_path.iterdir()] == ["done.jsonl"], "no lock is left"


def test_a_full_disk_is_said(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "done.jsonl", ABOUT)
    journal._file = open("/dev/full", "a", encoding="utf-8")  # noqa: SIM115
    with pytest.raises(SweepError, match=r"cannot be written \(No space left on device\); make room"):
        journal.add("a", 1)


def test_two_sweeps_do_not_write_to_one_file(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "done.jsonl", ABOUT)
    with pytest.raises(SweepError, match="another sweep is writing"):
        Journal(tmp_path / "done.jsonl", ABOUT)
    journal.close()
    Journal(tmp_path / "done.jsonl", ABOUT).close()


def test_another_model_and_other_prompts_are_refused(tiny_folder: Path, tmp_path: Path) -> None:
    resume = ["--resume", str(tmp_path / "done.jsonl")]
    lesson_logits(tiny_folder, tmp_path, "--prompts", "2", *resume)
    line = refusal(tiny_folder, "--prompts", "4", *resume)
    assert 'prompts "2 from' in line
    assert 'prompts "4 from' in line
    other = tmp_path / "other"
    line = refusal(save_tiny(other, seed=1), "--prompts", "2", *resume)
    assert str(tiny_folder) in line
    assert str(other) in line


def test_models_have_an_identity(tiny_model: Model, tiny: Model) -> None:
    assert identity(tiny_model) == identity(tiny_model) != identity(tiny)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--jobs", "0"], "jobs: 0"),
        (["--jobs", "2", "--dask", "tcp://127.0.0.1:1"], "give one"),
        (["--dask", "tcp://127.0.0.1:1"], "no scheduler answers"),
        (["--dask", "nonsense://x"], "no scheduler answers"),
        (["--resume", "/"], "is not a regular file"),
    ],
)
def test_wrong_options_are_one_line_and_status_2(options: list[str], problem: str, tiny_folder: Path) -> None:
    assert problem in refusal(tiny_folder, *options)


def test_a_dead_worker_of_a_pool_is_reported(tiny_folder: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "done.jsonl", ABOUT)
    running = sweep(tiny_folder, process_pool(1), journal)
    with pytest.raises(SweepError, match=r"worker process died.*of 4 tasks were finished; resume from"):
        running.run(die, TASKS)
    running.close()
    again = sweep(tiny_folder, journal=Journal(tmp_path / "done.jsonl", ABOUT))
    assert again.run(last_logit, TASKS) == sweep(tiny_folder).run(last_logit, TASKS)
    again.close()


def test_an_error_in_the_work_is_that_error(tiny_folder: Path) -> None:
    def wrong(model: Model, task: Any) -> float:
        raise ZeroDivisionError("in the work")

    for executor in (None, ThreadPoolExecutor(1), process_pool(1)):
        with pytest.raises(ZeroDivisionError, match="in the work"):
            sweep(tiny_folder, executor).run(wrong, TASKS)


def test_a_worker_of_another_version_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(SweepError, match=r"worker: has tinymi .*, the sweep was started by 0\.0\.0"):
        run_task(last_logit, str(tiny_folder), "loaded", "0.0.0", TASKS[0])


def test_what_is_remembered_is_made_once_and_not_for_ever() -> None:
    made = []

    def make(i: int) -> int:
        made.append(i)
        return i

    for i in (*range(30), 29, 28, 0):
        assert cached(f"test {i}", lambda i=i: make(i)) == i  # type: ignore[misc]
    assert made == [*range(30), 0]


def slow(model: Model, task: Any) -> list[float]:
    time.sleep(0.2)
    return last_logit(model, task)


def test_a_killed_dask_worker_is_survived(tiny_folder: Path, cluster: Any) -> None:
    running = sweep(tiny_folder, dask_cluster(cluster.scheduler_address))
    tasks = [{"layer": i / 2, "ids": [[i, 2, 3]]} for i in range(40)]
    running.run(last_logit, TASKS)  # both workers have the model
    killed = []

    def kill_one(ended: Any, what: str, total: int) -> Iterator[Any]:
        for i, found in enumerate(ended):
            if i == 5:
                killed.append(next(iter(cluster.workers.values())).pid)
                os.kill(killed[0], signal.SIGKILL)
            yield found

    running.show = kill_one
    expected = sweep(tiny_folder).run(last_logit, tasks)
    assert numbers(running.run(slow, tasks)) == pytest.approx(numbers(expected), abs=1e-5)
    assert len(killed) == 1
    running.close()


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for_lines(running: subprocess.Popen[str], path: Path, n: int) -> None:
    """Until a running lesson has written so many lines."""
    deadline = time.monotonic() + 120
    while count_lines(path) < n and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert running.poll() is None, running.communicate()[1]


def test_kill_and_resume_twenty_times(tiny_folder: Path, tmp_path: Path) -> None:
    """kill -9 at random moments. Each start goes on with the finished tasks, and the end is that of one run."""
    path, chance = tmp_path / "done.jsonl", random.Random(0)
    options = ["--prompts", "1000", "--resume", str(path)]
    lines = 0
    for _ in range(20):
        running = start_lesson(tiny_folder, *options)
        wait_for_lines(running, path, lines + chance.randint(1, 8))
        time.sleep(chance.random() * 0.01)
        running.kill()
        running.communicate()
        assert count_lines(path) >= lines
        lines = count_lines(path)
    before = path.read_bytes().splitlines(keepends=True)[:lines]
    resumed = lesson_logits(tiny_folder, tmp_path, *options)
    after = path.read_bytes().splitlines(keepends=True)
    assert after[:lines] == before
    tasks = [json.loads(line)["task"] for line in after[1:]]
    assert len(tasks) == len(set(tasks)) == 2 * 1000  # nothing twice
    assert resumed == lesson_logits(tiny_folder, tmp_path, "--prompts", "1000")


@pytest.mark.parametrize("kind", ["here", "jobs", "dask"])
def test_ctrl_c_ends_at_once_and_keeps_what_is_finished(
    kind: str, tiny_folder: Path, cluster: Any, tmp_path: Path
) -> None:
    path = tmp_path / "done.jsonl"
    elsewhere = {"here": [], "jobs": ["--jobs", "2"], "dask": ["--dask", cluster.scheduler_address]}[kind]
    running = start_lesson(tiny_folder, "--prompts", "600", "--resume", str(path), *elsewhere)
    wait_for_lines(running, path, 10)
    start = time.monotonic()
    os.kill(running.pid, signal.SIGINT)
    _, errors = running.communicate(timeout=60)
    assert time.monotonic() - start < 10
    assert running.returncode == 130, errors
    assert "interrupted" in errors
    assert "Traceback" not in errors
    journal = [json.loads(line) for line in path.read_text().splitlines()]
    assert len(journal) >= 10
    assert len({entry["task"] for entry in journal[1:]}) == len(journal) - 1
