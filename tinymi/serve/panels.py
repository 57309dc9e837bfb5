"""What the explorer shows: panels, each a sentence, a picture, the lesson that teaches it and the Python behind it.

The pictures are those of the lessons, so that a page can be served, saved, or printed in a terminal.
"""

import shlex
from argparse import Namespace
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tinymi.serve.explorer import FRAME, LENS_POSITIONS, Seen, cut_heads, options, see
from tinymi.teaching.options import command_line
from tinymi.teaching.report.items import (
    Bars,
    Code,
    Document,
    Item,
    Prose,
    Section,
    make_attention,
    make_heatmap,
    make_series,
)
from tinymi.teaching.words import with_space
from tinymi.text import Token, show_token
from tinymi.version import __version__

import numpy as np

if TYPE_CHECKING:
    from tinymi.run import Model

TOP = 12  # tokens of the prediction


@dataclass(frozen=True)
class Panel:
    """One question to the run."""

    name: str
    title: str
    about: str  # one sentence
    lesson: str  # its number
    item: Item
    code: str


def panels(model: "Model", asked: Namespace, prompt: str, source: str | None = None) -> list[Panel]:
    """All panels of a prompt. source: the model, as --model names it. Raises InputError."""
    seen, start = see(model, asked, prompt), begin(source)
    return [
        prediction(model, prompt, seen, start),
        lens(model, prompt, seen, start),
        layers(model, prompt, seen, start),
        attention(asked, prompt, seen, start),
        heads(model, prompt, seen, start),
    ]


def document(model: "Model", asked: Namespace, source: str | None = None) -> Document:
    """Everything that is asked for, as a lesson's page has it. Raises InputError."""
    items: list[Item] = []
    for prompt in prompts(asked):
        name = f": {prompt}" if asked.second else ""
        for one in panels(model, asked, prompt, source):
            items += [Section(one.title + name), Prose(one.about), one.item, Code(one.code)]
    if code := change_code(model, asked, asked.prompt, begin(source)):
        items += [Section("The change of the run"), Code(code)]
    words = ["tinymi", "explore", *command_line(options(model.config), vars(asked))]
    command = shlex.join([*words, *([] if source is None else ["--model", source])])
    intro = (("", "One prompt, and what the run of it shows."),)
    return Document(asked.prompt, intro, command, vars(asked), {}, tuple(items), __version__)


def prompts(asked: Namespace) -> list[str]:
    return [asked.prompt, *([asked.second] if asked.second else [])]


def begin(source: str | None) -> str:
    """The lines that every piece of code begins with."""
    return f"import tinymi\nimport numpy as np\n\nmodel = tinymi.load({'' if source is None else repr(source)})\n"


def tokens(model: "Model", ids: Iterable[int]) -> list[Token]:
    return [Token(piece) for piece in model.to_str_tokens(np.fromiter(ids, dtype=np.int64))]


# --- the panels --------------------------------------------------------------------------------------------------


def prediction(model: "Model", prompt: str, seen: Seen, start: str) -> Panel:
    """The likeliest tokens; with a change of the run, those of both runs."""
    about = "The likeliest next tokens, and how probable each is."
    best = np.argsort(-seen.probs)[:TOP].tolist()
    series = {"": seen.probs[best]}
    if seen.changed is not None:
        about = "How probable each next token is, before and after your change."
        best = list(dict.fromkeys([*best[: TOP - 3], *np.argsort(-seen.changed)[:TOP].tolist()]))[:TOP]
        series = {"before": seen.probs[best], "after": seen.changed[best]}
    code = (
        f"logits = model({prompt!r})  # [1, pos, d_vocab]\n"
        f"for text, token, probability in model.top_tokens(logits, {TOP}):\n"
        "    print(f'{probability:.3f} {text!r}')"
    )
    item = Bars(tuple(tokens(model, best)), make_series(series, len(best), "the prediction's"), format=".3f")
    return Panel("prediction", "What comes next?", about, "00", item, start + code)


def lens(model: "Model", prompt: str, seen: Seen, start: str) -> Panel:
    """The logit lens, layer by position."""
    labels = ["embed" if layer == 0 else layer - 1 for layer in seen.lens_layers]
    pieces = [Token(piece) for piece in seen.pieces[-LENS_POSITIONS:]]
    says = [tokens(model, row) for row in seen.lens]
    item = make_heatmap(
        seen.lens_probs,
        labels,
        pieces,
        says,
        row_axis="layer",
        column_axis="after",
        center=None,
        color="probability",
        format=".1f",
    )
    code = (
        f"_, cache = model.run_with_cache({prompt!r})\n"
        f"for layer in {[layer - 1 for layer in seen.lens_layers[1:]]}:\n"
        f'    resid = cache["resid_post", layer][:, -{LENS_POSITIONS}:]  # [1, pos, d_model]\n'
        "    logits = model(resid, start_at_layer=model.config.n_layers)[0]  # [pos, d_vocab]\n"
        "    print(layer, model.to_str_tokens(logits.argmax(axis=-1)))"
    )
    about = "What the model would say next after each token, if it ended at that layer; strong colours are sure."
    return Panel("lens", "When does it know?", about, "05", item, start + code)


def difference_code(prompt: str, seen: Seen) -> str:
    return (
        f"_, cache = model.run_with_cache({prompt!r})\n"
        f"column = model.weights.W_U[:, {seen.answer}] - model.weights.W_U[:, {seen.wrong}]  # [d_model]\n"
        'direction = model.weights.ln_final * column / cache["ln_final.hook_scale"][0, -1]  # [d_model]\n'
    )


def pair_of(model: "Model", seen: Seen) -> str:
    answer, wrong = (show_token(piece) for piece in model.to_str_tokens([seen.answer, seen.wrong]))
    return f"`{answer}` over `{wrong}`"


def layers(model: "Model", prompt: str, seen: Seen, start: str) -> Panel:
    """The shares of the layers in the logit difference."""
    rest = seen.difference - seen.embedding - seen.attention.sum() - seen.mlp.sum()
    totals = f"attention {seen.attention.sum():+.2f}, MLP {seen.mlp.sum():+.2f}, embedding {seen.embedding:+.2f}"
    totals += f", biases {rest:+.2f}" if abs(rest) >= 0.005 else ""
    series = {"attention": seen.attention, "MLP": seen.mlp}
    labels = tuple(f"layer {layer}" for layer in range(len(seen.mlp)))
    item = Bars(labels, make_series(series, len(labels), "the layers'"), f"{seen.difference:+.2f} = {totals}", "+.2f")
    code = difference_code(prompt, seen) + (
        "for layer in range(model.config.n_layers):\n"
        '    parts = np.array([cache["attn_out", layer][0, -1], cache["mlp_out", layer][0, -1]])\n'
        "    print(layer, (parts @ direction).round(2))"
    )
    about = f"How far each layer pushes {pair_of(model, seen)}, in logits: the shares add up to the difference."
    return Panel("layers", "Which layers push it?", about, "06", item, start + code)


def attention(asked: Namespace, prompt: str, seen: Seen, start: str) -> Panel:
    """All heads' patterns."""
    likeliest = np.unravel_index(np.abs(seen.heads).argmax(), seen.heads.shape)
    layer, head = (int(found) if given is None else given for given, found in zip((asked.layer, asked.head), likeliest))
    item = make_attention(seen.pieces, seen.patterns, "", [(layer, head)])
    code = (
        f"tokens = model.to_tokens({prompt!r})\n"
        "_, cache = model.run_with_cache(tokens)\n"
        f"layer, head = {layer}, {head}\n"
        "print(model.to_str_tokens(tokens[0]))\n"
        'print(cache["pattern", layer][0, head].round(2))  # [query_pos, key_pos]'
    )
    about = "How each token shares out its attention among the tokens up to itself, in the head that you pick."
    return Panel("attention", "Where does a head look?", about, "03", item, start + code)


def heads(model: "Model", prompt: str, seen: Seen, start: str) -> Panel:
    """Each head's share in the logit difference."""
    smallest = max(0.05, 0.02 * float(np.abs(seen.heads).max()))
    texts = [[f"{share:+.1f}" if abs(share) >= smallest else "·" for share in row] for row in seen.heads]
    item = make_heatmap(
        seen.heads, None, None, texts, row_axis="layer", column_axis="head", color="logits", format="+.1f"
    )
    code = difference_code(prompt, seen) + (
        "for layer, block in enumerate(model.weights.blocks):\n"
        '    z = cache["z", layer][0, -1]  # [n_heads, d_head]\n'
        "    print(layer, (z * (block.heads.W_O @ direction)).sum(axis=-1).round(2))"
    )
    about = f"How far each head pushes {pair_of(model, seen)}, in logits; press one to see where it looks."
    return Panel("heads", "Which heads push it?", about, "06", item, start + code)


# --- the change of the run ---------------------------------------------------------------------------------------


def change_code(model: "Model", asked: Namespace, prompt: str, start: str) -> str:
    """The Python of the reader's changes; "" where there are none."""
    before, hooks = [], []
    for layer, head in cut_heads(model, asked):
        scale = f"(np.arange({model.config.n_heads}) != {head})[:, None]"
        hooks.append(f'("blocks.{layer}.attn.hook_z", lambda z, hook: z * {scale})')
    if asked.scale_layer is not None:
        part = "attn" if asked.scale_part == "attention" else "mlp"
        hooks.append(f'("blocks.{asked.scale_layer}.hook_{part}_out", lambda value, hook: {asked.scale_by} * value)')
    if asked.plus is not None and asked.minus is not None:
        texts = [FRAME + with_space(word, FRAME, model) for word in (asked.plus, asked.minus)]
        before += [
            f"a, b = (model(text, stop_at_layer={asked.at_layer})[0, -1] for text in {texts!r})",
            "direction = (a - b) / np.linalg.norm(a - b)  # [d_model]",
        ]
        dose = f"{asked.dose} * np.linalg.norm(resid[0, -1]) * direction"
        hooks.append(f'("blocks.{asked.at_layer}.hook_resid_pre", lambda resid, hook: resid + {dose})')
    return _change_lines(prompt, start, before, hooks) if hooks else ""


def _change_lines(prompt: str, start: str, before: Sequence[str], hooks: Sequence[str]) -> str:
    lines = [
        *before,
        "hooks = [",
        *(f"    {hook}," for hook in hooks),
        "]",
        f"logits = model.run_with_hooks({prompt!r}, hooks)  # [1, pos, d_vocab]",
        f"for text, token, probability in model.top_tokens(logits, {TOP}):",
        "    print(f'{probability:.3f} {text!r}')",
    ]
    return start + "\n".join(lines)
