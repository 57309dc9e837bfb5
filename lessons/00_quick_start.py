# %% [markdown]
"""What is inside a language model, and can we touch it?

What you will learn: to cut a text into tokens, let a model guess the next one, find the attention head that reads the
word which matters, and change one number inside the model while it runs.

Needs: nothing; this is the first lesson

Time: 5 minutes to read, 3 seconds to run

Paper: Vaswani et al. 2017, Attention Is All You Need, https://arxiv.org/abs/1706.03762
"""

# %% Set-up
from tinymi.arrays import Array
from tinymi.errors import InputError
from tinymi.hooks import HookPoint
from tinymi.ops import softmax
from tinymi.teaching import Lesson, Token, show_token

import numpy as np

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The capital of France is", help="the text to continue")
options = lesson.start()
model = lesson.load_model()

# %% [markdown]
# ## 1. Text becomes tokens
#
# A model reads numbers, not letters. A *tokenizer* cuts the text into pieces, the *tokens*, and each has a number in a
# long list, the *vocabulary*. Look at the spaces: a space belongs to the word after it. We draw it as ␣.

# %%
tokens = model.to_tokens(options.prompt)  # [1, pos]
pieces = [Token(piece) for piece in model.to_str_tokens(options.prompt)]
lesson.table({"position": range(len(pieces)), "token": pieces, "number": tokens[0]})
if len(pieces) < 3:
    raise InputError(f"--prompt: cut into {len(pieces)} tokens; give 3 or more: a first, a middle, a last one")

# %% [markdown]
# ## 2. The model guesses the next token
#
# That is all a language model does. It gives every token of the vocabulary a score, the *logit*. Softmax turns the
# scores into probabilities: `exp(logit)`, divided by the sum of them all. What comes after your text?

# %%
logits = model(tokens)  # [1, pos, d_vocab]
probability = softmax(logits[0, -1])  # [d_vocab]: what comes after the last token
likeliest = np.argsort(-probability)[:5]
answer, answer_piece = likeliest[0], show_token(model.to_str_tokens(likeliest)[0])
lesson.bars([Token(piece) for piece in model.to_str_tokens(likeliest)], probability[likeliest], "next token", ".3f")

# %% [markdown]
# ## 3. Who looks where?
#
# Inside, each token is a list of numbers. The list runs through all layers, and each layer adds something to it. This
# running sum is called the *residual stream*.
#
# A layer has two parts. Its *MLP* works on each token alone. Its *attention heads* fetch something from the tokens
# before. So if the guess at the last token depends on a word in the middle, some head has to fetch it.
#
# For each token, a head splits 100 % of its attention among this token and those before it. Which head looks hardest
# from the last token at a token in the middle?

# %%
same_logits, cache = model.run_with_cache(tokens)  # the same run, with every value on the way kept
patterns = np.stack([cache["pattern", layer][0] for layer in range(model.config.n_layers)])  # [layer, head, from, to]
looks = patterns[:, :, -1, 1:-1]  # [layer, head, to]: from the last token, to those in the middle
layers, heads, middles = np.unravel_index(np.argsort(-looks, axis=None)[:5], looks.shape)  # the five hardest looks
layer, head, word = layers[0], heads[0], middles[0] + 1
lesson.attention(pieces, {layer: patterns[layer]}, f"what layer {layer} looks at", heads=[(layer, head)])
lesson.say(
    f"Of {looks[:, :, 0].size} heads, head {head} of layer {layer}, in short {layer}.{head}, looks hardest. There "
    f"{show_token(pieces[-1])} gives {looks.max():.0%} of its attention to {show_token(pieces[word])}."
)
share = patterns[:, :, -1, 0].mean()
lesson.say(f"The first token, left out here, gets {share:.0%} (mean of all heads): the *attention sink* (lesson 3).")

# %% [markdown]
# ## 4. Change one number
#
# Looking is not using. To see whether the model needs what this head fetches, we run the model once more. When it
# reaches this layer, it hands us the attention of all heads. We set one number to zero, and the run goes on.


# %%
def without(layer: int, head: int, word: int) -> Array:
    """The probabilities of the next token when this head, at the last token, does not see this word."""

    def cut(pattern: Array, hook: HookPoint) -> Array:
        pattern = pattern.copy()  # [1, head, from, to]
        pattern[0, head, -1, word] = 0
        return pattern

    return softmax(model.run_with_hooks(tokens, [(f"blocks.{layer}.attn.hook_pattern", cut)])[0, -1])


blind = without(layer, head, word)
guesses = list(dict.fromkeys([*likeliest, *np.argsort(-blind)[:5]]))
guess_pieces = [Token(piece) for piece in model.to_str_tokens(guesses)]
both = {"before": probability[guesses], "after": blind[guesses]}
picture = lesson.bars(guess_pieces, both, "what comes next, before and after the cut", ".3f")

# %% [markdown]
# Compare the bars. Does the cut model still know what kind of word is wanted?
#
# Now the *control*, which every experiment needs: would any such cut have done this? Cut other hard looks, one by one.

# %%
names = [f"{layer}.{head}" for layer, head in zip(layers, heads)]
at = [pieces[middle + 1] for middle in middles]
after = [without(*look)[answer] for look in zip(layers, heads, middles + 1)]
columns = {"head": names, "looks at": at, "attention": looks[layers, heads, middles], "after the cut": after}
lesson.table(columns, caption=f"the five hardest looks, each cut, and the probability of {answer_piece}", format=".3f")
lesson.headline(
    f"Set one number to zero, how hard head {layer}.{head} looks at {show_token(pieces[word])}, and the probability of "
    f"{answer_piece} goes from {probability[answer]:.0%} to {blind[answer]:.0%}.",
    picture,
)

# %% [markdown]
# Read a value, guess what it is for, change it, hold that change against others: this is how we will go on. The next
# lesson walks through one run step by step. Last come checks: two ways to one number, which agree for every model.

# %%
lesson.equal("softmax: exp(logit) / sum of exp", probability, np.exp(logits[0, -1]) / np.exp(logits[0, -1]).sum())
lesson.equal("attention of each token sums to 1", patterns.sum(axis=-1), np.ones(patterns.shape[:3]))
lesson.equal("reading a run does not change it", same_logits, logits, tolerance=0)
lesson.keep(likeliest=likeliest, probability=probability[likeliest], head=names, after_the_cut=after)

# %% [markdown]
# Exercise (easy, 3 minutes): Ask for the capital of Italy. Which head looks hardest at a token in the middle now?
#
# Hint: --prompt "The capital of Italy is"

# %%
_, cache = model.run_with_cache(model.to_tokens("The capital of Italy is"))
looks = np.stack([cache["pattern", layer][0, :, -1, 1:-1] for layer in range(model.config.n_layers)])
lesson.answer("{}.{}".format(*np.unravel_index(looks.argmax(), looks.shape)))

# %% [markdown]
# Exercise (easy, 5 minutes): How far is the logit of the likeliest token above that of the second? Compare exp() of
# this *logit difference* with the quotient of the two probabilities.
#
# Hint: logits[0, -1, likeliest]

# %%
lesson.answer(logits[0, -1, likeliest[0]] - logits[0, -1, likeliest[1]])
lesson.finish()
