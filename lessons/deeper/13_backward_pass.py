# %% [markdown]
"""Does it hold? What a gradient tells about a removal

What you will learn: to hold gradients against removals on facts of many forms; to tell where they part, and to test it
on other forms; sums that must be exact; and why finite differences need float64.

Needs: backward pass

Time: 15 minutes to read, 15 seconds to run

Paper: Kramar et al. 2024, AtP*, https://arxiv.org/abs/2403.00745; Ameisen et al. 2025, Circuit Tracing,
https://transformer-circuits.pub/2025/attribution-graphs/methods.html
"""

# %% Set-up
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

from tinymi import KeyValueCache, Model, load, logit_difference
from tinymi.arrays import Array, Tokens
from tinymi.backward import FREEZABLE
from tinymi.checkpoint.find import folder_for
from tinymi.errors import InputError
from tinymi.hooks import Callback, HookPoint
from tinymi.ops import rms_norm
from tinymi.teaching import Lesson, Token, prompts, stats
from tinymi.teaching.words import one_token
from tinymi.weights import BlockWeights

import numpy as np

lesson = Lesson(__doc__)
options = lesson.start()
model = lesson.load_model()
n_layers, blocks = model.config.n_layers, model.weights.blocks
POINTS = [f"blocks.{i}.hook_{part}_out" for i in range(n_layers) for part in ("attn", "mlp")]

# %% [markdown]
# ## 1. More prompts
#
# Facts of ten forms that the model answers rightly; the wrong answer is that of the next question of the form. The
# components are what each attention layer and MLP writes at the last position. Slope: gradient times activation.
# Effect: how far the difference falls with zero there, or with the mean over all facts.


# %%
class Fact(NamedTuple):
    """One prompt: its run, and a metric's gradients."""

    form: str
    tokens: Tokens  # [1, pos]
    answers: tuple[int, int]
    difference: float
    writes: Array  # [component, d_model], at the last position
    gradients: Array  # [component, d_model]
    shares: Array  # [component], as in lesson 6
    streams: Array  # [n_layers, d_model]: what enters each layer, at the last position


def derivative_of(answers: tuple[int, int]) -> Callable[[Array], Array]:
    """Of the logit difference, with respect to the logits."""
    return lambda logits: logit_difference(logits, *answers)[1]


def take(form: str, prompt: str, answer: int, wrong: int) -> Fact:
    tokens = model.to_tokens(prompt)
    streams = [f"blocks.{i}.hook_resid_pre" for i in range(n_layers)]
    names = [*POINTS, *streams, "ln_final.hook_scale", "ln_final.hook_normalized"]
    logits, cache, grads = model.run_with_gradients(tokens, derivative_of((answer, wrong)), names)
    writes = np.array([cache[point][0, -1] for point in POINTS])
    direction = grads["ln_final.hook_normalized"][0, -1] / cache["ln_final.hook_scale"][0, -1]  # [d_model]
    return Fact(
        form,
        tokens,
        (answer, wrong),
        float(logits[0, -1, answer] - logits[0, -1, wrong]),
        writes,
        np.array([grads[point][0, -1] for point in POINTS]),
        writes @ direction,
        np.array([cache[name][0, -1] for name in streams]),
    )


def facts_of(form: str, most: int = 1) -> list[Fact]:
    """Facts of a form that the model answers rightly, each against the answer to the next one."""
    asked = [
        (form.format(subject), one_token(text, model)) for f, subject, text in prompts("facts_by_template") if f == form
    ]
    tokens = model.to_tokens([prompt for prompt, _ in asked[:4]], padding=True)
    says = model(tokens, positions=-1)[:, 0].argmax(axis=-1).tolist()
    known = [(prompt, token) for (prompt, answer), token in zip(asked, says) if token == answer]
    pairs = [(prompt, answer, wrong) for (prompt, answer), (_, wrong) in pairwise(known) if answer != wrong]
    return [take(form, *pair) for pair in pairs[:most]]


def removals(facts: Sequence[Fact], instead: Array) -> Array:
    """How far each difference falls with other vectors in place of each component's, [kind, component, d_model].

    Only the last position changes, so that all before it runs once. All facts and kinds of a layer are one batch.
    """
    tokens = model.to_tokens([model.to_string(fact.tokens[0]) for fact in facts], padding=True)
    past, streams = KeyValueCache(len(facts), tokens.shape[1], model.config, model.weights.dtype), []
    model(tokens[:, :-1], stop_at_layer=n_layers, past_kv_cache=past)
    for layer in lesson.progress(range(n_layers), "removals"):
        points = POINTS[2 * layer : 2 * layer + 2]
        rows = [(point, vector) for i, point in enumerate(points) for vector in instead[:, 2 * layer + i]]
        hooks = [(point, put(vector, row, len(rows))) for row, (point, vector) in enumerate(rows)]
        last, pasts = np.repeat([fact.streams[[layer]] for fact in facts], len(rows), axis=0), past.repeat(len(rows))
        out = model.run_with_hooks(last, hooks, start_at_layer=layer, stop_at_layer=n_layers, past_kv_cache=pasts)
        streams.append(out.reshape(len(facts), 2, len(instead), -1))
    normed = rms_norm(np.concatenate(streams, axis=1), model.weights.ln_final, model.config.rms_eps)
    ends = [final @ model.weights.W_U[:, fact.answers] @ (1, -1) for final, fact in zip(normed, facts)]
    return np.array([fact.difference - end.T for fact, end in zip(facts, ends)])  # [fact, kind, component]


def put(vector: Array, row: int, n_rows: int) -> Callback:
    def callback(value: Array, hook: HookPoint) -> Array:
        value = value.copy()  # [fact * row, 1, d_model]
        value[row::n_rows, -1] = vector
        return value

    return callback


forms = list(dict.fromkeys(form for form, *_ in prompts("facts_by_template")))
facts = [fact for form in lesson.progress(forms, "facts") for fact in facts_of(form)]
if not facts:
    raise InputError("facts: the model answers none of them with one token; take a model that was trained on English")
grouped = [fact.form for fact in facts]
average = np.mean([fact.writes for fact in facts], axis=0)  # [component, d_model]
instead = np.array([0 * average, average])
slopes = np.array([((fact.writes - instead) * fact.gradients).sum(axis=2) for fact in facts])  # [fact, kind, component]
effects = removals(facts, instead)
shares = np.array([fact.shares for fact in facts])
others = np.array([(a.writes * b.gradients).sum(axis=1) for a, b in zip(facts, [*facts[1:], facts[0]])])


def ranks(guesses: Array, kind: int = 0) -> list[float]:
    """For each fact: do the guesses order the components as their effects do?"""
    return [stats.rank_correlation(guess, effect) for guess, effect in zip(guesses, effects[:, kind])]


guesses = {"gradient x activation": ranks(slopes[:, 0]), "the same, mean in place of zero": ranks(slopes[:, 1], 1)}
guesses |= {"with the next fact's gradients": ranks(others), "shares (lesson 6)": ranks(shares)}
estimates = [stats.mean_by_group(values, grouped) for values in guesses.values()]
columns = {"guess": list(guesses), "rank correlation with the effect": [f"{estimate:.2f}" for estimate in estimates]}
picture = lesson.table(columns, caption=f"{len(facts)} facts of {len(set(grouped))} forms")


def plainly(fact: Fact, point: str, hooks: Sequence[tuple[str, Callback]] = ()) -> float:
    """The effect of zero in place of what a component writes, in one run from the tokens on with more hooks."""

    def zero(value: Array, hook: HookPoint) -> Array:
        return np.concatenate([value[:, :-1], 0 * value[:, -1:]], axis=1)  # [1, pos, d_model]

    logits = model.run_with_hooks(fact.tokens, [(point, zero), *hooks])[0, -1]
    return fact.difference - float(logits[fact.answers[0]] - logits[fact.answers[1]])


chosen = [0, 1, len(POINTS) // 2, len(POINTS) - 1]
one_by_one = [plainly(facts[-1], POINTS[i]) for i in chosen]
lesson.equal("the fast removals equal plain runs", effects[-1, 0, chosen], one_by_one, 1e-3)
text = "Gradient times activation puts the components in about the order of their effects (rank correlation above 0.5)."
control = f"with the gradients of the next fact {estimates[2]:.2f}; "
control += f"chance stays below {stats.chance_correlation(slopes[0, 0], effects[0, 0]):.2f}"
lesson.finding(text, estimates[0], 0.5, control=control)
steps = [np.linalg.norm(fact.writes - average, axis=1) / np.linalg.norm(fact.writes, axis=1) for fact in facts]
text = "With the mean in place of zero, it does so better."
zero, mean = list(guesses.values())[:2]
better = stats.mean_by_group(np.subtract(mean, zero), grouped)
lesson.finding(text, better, 0.0, control=f"the steps are shorter: {np.mean(steps):.0%} of those to zero")

# %% [markdown]
# ## 2. Where do they part?
#
# Choose the three components with the largest gap between slope and effect on the first half of the forms. On the other
# half, which part of all gaps is theirs? If gaps fell anywhere, it would be three in all components.

# %%
seen = np.array([forms.index(form) < len(forms) // 2 for form in grouped])
gaps = abs(effects - slopes)[:, 0]  # [fact, component]
worst = np.argsort(-gaps[seen].mean(axis=0))[:3]
fresh = [form for form, old in zip(grouped, seen) if not old]
columns = {"component": [POINTS[i] for i in worst], "mean |slope|": abs(slopes[~seen, 0]).mean(axis=0)[worst]}
columns["mean |effect|"] = abs(effects[~seen, 0]).mean(axis=0)[worst]
lesson.table(columns, caption="the three, on the other forms", format=".2f")
part = stats.mean_by_group(gaps[~seen][:, worst].sum(axis=1) / gaps[~seen].sum(axis=1), fresh)
text = (
    f"Three components, chosen on other forms ({', '.join(columns['component'])}), have more than a fifth of all gaps."
)
lesson.finding(
    text, part, 0.2, control=f"three of {len(POINTS)} components would be {3 / len(POINTS):.0%}", format=".0%"
)

# %% [markdown]
# In the lesson's prompt the largest effect was gone once all attention patterns were held as they were. Is that a rule?
# Then holding them must save a part of what the three removals cost on the new forms, in an interval above 0.


# %%
def with_patterns_held(fact: Fact) -> list[float]:
    _, cache = model.run_with_cache(fact.tokens, [f"blocks.{i}.attn.hook_pattern" for i in range(n_layers)])
    hold: list[tuple[str, Callback]] = [(name, lambda value, hook: cache[hook.name]) for name in cache]
    return [plainly(fact, POINTS[i], hold) for i in worst]


held = np.array([with_patterns_held(fact) for fact, old in zip(facts, seen) if not old])  # [fact, 3]
free = abs(effects[~seen, 0][:, worst]).mean(axis=1)
saved = stats.mean_by_group(1 - abs(held).mean(axis=1) / free, fresh)
text = f"The three removals cost {free.mean():.2f}, and with the patterns held {abs(held).mean():.2f}."
lesson.say(f"{text} The part saved: {saved:.0%}.")

# %% [markdown]
# ## 3. A sum that is exact
#
# Count as constants (`freeze`) where attention looks, what the norms divide by, and the MLPs' gates, silu(pre). Then
# the logits are linear in the residual stream. So at each layer the stream times its gradient sums to the difference,
# over all positions. (Biases inside attention and MLP add their own part.) A row of the picture splits it by position.

# %%
BIASED = ("v", "attn_out", "pre_linear", "mlp_out")


def frozen(tokens: Tokens, answers: tuple[int, int]) -> tuple[float, Array, Array]:
    """The difference, and the frozen gradient times stream [n_layers, pos], and what biases add above each layer."""
    logits, cache, grads = model.run_with_gradients(tokens, derivative_of(answers), freeze=FREEZABLE)
    worth = [(cache["resid_pre", i] * grads["resid_pre", i])[0].sum(axis=-1) for i in range(n_layers)]
    own = [bias_share(block, [grads[name, i] for name in BIASED]) for i, block in enumerate(blocks)]
    difference = float(logits[0, -1, answers[0]] - logits[0, -1, answers[1]])
    return difference, np.array(worth), np.cumsum(own[::-1])[::-1]


def bias_share(w: BlockWeights, gradients: list[Array]) -> float:
    biases = (w.b_V, w.b_O, w.b_in, w.b_out)
    return sum(float((d.reshape(-1, len(b)) @ b).sum()) for b, d in zip(biases, gradients) if b is not None)


errors = []
for fact in lesson.progress(facts, "frozen passes"):
    difference, worth, added = frozen(fact.tokens, fact.answers)
    errors.append(abs(worth.sum(axis=1) + added - difference).max() / abs(worth).sum(axis=1).max())
lesson.check("each layer's stream times its frozen gradient sums to the difference", max(errors), 1e-4)

pair = (model.to_single_token(" Paris"), model.to_single_token(" Rome"))
tokens = model.to_tokens("The capital of France is")
difference, worth, _ = frozen(tokens, pair)
rows = range(0, n_layers, max(n_layers // 10, 1))
pieces = [Token(piece) for piece in model.to_str_tokens(tokens[0])]
caption = f"frozen gradient times stream that enters a layer; each row sums to {difference:.2f}"
lesson.heatmap(worth[rows], rows, pieces, caption, row_axis="layer", format=".2f")

# %% [markdown]
# What the last MLP writes meets one norm only. With that norm's scale held, its slope is what its removal costs.

# %%
last, scale = POINTS[-1], "ln_final.hook_scale"
fact, d_logits = facts[-1], derivative_of(facts[-1].answers)
_, cache, grads = model.run_with_gradients(fact.tokens, d_logits, [last, scale], freeze=["scale"])
removed = plainly(fact, last, [(scale, lambda value, hook: cache[scale])])
lesson.equal("with the scale held, the slope is the effect", (grads[last] * cache[last])[0, -1].sum(), removed, 1e-4)

# %% [markdown]
# ## 4. How small is small?
#
# A finite difference with a large step sees the curve, and with a tiny one the rounding. Here the gradient at three
# streams, held against nudges along it, in float32 and in float64.

# %%
nudges = (1e-1, 1e-2, 1e-3, 1e-4, 1e-6)
layers = (n_layers // 2, 3 * n_layers // 4, n_layers - 1)


def errors_of(model: Model) -> Array:
    """By how much the slope that a nudge finds differs from the gradient's length, as a part of it: [nudge]."""
    _, cache, grads = model.run_with_gradients(tokens, derivative_of(pair), lambda name: name.endswith("resid_pre"))
    errors = []
    for layer in layers:
        length = float(np.linalg.norm(grads["resid_pre", layer]))
        along = np.multiply.outer(nudges, grads["resid_pre", layer][0]) / length  # [nudge, pos, d_model]
        streams = cache["resid_pre", layer] + np.concatenate([along, -along]).astype(model.weights.dtype)
        ends = logit_difference(model(streams, start_at_layer=layer, positions=-1), *pair)[0].reshape(2, -1)
        errors.append(abs((ends[0] - ends[1]) / (2 * np.array(nudges)) / length - 1))
    return np.asarray(np.mean(errors, axis=0))


table = {"float32": errors_of(model), "float64": errors_of(load(folder_for(options.model), dtype=np.float64))}
columns = {"step": [f"{step:.0e}" for step in nudges]}
columns |= {name: [f"{error:.0e}" for error in errors] for name, errors in table.items()}
lesson.table(columns, caption=f"error of the slope, as a part of it: streams that enter layers {layers}")
lesson.check("in float64 a step of 1e-4 finds the gradient", table["float64"][3], 1e-6)

# %%
text = f"Gradient x activation orders components much as removal does: rank correlation {estimates[0]:.2f}, with the"
lesson.headline(f"{text} mean in place of zero {estimates[1]:.2f}, and lesson 6's shares {estimates[3]:.2f}.", picture)
lesson.keep(facts=[model.to_string(fact.tokens[0]) for fact in facts], answers=[fact.answers for fact in facts])
lesson.keep(slopes=slopes, effects=effects, worth=worth, finite=table, difference=difference)
lesson.finish()
