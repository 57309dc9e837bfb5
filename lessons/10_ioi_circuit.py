# %% [markdown]
"""Which heads find the indirect object?

What you will learn: to find the heads that solve a task by taking each of them out, to say what each one reads and
writes, and to draw them as a circuit.

Needs: logit attribution, activation patching

Time: 20 minutes to read, 25 seconds to run

Paper: Wang et al. 2022, Interpretability in the Wild: a Circuit for Indirect Object Identification in GPT-2 small,
https://arxiv.org/abs/2211.00593; McDougall et al. 2023, Copy Suppression, https://arxiv.org/abs/2310.04625
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.hooks import HookPoint
from tinymi.teaching import Lesson

import numpy as np
from ioi import READS, TEMPLATES, make_task, unrelated

lesson = Lesson(__doc__)
lesson.start()
model = lesson.load_model()
weights, n_layers, n_heads = model.weights, model.config.n_layers, model.config.n_heads

# %% [markdown]
# ## 1. The task
#
# "When Mary and John went to the store, John gave a drink to" asks for Mary. The subject (S) is named twice, the
# indirect object (IO) once. We measure how far the model puts IO above S: the logit difference. Two pairs of names,
# each in both orders, so that the position of a name says nothing.

# %%
task = make_task(model, TEMPLATES[0])
rows = np.arange(len(task.prompts))


def differences(logits: Array) -> Array:
    return np.asarray(logits[rows, -1, task.io_id] - logits[rows, -1, task.s_id])  # [prompt]


logits, cache = model.run_with_cache(task.tokens)
clean = differences(logits).mean()
lesson.table({"prompt": task.prompts, "IO - S": differences(logits)}, format="+.2f")

# %% [markdown]
# ## 2. Take out each head in turn
#
# Out does not mean zero, which no later layer has ever seen. Put in what the head writes on average when nobody is
# named twice: the same sentence with three different names. What is lost is what the head does for the task.

# %%
_, abc = model.run_with_cache(unrelated(model, TEMPLATES[0]), lambda name: name.endswith("hook_z"))
average = [abc["z", layer].mean(axis=0) for layer in range(n_layers)]  # each [pos, n_heads, d_head]


def without(layer: int, head: int) -> float:
    def take_out(z: Array, hook: HookPoint) -> Array:
        z = z.copy()  # [prompt, pos, n_heads, d_head]
        z[:, :, head] = average[layer][:, head]
        return z

    stream, hooks = cache["resid_pre", layer], [(f"blocks.{layer}.attn.hook_z", take_out)]
    return float(differences(model.run_with_hooks(stream, hooks, start_at_layer=layer, positions=[-1])).mean())


layers = lesson.progress(range(n_layers), "layers")
loss = np.array([[clean - without(layer, head) for head in range(n_heads)] for layer in layers])
some = [layer for layer in range(n_layers) if abs(loss[layer]).max() > 0.25]
texts = [[f"{x:+.1f}" if abs(x) > 0.25 else "" for x in loss[layer]] for layer in some]
lesson.heatmap(loss[some], some, None, "what the logit difference loses", "layer", "head", texts=texts, color="loss")
lesson.say(f"Half of all heads change it by less than {np.median(abs(loss)):.2f}.")

# %% [markdown]
# ## 3. What do the strongest heads read, and what do they write?
#
# A head that the answer needs may write it, or only help others. Its direct effect tells: its write at the last
# position, read along the direction of IO and of S, as in lesson 6. And its attention says where it looks from there.

# %%
to_logits = weights.ln_final / cache["ln_final.hook_scale"][:, -1]  # [prompt, d_model]
to_io, to_s = np.zeros_like(loss), np.zeros_like(loss)
for layer in range(n_layers):
    z = cache["z", layer][:, -1].swapaxes(0, 1)  # [n_heads, prompt, d_head]
    writes = z @ weights.blocks[layer].heads.W_O  # [n_heads, prompt, d_model]
    to_io[layer] = (writes * to_logits * weights.W_U[:, task.io_id].T).sum(axis=2).mean(axis=1)
    to_s[layer] = (writes * to_logits * weights.W_U[:, task.s_id].T).sum(axis=2).mean(axis=1)
direct = to_io - to_s
lesson.equal("the heads' writes sum to what attention adds", writes.sum(axis=0), cache["attn_out", n_layers - 1][:, -1])

# %%
reads = {}  # the mean weight of the look that each class needs: [layer, head]
for name, (start, target) in READS.items():
    look = rows, slice(None), task.positions[start], task.positions[target]
    reads[name] = np.array([cache["pattern", layer][look].mean(axis=0) for layer in range(n_layers)])
top = [divmod(int(i), n_heads) for i in np.argsort(-abs(loss), axis=None)[:10]]
shown = {"loss": loss, "direct": direct, "to IO": to_io, "to S": to_s}
shown |= {">".join(READS[name]): weight for name, weight in reads.items()}
columns = {"head": [f"{layer}.{head}" for layer, head in top]}
columns |= {name: [numbers[place] for place in top] for name, numbers in shown.items()}
lesson.table(columns, caption="the ten heads with the largest loss", format=".2f")

# %% [markdown]
# Read the table from the bottom of the model up. One head lets each word carry the word before it, one finds at the
# second S what came after the first, others read the second S at the end. And look at the columns "to IO" and "to S" of
# the strongest head: does it write the right name, or write against the wrong one?
#
# ## 4. The circuit
#
# Put names to them where one fits, as Wang et al. (2022) do: a name mover reads IO at the end and writes it, a negative
# one writes against it, and S-inhibition reads S there. One class is new: an S suppressor reads S at the end and writes
# against it, which McDougall et al. (2023) call copy suppression.

# %%
writes_so = {"name mover": direct > 0.3, "negative name mover": direct < -0.3, "S suppressor": to_s < -0.3}
fits = {name: (weight > 0.4) & writes_so.get(name, True) for name, weight in reads.items()}  # each [layer, head]
roles = {place: next((name for name in READS if fits[name][place]), "unclassified") for place in top}
nodes = [(name, -1, "position") for name in ("IO", "S1", "S1+1", "S2")] + [("logits", n_layers, "IO - S")]
edges = []
for (layer, head), name in roles.items():
    if name in READS:
        nodes.append((f"{layer}.{head}", layer, name))
        edges.append((READS[name][1], f"{layer}.{head}", reads[name][layer, head]))
        if abs(direct[layer, head]) > 0.3:
            edges.append((f"{layer}.{head}", "logits", direct[layer, head]))
picture = lesson.graph(nodes, edges, "what each head reads, and what it writes to the logits")
layer, head = top[0]
writes_most = f"{to_io[layer, head]:+.2f} for IO and {to_s[layer, head]:+.2f} for S"
text = f"The strongest head, {layer}.{head}, hardly moves the right name: it writes {writes_most}. Without it,"
lesson.headline(f"{text} {loss[layer, head]:.2f} of a difference of {clean:.2f} are lost.", picture)

# %% [markdown]
# The model does no worse without one of its name movers: a role does not say that a head is needed. Do the roles return
# on other templates, and is the circuit enough? Less than you may hope: see `deeper/10_ioi_circuit.py`.

# %% [markdown]
# Exercise (easy, 5 minutes): What does the logit difference lose if you zero the strongest head's output
# instead of putting in its mean?
#
# Hint: `z[:, :, head] = 0` in `take_out`

# %%
average[layer] *= 0
lesson.answer(clean - without(layer, head))
lesson.keep(prompts=[{"prompt": p, "io": io, "s": s} for p, io, s in zip(task.prompts, task.io, task.s, strict=True)])
lesson.keep(heads=[{"layer": layer, "head": head, "role": name} for (layer, head), name in roles.items()])
lesson.keep(clean=clean, knockout=loss, direct=direct)
lesson.finish()
