"""The field's words, as the lessons use them."""

import difflib
from dataclasses import dataclass

from tinymi.errors import InputError


@dataclass(frozen=True)
class Term:
    """A word: what it means, the lessons that show it, and where it comes from."""

    name: str
    meaning: str
    lessons: tuple[str, ...] = ()
    paper: str = ""


TERMS = (
    Term(
        "ablation",
        "Taking a component out of a run and looking at what changes. Zero ablation puts zeros in its place, mean "
        "ablation its average over other prompts, which disturbs the rest of the model less.",
        ("05", "07"),
    ),
    Term(
        "activation",
        "A value that a run computes: the output of a neuron, a head's pattern, the residual stream at a position. "
        "What is learned and stays the same in every run is a weight.",
        ("02",),
    ),
    Term(
        "activation patching",
        "Two prompts that differ in what the answer depends on, clean and corrupted; one activation of the one run is "
        "put into the other, and the share of the answer that comes back says what this activation carries. Also "
        "called causal tracing when the corruption is noise, interchange intervention in other work.",
        ("08",),
        "Vig et al. 2020; Meng et al. 2022; Zhang and Nanda 2023",
    ),
    Term(
        "attention head",
        "One of the parallel units of attention in a layer. Its QK circuit decides where each position looks, its OV "
        "circuit what is copied from there and where in the residual stream it is written.",
        ("00", "07"),
        "Elhage et al. 2021",
    ),
    Term(
        "attention knockout",
        "Forbidding chosen positions to look at chosen others, by setting those edges' scores to minus infinity before "
        "the softmax, in chosen layers: which flow of information does the answer need?",
        ("09",),
        "Geva et al. 2023",
    ),
    Term(
        "attention pattern",
        "For each head and each position (query), the shares of attention that earlier positions (keys) get: the "
        "softmax of the scores. Each row sums to 1, and nothing goes to the future.",
        ("00", "07"),
        "Vaswani et al. 2017",
    ),
    Term(
        "attention sink",
        "A position, mostly the first, that gets much attention whatever stands there: where heads look when they have "
        "nothing to say.",
        ("00", "07"),
        "Xiao et al. 2023",
    ),
    Term(
        "backup name mover",
        "A head of the indirect-object circuit whose direct effect grows only when the name movers are knocked out.",
        ("05",),
        "Wang et al. 2022",
    ),
    Term(
        "circuit",
        "A set of components and the edges between them that together do a task, while the rest of the model can be "
        "ablated without much loss (faithfulness).",
        ("05",),
        "Olah et al. 2020; Wang et al. 2022",
    ),
    Term(
        "clean, corrupted, patched run",
        "The three runs of activation patching: the prompt with the answer of interest, one like it with another "
        "answer, and one of these with an activation of the other.",
        ("08",),
    ),
    Term(
        "direct logit attribution",
        "The last residual stream is a sum of what every component wrote, so a logit difference is a sum of their "
        "contributions, once the final norm's scale is taken as given. It is bookkeeping: it sees what a component "
        "writes to the output directly, not what it causes through later ones.",
        ("03", "05"),
        "Elhage et al. 2021",
    ),
    Term(
        "direction",
        "A vector in a space of activations that stands for something: a difference of means, a token's unembedding, a "
        "neuron's output weights.",
        ("10",),
    ),
    Term(
        "duplicate-token head",
        "A head that looks from a token's second occurrence to its first.",
        ("05", "07"),
        "Wang et al. 2022",
    ),
    Term(
        "embedding",
        "The table with one row per token, W_E: what the residual stream begins with. In many small models the "
        "unembedding is the same table, transposed (tied).",
        ("01",),
    ),
    Term(
        "grouped-query attention",
        "Several query heads share one key head and one value head, which makes the key-value cache smaller.",
        ("11",),
        "Ainslie et al. 2023",
    ),
    Term(
        "hook point",
        "A named place in the forward pass at which a callback can read a value or put another one in its place. "
        "`tinymi points` lists them.",
        ("00", "11"),
    ),
    Term(
        "indirect object identification",
        "The task of naming who is given something: 'When Mary and John went to the store, John gave a drink to' has "
        "the answer Mary. The measure is the logit of the indirect object minus that of the subject.",
        ("05",),
        "Wang et al. 2022",
    ),
    Term(
        "induction head",
        "A head that, where a token stands for the second time, looks at what followed it the first time, and so "
        "continues a repeated sequence.",
        ("07", "05"),
        "Olsson et al. 2022",
    ),
    Term(
        "key-value cache",
        "Keys and values of earlier positions, kept while text is generated: a step then computes only one position.",
        ("11",),
    ),
    Term(
        "KL divergence",
        "How far one distribution of next tokens is from another: the mean over the first of the logarithm of their "
        "ratio, 0 only where they are equal. In bits with the logarithm to base 2.",
        ("06", "09", "10"),
    ),
    Term(
        "knock-out",
        "Taking a whole head out of the run, by zeroing its output z. The sign of the effect alone does not tell which "
        "role a head has.",
        ("05",),
    ),
    Term(
        "logit",
        "The model's score for a token as the next one, before the softmax. A difference of two logits is the "
        "logarithm of the ratio of the two probabilities.",
        ("00",),
    ),
    Term(
        "logit difference",
        "The logit of an answer minus that of a foil: how much the model prefers the one, free of what moves both.",
        ("03", "05", "08"),
    ),
    Term(
        "logit lens",
        "Reading the residual stream between layers with the model's own final norm and unembedding: what would it say "
        "if it ended here?",
        ("04", "06", "11"),
        "nostalgebraist 2020",
    ),
    Term(
        "MLP",
        "The part of a layer that works on each position alone: neurons that read the residual stream and write to it. "
        "In LLaMA and Qwen it is SwiGLU.",
        ("02", "11"),
    ),
    Term(
        "name mover head",
        "A head that looks from the end of the prompt to the indirect object and copies that name to the output. A "
        "negative name mover does the opposite.",
        ("05",),
        "Wang et al. 2022",
    ),
    Term(
        "neuron",
        "One of the d_mlp numbers of an MLP, silu(pre) * pre_linear (`mlp.hook_post`): it reads with a column of "
        "W_gate and of W_in, and writes a row of W_out. A dimension of the residual stream is not a neuron.",
        ("02",),
    ),
    Term(
        "OV circuit, QK circuit",
        "A head's W_V @ W_O, from what it reads to what it writes; and W_Q @ W_K transposed, from what stands at two "
        "positions to how much the one looks at the other.",
        ("05", "07"),
        "Elhage et al. 2021",
    ),
    Term(
        "previous-token head",
        "A head that looks at the position just before.",
        ("07", "05"),
        "Elhage et al. 2021",
    ),
    Term(
        "residual stream",
        "The d_model numbers at each position to which embedding, attention and MLP of every layer add, and from which "
        "all read. Everything that moves between components goes through it.",
        ("03", "04", "11"),
        "Elhage et al. 2021",
    ),
    Term(
        "RMSNorm",
        "Dividing the residual stream by its root mean square before each part reads it, times a learned weight. No "
        "mean is taken out, unlike in LayerNorm.",
        ("11",),
        "Zhang and Sennrich 2019",
    ),
    Term(
        "RoPE",
        "Rotary position embedding: pairs of numbers of each query and key are turned by angles that grow with the "
        "position, so that a score depends on how far apart two positions are.",
        ("11",),
        "Su et al. 2021",
    ),
    Term(
        "S-inhibition head",
        "A head that looks from the end of the prompt to the subject's second occurrence and keeps the name movers "
        "from looking at the subject; it hardly writes to the logits itself.",
        ("05",),
        "Wang et al. 2022",
    ),
    Term(
        "steering",
        "Adding a direction to the residual stream while the model writes, so that it writes otherwise. The dose has a "
        "price: far from what the model knows, text falls apart.",
        ("10",),
        "Turner et al. 2023; Rimsky et al. 2023",
    ),
    Term(
        "SwiGLU",
        "The MLP of LLaMA and Qwen: silu(x @ W_gate) * (x @ W_in) @ W_out. The gate decides how much of each neuron's "
        "content passes.",
        ("02", "11"),
        "Shazeer 2020",
    ),
    Term(
        "token",
        "A piece of text with a number of its own: a word, a part of one, a sign. Spaces belong to the token that they "
        "stand before.",
        ("00",),
    ),
    Term(
        "tuned lens",
        "The logit lens with an affine map, learned for each layer, in front: it reads what a layer knows in a form "
        "that the end of the model would not understand yet.",
        ("06",),
        "Belrose et al. 2023",
    ),
    Term(
        "unembedding",
        "The matrix W_U with one column per token: the last residual stream, normed, is read off along each token's "
        "direction.",
        ("03", "04"),
    ),
)


def _key(name: str) -> str:
    return " ".join("".join(char if char.isalnum() else " " for char in name.lower()).split())


def look_up(name: str) -> Term:
    """A term by its name, whatever its case, hyphens and plural. Raises InputError, which names the nearest ones."""
    names = {_key(term.name): term for term in TERMS}
    names |= {_key(part): term for term in TERMS for part in term.name.split(", ")}
    wanted = _key(name)
    for form in (wanted, wanted.removesuffix("s"), wanted.removesuffix("ing")):
        if form in names:
            return names[form]
    near = difflib.get_close_matches(wanted, names, n=4, cutoff=0.5)
    near += [key for key in names if wanted and wanted in key and key not in near]
    shown = ", ".join(names[key].name for key in near) or "`tinymi glossary` lists all"
    raise InputError(f"glossary: has no {name!r}; near to it: {shown}; give one of its words")
