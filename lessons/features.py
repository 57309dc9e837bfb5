"""What lessons about features share: text that is on every computer, and the dictionary that lesson 19 has trained.

    dictionary = features.dictionary(model)  # from tinymi's cache folder; where it is missing, lesson 19 trains it

The text is Python's own: the topics of `help()`, and modules of the standard library.
"""

import hashlib
import inspect
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, astuple, dataclass, replace
from importlib import import_module
from itertools import count
from typing import Any

from tinymi import Dictionary, Model, load_dictionary, save_dictionary
from tinymi.arrays import Array, Tokens
from tinymi.checkpoint import downloads
from tinymi.errors import SourceError
from tinymi.teaching import Lesson, catalogue, show_token
from tinymi.teaching.running import run_lesson

import numpy as np

MODULES = (
    "argparse ast calendar cmd configparser copy csv datetime difflib doctest email.message enum fractions ftplib "
    "functools gettext heapq html.parser imaplib inspect ipaddress json.decoder locale logging mailbox mimetypes "
    "optparse pathlib pickle pprint queue random sched shelve shlex shutil smtplib socket statistics string subprocess "
    "tarfile tempfile textwrap threading timeit tokenize traceback typing unittest.case urllib.request uuid zipfile"
)
WINDOW = 64  # tokens


@dataclass(frozen=True)
class Settings:
    """What lesson 19 trains: its options, by name."""

    layer: int = 9
    features: int = 2048
    active: int = 32
    steps: int = 200

    @classmethod
    def read(cls, options: Namespace, model: Model) -> "Settings":
        return cls(options.layer, options.features, options.active, options.steps).fit(model)

    def fit(self, model: Model) -> "Settings":
        """The same for a model that may have fewer layers, or be too small for so many features."""
        most = 16 * model.config.d_model
        return replace(self, layer=self.layer % model.config.n_layers, features=min(self.features, most))


def settings_options(lesson: Lesson) -> None:
    """Add the options by which lesson 19 trains a dictionary, and others choose it: `Settings.read` reads them."""
    usual = Settings()
    lesson.option("--layer", type=int, default=usual.layer, minimum=0, help="the layer whose output is taken apart")
    lesson.option("--features", type=int, default=usual.features, minimum=64, maximum=8192, help="how many features")
    lesson.option("--active", type=int, default=usual.active, minimum=1, maximum=64, help="how many are active at once")
    lesson.option("--steps", type=int, default=usual.steps, minimum=1, maximum=2000, help="steps of training")


def windows(model: Model) -> tuple[Tokens, Tokens, Tokens]:
    """Token ids [window, pos]: to train on, and two sets from other documents. Raises SourceError."""
    try:
        from pydoc_data import topics
    except ModuleNotFoundError:
        raise SourceError("Python's documentation, the text of lesson 19: a browser's Python has none") from None
    texts = [text for _, text in sorted(topics.topics.items())]
    texts += [inspect.getsource(import_module(name)) for name in MODULES.split()]
    length = min(WINDOW, model.config.n_ctx)
    parts: tuple[list[Tokens], ...] = ([], [], [])
    for document, text in enumerate(texts):
        part = parts[{3: 1, 7: 2}.get(document % 8, 0)]
        for start in range(0, min(len(text), 10_000), 1_250):
            ids = model.tokenizer.to_tokens(text[start : start + 400])[0, :length]
            if len(ids) == length:
                part.append(ids)
    train, first, second = (np.stack(part) for part in parts)
    return train, first, second


def streams(
    model: Model, tokens: Tokens, points: Sequence[str], progress: Callable[..., Iterable[Tokens]]
) -> list[Array]:
    """The values at some points of windows, without the first position: [row, width] each.

    progress: as `lesson.progress`.
    """
    stop = 1 + max(int(point.split(".")[1]) for point in points)
    parts = []
    for batch in progress(np.array_split(tokens, -(-len(tokens) // 16)), "text"):
        _, cache = model.run_with_cache(batch, points, stop_at_layer=stop)
        parts.append([cache[point][:, 1:].reshape(-1, cache[point].shape[-1]) for point in points])
    return [np.concatenate(rows) for rows in zip(*parts)]


def adam(weights: Sequence[Array]) -> Callable[[Sequence[Array]], None]:
    """A function that makes one step of Adam, as in lesson 17: given the loss's slopes, it changes the weights."""
    averages, squares = ([np.zeros_like(w) for w in weights] for _ in range(2))
    steps = count(1)

    def move(slopes: Sequence[Array]) -> None:
        step = next(steps)
        for w, slope, average, square in zip(weights, slopes, averages, squares):
            average += 0.1 * (slope - average)
            square += 0.001 * (slope**2 - square)
            w -= 0.004 * average / (1 - 0.9**step) / (np.sqrt(square / (1 - 0.999**step)) + 1e-8)

    return move


def components(point: str, rows: Array, k: int) -> Dictionary:
    """The mean of rows [row, d] and their k principal components as a dictionary: a feature for each side of each."""
    mean = rows.mean(axis=0)
    V = np.linalg.eigh((rows - mean).T @ (rows - mean))[1][:, -k:].T  # [k, d]
    sides = np.vstack([V, -V])
    return Dictionary(point, (point,), sides, np.zeros(len(sides), rows.dtype), sides, mean, b_in=mean)


def contexts(model: Model, tokens: Tokens, values: Array, n: int = 4) -> list[tuple[list[str], Array]]:
    """Where a unit is strongest, for `lesson.highlight`: one place in each of n windows, with what is around it.

    tokens: [window, pos]. values: the unit's, without the first positions: [row].
    """
    by_window = values.reshape(len(tokens), -1)  # [window, pos]
    rows = []
    for window in np.argsort(-by_window.max(axis=1))[:n]:
        at = int(by_window[window].argmax())
        cut = slice(max(0, at - 8), at + 3)
        rows.append((model.to_str_tokens(tokens[window, 1:][cut]), by_window[window, cut]))
    return rows


def promotes(model: Model, direction: Array, n: int = 4) -> str:
    """The tokens that a direction [d_model] of the stream promotes most, read through the unembedding."""
    written = direction * model.weights.ln_final @ model.weights.W_U  # [d_vocab]
    return ", ".join(map(show_token, model.to_str_tokens(np.argsort(-written)[:n])))


def place(model: Model, settings: Settings) -> str:
    """Of the dictionary in tinymi's cache folder: another model has another, and so has another version of Python."""
    content = hashlib.sha256(windows(model)[0].tobytes())
    content.update(np.ascontiguousarray(model.weights.blocks[settings.layer].W_out).tobytes())
    return f"dictionaries/{content.hexdigest()[:16]}-{'-'.join(map(str, astuple(settings)))}"


def kept(model: Model, settings: Settings, train: Callable[[], Dictionary], *calls: Callable[..., Any]) -> Dictionary:
    """What `train` gives: from the cache if it has the same code as then, else trained now and saved as SAELens does.

    calls: the functions that train calls, whose code counts, too.
    """
    code = "\n".join(map(inspect.getsource, (train, *calls)))
    folder = downloads.build(place(model, settings), code, 64_000_000, lambda folder: save_dictionary(train(), folder))
    return load_dictionary(folder, model)


def dictionary(model: Model, settings: Settings | None = None) -> Dictionary:
    """The dictionary that lesson 19 trains for this model. Where it has not yet, it does so now: a minute or two."""
    settings = (settings or Settings()).fit(model)
    folder = downloads.home() / place(model, settings)
    if not (folder / "cfg.json").is_file():
        downloads.say("no dictionary for this model yet: lesson 19 trains one")
        run_lesson(catalogue.find("19").path, [f"--{name}={value}" for name, value in asdict(settings).items()], model)
    return load_dictionary(folder, model)
