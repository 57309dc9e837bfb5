# %% [markdown]
"""Which part leads to which, from the word to the answer?

What you will learn: an attribution graph. Words, heads and neurons are its nodes, and an edge says how much of the
answer takes this way. What goes into a node comes out of it. And what such a graph holds still, it does not explain.

Needs: neuron activations, backward pass, attribution patching

Time: 15 minutes to read, 7 seconds to run

Paper: Ameisen et al. 2025, Circuit Tracing, https://transformer-circuits.pub/2025/attribution-graphs/methods.html;
Dunefsky et al. 2024, Transcoders Find Interpretable LLM Feature Circuits, https://arxiv.org/abs/2406.11944; Marks et
al. 2024, Sparse Feature Circuits, https://arxiv.org/abs/2403.19647; Shrikumar et al. 2017, DeepLIFT,
https://arxiv.org/abs/1704.02685
"""

# %% Set-up
from typing import Any, NamedTuple

from tinymi import logit_difference
from tinymi.arrays import Array, Tokens
from tinymi.backward import FREEZABLE
from tinymi.errors import InputError
from tinymi.hooks import HookPoint
from tinymi.ops import silu
from tinymi.teaching import Lesson, Token, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--clean", default="The capital of France is", help="a prompt")
lesson.option("--corrupted", default="The capital of Italy is", help="another prompt, as long, that begins alike")
lesson.option("--answer", default=" Paris", help="the clean prompt's answer: one token, mostly with a space first")
lesson.option("--wrong", default=" Rome", help="the corrupted prompt's answer: one token, too")
options = lesson.start()
model = lesson.load_model()
blocks, config, n_layers = model.weights.blocks, model.config, model.config.n_layers
tokens, others = model.to_tokens(options.clean), model.to_tokens(options.corrupted)
answer, wrong = model.to_single_token(options.answer), model.to_single_token(options.wrong)
if tokens.shape != others.shape or (tokens == others).all() or tokens[0, 0] != others[0, 0] or answer == wrong:
    lengths = f"--clean has {tokens.size} tokens and --corrupted {others.size}"
    raise InputError(f"{lengths}; give as many, of which the first are the same, and two different answers")

# %% [markdown]
# ## 1. A model with fewer curves
#
# What is to be explained is a gap: the logit difference in the clean run, minus that in the corrupted one. First freeze
# what the graph will leave out: run the corrupted prompt with the attention patterns and norm scales of the clean run.
# How far that moves the difference is the graph's error. It goes into the graph as such.


# %%
def difference(logits: Array) -> float:
    return float(logits[0, -1, answer] - logits[0, -1, wrong])


logits, clean = model.run_with_cache(tokens)
corrupted_logits, corrupted = model.run_with_cache(others)
hold = [(lambda name: name.endswith(("hook_pattern", "hook_scale")), lambda value, hook: clean[hook.name])]
frozen_logits, frozen = model.run_with_cache(others, fwd_hooks=hold)
high, low, frozen_low = (difference(x) for x in (logits, corrupted_logits, frozen_logits))
gap, error = high - frozen_low, frozen_low - low
lesson.say(
    f"The difference is {high:+.2f} in the clean run, {low:+.2f} in the corrupted and {frozen_low:+.2f} in the frozen "
    f"one. So the graph explains {gap:.2f}, and its error is {error:.2f}."
)

# %% [markdown]
# ## 2. One pass back
#
# Now only the neurons are curved, as lesson 14 found: each multiplies silu(gate) and input. A product a * b changes by
# mean(a) times b's change plus mean(b) times a's. And silu has a slope *between its two values*: its change over that
# of the gate (DeepLIFT). Both are exact. Go back with these slopes, as lesson 13 did: from what heads or neurons are
# worth for the gap to what the stream is worth.


# %%
def change(name: str, i: int) -> Array:
    """A value of layer i in the clean run, minus the frozen one: [pos, ...], with all heads side by side."""
    difference: Array = (clean[name, i].astype(float) - frozen[name, i])[0].reshape(tokens.size, -1)
    return difference


def attention_back(i: int, d_z: Array) -> Array:
    """[pos, n_heads * d_head] -> [pos, d_model]"""
    d_z, d_v = d_z.reshape(tokens.size, config.n_heads, -1), np.zeros(clean["v", i][0].shape)
    for head in range(config.n_heads):
        d_v[:, head * config.n_kv_heads // config.n_heads] += clean["pattern", i][0, head].T @ d_z[:, head]
    return np.asarray(d_v.reshape(len(d_v), -1) @ blocks[i].W_V.T * blocks[i].ln1 / clean["scale", i, "ln1"][0])


def mlp_back(i: int, d_post: Array) -> Array:
    """[pos, d_mlp] -> [pos, d_model]"""
    w, (a, b) = blocks[i], (run["pre", i][0].astype(float) for run in (clean, frozen))
    slope = np.divide(silu(a) - silu(b), a - b, out=np.zeros_like(a), where=a != b)
    d_gate = d_post * slope * (clean["pre_linear", i] + frozen["pre_linear", i])[0] / 2
    d_in = d_post * (silu(a) + silu(b)) / 2
    return np.asarray((d_gate @ w.W_gate.T + d_in @ w.W_in.T) * w.ln2 / clean["scale", i, "ln2"][0])


# %%
d = np.zeros((tokens.size, config.d_model))  # what a change of the stream is worth, [pos, d_model]
d[-1] = model.weights.ln_final * (model.weights.W_U[:, answer] - model.weights.W_U[:, wrong])
d = last = d / clean["ln_final.hook_scale"][0]
worth: dict[tuple[str, int], Array] = {}
for i, w in reversed(list(enumerate(blocks))):
    worth["post", i] = d @ w.W_out.T
    d = d + mlp_back(i, worth["post", i])
    worth["z", i] = d @ w.W_O.T
    d = d + attention_back(i, worth["z", i])
lesson.equal("all of it comes from the words that differ", (d * change("resid_pre", 0)).sum(), gap)

# %% [markdown]
# ## 3. Nodes
#
# The share of a head or neuron in the gap is what it did differently, times what that is worth. A node is whatever has
# more than a tenth: a head, a neuron, or what is left of an MLP without these, each at a position (@). What does it
# read? Go back once more, through this node alone.


# %%
class Node(NamedTuple):
    name: str  # with its position
    point: str
    layer: int
    pos: int
    columns: Tokens  # those of a head, of one neuron or of many
    share: float
    write: Array  # [d_model], in the clean run minus in the frozen one
    read: Array  # [pos, d_model]: what a change of the stream is worth by way of it

    def depth(self) -> int:
        return 2 * self.layer + (self.point == "post")


def make_node(point: str, i: int, pos: int, columns: Tokens) -> Node:
    moved, own = change(point, i)[pos, columns], np.zeros_like(worth[point, i])
    own[pos, columns] = worth[point, i][pos, columns]
    if point == "z":
        name, write, read = f"{i}.{columns[0] // config.d_head}", moved @ blocks[i].W_O[columns], attention_back(i, own)
    else:
        name = f"neuron {i}.{columns[0]}" if len(columns) == 1 else f"MLP {i}"
        write, read = moved @ blocks[i].W_out[columns], mlp_back(i, own)
    return Node(f"{name} @{pos}", point, i, pos, columns, float(moved @ own[pos, columns]), write, read)


# %%
nodes, bar = [], abs(gap) / 10
for (point, i), d_value in reversed(worth.items()):
    for pos, shares in enumerate(d_value * change(point, i)):
        parts = [*np.argwhere(abs(shares) > bar), np.flatnonzero(abs(shares) <= bar)]  # large neurons, and the others
        if point == "z":
            parts = list(np.arange(len(shares)).reshape(config.n_heads, -1))
        nodes += [make_node(point, i, pos, columns) for columns in parts if abs(shares[columns].sum()) > bar]

# %% [markdown]
# ## 4. Edges
#
# An edge is what one node wrote differently, times what another reads. All edges into a node, from every part of the
# model, sum to its share. Those above a twentieth of the gap are drawn, and the others of a node are one edge, "rest".

# %%
pieces, none = [show_token(piece) for piece in model.to_str_tokens(tokens[0])], np.zeros(0, int)
words = [(k, x) for k, x in enumerate(change("resid_pre", 0)) if x.any()]
starts = [Node(f"{pieces[k]} @{k}", "", -1, k, none, float(x @ d[k]), x, d) for k, x in words]
targets = [*nodes, Node("logits", "", n_layers, -1, none, gap, d[0], last)]
streams = [change(name, i) for i in range(n_layers) for name in ("resid_pre", "resid_mid")]  # sums of all writes
streams.append(change("resid_post", n_layers - 1))
into = [(streams[node.depth()] * node.read).sum() for node in targets]
lesson.equal("what goes into each node is its share", into, [node.share for node in targets])

# %%
edges = [("patterns, scales", "logits", error)]
for node in targets:
    flows = {one.name: one.write @ node.read[one.pos] for one in starts + nodes if one.depth() < node.depth()}
    drawn = {name: flow for name, flow in flows.items() if abs(flow) > bar / 2}
    drawn["rest"] = node.share - sum(drawn.values())
    edges += [(name, node.name, flow) for name, flow in drawn.items() if abs(flow) > bar / 2]
boxes = [(node.name, node.depth(), f"{node.share:+.2f}") for node in starts + targets]
boxes += [("rest", -2, "other parts"), ("patterns, scales", -2, "error")]
picture = lesson.graph(boxes, edges, "from the word to the logits, and how much takes each way")

# %% [markdown]
# ## 5. Is it so in the model?
#
# The shares are those of a frozen model. So take the real one: put the corrupted run's values into the clean run, at
# one node after the other. The control: the same head, neuron or MLP in a layer without nodes, drawn at random. And
# read what a node writes with the unembedding. (Early, and away from the end, that is debris.) Which nodes have a
# negative share, and what do they write against?


# %%
def exchanged(some: list[Node], *, only: bool = False) -> float:
    """How far the difference falls with the corrupted run's values at some nodes; or, with `only`, all but there."""

    def mix(value: Array, hook: HookPoint) -> Array:
        mask = np.full((tokens.size, value[0, 0].size), only)
        for node in some:
            if (node.point, node.layer) == (hook.point.short, hook.layer):
                mask[node.pos, node.columns] = not only
        return np.where(mask.reshape(value.shape), corrupted[hook.name], value)

    names = [name for name in clean if name.endswith(("hook_z", "hook_post"))]
    return high - difference(model.run_with_hooks(tokens, [(names, mix)], positions=-1))


rng = np.random.default_rng(0)
free = sorted(set(range(n_layers)) - {node.layer for node in nodes}) or range(n_layers)
columns: dict[str, Any] = {"node": [node.name for node in nodes], "share": [node.share for node in nodes]}
columns["exchanged"] = [exchanged([node]) for node in nodes]
columns["elsewhere"] = [exchanged([node._replace(layer=int(rng.choice(free)))]) for node in nodes]
promotes = [node.write * model.weights.ln_final @ model.weights.W_U for node in nodes]  # [d_vocab] each
for side, best in (("for", np.argmax), ("against", np.argmin)):
    columns[side] = [Token(model.to_str_tokens([int(best(x))])[0]) for x in promotes]
lesson.table(columns, format="+.2f", caption="how far the difference falls; what each node writes for and against")

# %% [markdown]
# Now the other way round. Exchange everything *but* the nodes: do they carry the answer alone?

# %%
nodes.sort(key=lambda node: -abs(node.share))
kept = [1 - exchanged(some, only=True) / (high - low) for some in (nodes, nodes[:2])]
lesson.say(f"The {len(nodes)} nodes alone keep {kept[0]:.0%} of it, the largest two {kept[1]:.0%}.")
top = next((node for node in nodes if node.point == "z"), targets[-1])
text = (
    f"Of a gap of {gap:.2f} logits, {top.share:.2f} pass through {top.name}. But a graph of {len(nodes)} nodes is not"
)
lesson.headline(f"{text} all of it: alone, they keep {kept[0]:.0%} of the answer.", picture)
shares = [(worth["z", i] * change("z", i)).reshape(tokens.size, -1, config.d_head) for i in range(n_layers)]
lesson.keep(gap=gap, error=error, heads=np.sum(shares, axis=-1), nodes=columns, edges=edges, kept=kept)

# %% [markdown]
# A graph does not say why a head looks where it looks: the patterns are held. Nor does it see what both prompts have in
# common. `deeper/21_attribution_graph.py` asks how many parts it takes for other capitals, tests edges, meets a task
# about which the graph is silent, and puts features of a dictionary in the place of neurons.

# %% [markdown]
# Exercise (medium, 10 minutes): Take the frozen pass of lesson 13 on the clean prompt alone, with the gates held, too.
# Its words' shares sum to the logit difference. Which word has the largest? What does that explain?
#
# Hint: gradient times activation at `hook_embed`, with `freeze=FREEZABLE`

# %%
d_logits = logit_difference(logits, answer, wrong)[1]
_, cache, grads = model.run_with_gradients(tokens, d_logits, "hook_embed", freeze=FREEZABLE)
by_word = (cache["hook_embed"] * grads["hook_embed"])[0].sum(axis=-1)
lesson.answer(Token(model.to_str_tokens(tokens[0])[by_word.argmax()]))
lesson.finish()
