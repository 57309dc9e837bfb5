# %% [markdown]
"""How do you fool yourself with true numbers?

What you will learn: why experiments have controls. Six findings, each with a true number, and what is left of them.

Needs: inspect weights, attention patterns, logit lens, logit attribution, activation patching

Time: 10 minutes to read, 7 seconds to run

Paper: Bolukbasi et al. 2021, An Interpretability Illusion for BERT, https://arxiv.org/abs/2104.07143
"""

# %% Set-up
from tinymi.ops import rms_norm, softmax
from tinymi.teaching import Lesson, Token, prompts

import numpy as np

lesson = Lesson(__doc__)
lesson.start()
model = lesson.load_model()
weights, blocks, layers = model.weights, model.weights.blocks, range(model.config.n_layers)
third = max(len(layers) // 3, 1)
rng = np.random.default_rng(0)

# %% [markdown]
# Each section makes a claim with a true number. Stop there: what else would give this number? Then look at the control.
#
# ## 1. The incredible shrinking keys
#
# Claim: late layers need smaller keys. Divide the norm of W_K in the last third of the layers by that in the first.

# %%
alone = [np.linalg.norm(block.W_K) for block in blocks]
weighted = [np.linalg.norm(block.ln1[:, None] * block.W_K) for block in blocks]
growth = [np.mean(norms[-third:]) / np.mean(norms[:third]) for norms in (alone, weighted)]
lesson.bars(["claim: W_K", "control: W_K, weighted"], growth, "last third / first third", ".2f")

# %% [markdown]
# Moral: a learned weight multiplies what W_K reads. What the one loses, the other may gain.
#
# ## 2. Facts live in fewer places
#
# Claim: a fact is the work of few components, a phrase of many. Count those that write 80 % of the answer (lesson 6).
# Control: other facts.

# %%
runs, needed = [], dict[str, list[int]]()
for kind, prompt, answer, foil in prompts("fooling_yourself"):
    logits, cache = model.run_with_cache(model.to_tokens(prompt))
    parts = [cache["hook_embed"], *(cache[part, layer] for layer in layers for part in ("attn_out", "mlp_out"))]
    read = np.array([part[0, -1] for part in parts]) / cache["ln_final.hook_scale"][0, -1] * weights.ln_final
    direction = weights.W_U[:, model.to_single_token(answer)] - weights.W_U[:, model.to_single_token(foil)]
    shares = read @ direction  # [component]
    if shares.sum() > 0:  # the model prefers the right answer
        runs.append((read, direction))
        written = np.sort(np.abs(shares))[::-1].cumsum()
        needed.setdefault(kind, []).append(1 + np.sum(written < 0.8 * written[-1]))
lesson.bars(list(needed), [np.mean(counts) for counts in needed.values()], "components for 80 % of the answer", ".1f")
lesson.equal("the parts sum to the logits", read.sum(axis=0) @ weights.W_U, logits[0, -1])

# %% [markdown]
# Moral: every fact behind the claim was about a place. Many examples of one kind are one example.
#
# ## 3. It makes up its mind late
#
# Claim: the answer comes late. How much of it does the last third of the layers write? Control: a random direction.

# %%
late = []
for read, direction in runs:
    sizes = np.abs(read @ np.array([direction, rng.normal(size=len(direction))]).T)  # [component, 2]
    late.append(sizes[-2 * third :].sum(axis=0) / sizes.sum(axis=0))
share_late = np.mean(late, axis=0)
lesson.bars(["claim: the answer", "control: a random direction"], share_late, "written by the last third", ".2f")

# %% [markdown]
# Moral: late layers write more of everything.
#
# ## 4. All eyes on France
#
# Claim: the last token gives most of its attention, over all heads, to the country. Control: say "Well," first.

# %%
rows = []
for prompt in ("France has a capital, which is called", "Well, France has a capital, which is called"):
    logits, cache = model.run_with_cache(model.to_tokens(prompt))
    looks = np.mean([cache["pattern", layer][0, :, -1] for layer in layers], axis=(0, 1))  # [key_pos]
    country = [piece.strip() for piece in model.to_str_tokens(prompt)].index("France")
    rows.append((prompt, looks[country], looks[0], softmax(logits[0, -1])[model.to_single_token(" Paris")]))
lesson.table(dict(zip(("prompt", "to France", "to the first", "P(Paris)"), zip(*rows))), format=".2f")

# %% [markdown]
# Moral: the first token gets most of the attention, whatever it is (the sink, lesson 3). Look at P(Paris), too.
#
# ## 5. The lens sees it coming
#
# Claim: long before the end, the logit lens (lesson 5) is sure. Control: shuffle what it reads; take the mean of 20.

# %%
_, cache = model.run_with_cache(model.to_tokens("The Eiffel Tower is in"))
lens = []
for layer in layers:
    stream = cache["resid_post", layer][0, -1]
    vectors = np.array([stream, *(rng.permutation(stream) for _ in range(20))])
    probability = softmax(rms_norm(vectors, weights.ln_final, model.config.rms_eps) @ weights.W_U)
    says, noise_says = (Token(piece) for piece in model.to_str_tokens(probability.argmax(axis=1)[:2]))
    lens.append((layer, says, probability[0].max(), noise_says, probability[1:].max(axis=1).mean()))
columns = dict(zip(("layer", "lens says", "how sure", "shuffled", "sure, too"), zip(*lens)))
picture = lesson.table(columns, rows=layers[:: max(third // 2, 1)], format=".2f")

# %% [markdown]
# Moral: the lens always has an answer.
#
# ## 6. The fact sits in the first MLP
#
# Claim: give the run on Italy what the first MLP writes at ␣France, and it says Paris. Control: ask an aunt in France.

# %%
_, france = model.run_with_cache(model.to_tokens("The capital of France is"))
_, aunt = model.run_with_cache(model.to_tokens("My aunt lives in France"))
logits, italy = model.run_with_cache(model.to_tokens("The capital of Italy is"))
ends = [logits[0, -1]]
for write in (france["mlp_out", 0][0, -2], aunt["mlp_out", 0][0, -1]):
    stream = italy["resid_post", 0].copy()  # [1, pos, d_model]
    stream[0, -2] += write - italy["mlp_out", 0][0, -2]
    ends.append(model(stream, start_at_layer=1)[0, -1])
wants = [end[model.to_single_token(" Paris")] - end[model.to_single_token(" Rome")] for end in ends]
lesson.bars(["nothing put in", "claim: from France's run", "control: from the aunt"], wants, "Paris - Rome", "+.1f")

# %% [markdown]
# Moral: the first MLP sees the word and little else. Put France in, get France's capital out.

# %%
sure, noise = np.mean(columns["how sure"]), np.mean(columns["sure, too"])
lesson.headline(f"Stop at the claim: the lens is {sure:.0%} sure of the next word. And {noise:.0%} of noise.", picture)

# %% [markdown]
# Exercise (easy, 5 minutes): In section 1, take W_V, and fold the norm's weight in. What is the last third over the
# first? Is a trend always gone?
#
# Hint: what the control does with W_K

# %%
values = [np.linalg.norm(block.ln1[:, None] * block.W_V) for block in blocks]
lesson.answer(np.mean(values[-third:]) / np.mean(values[:third]))

# %% [markdown]
# Exercise (easy, 5 minutes): A little is left in section 3. For which share of the prompts is the answer the later one?
#
# Hint: `late` has a pair for each prompt: the answer, and the random direction

# %%
lesson.answer(np.mean([answer > noise for answer, noise in late]))
lesson.finish()
