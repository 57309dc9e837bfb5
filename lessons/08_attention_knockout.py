# %% [markdown]
"""Where does the last token have to look to know the answer?

What you will learn: attention knockout. Forbid one token to look at another, in one layer or in one head, and see
whether the answer survives; and why the same cut proves nothing at the first token.

Needs: attention patterns, activation patching

Time: 10 minutes to read, 8 seconds to run

Paper: Geva et al. 2023, Dissecting Recall of Factual Associations, https://arxiv.org/abs/2304.14767; Xiao et al. 2023,
Efficient Streaming Language Models with Attention Sinks, https://arxiv.org/abs/2309.17453
"""

# %% Set-up
from typing import Any

from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import HookPoint
from tinymi.ops import softmax
from tinymi.teaching import Lesson, Token, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The capital of France is", help="a prompt of 3 to 30 tokens")
lesson.option("--twin", default="The capital of Italy is", help="the second prompt of the comparison with lesson 7")
options = lesson.start()
model = lesson.load_model()
n_layers, n_heads = model.config.n_layers, model.config.n_heads
tokens, twin_tokens = model.to_tokens(options.prompt), model.to_tokens(options.twin)
if min(tokens.size, twin_tokens.size) < 3 or max(tokens.size, twin_tokens.size) > 30:
    raise InputError(f"--prompt and --twin: {tokens.size} and {twin_tokens.size} tokens, but valid is 3 to 30 of each")

# %% [markdown]
# ## 1. Forbid one look
#
# Each row of a pattern says how a token splits its attention. A *knockout* sets one number to 0 and shares out what it
# had among the rest, so that the row still sums to 1. The run starts at the cut layer: all below stays the same.


# %%
def cut(cache: Any, layers: list[int], word: int, heads: Any = slice(None), share_out: bool = True) -> Array:
    """The logits [d_vocab] after the last token, when it does not see this word, in these layers and heads."""

    def forbid(pattern: Array, hook: HookPoint) -> Array:
        pattern = pattern.copy()  # [1, head, from, to]
        pattern[0, heads, -1, word] = 0
        if share_out:
            pattern[0, :, -1] /= pattern[0, :, -1].sum(axis=-1, keepdims=True)
        return pattern

    stream, points = cache["resid_pre", layers[0]], [f"blocks.{layer}.attn.hook_pattern" for layer in layers]
    logits = model.run_with_hooks(stream, [(points, forbid)], start_at_layer=layers[0], positions=-1)
    return np.asarray(logits[0, -1])


def probability(*what: Any, **how: Any) -> float:
    return float(softmax(cut(clean, *what, **how))[answer])


logits, clean = model.run_with_cache(tokens)
answer = int(logits[0, -1].argmax())
before = float(softmax(logits[0, -1])[answer])
pieces, answer_piece = [Token(piece) for piece in model.to_str_tokens(tokens[0])], model.to_str_tokens([answer])[0]
wanted = f"probability of {show_token(answer_piece)}"

# %% [markdown]
# ## 2. Every layer, every word
#
# One cut per cell: in this layer, no head of the last token sees this earlier word. Where does the answer fall?

# %%
words, all_layers = range(tokens.size - 1), list(range(n_layers))
grid = np.array([[probability([layer], word) for word in words] for layer in lesson.progress(all_layers, "layers")])
caption = f"{wanted} when one look is forbidden; uncut {before:.2f}"
picture = lesson.heatmap(grid, None, pieces[:-1], caption, "layer", center=before, format=".2f")
layer, word = (int(i) for i in np.unravel_index(grid[:, 1:].argmin(), grid[:, 1:].shape))
word += 1  # the first token's column was left out: section 4

# %% [markdown]
# A cell that falls says: here this look is *needed*. Others say less: another layer may make up for it (exercise 1).
#
# ## 3. Which head?
#
# Forbid the same look again, to one head of that layer at a time.

# %%
by_head = [probability([layer], word, head) for head in range(n_heads)]
head = int(np.argmin(by_head))
caption = f"{wanted}, without the look at {show_token(pieces[word])}; all heads: {grid[layer, word]:.2f}"
lesson.bars([f"head {layer}.{number}" for number in range(n_heads)], by_head, caption, ".2f")
text = f"At {show_token(pieces[word])}, in layer {layer}. Forbid head {layer}.{head} alone this one look, and the"
lesson.headline(f"{text} {wanted} goes from {before:.0%} to {by_head[head]:.0%}.", picture)

# %% [markdown]
# Does lesson 7 agree, where a patched head moved the answer to that of a twin prompt? A patch takes one answer out and
# puts another in; a cut only takes out. So cut this head in both prompts, and see how far they stay apart. What is left
# comes through other heads.

# %%
twin_logits, twin = model.run_with_cache(twin_tokens)
rival = int(twin_logits[0, -1].argmax())
twin_word = int(twin["pattern", layer][0, head, -1, 1:].argmax()) + 1  # what this head reads there
after = [cut(clean, [layer], word, head), cut(twin, [layer], twin_word, head)]
scores = np.array([[row[answer] - row[rival] for row in pair] for pair in ((logits[0, -1], twin_logits[0, -1]), after)])
columns = {"": ["uncut", "cut"], "prompt": scores[:, 0], "twin": scores[:, 1], "apart": scores[:, 0] - scores[:, 1]}
caption = f"logit of {show_token(answer_piece)} minus that of {show_token(model.to_str_tokens([rival])[0])}"
lesson.table(columns, caption=f"{caption}; cut: one look of head {layer}.{head}", format="+.2f")

# %% [markdown]
# ## 4. The trap: the first token
#
# Look at the first column of the grid. Is that token needed, too? It sees no other, so its stream is the same when it
# stands alone: it cannot hold the answer. But it is the *sink* of lesson 3, with a large share of the attention, and
# now this share falls on other words. So cut in a second way, too: do *not* share it out.

# %%
alone = model(tokens[:, :1], stop_at_layer=n_layers)
lesson.equal("the first token's stream, alone", alone[0, 0], clean["resid_post", n_layers - 1][0, 0])
sink_layer = int(grid[:, 0].argmin())
cuts = [([layer], word), ([sink_layer], 0), (all_layers, word), (all_layers, 0)]
columns = {"forbidden": [pieces[key] for _, key in cuts], "layer": [layer, sink_layer, "all", "all"]}
columns |= {"shared out": [probability(*c) for c in cuts], "dropped": [probability(*c, share_out=False) for c in cuts]}
lesson.table(columns, caption=f"{wanted}, two ways to cut; uncut {before:.3f}", format=".3f")
lesson.keep(answer=answer, grid=grid, layer=layer, word=word, by_head=by_head, scores=scores, two_ways=columns)

# %% [markdown]
# Where the two disagree, the answer falls for where the share goes. In the last row both ways destroy it, and yet this
# token cannot hold it: *needed* does not mean that the answer was read there.

# %% [markdown]
# Exercise (easy, 3 minutes): Forbid the look at that word in all layers but the one found. How probable is the answer?
#
# Hint: `probability` takes a list of layers, and the position of a word

# %%
lesson.answer(probability([at for at in all_layers if at != layer], word))

# %% [markdown]
# Exercise (easy, 5 minutes): Dropping is not neutral either. In which of the last ten layers does it cost most at the
# first token?
#
# Hint: `share_out=False`

# %%
lesson.answer(min(all_layers[-10:], key=lambda at: probability([at], 0, share_out=False)))
lesson.finish()
