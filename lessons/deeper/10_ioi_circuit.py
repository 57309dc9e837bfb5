# %% [markdown]
"""Does it hold? The circuit on new templates, alone, and without its parts

What you will learn: to test roles on templates that had no part in giving them, to see heads make up for one another,
and to ask three things of a circuit: is it faithful, complete and minimal?

Needs: IOI circuit

Time: 20 minutes to read, 80 seconds to run

Paper: Wang et al. 2022, Interpretability in the Wild, https://arxiv.org/abs/2211.00593; McDougall et al. 2023, Copy
Suppression, https://arxiv.org/abs/2310.04625; Mueller et al. 2025, MIB: A Mechanistic Interpretability Benchmark,
https://arxiv.org/abs/2504.13151
"""

# %% Set-up
import sys
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, NamedTuple

from tinymi.arrays import Array
from tinymi.hooks import Callback, HookPoint
from tinymi.teaching import Lesson, stats

import numpy as np

sys.path.append(f"{sys.path[0]}/..")  # the folder of ioi.py
from ioi import HELD_OUT_TEMPLATES, TEMPLATES, make_task, unrelated

Head = tuple[int, int]
Evidence = dict[str, Array]
lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
weights, n_layers, n_heads = model.weights, model.config.n_layers, model.config.n_heads
group = n_heads // model.config.n_kv_heads  # so many heads share one key head and one value head
every = [(layer, head) for layer in range(n_layers) for head in range(n_heads)]
z_points = [f"blocks.{layer}.attn.hook_z" for layer in range(n_layers)]
U = weights.W_U - weights.W_U.mean(axis=1, keepdims=True)  # a logit is measured from the mean of all tokens
rng = np.random.default_rng(0)


# %% [markdown]
# ## 1. Twelve templates
#
# Six templates give the roles, six others test them. Each has two prompts, one for each order of two names. Prompts of
# one template are alike, so the intervals draw templates.


# %%
def names(heads: Iterable[Head]) -> str:
    return " ".join(f"{layer}.{head}" for layer, head in heads) or "none"


class Case(NamedTuple):
    """One template: its prompts, what enters each layer, and what each head writes when nobody is named twice."""

    task: Any
    streams: Array  # [n_layers, prompt, pos, d_model]
    mean: Array  # [n_layers, pos, n_heads, d_head]
    clean: Array  # [prompt]: logit(IO) - logit(S) at the end


def difference(task: Any, logits: Array) -> Array:
    """Logits [prompt, 1, d_vocab] -> logit(IO) - logit(S) [prompt]."""
    return np.asarray(logits[[0, 1], 0, task.io_id] - logits[[0, 1], 0, task.s_id])


def make_case(template: str, seed: int) -> Case:
    task = make_task(model, template, n_pairs=1, seed=seed)  # two prompts
    logits, cache = model.run_with_cache(task.tokens, lambda point: point.endswith("resid_pre"), positions=-1)
    streams = np.stack([cache["resid_pre", layer] for layer in range(n_layers)])
    _, abc = model.run_with_cache(unrelated(model, template, n=4, seed=seed), z_points, positions=-1)
    mean = np.stack([abc[point].mean(axis=0) for point in z_points])
    return Case(task, streams, mean, difference(task, logits))


known, new = ([make_case(text, i) for i, text in enumerate(texts)] for texts in (TEMPLATES, HELD_OUT_TEMPLATES))
by_template = partial(stats.mean_by_group, groups=np.repeat(np.arange(len(new)), 2))  # two prompts of each template
clean, new_clean = (np.concatenate([case.clean for case in cases]) for cases in (known, new))
full = float(new_clean.mean())
lesson.finding(
    "The model puts IO above S on templates that no role below was made from.",
    by_template(new_clean),
    control=f"IO is above S in {(new_clean[::2] > 0).mean():.0%} of the new prompts that name IO first, and in "
    f"{(new_clean[1::2] > 0).mean():.0%} of those that name S first",
)

# %% [markdown]
# ## 2. The sweep, made fast
#
# The short lesson took heads out one by one. Here the heads of a layer run as one batch: a copy of the prompts for each
# head that is left out. A head changes nothing below its layer, so the run starts there, and only the last position
# needs logits. Three templates choose the strong heads, which are then measured on all six.


# %%
def knock_out_layer(case: Case, layer: int) -> Array:
    """Each head of the layer in turn replaced by its mean: what is lost, [n_heads, prompt]."""

    def own_head(z: Array, hook: HookPoint) -> Array:
        copies = z.reshape(n_heads, -1, *z.shape[1:]).copy()  # [copy, prompt, pos, n_heads, d_head]
        for head in range(n_heads):
            copies[head, :, :, head] = case.mean[layer][:, head]
        return copies.reshape(z.shape)

    stream = np.tile(case.streams[layer], (n_heads, 1, 1))
    logits = model.run_with_hooks(stream, [(z_points[layer], own_head)], start_at_layer=layer, positions=-1)
    return np.stack([case.clean - difference(case.task, part) for part in np.split(logits, n_heads)])


def hooks_for(case: Case, out: Array) -> list[tuple[str, Callback]]:
    """Replace the heads that out [n_layers, n_heads] marks by their means."""

    def put_mean(z: Array, hook: HookPoint) -> Array:
        return np.where(out[hook.layer][:, None], case.mean[hook.layer], z)

    return [(z_points[layer], put_mean) for layer in range(n_layers) if out[layer].any()]


def these(heads: Iterable[Head]) -> Any:
    """[n_layers, n_heads]: True for these heads."""
    return np.array([[(layer, head) in set(heads) for head in range(n_heads)] for layer in range(n_layers)])


def without(cases: Sequence[Case], out: Array) -> Array:
    """Logit differences without the heads that out [n_layers, n_heads] marks: [prompt of all cases]."""
    part: dict[str, Any] = {"start_at_layer": (start := int(out.any(axis=1).argmax())), "positions": -1}
    runs = [model.run_with_hooks(case.streams[start], hooks_for(case, out), **part) for case in cases]
    return np.concatenate([difference(case.task, logits) for case, logits in zip(cases, runs)])


effect = np.empty((n_layers, n_heads))
for layer in lesson.progress(range(n_layers), "layers"):
    effect[layer] = np.mean([knock_out_layer(case, layer) for case in known[:3]], axis=(0, 2))
top = [divmod(int(i), n_heads) for i in np.argsort(-abs(effect), axis=None)]
layer, head = top[0]
only_head = (np.arange(n_heads) == head)[:, None]
hooks = [(z_points[layer], lambda z, hook: np.where(only_head, known[0].mean[layer], z))]
plain = known[0].clean - difference(known[0].task, model.run_with_hooks(known[0].task.tokens, hooks)[:, -1:])
lesson.equal(f"head {layer}.{head}: fast sweep and plain loop", knock_out_layer(known[0], layer)[head], plain, 1e-3)

# %% [markdown]
# ## 3. Do the roles come back on new templates?
#
# The rule of the short lesson, for heads that lose or write 0.3 or more. Heads that write to the logits get their role
# for what they write, not for a loss, since others may make up for one. Heads that help others need a loss of 0.3. Each
# needs attention above 0.4 at its place; the table gives it for both sets.

# %%
NONE = "unclassified"
LINKS = [("END", "IO"), ("END", "S2"), ("S2", "S1"), ("S2", "S1+1"), ("S1+1", "S1")]
HELPERS = {"S-inhibition": "END>S2", "duplicate token": "S2>S1", "induction": "S2>S1+1", "previous token": "S1+1>S1"}


def measure(cases: Sequence[Case], out: Array) -> Evidence:
    """Direct effects on IO and S and attention, of all heads: each [n_layers, n_heads, prompt]."""
    points = [f"blocks.{layer}.attn.hook_{what}" for layer in range(n_layers) for what in ("z", "pattern")]
    points, parts = [*points, "ln_final.hook_scale"], []
    for task, hooks in ((case.task, hooks_for(case, out)) for case in cases):
        _, cache = model.run_with_cache(task.tokens, points, fwd_hooks=hooks, positions=-1)
        columns = np.stack([U[:, task.io_id].T, U[:, task.s_id].T])  # [2, prompt, d_model]
        read = columns * weights.ln_final / cache["ln_final.hook_scale"][:, -1]
        for layer, block in enumerate(weights.blocks):
            write = np.moveaxis(cache["z", layer][:, -1], 1, 0) @ block.heads.W_O  # [n_heads, prompt, d_model]
            to_io, to_s = (write * read[:, None]).sum(axis=-1)
            pattern, at = cache["pattern", layer], task.positions
            links = {f"{a}>{b}": pattern[[0, 1], :, at[a], at[b]].T for a, b in LINKS}
            parts.append({"to IO": to_io, "to S": to_s, "direct": to_io - to_s} | links)
    by_case = {name: np.stack([part[name] for part in parts]) for name in parts[0]}  # [case * n_layers, n_heads, 2]
    return {name: np.concatenate(np.split(values, len(cases)), axis=-1) for name, values in by_case.items()}


def role(values: dict[str, float]) -> str:
    if values["END>IO"] > 0.4 and abs(values["direct"]) > 0.3:
        return "name mover" if values["direct"] > 0 else "negative name mover"
    if values["END>S2"] > 0.4 and values["to S"] < -0.3:
        return "S suppressor"
    helper = next((name for name, link in HELPERS.items() if values[link] > 0.4), NONE)
    return helper if values["loss"] > 0.3 else NONE


def roles_of(evidence: Evidence, losses: dict[Head, Array]) -> dict[Head, str]:
    return {
        head: role({name: part[head].mean() for name, part in evidence.items()} | {"loss": values.mean()})
        for head, values in losses.items()
    }


evidence, new_evidence = measure(known, these([])), measure(new, these([]))
strong = [head for head in every if max(abs(effect[head]), abs(evidence["direct"][head].mean())) > 0.3]
loss = {head: clean - without(known, these([head])) for head in lesson.progress(strong, "strong heads")}
new_loss = {head: new_clean - without(new, these([head])) for head in lesson.progress(strong, "new templates")}
roles, new_roles = roles_of(evidence, loss), roles_of(new_evidence, new_loss)
circuit = [head for head in strong if roles[head] != NONE]
again = sum(new_roles[head] == roles[head] for head in circuit)
readers = sum(max(evidence[f"{a}>{b}"][head].mean() for a, b in LINKS) > 0.4 for head in every)
by_role = {name: [head for head in circuit if roles[head] == name] for name in dict.fromkeys(roles[h] for h in circuit)}
columns = {"head": [names([head]) for head in circuit], "role": [roles[head] for head in circuit]}
columns |= {what: [f"{by_template(x[h]):+.1f}" for h in circuit] for what, x in (("loss", loss), ("new", new_loss))}
columns["to S"] = [f"{new_evidence['to S'][head].mean():+.1f}" for head in circuit]
place = {**HELPERS, "S suppressor": "END>S2", "name mover": "END>IO", "negative name mover": "END>IO"}
reads = [[part[place[roles[head]]][head].mean() for part in (evidence, new_evidence)] for head in circuit]
columns |= {"reads": [f"{a:.2f} {b:.2f}" for a, b in reads], "role, new": [new_roles[head] for head in circuit]}
lesson.table(columns, caption="new, to S: on new templates; reads: on the known templates, and on the new ones")
lesson.finding(
    f"Head {names(top[:1])}, whose loss is the largest, is needed on new templates, too.",
    by_template(new_loss[top[0]]),
    control=f"other heads of its layer lose {np.delete(effect[layer], head).max():.2f} at most on the known ones",
)
lesson.finding(
    "Most heads keep their role on new templates.",
    established=again > 0.5 * len(circuit),
    evidence=f"{again} of {len(circuit)} do (the bar: half); they have "
    f"{len({(layer, head // group) for layer, head in circuit})} key heads, and heads that share one are one witness",
    control=f"attention alone names no role: {readers} of {len(every)} heads read one of these places",
)
suppressors, against_io = by_role.get("S suppressor", []), by_role.get("negative name mover", [])
movers = [h for h in every if evidence["END>IO"][h].mean() > 0.4 and evidence["direct"][h].mean() > 0]  # even a little
to_io, to_s = (new_evidence[what][these(suppressors)].sum(axis=0) for what in ("to IO", "to S"))
by_movers = new_evidence["direct"][these(movers)].sum(axis=0)
lesson.finding(
    f"S suppressors ({names(suppressors)}) write against S more than heads that read IO ({names(movers)}) for IO.",
    by_template(-to_s - by_movers),
    control=f"against S {-to_s.mean():.2f}, for IO {to_io.mean():.2f}; the others write {by_movers.mean():.2f}",
)

# %% [markdown]
# ## 4. Taken out together
#
# Random heads come from all heads of the same layers, as many in each layer; then also by key-value groups.


# %%
def random_heads(heads: Sequence[Head], by_group: bool) -> list[Head]:
    drawn: list[Head] = []
    for layer in sorted({layer for layer, _ in heads}):
        start = rng.permutation(n_heads // group)[:, None] * group + np.arange(group)  # a row is a group
        order = start.ravel() if by_group else rng.permutation(n_heads)
        drawn += [(layer, int(head)) for head in order[: sum(at == layer for at, _ in heads)]]
    return drawn


def draws(out: bool) -> str:
    """What is left with random heads out (or alone): single heads, then groups, three draws of each."""
    masks = [[these(random_heads(circuit, by_group)) for _ in range(3)] for by_group in (False, True)]
    means = [[without(new, mask if out else ~mask).mean() for mask in row] for row in masks]
    return " and by groups ".join(f"{min(row):.2f} to {max(row):.2f}" for row in means)


lesson.finding(
    f"Without its {len(circuit)} heads with a role the model prefers S: the difference changes its sign.",
    by_template(-without(new, these(circuit))),
    control=f"of {full:.2f} random heads leave {draws(out=True)}",
)
after = measure(new, these(movers))["direct"] - new_evidence["direct"]
helpers = ", ".join(f"{names([head])} {after[head].mean():+.2f}" for head in suppressors + against_io)
one_by_one = [f"{(new_clean - without(new, these([head]))).mean():+.2f}" for head in movers]
lost = new_clean - without(new, these(movers))
lesson.finding(
    "Other heads make up for those that read IO and write for it: taken out together, they cost less than they write.",
    by_template(by_movers - lost),
    control=f"they write {by_movers.mean():.2f}; one by one they cost {', '.join(one_by_one)}, together "
    f"{lost.mean():+.2f}; what others write changes, {helpers}",
)

# %% [markdown]
# ## 5. Faithful, complete, minimal?
#
# Faithful: the circuit alone, all other heads at their means, does what the model does. Complete: take any part K out
# of both, and they still do the same. Minimal: each head matters to the circuit when some K is out. We test K = each
# role, and minimality with K = no head; other sets are not tested, and MLPs stay. Heads are kept at all positions, and
# not only at one: a looser test than Wang et al. have. Mueller et al. (2025) compare circuits of many sizes.

# %%
alone = {"no head": without(new, ~these([])), "the circuit": without(new, ~these(circuit))}
sizes = [size for size in (5, 10, 20, 40, 80) if size < len(every)]
alone |= {f"the {size} largest losses": without(new, ~these(top[:size])) for size in sizes}
columns = {"heads kept": list(alone), "IO - S": [f"{by_template(values):+.2f}" for values in alone.values()]}
lesson.table(columns | {"share": [f"{values.mean() / full:.0%}" for values in alone.values()]})
curve = [float(alone[f"the {size} largest losses"].mean()) for size in sizes]
random = f"random heads of the same layers alone keep {draws(out=False)}"
lesson.finding("The circuit alone keeps half.", by_template(alone["the circuit"]), full / 2, control=random)
lesson.finding(
    "More heads do not always keep more: they cancel each other, and a share does not measure completeness.",
    established=min(np.diff(curve)) < 0,
    evidence=", ".join(f"{size} heads {value:.2f}" for size, value in zip(sizes, curve)),
    control=f"all heads {full:.2f}, none {alone['no head'].mean():.2f}; a share that adds up would only rise",
)
parts_of = {names([h]): [h] for h in circuit} | {name: part for name, part in by_role.items() if len(part) > 1}
left = [(without(new, these(k)).mean(), without(new, ~these(set(circuit) - set(k))).mean()) for k in parts_of.values()]
in_model, in_circuit = np.reshape(left, (-1, 2)).T
columns = {"without": list(parts_of), "the model": in_model, "the circuit": in_circuit}
lesson.table(columns, caption="complete: the columns are equal; minimal: the last moves with each head", format="+.2f")
lesson.equal("with all heads kept nothing changes", without(new, ~these(every)), new_clean, 1e-4)
lesson.keep(circuit=[[*head, roles[head]] for head in circuit], new_clean=new_clean, strong=strong)
lesson.keep(loss=list(loss.values()), alone={name: float(values.mean()) for name, values in alone.items()})
lesson.finish()
