"""A checkpoint from the Hugging Face hub, by the hub's own client and into the hub's own cache.

Only config.json, the tokenizer's two files and the standard safetensors are fetched: no pickle, no code, no second copy
of the weights in another layout. When the hub cannot answer, a complete copy in the cache is used.
"""

from __future__ import annotations

import glob
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tinymi.checkpoint import downloads, local
from tinymi.checkpoint.safetensors_file import INDEX, weight_map
from tinymi.errors import SourceError, TinymiError

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils.tqdm import tqdm

_SINGLE = "model.safetensors"
_FOR_TEXT = {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"}
_REVISION = re.compile(r"(?!.*\.\.)[\w][\w./-]*")


Choice = Callable[[set[str]], list[str]]
"""From the names of a repository's files to those that are needed."""


def folder(repo: str, *, revision: str | None) -> Path:
    """The snapshot of `repo` at `revision` (a branch, tag or commit; None: main) in the hub client's cache.

    Raises SourceError, one line, when the hub refuses or cannot be reached and the cache has no complete copy.
    """

    def needed(listed: set[str]) -> list[str]:
        return ["config.json", *sorted(_FOR_TEXT & listed), *_weight_files(repo, revision, listed)]

    return _snapshot(repo, revision, needed, lambda: _cached(repo, revision))


def files(repo: str, *, revision: str | None, choose: Choice) -> Path:
    """The same for a repository that holds no model: a snapshot with the files that `choose` takes."""

    def cached() -> Path | None:
        cache = Path(constants.HF_HUB_CACHE) / f"models--{repo.replace('/', '--')}"
        ref = cache / "refs" / (revision or "main")
        place = cache / "snapshots" / (ref.read_text().strip() if ref.is_file() else revision or "none")
        try:
            choose({file.relative_to(place).as_posix() for file in place.rglob("*") if file.is_file()})
        except SourceError:
            return None
        return place

    return _snapshot(repo, revision, choose, cached)


def _snapshot(repo: str, revision: str | None, choose: Choice, find_cached: Callable[[], Path | None]) -> Path:
    if revision is not None and not (isinstance(revision, str) and _REVISION.fullmatch(revision)):
        raise SourceError(f"revision={revision!r} is not a name: a branch, a tag or a commit of {repo} would be valid")
    try:
        return _fetch(repo, revision, choose)
    except TinymiError:
        raise
    except Exception as error:  # the client's and its transport's errors share no base class
        if (cached := find_cached()) is not None:
            downloads.say(f"using the copy of {repo} in {cached}: {_in_a_line(error)}")
            return cached
        raise SourceError(_explain(repo, revision, error)) from error


def _fetch(repo: str, revision: str | None, choose: Choice) -> Path:
    timeout = constants.HF_HUB_ETAG_TIMEOUT
    info = HfApi().model_info(repo, revision=revision, files_metadata=True, timeout=timeout)
    if not re.fullmatch("[0-9a-f]{40}", info.sha or ""):
        raise SourceError(f"the hub gave {info.sha!r} as the commit of {repo}: 40 hex digits would be valid")
    sizes = {file.rfilename: file.size for file in info.siblings or []}
    names = choose(set(sizes))
    for name in names:
        if name not in sizes:
            raise SourceError(f"{repo} on the hub has no {name}, which tinymi needs: use another model or revision")
    missing = sum(sizes[name] or 0 for name in names if not _is_whole(repo, name, info.sha, sizes[name]))
    if missing:
        place = Path(constants.HF_HUB_CACHE)
        downloads.check_space(place, missing, "HF_HOME")
        downloads.say(f"downloading {repo} from the hub, {missing / 1e6:,.1f} MB, to {place}")
    bars = tqdm if missing and sys.stderr.isatty() else _NoBar
    patterns = [glob.escape(name) for name in names]  # a name with a * in it names one file, too
    return Path(
        snapshot_download(repo, revision=revision, allow_patterns=patterns, etag_timeout=timeout, tqdm_class=bars)
    )


class _NoBar(tqdm):
    """The client's progress bar, never drawn: for a log, and where there is nothing to fetch."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **(options | {"disable": True}))  # type: ignore[no-untyped-call]


def _weight_files(repo: str, revision: str | None, listed: set[str]) -> list[str]:
    """The names of the weights among the files of the repository: one file, or an index and its shards."""
    if _SINGLE in listed:
        return [_SINGLE]
    if INDEX in listed:
        index = hf_hub_download(repo, INDEX, revision=revision, etag_timeout=constants.HF_HUB_ETAG_TIMEOUT)
        return [INDEX, *shards_of(Path(index))]
    pickles = sorted(name for name in listed if name.endswith((".bin", ".pt", ".pth")))
    if pickles:
        raise SourceError(
            f"{repo} on the hub has its weights only as {pickles[0]}, {local.PICKLE}; use a revision or model with "
            "model.safetensors"
        )
    raise SourceError(f"{repo} on the hub has neither {_SINGLE} nor {INDEX}: use a model that has")


def shards_of(index: Path) -> list[str]:
    """The file names in a safetensors index, sorted. Raises WeightsError when it is broken or they leave the folder."""
    return sorted(set(weight_map(index).values()))


def _is_whole(repo: str, name: str, revision: str | None, size: int | None) -> bool:
    """Whether the cache has the file in the size that the hub says; a copy of another size is removed."""
    found = try_to_load_from_cache(repo, name, revision=revision)
    if not isinstance(found, str):
        return False
    if size is None or Path(found).stat().st_size == size:
        return True
    for place in (Path(found).resolve(), Path(found)):
        place.unlink(missing_ok=True)
    return False


def _cached(repo: str, revision: str | None) -> Path | None:
    """The snapshot in the client's cache, when nothing of it is missing."""
    found = try_to_load_from_cache(repo, "config.json", revision=revision)
    if not isinstance(found, str):
        return None
    snapshot = Path(found).parent
    try:
        shards = [] if (snapshot / _SINGLE).is_file() else shards_of(snapshot / INDEX)
        complete = all((snapshot / name).is_file() for name in shards)
        return local.checked(snapshot) if complete else None
    except TinymiError:
        return None


def _in_a_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _explain(repo: str, revision: str | None, error: Exception) -> str:
    """What went wrong and what to do. The order matters: the client's gated error is a not-found error."""
    page = f"{constants.ENDPOINT}/{repo}"
    chain = [error, error.__cause__, error.__context__]
    at = "" if revision is None else f" at revision {revision}"
    if any(isinstance(link, GatedRepoError) for link in chain):
        return (
            f"{repo} on the hub is gated: accept its licence at {page}, then log in with `hf auth login` or set "
            "HF_TOKEN, and start again"
        )
    if any(isinstance(link, RevisionNotFoundError) for link in chain):
        return f"{repo} on the hub has no revision {revision!r}: see the branches and tags at {page}"
    if any(isinstance(link, RepositoryNotFoundError) for link in chain):
        return (
            f"{repo} is neither a folder here nor a model on the hub that you may see: check the name; for a private "
            "or gated model log in with `hf auth login` or set HF_TOKEN"
        )
    if any(isinstance(link, OfflineModeIsEnabled) for link in chain):
        return (
            f"{repo}{at} is not complete in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE forbids fetching "
            "it: unset HF_HUB_OFFLINE, or give a local folder"
        )
    for link in chain:
        if isinstance(link, HfHubHTTPError) and link.response is not None:
            status = link.response.status_code
            return f"the hub answered {status} for {repo}{at}: {_status_advice(status)}"
    return (
        f"{repo}{at} could not be fetched from the hub at {constants.ENDPOINT} and is not complete in the cache "
        f"({_in_a_line(error)}): check the network and the proxy and start again, or give a local folder"
    )


def _status_advice(status: int) -> str:
    if status in (401, 403):
        return "log in with `hf auth login` or set HF_TOKEN to a token that may read it, and start again"
    return "try again later, or give a local folder"
