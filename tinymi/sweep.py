"""Many tasks on one model, on any `concurrent.futures.Executor`, with a file from which a stopped sweep goes on.

A task is a small piece of JSON (a layer, some prompts), its work a function of the model and the task that returns
numbers. Each worker loads the model once. Whatever the executor and the order in which tasks end, the results are the
same and come in the order of the tasks.

    sweep = Sweep(model, source, executor=None)
    results = sweep.run(work, tasks)
    sweep.close()
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

if TYPE_CHECKING:
    from tinymi.model import Model

T = TypeVar("T")
Task = Mapping[str, Any]  # JSON
Work = Callable[["Model", Any], Any]  # (model, task) -> JSON: lists of numbers, say
Show = Callable[[Iterable[Any], str, int], Iterable[Any]]  # a progress bar: (what is waited for, its name, how many)


# --- on a worker -----------------------------------------------------------------------------------------------

_KEPT = 24  # what a process remembers: the streams of a few groups of prompts, the means of some templates
_memory: OrderedDict[str, Any] = OrderedDict()
_lock = threading.RLock()


def remember(key: str, make: Callable[[], T]) -> T:
    """What `make` returns, made once per process and key as long as no more than a few others are asked for since."""
    with _lock:
        if key not in _memory:
            _memory[key] = make()
        _memory.move_to_end(key)
        while len(_memory) > _KEPT:
            _memory.popitem(last=False)
        found: T = _memory[key]
        return found


def digest(value: Any) -> str:
    """A short name for a piece of JSON: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def work_on_a_worker(
    work: Work, source: str | None, weights: Literal["loaded", "mapped"], version: str, task: Task
) -> Any:
    """What an executor runs: the work, with this worker's own copy of the model."""
    import tinymi

    if tinymi.__version__ != version:
        raise SweepError(
            f"worker: has tinymi {tinymi.__version__}, the sweep was started by {version}; install the same version"
        )
    return work(remember(f"model {source} {weights}", lambda: tinymi.load(source, weights=weights)), task)


# --- executors -------------------------------------------------------------------------------------------------


def process_pool(jobs: int) -> Executor:
    """So many worker processes on this machine, started anew (no fork), each with one BLAS thread."""
    from loky import ProcessPoolExecutor

    most = 4 * (os.cpu_count() or 1)
    if not 1 <= jobs <= most:
        raise SweepError(f"jobs: {jobs}, but this machine takes 1 to {most} (4 per processor); give one of these")
    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    pool: Executor = ProcessPoolExecutor(max_workers=jobs, env=threads)
    return pool


def dask_cluster(address: str) -> Executor:
    """The workers of a Dask cluster, whose scheduler listens at `address`, such as tcp://host:8786."""
    try:
        from distributed import Client
    except ImportError:
        raise SweepError('dask: is not installed; install it with: pip install "tinymi[dask]"') from None
    try:
        client = Client(address, timeout=10, set_as_default=False)
    except (OSError, ValueError) as error:
        raise SweepError(
            f"dask: no scheduler answers at {address!r} ({' '.join(str(error).split())[:200]}); start one with "
            "`dask scheduler` and give the address that it prints"
        ) from None
    executor: Executor = client.get_executor()
    return executor


def _abandon(executor: Executor) -> None:
    """Stop at once: what runs is not waited for."""
    from loky import ProcessPoolExecutor

    if isinstance(executor, ProcessPoolExecutor):
        executor.shutdown(wait=False, kill_workers=True)
        return
    try:
        executor.shutdown(wait=False, cancel_futures=True)
    except TypeError:  # Dask's takes no such word: it cancels all the same
        executor.shutdown(wait=False)


def _worker_died(error: BaseException) -> bool:
    """Whether a pool or a cluster says so (Dask: when the same task has cost it several workers)."""
    return isinstance(error, (BrokenExecutor, CancelledError)) or type(error).__name__ == "KilledWorker"


# --- the file that a stopped sweep goes on from ------------------------------------------------------------------


@dataclass
class Journal:
    """Finished tasks as JSON lines, below a first line that says what they belong to.

    path: made if it is not there. about: what must be the same for a sweep to go on: model, prompts, version.
    Raises SweepError for a file of something else, one that is damaged, or one that another process writes to.
    """

    path: Path
    about: Mapping[str, Any]
    found: dict[str, Any] = field(default_factory=dict)  # digest of work and task -> result

    def __post_init__(self) -> None:
        from filelock import FileLock, Timeout

        try:
            self._lock = FileLock(f"{self.path}.lock")
            self._lock.acquire(timeout=0)
        except Timeout:
            raise SweepError(
                f"{self.path}: another sweep is writing to it; wait for its end or name another file"
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
        """Write down that a task is finished."""
        self.found[key] = result
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
        """The file's lines; a last one that was cut off while it was written is taken away."""
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
            there, here = ({name: of.get(name) for name in differing} for of in (head, self.about))
            raise SweepError(
                f"{self.path}: belongs to another sweep: it has {_words(there)}, this one has {_words(here)}; name "
                "another file, or run what it was begun with"
            )

    def _read(self, lines: Sequence[str]) -> None:
        for number, line in enumerate(lines, start=2):
            try:
                entry = json.loads(line)
                self.found[str(entry["task"])] = entry["result"]
            except (ValueError, LookupError, TypeError, RecursionError):
                raise SweepError(
                    f"{self.path}: line {number} is damaged ({line[:40]!r}); delete that line, its task is run again"
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
    """A digest of the model's config and of some of its weights: another model has another."""
    weights = model.weights
    parts = [json.dumps(asdict(model.config), sort_keys=True, default=str).encode()]
    parts += [weights.ln_final.tobytes(), weights.blocks[0].ln1.tobytes(), weights.blocks[-1].W_out[:8].tobytes()]
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


# --- the sweep -------------------------------------------------------------------------------------------------


@dataclass
class Sweep:
    """Runs tasks on an executor, or in this process where there is none.

    source, weights: what tinymi.load gets on the workers; the model must be found under that name there too.
    journal: where finished tasks are written down, and looked up.
    show: shows how far it is.
    """

    model: Model
    source: str | None = None
    executor: Executor | None = None
    journal: Journal | None = None
    show: Show = lambda ended, what, total: ended
    weights: Literal["loaded", "mapped"] = "loaded"

    def run(self, work: Work, tasks: Sequence[Task], what: str = "sweep") -> list[Any]:
        """The results in the order of the tasks. Raises SweepError when workers die, and whatever `work` raises."""
        keys = [digest([work.__name__, task]) for task in tasks]
        done = {} if self.journal is None else dict(self.journal.found)
        todo = {key: task for key, task in zip(keys, tasks, strict=True) if key not in done}
        ended = self._here(work, todo) if self.executor is None else self._there(self.executor, work, todo)
        for key, result in self.show(ended, what, len(todo)):
            done[key] = result
            if self.journal is not None:
                self.journal.add(key, result)
        return [done[key] for key in keys]

    def close(self) -> None:
        """Let the workers go, and the file."""
        if self.executor is not None:
            self.executor.shutdown()
        if self.journal is not None:
            self.journal.close()

    def _here(self, work: Work, tasks: Mapping[str, Task]) -> Iterator[tuple[str, Any]]:
        for key, task in tasks.items():
            yield key, work(self.model, task)

    def _there(self, executor: Executor, work: Work, tasks: Mapping[str, Task]) -> Iterator[tuple[str, Any]]:
        from tinymi import __version__

        futures: dict[Future[Any], str] = {}
        n_done = 0
        try:
            for key, task in tasks.items():
                futures[executor.submit(work_on_a_worker, work, self.source, self.weights, __version__, task)] = key
            for future in as_completed(futures):
                result = future.result()
                n_done += 1
                yield futures[future], result
        except BaseException as error:
            _abandon(executor)
            if not _worker_died(error):
                raise
            kept = "none is kept" if self.journal is None else f"they are kept in {self.journal.path}: start it again"
            raise SweepError(
                f"sweep: a worker process died (killed, or out of memory: {type(error).__name__}) when {n_done} of "
                f"{len(tasks)} tasks were finished; {kept}, with fewer jobs if memory was short"
            ) from None
