"""Many tasks on one model, in this process or on any `concurrent.futures.Executor`, and a file to resume from.

A task is a small piece of JSON (a layer, some prompts). Its work is a function of the model and the task that returns
numbers. Each worker loads the model once. Every executor gives the same results, in the order of the tasks.

    sweep = Sweep(model, source, executor=None)
    results = sweep.run(work, tasks)
    sweep.close()

The lessons whose sweeps take long have the options --prompts N, --jobs N (processes on this machine, each with one BLAS
thread; needs `pip install "tinymi[sweep]"`), --dask ADDRESS (a Dask cluster; `pip install "tinymi[dask]"`) and --resume
FILE (finished tasks are written down, and a sweep that was stopped goes on from there):

    dask scheduler                                 # on one machine; it prints its address
    dask worker tcp://HOST:8786 --nthreads 1       # on each machine that is to work, with tinymi installed there
    python lessons/NAME.py --prompts 1000 --dask tcp://HOST:8786 --resume tasks.jsonl

On two cores `--jobs 2` was 1.2 times as fast as one process with two BLAS threads (24 prompts of activation patching:
44 seconds against 52). More machines are what a cluster is for.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, CancelledError, Executor, Future, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from tinymi.errors import SweepError
from tinymi.machine.browser import IN_BROWSER
from tinymi.version import __version__

if TYPE_CHECKING:
    from tinymi.run import Model

T = TypeVar("T")
Task = Mapping[str, Any]  # JSON
Work = Callable[["Model", Any], Any]  # (model, task) -> JSON: lists of numbers, say
Show = Callable[[Iterable[Any], str, int], Iterable[Any]]  # a progress bar: (results as they come, name, how many)


# --- on a worker -----------------------------------------------------------------------------------------------

_CACHE_SIZE = 24  # enough for the model, the streams of a few groups of prompts, the means of some templates
_cache: OrderedDict[str, Any] = OrderedDict()
_lock = threading.RLock()


def cached(key: str, compute: Callable[[], T]) -> T:
    """What `compute` returns, kept in this process under `key` until _CACHE_SIZE other keys have been used since."""
    with _lock:
        if key not in _cache:
            _cache[key] = compute()
        _cache.move_to_end(key)
        while len(_cache) > _CACHE_SIZE:
            _cache.popitem(last=False)
        value: T = _cache[key]
        return value


def digest(value: Any) -> str:
    """A short name for a piece of JSON: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def run_task(work: Work, source: str | None, weights: Literal["loaded", "mapped"], version: str, task: Task) -> Any:
    """What an executor runs: the work, with this worker's own copy of the model."""
    from tinymi.checkpoint import load

    if __version__ != version:
        raise SweepError(
            f"worker: has tinymi {__version__}, the sweep was started by {version}; install the same version"
        )
    return work(cached(f"model {source} {weights}", lambda: load(source, weights=weights)), task)


# --- executors -------------------------------------------------------------------------------------------------


def process_pool(jobs: int) -> Executor:
    """`jobs` worker processes on this machine, started anew (no fork), each with one BLAS thread."""
    if IN_BROWSER:
        raise SweepError("jobs: a browser's tab has one process; leave them out")
    try:
        from loky import ProcessPoolExecutor
    except ImportError:
        raise SweepError('jobs: loky is not installed; install it with: pip install "tinymi[sweep]"') from None
    most = 4 * (os.cpu_count() or 1)
    if not 1 <= jobs <= most:
        raise SweepError(f"jobs: {jobs}, but this machine takes 1 to {most} (4 per core); give a number in this range")
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    pool: Executor = ProcessPoolExecutor(max_workers=jobs, env=threads)
    return pool


def dask_cluster(address: str) -> Executor:
    """The workers of a Dask cluster, whose scheduler listens at `address`, such as tcp://host:8786."""
    if IN_BROWSER:
        raise SweepError("dask: a browser's tab reaches no cluster; leave it out")
    try:
        from distributed import Client
    except ImportError:
        raise SweepError('dask: distributed is not installed; install it with: pip install "tinymi[dask]"') from None
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SweepError(
            f"dask: no scheduler answers at {address!r} ({' '.join(str(error).split())[:200]}); start one with "
            "`dask scheduler` and give the address that it prints"
        ) from None
    executor: Executor = client.get_executor()
    return executor


def abandon(executor: Executor) -> None:
    """Stop at once, without waiting for running tasks."""
    for option in ({"kill_workers": True}, {"cancel_futures": True}, {}):  # loky's, the standard library's, Dask's
        with suppress(TypeError):  # another executor's option
            executor.shutdown(wait=False, **option)
            return


def _worker_died(error: BaseException) -> bool:
    """Whether this is how a pool or a cluster reports it (Dask: after the same task has killed several workers)."""
    return isinstance(error, (BrokenExecutor, CancelledError)) or type(error).__name__ == "KilledWorker"


# --- the file to resume from -----------------------------------------------------------------------------------


@dataclass
class Journal:
    """Finished tasks as JSON lines, below a first line that says which sweep they belong to.

    path: created if it does not exist. about: what must be the same to resume: model, prompts, version.
    Raises SweepError for a file of another kind or sweep, a damaged one, or one that another process writes to.
    """

    path: Path
    about: Mapping[str, Any]
    results: dict[str, Any] = field(default_factory=dict)  # digest of work and task -> result

    def __post_init__(self) -> None:
        from filelock import FileLock, Timeout

        try:
            self._lock = FileLock(f"{self.path}.lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise SweepError(
                f"{self.path}: another sweep is writing to it; wait until it ends, or name another file"
            ) from None
        except OSError as error:
            raise self._not_writable(error) from None
        try:
            lines = self._complete_lines()
            if lines:
                self._check_head(lines[0])
                self._read(lines[1:])
            self._file = self.path.open("a", encoding="utf-8")
        except OSError as error:
            self._unlock()
            raise self._not_writable(error) from None
        except SweepError:
            self._unlock()
            raise
        if not lines:
            self._append({"sweep": dict(self.about)})

    def add(self, key: str, result: Any) -> None:
        """Write down the result of a finished task."""
        self.results[key] = result
        self._append({"task": key, "result": result})

    def close(self) -> None:
        self._file.close()
        self._unlock()

    def _unlock(self) -> None:
        """Unlink first: after the release another sweep may hold a lock of that name."""
        with suppress(PermissionError):  # Windows does not unlink an open file; filelock does it there
            Path(f"{self.path}.lock").unlink(missing_ok=True)
        self._lock.release()

    def _not_writable(self, error: OSError) -> SweepError:
        return SweepError(f"{self.path}: cannot be written ({error.strerror}); make room or name another file")

    def _complete_lines(self) -> list[str]:
        """The file's lines. A last line that was cut off in writing is removed from the file."""
        if not self.path.exists():
            return []
        if not self.path.is_file():  # a pipe or a device might never end
            raise SweepError(f"{self.path}: is not a regular file; name another")
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = whole.decode("utf-8").splitlines()
        except UnicodeDecodeError:
            raise SweepError(f"{self.path}: is not a file of finished tasks; name another") from None
        if whole != content:
            if not lines and content[:10] != b'{"sweep": '[: len(content)]:
                raise SweepError(f"{self.path}: is not a file of finished tasks; name another")
            os.truncate(self.path, len(whole))
        return lines

    def _check_head(self, line: str) -> None:
        try:
            head = json.loads(line)["sweep"]
            differing = [name for name in sorted({*head, *self.about}) if head.get(name) != self.about.get(name)]
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            raise SweepError(f"{self.path}: is not a file of finished tasks; name another") from None
        if differing:
            theirs, ours = ({name: of.get(name) for name in differing} for of in (head, self.about))
            raise SweepError(
                f"{self.path}: belongs to another sweep: it has {_words(theirs)}, this one has {_words(ours)}; name "
                "another file, or run the sweep that it belongs to"
            )

    def _read(self, lines: Sequence[str]) -> None:
        for number, line in enumerate(lines, start=2):
            try:
                entry = json.loads(line)
                self.results[str(entry["task"])] = entry["result"]
            except (ValueError, LookupError, TypeError, RecursionError):
                raise SweepError(
                    f"{self.path}: line {number} is damaged ({line[:40]!r}); delete it, and its task is run again"
                ) from None

    def _append(self, entry: Any) -> None:
        try:
            self._file.write(json.dumps(entry) + "\n")
            self._file.flush()
        except OSError as error:
            raise self._not_writable(error) from None


def _words(values: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value!r}" for name, value in values.items())


def identity(model: Model) -> str:
    """A digest of the model's config and some of its weights, to tell models apart."""
    weights = model.weights
    parts = [json.dumps(asdict(model.config), sort_keys=True, default=str).encode()]
    parts += [weights.ln_final.tobytes(), weights.blocks[0].ln1.tobytes(), weights.blocks[-1].W_out[:8].tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


# --- the sweep -------------------------------------------------------------------------------------------------


@dataclass
class Sweep:
    """Runs tasks on an executor, or in this process without one.

    source, weights: what tinymi.load gets on the workers, which must find the model under the same name.
    journal: where finished tasks are looked up and written down.
    show: wraps the results, to show progress.
    """

    model: Model
    source: str | None = None
    executor: Executor | None = None
    journal: Journal | None = None
    show: Show = lambda results, what, total: results
    weights: Literal["loaded", "mapped"] = "loaded"

    def run(self, work: Work, tasks: Sequence[Task], what: str = "sweep") -> list[Any]:
        """The results in the order of the tasks. Raises SweepError when workers die, and whatever `work` raises."""
        keys = [digest([work.__name__, task]) for task in tasks]
        done = {} if self.journal is None else dict(self.journal.results)
        todo = {key: task for key, task in zip(keys, tasks, strict=True) if key not in done}
        if self.executor is None:
            results = self._run_in_process(work, todo)
        else:
            results = self._run_on_executor(self.executor, work, todo)
        for key, result in self.show(results, what, len(todo)):
            done[key] = result
            if self.journal is not None:
                self.journal.add(key, result)
        return [done[key] for key in keys]

    def close(self) -> None:
        """Release the workers and the file."""
        if self.executor is not None:
            self.executor.shutdown()
        if self.journal is not None:
            self.journal.close()

    def _run_in_process(self, work: Work, tasks: Mapping[str, Task]) -> Iterator[tuple[str, Any]]:
        for key, task in tasks.items():
            yield key, work(self.model, task)

    def _run_on_executor(self, executor: Executor, work: Work, tasks: Mapping[str, Task]) -> Iterator[tuple[str, Any]]:
        futures: dict[Future[Any], str] = {}
        n_done = 0
        try:
            for key, task in tasks.items():
                futures[executor.submit(run_task, work, self.source, self.weights, __version__, task)] = key
            for future in as_completed(futures):
                result = future.result()
                n_done += 1
                yield futures[future], result
        except BaseException as error:
            abandon(executor)
            if not _worker_died(error):
                raise
            saved = "they are lost; start it again" if self.journal is None else f"resume from {self.journal.path}"
            raise SweepError(
                f"sweep: a worker process died (killed, or out of memory: {type(error).__name__}) when {n_done} of "
                f"{len(tasks)} tasks were finished; {saved}, with fewer jobs if memory was short"
            ) from None
