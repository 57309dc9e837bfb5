# %% [markdown]
"""Does it hold? Paths between heads on random words, on names, and in the circuit of lesson 10

What you will learn: to guess all paths at once, patch the best guesses, and test them on prompts that had no part in
the choice.

Needs: path patching, IOI circuit

Time: 15 minutes to read, 20 seconds to run

Paper: Wang et al. 2022, Interpretability in the Wild, https://arxiv.org/abs/2211.00593; Goldowsky-Dill et al. 2023,
Localizing Model Behavior with Path Patching, https://arxiv.org/abs/2304.05969; Syed et al. 2023, Attribution
Patching Outperforms Automated Circuit Discovery, https://arxiv.org/abs/2310.10348
"""

# %% Set-up
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from tinymi import ActivationCache
from tinymi.arrays import Array, Tokens
from tinymi.hooks import Callback
from tinymi.teaching import Lesson, stats

import numpy as np

sys.path.append(f"{sys.path[0]}/..")  # the folder of ioi.py
from ioi import HELD_OUT_TEMPLATES, NAMES, TEMPLATES, make_task

VERBS = ("met", "saw", "called", "asked", "found", "told", "helped", "thanked", "knew", "followed")
N_PATHS = 8  # so many of the best guesses are patched
lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
blocks, n_layers, n_heads = model.weights.blocks, model.config.n_layers, model.config.n_heads
group = n_heads // model.config.n_kv_heads  # so many heads share a key head
rng = np.random.default_rng(0)


class Path(NamedTuple):
    """From a head to the queries of a head, or to the keys or values of a key head."""

    layer: int
    head: int
    reader_layer: int
    reader: int


class Pairs(NamedTuple):
    """Prompts of one length, their runs, those of corrupted twins, and the scale."""

    tokens: Tokens  # [pair, pos]
    answers: Tokens  # [pair, 2]: right, wrong
    clean: ActivationCache
    corrupted: ActivationCache
    high: Array  # [pair]: logit(right) - logit(wrong) in the clean run
    way: float  # how far below that the corrupted runs are, on average: a move so far is 1


def run(tokens: Tokens) -> tuple[Array, ActivationCache]:
    points = ("hook_resid_pre", "ln1.hook_scale", "hook_q", "hook_k", "hook_v", "hook_z")
    return model.run_with_cache(tokens, lambda name: name.endswith(points), positions=-1)


def difference(logits: Array, answers: Tokens) -> Array:
    """[pair, pos, d_vocab] -> logit(right) - logit(wrong) at the end, [pair]."""
    return np.asarray(np.take_along_axis(logits[:, -1], answers, axis=1) @ [1, -1])


def make_pairs(tokens: Tokens, corrupted: Tokens, right: Tokens, wrong: Tokens) -> Pairs:
    answers = np.stack([right, wrong], axis=1)
    runs = [run(tokens), run(corrupted)]
    high, low = (difference(logits, answers) for logits, _ in runs)
    return Pairs(tokens, answers, runs[0][1], runs[1][1], high, float((high - low).mean()))


def exchanged(pairs: Pairs, path: Path, letter: str) -> tuple[str, Callback]:
    """A hook for the clean run, in which the reader alone sees what the sender writes in the corrupted run."""
    i, head, layer, reader = path
    change = (pairs.corrupted["z", i] - pairs.clean["z", i])[:, :, head] @ blocks[i].heads.W_O[head]
    point, stream = f"blocks.{layer}.attn.hook_{letter}", pairs.clean["resid_pre", layer] + change
    _, other = model.run_with_cache(stream, point, start_at_layer=layer, stop_at_layer=layer + 1)
    value = pairs.clean[point].copy()
    value[:, :, reader] = other[point][:, :, reader]
    return point, lambda old, hook: value


def patch(pairs: Pairs, path: Path, letter: str) -> Array:
    """The path patch of the short lesson, for a batch of pairs: how far it moves each answer, [pair]."""
    layer, hook = path.reader_layer, exchanged(pairs, path, letter)
    logits = model.run_with_hooks(pairs.clean["resid_pre", layer], [hook], start_at_layer=layer, positions=-1)
    return np.asarray((pairs.high - difference(logits, pairs.answers)) / pairs.way)


def name(path: Path, letter: str) -> str:
    word = {"q": "query", "k": "keys", "v": "values"}[letter]
    heads = path.reader if letter == "q" else f"{group * path.reader}-{group * path.reader + group - 1}"
    return f"{path.layer}.{path.head} to {word} of {path.reader_layer}.{heads}"


def show(paths: Sequence[Path], letter: str, guess: Array, moves: dict[str, Any], caption: str) -> Any:
    columns = {"path": [name(path, letter) for path in paths], "guess": [f"{guess[path]:+.2f}" for path in paths]}
    columns |= {title: [f"{stats.mean(values):+.2f}" for values in rows] for title, rows in moves.items()}
    return lesson.table(columns, caption=caption)


# %% [markdown]
# ## 1. Guess all paths at once
#
# One backward pass gives the slope of the answer at all readers. Through a reader's weight and the norm (whose scale is
# held) it becomes a direction of the stream. The guess: how far the sender's write moved along it. This is attribution
# patching of edges (Syed et al. 2023). Only the best guesses are patched.


# %%
def guesses(pairs: Pairs, letters: str) -> dict[str, Any]:
    """For each letter, the mean guess of each path: [layer, head, reader's layer, reader]."""
    d_logits = np.zeros((*pairs.tokens.shape, model.config.d_vocab), dtype=np.float32)
    d_logits[np.arange(len(d_logits))[:, None], -1, pairs.answers] = [1, -1]
    points = [f"blocks.{layer}.attn.hook_{letter}" for layer in range(n_layers) for letter in letters]
    _, _, grads = model.run_with_gradients(pairs.tokens, d_logits, points)
    z = [np.moveaxis(pairs.corrupted["z", i] - pairs.clean["z", i], 2, 0) for i in range(n_layers)]
    changes = np.stack([z[i] @ blocks[i].heads.W_O[:, None] for i in range(n_layers)])  # [layer, head, pair, pos, d]
    result: dict[str, Any] = {}
    for letter in letters:
        result[letter] = np.zeros((n_layers, n_heads, n_layers, grads[letter, 0].shape[2]))
        for layer, block in enumerate(blocks[1:], 1):
            W = getattr(block.heads, f"W_{letter.upper()}")[:, None]  # [reader, 1, d_model, d_head]
            slope = np.moveaxis(grads[letter, layer], 2, 0) @ W.mT  # [reader, pair, pos, d_model]
            slope = slope * block.ln1 / pairs.clean["ln1.scale", layer] / -pairs.way
            result[letter][:layer, :, layer] = np.tensordot(changes[:layer], slope, axes=([2, 3, 4], [1, 2, 3]))
        result[letter] /= len(pairs.tokens)
    return result


def best(guess: Array, n: int) -> list[Path]:
    """The n paths with the largest guesses, in size."""
    order = np.argsort(-abs(guess), axis=None)[:n]
    return [Path(*(int(i) for i in np.unravel_index(at, guess.shape))) for at in order]


def random_paths(paths: Sequence[Path]) -> list[Path]:
    """To the same readers, from other heads below them, drawn at random."""
    own = [path.layer * n_heads + path.head for path in paths]
    drawn = [int(rng.integers(path.reader_layer * n_heads - 1)) for path in paths]  # of all but the path's own
    return [Path(*divmod(at + (at >= mine), n_heads), *path[2:]) for at, mine, path in zip(drawn, own, paths)]


# %% [markdown]
# ## 2. Copying: random words, then names
#
# Ten random tokens, and the first eight again: the ninth must come. The corrupted twin has the fourth and the eighth
# exchanged the first time, so that the same end asks for the fifth. Six such pairs choose the paths. Ten others
# test them, and ten of another kind: " Mary John met Tom Anna. Mary John met Tom".


# %%
def said_twice(words: Tokens, cues: Sequence[int], length: int) -> Pairs:
    """The words, then the first `length` again. The corrupted twin exchanges the cues when first said."""
    corrupted = words.copy()
    corrupted[:, cues] = words[:, cues[::-1]]
    again, asked = words[:, :length], words[:, [cue + 1 for cue in cues[::-1]]]
    return make_pairs(np.hstack([words, again]), np.hstack([corrupted, again]), *asked.T)


def random_words(n: int) -> Pairs:
    return said_twice(np.stack([rng.choice(model.config.d_vocab, 10, replace=False) for _ in range(n)]), [3, 7], 8)


def people(verbs: Sequence[str]) -> Pairs:
    drawn = [rng.choice(NAMES, 4, replace=False) for _ in verbs]
    texts = [f" {a} {b} {verb} {c} {d}." for (a, b, c, d), verb in zip(drawn, verbs)]
    return said_twice(model.to_tokens(texts), [0, 3], 4)


known, new, meetings = random_words(6), random_words(10), people(VERBS)
guess = guesses(known, "k")["k"]
paths = best(guess, N_PATHS)
on_new, on_names = ([patch(pairs, path, "k") for path in paths] for pairs in (new, meetings))
top = paths[0]
caption = f"the best {N_PATHS} of {np.count_nonzero(guess):,} guesses, and how far these paths move the answer"
picture = show(paths, "k", guess, {"new words": on_new, "names": on_names}, caption)

# %% [markdown]
# Is the strongest one special? Its controls: random other heads to the same keys; the same head by queries and values;
# and the same path when two words are exchanged that the end does not ask for, the second and the sixth.

# %%
chance = np.mean([patch(new, path, "k") for path in random_paths([top] * 5)], axis=1)
queries = [Path(*top[:3], head) for head in range(group * top.reader, group * (top.reader + 1))]
by_q, by_v = np.sum([patch(new, path, "q") for path in queries], axis=0), patch(new, top, "v")
unasked = new.tokens[:, [0, 5, 2, 3, 4, 1, *range(6, new.tokens.shape[1])]]
sham = patch(new._replace(corrupted=run(unasked)[1]), top, "k")
lesson.finding(
    f"On new random words, {name(top, 'k')} moves the answer more than a tenth of the way.",
    stats.mean(on_new[0]),
    0.1,
    control=f"random heads {chance.min():+.3f} to {chance.max():+.3f}; queries {by_q.mean():+.3f}, values "
    f"{by_v.mean():+.3f}; words not asked for {sham.mean():+.3f}",
)
others = max(np.mean(moves) for moves, path in zip(on_names, paths) if path[:2] != top[:2])
lesson.finding("On names, too.", stats.mean(on_names[0]), 0.1, control=f"the strongest other sender {others:+.3f}")

# %% [markdown]
# ## 3. Who answers: the second half of the circuit of lesson 10
#
# "When Mary and John went to the store, John gave a drink to" asks for Mary; the corrupted twin says "Mary gave", and
# asks for John. Now the beginning is the same and the end differs, so queries have news. All heads are senders, all
# heads are readers. Six templates choose the eight best guesses. Six others test them. Some of eight tests may pass by
# chance: so eight random heads, sent to the same readers, are tested in the same way.


# %%
def gifts(template: str, seed: int) -> Pairs:
    task = make_task(model, template, n_pairs=1, seed=seed)
    corrupted = task.tokens.copy()
    corrupted[np.arange(len(corrupted)), task.positions["S2"]] = task.io_id
    return make_pairs(task.tokens, corrupted, task.io_id, task.s_id)


def by_template(paths: Sequence[Path], letter: str) -> list[list[float]]:
    """How far each path moves the answer on held-out templates, [path][template]."""
    return [
        [float(patch(pairs, path, letter).mean()) for pairs in held_out] for path in lesson.progress(paths, "paths")
    ]


chosen, held_out = ([gifts(text, i) for i, text in enumerate(texts)] for texts in (TEMPLATES, HELD_OUT_TEMPLATES))
by_case = [guesses(pairs, "qv") for pairs in lesson.progress(chosen, "guesses")]
guess_q, guess_v = (np.mean([each[letter] for each in by_case], axis=0) for letter in "qv")
paths_q = best(guess_q, N_PATHS)
moves_q = by_template(paths_q, "q")
random_q = by_template(random_paths(paths_q), "q")
show(paths_q, "q", guess_q, {"new templates": moves_q}, "the best guesses of paths into queries")
n_hold, n_random = (sum(m.low * m.high > 0 for m in map(stats.mean, rows)) for rows in (moves_q, random_q))
sizes = [np.abs(np.mean(rows, axis=1)) for rows in (moves_q, random_q)]
lesson.finding(
    "Most of these paths into queries are real, and small.",
    established=n_hold > N_PATHS // 2 and n_hold > 2 * n_random,
    evidence=f"{n_hold} of {N_PATHS} have an interval without 0 (the bar: more than half, and twice the random ones); "
    f"the median size is {np.median(sizes[0]):.3f}",
    control=f"of the random ones {n_random} have; the largest is {np.max(sizes[1]):.4f}",
)
fed = max(paths_q, key=lambda path: guess_q[path])
against = min(paths_q, key=lambda path: guess_q[path])
feeds = [values for path, values in zip(paths_q, moves_q) if path[:2] == fed[:2]]
lesson.finding(
    f"Head {fed.layer}.{fed.head} feeds the queries of later heads: its paths above, added up.",
    stats.mean(np.sum(feeds, axis=0)),
    control=f"{len(feeds)} paths; the largest of a random head {np.max(sizes[1]):.4f}",
)

# %% [markdown]
# The largest path works against the answer. Why? Watch where its reader looks from the end, with and without the patch
# of its query. Lesson 10 calls 24.4 a negative name mover: it looks at a name that the stream says already, and writes
# against it.


# %%
def looks_at(pairs: Pairs, path: Path, hooks: Any) -> list[float]:
    """Attention of the reader from the end to all places of IO, and of S."""
    layer, point = path.reader_layer, f"blocks.{path.reader_layer}.attn.hook_pattern"
    stream = pairs.clean["resid_pre", layer]
    _, cache = model.run_with_cache(stream, point, fwd_hooks=hooks, start_at_layer=layer, stop_at_layer=layer + 1)
    pattern = cache[point][:, path.reader, -1]  # [pair, key_pos]
    return [float((pattern * (pairs.tokens == answer[:, None])).sum(axis=1).mean()) for answer in pairs.answers.T]


unpatched = np.array([looks_at(pairs, against, []) for pairs in held_out])  # [template, 2]
patched = np.array([looks_at(pairs, against, [exchanged(pairs, against, "q")]) for pairs in held_out])
lesson.finding(
    f"The path turns {against.reader_layer}.{against.reader} from IO to S.",
    stats.mean((patched - unpatched) @ [-1, 1]),
    control=f"attention to IO {unpatched[:, 0].mean():.2f}, patched {patched[:, 0].mean():.2f}; to S "
    f"{unpatched[:, 1].mean():.2f}, patched {patched[:, 1].mean():.2f}",
)

# %% [markdown]
# And what does the head of most of these paths carry to the end? Its values: who writes into them?

# %%
key_head = fed.head // group
order = np.argsort(-abs(guess_v[:, :, fed.layer, key_head]), axis=None)[:4]
paths_v = [Path(*divmod(int(at), n_heads), fed.layer, key_head) for at in order]
moves_v = by_template(paths_v, "v")
show(paths_v, "v", guess_v, {"new templates": moves_v}, "the best guesses of paths into its values")

# %%
alone = said_twice(new.tokens[:1, :10], [3, 7], 8)
lesson.equal("a pair alone moves as in its batch", patch(alone, top, "k") * alone.way, on_new[0][:1] * new.way, 1e-3)
text = f"{name(top, 'k')} moves the answer {np.mean(on_new[0]):.0%} of the way on random words"
lesson.headline(
    f"{text} and {np.mean(on_names[0]):.0%} on names. In the circuit of lesson 10 the largest path into a query, "
    f"{name(against, 'q')}, moves it {abs(np.mean(moves_q[paths_q.index(against)])):.0%}, and against the answer.",
    picture,
)
lesson.keep(top=top, on_new=on_new, on_names=on_names, sham=sham, by_q=by_q, by_v=by_v, new=new.tokens)
lesson.keep(paths_q=paths_q, moves_q=moves_q, random_q=random_q, paths_v=paths_v, moves_v=moves_v)
lesson.finish()
