"""The numbers of the explorer: what one prompt shows, and what a change of the run does to its prediction.

All panels read one run. A change (a head cut, a layer scaled, a direction added) takes a second one.
"""

from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tinymi.arrays import Array, Tokens
from tinymi.errors import InputError
from tinymi.hooks import ActivationCache, HookPoint
from tinymi.ops import softmax
from tinymi.serve.lessons import arguments_of
from tinymi.teaching.options import Option, Parser
from tinymi.teaching.words import with_space

import numpy as np

if TYPE_CHECKING:
    from tinymi.config import Config
    from tinymi.hooks import Callback
    from tinymi.run import Model

MOST_TOKENS = 40
MOST_CUTS = 20
LENS_ROWS, LENS_POSITIONS = 16, 8  # all layers and positions would take as long as six forward passes
FRAME = "It is about"  # what a word's direction is read after

Edits = list[tuple[str, "Callback"]]


def options(config: "Config") -> list[Option]:
    """What can be asked of this model."""
    last_layer, last_head = config.n_layers - 1, config.n_heads - 1
    middle = max(1, int(0.4 * config.n_layers))
    return [
        Option("prompt", str, "The capital of France is", f"1 to {MOST_TOKENS} tokens"),
        Option("second", str, None, "another prompt, to see it beside the first"),
        Option("answer", str, None, "one token; without it, the likeliest one"),
        Option("wrong", str, None, "the token it is compared with; without it, the next likely one"),
        Option("layer", int, None, "of the attention shown", minimum=0, maximum=last_layer),
        Option("head", int, None, "of the attention shown", minimum=0, maximum=last_head),
        Option("cut", str, None, "heads that write nothing, as layer.head, such as 1.0; several with spaces"),
        Option("scale_layer", int, None, "the layer to scale", minimum=0, maximum=last_layer),
        Option("scale_part", str, "MLP", "the part of that layer", ("MLP", "attention")),
        Option("scale_by", float, 0.0, "what it writes, times this; 0 takes it away", minimum=-3, maximum=3),
        Option("plus", str, None, "a word to go towards, such as Italy"),
        Option("minus", str, None, "a word to go away from, such as France"),
        Option("at_layer", int, middle, "where this direction is added", minimum=0, maximum=last_layer),
        Option("dose", float, 0.3, "its length, as a share of the residual stream's", minimum=-2, maximum=2),
    ]


def read(config: "Config", query: Mapping[str, str]) -> Namespace:
    """The options that a query sets. Raises InputError."""
    if "prompt" in query and not query["prompt"].strip():
        raise InputError(f"prompt: empty; type 1 to {MOST_TOKENS} tokens")
    known = options(config)
    return Parser(known).read(arguments_of(known, query))


@dataclass(frozen=True)
class Seen:
    """What one prompt shows."""

    pieces: list[str]
    answer: int
    wrong: int
    probs: Array  # [d_vocab], of the next token
    changed: Array | None  # [d_vocab], the same under the reader's changes
    lens_layers: list[int]  # 0 is the embedding, layer + 1 what a layer leaves
    lens: Tokens  # [row, pos], what each would say
    lens_probs: Array  # [row, pos]
    patterns: dict[int, Array]  # layer -> [n_heads, query_pos, key_pos]
    attention: Array  # [n_layers], the layers' shares in the logit difference, answer minus wrong
    mlp: Array  # [n_layers]
    heads: Array  # [n_layers, n_heads]
    embedding: float
    difference: float


def see(model: "Model", asked: Namespace, prompt: str) -> Seen:
    """Everything that is shown of a prompt. Raises InputError."""
    tokens = model.to_tokens(prompt)
    n_pos = tokens.shape[1]
    if n_pos > MOST_TOKENS:
        raise InputError(f"prompt: {n_pos} tokens, but the explorer takes 1 to {MOST_TOKENS}; shorten it")
    edits = changes(model, asked)
    logits, cache = model.run_with_cache(tokens, points(model), positions=-1)
    last = logits[0, -1]  # [d_vocab]
    answer, wrong = pair(model, asked, prompt, last)
    layers = np.unique(np.linspace(0, model.config.n_layers, LENS_ROWS).round().astype(int)).tolist()
    lens, lens_probs = read_lens(model, cache, layers)
    direction = towards(model, cache, answer, wrong)
    blocks = range(model.config.n_layers)
    return Seen(
        pieces=model.to_str_tokens(tokens[0]),
        answer=answer,
        wrong=wrong,
        probs=softmax(last),
        changed=softmax(model.run_with_hooks(tokens, edits, positions=-1)[0, -1]) if edits else None,
        lens_layers=layers,
        lens=lens,
        lens_probs=lens_probs,
        patterns={layer: cache["pattern", layer][0] for layer in blocks},
        attention=np.array([cache["attn_out", layer][0, -1] @ direction for layer in blocks]),
        mlp=np.array([cache["mlp_out", layer][0, -1] @ direction for layer in blocks]),
        heads=np.array([head_shares(model, cache, layer, direction) for layer in blocks]),
        embedding=float(cache["hook_embed"][0, -1] @ direction),
        difference=float(last[answer] - last[wrong]),
    )


def points(model: "Model") -> list[str]:
    """What the panels read of the run."""
    parts = ("attn.hook_pattern", "attn.hook_z", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    blocks = [f"blocks.{layer}.{part}" for layer in range(model.config.n_layers) for part in parts]
    return ["hook_embed", *blocks, "ln_final.hook_scale"]


def pair(model: "Model", asked: Namespace, prompt: str, logits: Array) -> tuple[int, int]:
    """The answer and what it is compared with: as asked, or the likeliest that are left. Raises InputError."""
    given = [
        None if text is None else model.to_single_token(with_space(text, prompt, model))
        for text in (asked.answer, asked.wrong)
    ]
    if given[0] is not None and given[0] == given[1]:
        raise InputError(f"wrong: {asked.wrong!r} is the answer itself; give another token to compare it with")
    likely = [int(token) for token in np.argsort(-logits)[:3] if token not in given]
    answer, wrong = (likely.pop(0) if token is None else token for token in given)
    return answer, wrong


def read_lens(model: "Model", cache: ActivationCache, layers: list[int]) -> tuple[Tokens, Array]:
    """The likeliest token of each of these layers at the last positions, and its probability: [row, pos] each."""
    streams = [cache["resid_post", layer - 1] if layer else cache["hook_embed"] for layer in layers]
    resid = np.concatenate(streams)[:, -LENS_POSITIONS:]  # [row, pos, d_model]
    logits = model(resid, start_at_layer=model.config.n_layers)  # [row, pos, d_vocab]
    largest = logits.max(axis=-1, keepdims=True)
    best = logits.argmax(axis=-1)
    logits -= largest
    return best, 1 / np.exp(logits, out=logits).sum(axis=-1)


def towards(model: "Model", cache: ActivationCache, answer: int, wrong: int) -> Array:
    """The direction of the last stream along which the logit difference is read: [d_model]."""
    weights = model.weights
    column = weights.W_U[:, answer] - weights.W_U[:, wrong]
    return np.asarray(weights.ln_final * column / cache["ln_final.hook_scale"][0, -1])


def head_shares(model: "Model", cache: ActivationCache, layer: int, direction: Array) -> Array:
    """Each head's share: z_h @ W_O_h, read along the direction. [n_heads]"""
    z = cache["z", layer][0, -1]  # [n_heads, d_head]
    return np.asarray((z * (model.weights.blocks[layer].heads.W_O @ direction)).sum(axis=-1))


# --- changes -----------------------------------------------------------------------------------------------------


def changes(model: "Model", asked: Namespace) -> Edits:
    """What the reader changes of the run, as hooks. Raises InputError."""
    edits: Edits = [
        (f"blocks.{layer}.attn.hook_z", partial(without_head, head=head)) for layer, head in cut_heads(model, asked)
    ]
    if asked.scale_layer is not None:
        part = "attn" if asked.scale_part == "attention" else "mlp"
        edits.append((f"blocks.{asked.scale_layer}.hook_{part}_out", partial(scaled, factor=asked.scale_by)))
    if (asked.plus is None) != (asked.minus is None):
        raise InputError("plus and minus: a direction leads from one word to another; give both, or none")
    if asked.plus is not None:
        vector = word_direction(model, asked.plus, asked.minus, asked.at_layer)
        edits.append((f"blocks.{asked.at_layer}.hook_resid_pre", partial(steered, vector=vector, dose=asked.dose)))
    return edits


def cut_heads(model: "Model", asked: Namespace) -> list[tuple[int, int]]:
    """The heads to cut, as (layer, head). Raises InputError."""
    words = (asked.cut or "").replace(",", " ").split()
    last = f"{model.config.n_layers - 1}.{model.config.n_heads - 1}"
    if len(words) > MOST_CUTS:
        raise InputError(f"cut: {len(words)} heads; give at most {MOST_CUTS}")
    heads = []
    for word in words:
        layer, _, head = word.partition(".")
        numbers = all(part.isascii() and part.isdecimal() and len(part) < 5 for part in (layer, head))
        if not numbers or int(layer) >= model.config.n_layers or int(head) >= model.config.n_heads:
            raise InputError(f"cut: {word!r} is no head; valid are 0.0 to {last}, a layer and a head")
        heads.append((int(layer), int(head)))
    return heads


def without_head(z: Array, hook: HookPoint, head: int) -> Array:
    """z: [batch, pos, n_heads, d_head]"""
    z = z.copy()
    z[:, :, head] = 0
    return z


def scaled(value: Array, hook: HookPoint, factor: float) -> Array:
    return value * np.asarray(factor, dtype=value.dtype)


def steered(resid: Array, hook: HookPoint, vector: Array, dose: float) -> Array:
    """Add the direction at every position; its length is a share of the last position's stream."""
    size = dose * float(np.linalg.norm(resid[0, -1]))
    return resid + (size * vector).astype(resid.dtype)


def word_direction(model: "Model", plus: str, minus: str, layer: int) -> Array:
    """From one word to the other at a layer, of length 1: [d_model]. Both words follow the same frame."""
    frame = model.to_tokens(FRAME)[0]
    words = [model.to_single_token(with_space(word, FRAME, model)) for word in (plus, minus)]
    if words[0] == words[1]:
        raise InputError(f"minus: {minus!r} is the same word as plus; give another")
    tokens = np.array([[*frame, word] for word in words])  # [2, pos]
    towards, away = model(tokens, stop_at_layer=layer)[:, -1]  # each [d_model]
    return np.asarray((towards - away) / np.linalg.norm(towards - away))
