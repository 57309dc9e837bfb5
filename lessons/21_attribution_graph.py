# %% [markdown]
"""Which part leads to which, from the word to the answer?

What you will learn: an attribution graph. Words, heads and neurons are its nodes, and an edge says how much of the
answer takes this way. What goes into a node sums to its share. What the graph holds still, it does not explain.

Needs: neuron activations, backward pass, attribution patching

Time: 12 minutes to read, 5 seconds to run

Paper: Ameisen et al. 2025, Circuit Tracing, https://transformer-circuits.pub/2025/attribution-graphs/methods.html;
Shrikumar et al. 2017, DeepLIFT, https://arxiv.org/abs/1704.02685
"""

# %% Set-up
from typing import NamedTuple

from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.ops import silu
from tinymi.teaching import Lesson, show_token

import numpy as np
from attribution import Place, attention_back, exchanged, make_pairs

lesson = Lesson(__doc__)
lesson.option("--clean", default="The capital of France is", help="a prompt")
lesson.option("--corrupted", default="The capital of Italy is", help="another prompt, as long, that begins alike")
lesson.option("--answer", default=" Paris", help="the clean prompt's answer: one token, mostly with a space first")
lesson.option("--wrong", default=" Rome", help="the corrupted prompt's answer: one token, too")
options = lesson.start()
model = lesson.load_model()
blocks, n_layers, n_heads = model.weights.blocks, model.config.n_layers, model.config.n_heads
tokens, others = model.to_tokens(options.clean), model.to_tokens(options.corrupted)
answers = [model.to_single_token(text) for text in (options.answer, options.wrong)]
if tokens.shape != others.shape or (tokens == others).all() or tokens[0, 0] != others[0, 0] or len({*answers}) == 1:
    sizes = f"--clean has {tokens.size} tokens and --corrupted {others.size}"
    raise InputError(f"{sizes}; give as many, of which the first are the same, and two different answers")

# %% [markdown]
# ## 1. A model with fewer curves
#
# Run the corrupted prompt twice: as it is, and frozen, with the clean run's attention patterns and norm scales. How far
# does the logit difference fall from the clean run's? The graph explains the frozen run's fall, the *gap*. The rest is
# its error.

# %%
pair = make_pairs(model, tokens, others, np.array([answers]))
clean, frozen, gap, error = pair.clean, pair.frozen, float(pair.gap[0]), float(pair.whole[0] - pair.gap[0])
lesson.say(f"It falls by {pair.whole[0]:.3f} logits, in the frozen run by {gap:.3f}. The error is {error:.3f}.")

# %% [markdown]
# ## 2. One pass back
#
# Now only the neurons are curved: silu(gate) times input. Take slopes *between the two runs* (DeepLIFT). For the gate:
# the change of silu over that of the gate, times the mean input. For the input: the mean of silu. Together they give
# the neuron's change exactly. Go back with them, as lesson 13 did with derivatives.


# %%
def mlp_back(i: int, d_post: Array) -> Array:
    """From what the neurons are worth, [1, pos, d_mlp], to what the stream they read is: [1, pos, d_model]."""
    w, (a, b) = blocks[i], (run["pre", i].astype(float) for run in (clean, frozen))
    slope = np.divide(silu(a) - silu(b), a - b, out=np.zeros_like(a), where=a != b)
    d_gate = d_post * slope * (clean["pre_linear", i] + frozen["pre_linear", i]) / 2
    d_in = d_post * (silu(a) + silu(b)) / 2
    return np.asarray((d_gate @ w.W_gate.T + d_in @ w.W_in.T) * w.ln2 / clean["scale", i, "ln2"])


d = np.zeros((*tokens.shape, model.config.d_model))  # what a change of the stream is worth
d[:, -1] = model.weights.ln_final * (model.weights.W_U[:, answers] @ [1, -1]) / clean["ln_final.hook_scale"][:, -1]
last, worth = d, dict[Place, Array]()
for i, w in reversed(list(enumerate(blocks))):
    worth["post", i] = d @ w.W_out.T
    d = d + mlp_back(i, worth["post", i])
    worth["z", i] = d @ w.W_O.T
    d = d + attention_back(pair, i, worth["z", i])
lesson.equal("all of it comes from the words that differ", (d * pair.change("resid_pre", 0)).sum(), gap)

# %% [markdown]
# ## 3. Nodes
#
# A part's share is how much it changed, times what that is worth. A part with more than a tenth of the gap is a node: a
# head, a neuron, or the rest of an MLP, each at a position (@). What does it read? Go back once more, through it alone.


# %%
class Node(NamedTuple):
    name: str
    depth: int  # its number in `places`
    mask: Array  # [1, pos, part]
    share: float
    write: Array  # [1, pos, d_model], in the clean run minus in the frozen one
    read: Array  # [1, pos, d_model]: what a change of the stream is worth by way of this node


places = [(point, i) for i in range(n_layers) for point in ("z", "post")]
nodes, bar, at = list[Node](), abs(gap) / 10, np.arange(tokens.size)[:, None]
for depth, (point, i) in enumerate(places):
    kind, numbers = ("", np.arange(n_heads)) if point == "z" else ("neuron ", np.arange(model.config.d_mlp))
    share = (worth[point, i] * pair.change(point, i)).reshape(*tokens.shape, len(numbers), -1).sum(axis=-1)
    large = abs(share) > bar  # [1, pos, part]
    found = [(f"{kind}{i}.{n} @{pos}", large & (at == pos) & (numbers == n)) for _, pos, n in np.argwhere(large)]
    if point == "post":
        found += [(f"MLP {i} @{pos}", ~large & (at == pos)) for pos in range(tokens.size)]
    for name, mask in found:
        if abs(share[mask].sum()) > bar:
            wide = np.repeat(mask, worth[point, i].shape[-1] // len(numbers), axis=-1)  # d_head numbers for each head
            write = (pair.change(point, i) * wide) @ (blocks[i].W_O if point == "z" else blocks[i].W_out)
            own = worth[point, i] * wide
            read = attention_back(pair, i, own) if point == "z" else mlp_back(i, own)
            nodes.append(Node(name, depth, mask, float(share[mask].sum()), write, read))

# %% [markdown]
# ## 4. Edges
#
# An edge is what one node writes, times what another reads. All that goes into a node sums to its share. Edges above a
# twentieth of the gap are drawn; the others are one edge, "rest". The error is a node, too.

# %%
streams = [pair.change(name, i) for i in range(n_layers) for name in ("resid_pre", "resid_mid")]  # what places read
into = [(streams[node.depth] * node.read).sum() for node in nodes]
lesson.equal("what goes into each node is its share", into, [node.share for node in nodes])
pieces, x = [show_token(piece) for piece in model.to_str_tokens(tokens[0])], streams[0]
words = [(k, at == k) for k in range(tokens.size) if x[:, k].any()]
starts = [Node(f"{pieces[k]} @{k}", -1, here, float((x * here * d).sum()), x * here, d) for k, here in words]
ends = [*nodes, Node("logits", len(places), at == at[-1], gap, 0 * last, last)]
edges = [("patterns, scales", "logits", error)]
for end in ends:
    flows = {one.name: (one.write * end.read).sum() for one in starts + nodes if one.depth < end.depth}
    drawn = {name: float(flow) for name, flow in flows.items() if abs(flow) > bar / 2}
    edges += [(name, end.name, flow) for name, flow in (drawn | {"rest": end.share - sum(drawn.values())}).items()]
boxes = [(node.name, node.depth, f"{node.share:+.2f}") for node in starts + ends]
boxes += [("rest", -2, "other parts"), ("patterns, scales", -2, "error")]
picture = lesson.graph(boxes, edges, "from the word to the logits, and how much takes each way")

# %% [markdown]
# ## 5. Is it so in the model?
#
# Put the corrupted run's values into the real clean run, at one node after the other. The control: the same part, half
# the layers away. Where does the graph miss most? (`deeper/21_attribution_graph.py` asks about other capitals.)

# %%
share = np.array([node.share for node in nodes])
real = np.array([exchanged(pair, {places[node.depth]: node.mask})[0] for node in nodes])
away = [exchanged(pair, {places[node.depth - n_layers // 2 * 2]: node.mask})[0] for node in nodes]
columns = {"node": [node.name for node in nodes], "share": share, "exchanged": real, "elsewhere": away}
lesson.table(columns, format="+.2f", caption="logits by which the difference falls, by the graph and in the model")
top = max(nodes, key=lambda node: abs(node.share) * (places[node.depth][0] == "z"), default=ends[-1])
text = f"Of a gap of {gap:.2f} logits, {top.share:.2f} pass through {top.name}. Exchanges in the real model"
lesson.headline(f"{text} differ from the shares by up to {abs(share - real).max(initial=0):.2f} logits.", picture)
lesson.keep(gap=gap, error=error, nodes=columns, edges=edges)

# %% [markdown]
# Exercise (easy, 5 minutes): What fraction of the largest head's share goes straight to the logits, by no other node?
#
# Hint: what it writes, times what the logits read, over its share

# %%
lesson.answer((top.write * last).sum() / top.share)
lesson.finish()
