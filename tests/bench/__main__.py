"""tinymi beside its peers, the same work on the same weights: `python -m tests.bench`.

    --only forward,lens    some of the rows: forward, gradients, lens, cache, knockout, generate, hooks, jobs,
                           serve (needs playwright and a Chromium on PATH)
    --repeat 5             rounds; theirs and ours run in turn, medians are printed
    --model FOLDER         another checkpoint; without it the default model

Install the peers first: `pip install -e ".[bench]"`. A ratio above 1 means that tinymi is faster. `limit` is what this
machine could do at best: the multiply-adds at the speed of its own large matmul, or the weights read once from memory,
whichever takes longer.
"""

import argparse
import os
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tinymi
from tests.bench.peers import HF_LENS, TINYMI_LENS, TL_LENS, HuggingFace, TransformerLens
from tests.bench.timing import Machine, measure_machine, processes_side_by_side, run_script, seconds, side_by_side
from tests.running import ROOT
from tinymi import KeyValueCache, Model
from tinymi.arrays import Array, Tokens
from tinymi.backward import logit_difference
from tinymi.checkpoint.find import folder_for
from tinymi.hooks import HookPoint, get_act_name, hook_points
from tinymi.ops import rms_norm

import numpy as np
from tabulate import tabulate

SHAPES = ((1, 6), (1, 14), (1, 64), (1, 256), (8, 14), (16, 14), (32, 14))


@dataclass(frozen=True)
class Row:
    """One line of the table; seconds, or None where there is nothing to compare."""

    work: str
    peer: str
    theirs: float
    ours: float
    limit: float | None = None
    note: str = ""

    def cells(self) -> list[str]:
        limit = "" if self.limit is None else f"{1e3 * self.limit:,.0f}"
        ratio = f"{self.theirs / self.ours:.2f}"
        return [self.work, self.peer, f"{1e3 * self.theirs:,.0f}", f"{1e3 * self.ours:,.0f}", ratio, limit, self.note]


@dataclass(frozen=True)
class Bench:
    """What the rows share."""

    folder: Path
    model: Model
    machine: Machine
    repeat: int

    def tokens(self, batch: int, n_pos: int) -> Tokens:
        return np.random.default_rng(0).integers(0, self.model.config.d_vocab, (batch, n_pos))

    def limit(self, n_tokens: int, n_unembedded: int) -> float:
        """Of one forward pass: its matmuls with weights (attention scores left out), every weight read once."""
        config = self.model.config
        heads = (2 * config.n_heads + 2 * config.n_kv_heads) * config.d_head
        per_token = config.n_layers * (config.d_model * heads + 3 * config.d_model * config.d_mlp)
        unembedding = config.d_model * config.d_vocab
        total = n_tokens * per_token + n_unembedded * unembedding
        return self.machine.limit(total, 4 * (per_token + unembedding))


def forward(bench: Bench) -> Iterator[Row]:
    peer = HuggingFace(bench.folder)
    for batch, n_pos in SHAPES:
        tokens = bench.tokens(batch, n_pos)
        theirs, ours = side_by_side(peer.forward(tokens), partial(bench.model, tokens), bench.repeat)
        n = batch * n_pos
        yield Row(f"forward {batch}x{n_pos}", peer.name, theirs, ours, bench.limit(n, n))


def gradients(bench: Bench) -> Iterator[Row]:
    """One forward and one backward pass, to the gradient at the embedding."""
    peer, (answer, foil) = HuggingFace(bench.folder), (1, 2)
    for batch, n_pos in ((1, 14), (8, 14)):
        tokens = bench.tokens(batch, n_pos)

        def ours(names: str | None = "hook_embed", tokens: Tokens = tokens) -> Array:
            d_logits = partial(logit_difference, answer=answer, foil=foil)
            return bench.model.run_with_gradients(tokens, lambda logits: d_logits(logits)[1], names)[2]["hook_embed"]

        their_run = peer.gradients(tokens, answer, foil)
        expected = their_run()
        error = np.abs(ours() - expected).max() / np.abs(expected).max()
        theirs, our_time = side_by_side(their_run, ours, bench.repeat)
        everything, forward_only = side_by_side(partial(ours, None), partial(bench.model, tokens), bench.repeat)
        note = f"{our_time / forward_only:.2f} forward passes, at every point {everything / forward_only:.2f}; "
        note += f"largest difference {error:.0e}"
        yield Row(f"forward and backward {batch}x{n_pos}", peer.name, theirs, our_time, None, note)


def lens(bench: Bench) -> Iterator[Row]:
    processes = processes_side_by_side([HF_LENS, TL_LENS, TINYMI_LENS], min(bench.repeat, 3), str(bench.folder))
    ours = processes[-1]
    for name, theirs in zip((HuggingFace.name, TransformerLens.name), processes, strict=False):
        note = f"peak {theirs.peak_mib:,.0f} MiB, ours {ours.peak_mib:,.0f}"
        yield Row("whole process: logit lens of one prompt", name, theirs.seconds, ours.seconds, None, note)


def cache(bench: Bench) -> Iterator[Row]:
    peer, tokens = TransformerLens(bench.folder), bench.tokens(1, 14)
    theirs, ours = side_by_side(peer.run_with_cache(tokens), partial(bench.model.run_with_cache, tokens), bench.repeat)
    yield Row("run_with_cache of everything, 1x14", peer.name, theirs, ours, bench.limit(14, 14))


def knockout(bench: Bench) -> Iterator[Row]:
    """Every head knocked out in turn, 16 IOI prompts; of TransformerLens one head a layer is timed."""
    config = bench.model.config
    peer, tokens = TransformerLens(bench.folder), bench.model.to_tokens(ioi_prompts())
    ids = np.array([[bench.model.to_single_token(f" {name}") for name in ("Mary", "John")]] * len(tokens))
    chosen = [(layer, layer % config.n_heads) for layer in range(config.n_layers)]
    their_differences: dict[tuple[int, int], Array] = {}

    def theirs() -> None:
        for layer, head in chosen:
            logits = peer.knock_out(tokens, layer, head).numpy()
            their_differences[layer, head] = logits[:, ids[0, 0]] - logits[:, ids[0, 1]]

    peer.knock_out(tokens, 0, 0)  # once before the clock runs
    their_time = seconds(theirs) * config.n_heads
    ours: list[Array] = []
    our_time = seconds(lambda: ours.extend(knock_out_all(bench.model, tokens, ids)))
    error = max(float(np.abs(their_differences[layer, head] - ours[layer][head]).max()) for layer, head in chosen)
    n_heads = config.n_layers * config.n_heads
    computed = sum(len(tokens) // size * (stop - start) for start, stop, size in shared_beginnings(tokens))
    limit = bench.limit(int(n_heads * computed * (config.n_layers + 1) / 2 / config.n_layers), 0)
    note = f"{len(chosen)} of {n_heads} heads of theirs timed; largest difference {error:.0e}"
    yield Row(f"knock out {n_heads} heads x {len(tokens)} IOI prompts", peer.name, their_time, our_time, limit, note)


def ioi_prompts() -> list[str]:
    """Eight texts of one length, each with both endings: they share all that stands before the place, and pairs all
    that stands before the second name."""
    places = ("store", "park", "school", "garden", "office", "house", "station", "river")
    return [f"When Mary and John found the {place}, {s} gave it to" for place in places for s in ("John", "Mary")]


def shared_beginnings(tokens: Tokens) -> list[tuple[int, int, int]]:
    """Where blocks of consecutive rows share their tokens from the first on: (start, stop, rows in a block)."""
    sizes = [n for n in range(len(tokens), 0, -1) if len(tokens) % n == 0]
    blocks: list[tuple[int, int, int]] = []
    for pos in range(tokens.shape[1]):
        until = tokens[:, : pos + 1]
        size = next(n for n in sizes if (until == until[::n].repeat(n, axis=0)).all())
        if blocks and blocks[-1][2] == size:
            blocks[-1] = (blocks[-1][0], pos + 1, size)
        else:
            blocks.append((pos, pos + 1, size))
    return blocks


def knock_out_all(model: Model, tokens: Tokens, ids: Tokens) -> Iterator[Array]:
    """For each layer logit(a) - logit(b) [n_heads, batch] without each head, by lesson 5's method.

    All heads of a layer run as one batch from that layer on, what several rows share at their beginning runs once, and
    only the two tokens of ids [batch, 2] are unembedded.
    """
    n_heads, n_layers = model.config.n_heads, model.config.n_layers
    points = [get_act_name("resid_pre", layer) for layer in range(n_layers)]
    _, cache = model.run_with_cache(tokens, points, positions=-1)
    directions = (model.weights.W_U[:, ids[:, 0]] - model.weights.W_U[:, ids[:, 1]]).T  # [batch, d_model]
    beginnings = shared_beginnings(tokens)

    def zero_own_head(pattern: Array, hook: HookPoint) -> Array:
        edited = pattern.reshape(n_heads, -1, *pattern.shape[1:]).copy()
        for head in range(n_heads):
            edited[head, :, head] = 0
        return edited.reshape(pattern.shape)

    def last_streams(resid: Array, layer: int) -> Array:
        past = KeyValueCache(n_heads, tokens.shape[1], model.config, model.weights.dtype)
        for start, stop, size in beginnings:
            past = past.repeat(n_heads * len(resid) // size // past.batch)
            out = model.run_with_hooks(
                np.tile(resid[::size, start:stop], (n_heads, 1, 1)), [(get_act_name("pattern", layer), zero_own_head)],
                start_at_layer=layer, stop_at_layer=n_layers, past_kv_cache=past,
            )  # fmt: skip
        return out[:, -1].reshape(n_heads, len(resid), -1)

    for layer, point in enumerate(points):
        normed = rms_norm(last_streams(cache[point], layer), model.weights.ln_final, model.config.rms_eps)
        yield (normed * directions).sum(axis=-1)


def generate(bench: Bench) -> Iterator[Row]:
    peer, tokens, n = HuggingFace(bench.folder), bench.tokens(1, 6), 64
    theirs, ours = side_by_side(
        peer.generate(tokens, n), partial(bench.model.generate, tokens, n), min(bench.repeat, 3)
    )
    yield Row(f"greedy generation of {n} tokens", peer.name, theirs, ours, n * bench.limit(1, 1))


def hooks(bench: Bench) -> Iterator[Row]:
    """One no-op hook at each point against none: here the peer is tinymi itself."""
    names = [name for name in hook_points(range(bench.model.config.n_layers)) if "result" not in name]

    def look(value: Array, hook: HookPoint) -> None:
        return None

    for batch, n_pos in ((1, 14), (16, 14)):
        tokens = bench.tokens(batch, n_pos)
        hooked, plain = side_by_side(
            partial(bench.model.run_with_hooks, tokens, [(names, look)]),
            partial(bench.model, tokens),
            bench.repeat,
        )
        note = f"{len(names)} hooks cost {hooked / plain - 1:+.1%}"
        yield Row(f"no-op hook at each point, {batch}x{n_pos}", "tinymi", hooked, plain, None, note)


def jobs(bench: Bench) -> Iterator[Row]:
    """Lesson 8 with 24 prompts, in this process with all BLAS threads against --jobs 2 with one thread each."""
    script = ROOT / "lessons" / "deeper" / "07_activation_patching.py"
    options = ["--model", str(bench.folder), "--prompts", "24"]
    one, two = run_script(script, *options), run_script(script, *options, "--jobs", "2")
    yield Row("whole process: lesson 8, 24 prompts, --jobs 2", "tinymi, one process", one.seconds, two.seconds)


def serve(bench: Bench) -> Iterator[Row]:
    """The explorer's round trip for a new prompt of 12 tokens, in the browser, against one forward pass."""
    from tests.serve.browser import N_TOKENS, round_trip

    tokens = bench.tokens(1, N_TOKENS)
    trip, forward = round_trip(bench.model, partial(bench.model, tokens), bench.repeat)
    note = f"all panels of the explorer: {trip / forward:.1f} forward passes"
    yield Row(f"explorer, a new prompt of {N_TOKENS} tokens", "one forward pass", forward, trip, None, note)


ROWS: dict[str, Callable[[Bench], Iterator[Row]]] = {
    "forward": forward, "gradients": gradients, "lens": lens, "cache": cache, "knockout": knockout,
    "generate": generate, "hooks": hooks, "jobs": jobs, "serve": serve,
}  # fmt: skip


def blas() -> str:
    """The BLAS that NumPy has loaded, with its kernels and threads."""
    from threadpoolctl import threadpool_info

    libraries = [info for info in threadpool_info() if info["user_api"] == "blas" and "numpy" in info["filepath"]]
    return ", ".join(
        f"{info['internal_api']} {info['version']} ({info.get('architecture', '?')} kernels, {info['num_threads']} "
        "threads)"
        for info in libraries
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(ROWS), help=argparse.SUPPRESS)
    parser.add_argument("--repeat", type=int, default=5, help=argparse.SUPPRESS)
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    unknown = set(options.only.split(",")) - set(ROWS)
    if unknown or options.repeat < 1:
        parser.error(f"--only takes {', '.join(ROWS)}; --repeat takes 1 or more")
    warnings.filterwarnings("ignore")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    folder = options.model or folder_for()
    machine = measure_machine()
    bench = Bench(folder, tinymi.load(folder), machine, options.repeat)
    print(f"{os.cpu_count()} CPUs, {blas()}")
    print(f"large float32 matmul {machine.flops / 1e9:.0f} GFLOP/s, memory {machine.bandwidth / 1e9:.0f} GB/s\n")
    headers = ["work", "peer", "theirs, ms", "tinymi, ms", "ratio", "limit, ms", ""]
    rows = [row.cells() for name in options.only.split(",") for row in ROWS[name](bench)]
    print(tabulate(rows, headers, disable_numparse=True, colalign=("left", "left", *["right"] * 4, "left")))


if __name__ == "__main__":
    main()
