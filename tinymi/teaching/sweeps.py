"""The options of a lesson whose sweep may run elsewhere, and the Sweep that they ask for."""

import os
from argparse import Namespace
from collections.abc import Sequence
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING

from tinymi.errors import InputError
from tinymi.teaching.options import Option
from tinymi.version import __version__

if TYPE_CHECKING:
    from tinymi.run import Model
    from tinymi.sweep import Journal, Show, Sweep

OPTIONS = (
    Option("jobs", int, None, "sweep with N processes, each with one BLAS thread"),
    Option("dask", str, None, "sweep on a Dask cluster, such as tcp://127.0.0.1:8786", metavar="ADDRESS"),
    Option("resume", str, None, "write down what is finished, and go on from there next time", metavar="FILE"),
)


def sweep(model: "Model", prompts: Sequence[str], lesson: str, options: Namespace, show: "Show") -> "Sweep":
    """A Sweep as the options say. prompts: what its --resume file must be about. lesson: the name of its script."""
    from tinymi.sweep import Sweep

    if options.jobs is not None and options.dask is not None:
        raise InputError("--jobs and --dask: both name workers; give one of them")
    source = options.model
    if source is not None and os.path.exists(source):
        source = os.path.abspath(source)  # a worker may run in another folder
    journal = None if options.resume is None else _journal(options.resume, model, prompts, lesson, source)
    return Sweep(model, source, _executor(options), journal, show, options.weights)


def _journal(path: str, model: "Model", prompts: Sequence[str], lesson: str, source: str | None) -> "Journal":
    from tinymi.sweep import Journal, digest, identity

    about = {
        "tinymi": __version__,
        "lesson": lesson,
        "model": f"{source or 'the default model'} ({identity(model)})",
        "prompts": f"{len(prompts)} from {prompts[0]!r} on ({digest(list(prompts))})",
    }
    return Journal(Path(path), about)


def _executor(options: Namespace) -> Executor | None:
    from tinymi.sweep import dask_cluster, process_pool

    if options.jobs is not None:
        return process_pool(options.jobs)
    return None if options.dask is None else dask_cluster(options.dask)
