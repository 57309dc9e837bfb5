"""The field's words, as the lessons use them, in an order in which they can be read."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

from tinymi.errors import InputError, did_you_mean


@dataclass(frozen=True)
class Term:
    """A word of the field."""

    name: str
    meaning: str
    lessons: tuple[str, ...]  # that show it
    paper: str = ""  # "Authors year, Title, address", several separated by "; "
    spellings: tuple[str, ...] = ()  # other ways to write it, apart from the plural in -s


_FRAMEWORK = (
    "Elhage et al. 2021, A Mathematical Framework for Transformer Circuits, "
    "https://transformer-circuits.pub/2021/framework/index.html"
)
_IOI = "Wang et al. 2022, Interpretability in the Wild, https://arxiv.org/abs/2211.00593"

THE_MODEL = (
    Term(
        "mechanistic interpretability",
        "Explaining what a trained network computes by taking it apart: which parts act on an answer, what they read, "
        "what they write, and what happens without them.",
        ("00",),
        "Olah et al. 2020, Zoom In: An Introduction to Circuits, https://distill.pub/2020/circuits/zoom-in/",
    ),
    Term(
        "token",
        "A piece of text with a number: a word, a part of a word, or a sign. A space belongs to the token that "
        "follows it, so ' Paris' and 'Paris' are two tokens.",
        ("00",),
    ),
    Term(
        "embedding",
        "The table with one row for each token, W_E. The residual stream begins with the token's row. In many small "
        "models the unembedding is the same table, transposed (tied).",
        ("01", "02"),
    ),
    Term(
        "residual stream",
        "The d_model numbers at each position. The embedding begins it, every attention layer and MLP reads it and "
        "adds to it, and the logits are read off its end. Everything that one component tells another goes through "
        "it.",
        ("01", "04", "06"),
        _FRAMEWORK,
    ),
    Term(
        "attention head",
        "One of the parallel units of attention in a layer. Its QK circuit decides where each position looks. Its OV "
        "circuit decides what it copies from there, and what it writes to the residual stream. Head 23.4 is head 4 of "
        "layer 23.",
        ("00", "03"),
        _FRAMEWORK,
    ),
    Term(
        "attention pattern",
        "For each head and each position (the query), how much attention it pays to itself and to each earlier "
        "position (the keys): the softmax of the scores. Each row sums to 1, and no position looks at a later one.",
        ("00", "03"),
        "Vaswani et al. 2017, Attention Is All You Need, https://arxiv.org/abs/1706.03762",
    ),
    Term(
        "softmax",
        "A function that makes shares that sum to 1 of any numbers: exponentials, divided by their sum. It turns "
        "logits into probabilities, and scores into attention patterns.",
        ("00", "01"),
    ),
    Term(
        "grouped-query attention",
        "Several query heads share one key head and one value head, so the key-value cache is smaller. Heads that "
        "share them have the same W_K and W_V: what two of them do is not independent evidence.",
        ("01", "03"),
        "Ainslie et al. 2023, GQA, https://arxiv.org/abs/2305.13245",
        ("GQA",),
    ),
    Term(
        "RoPE",
        "Rotary position embedding. Pairs of numbers in each query and key are turned by angles that grow with the "
        "position, so that a score depends on the distance between two positions.",
        ("01",),
        "Su et al. 2021, RoFormer, https://arxiv.org/abs/2104.09864",
        ("rotary position embedding",),
    ),
    Term(
        "MLP",
        "The part of a layer that works on each position alone: neurons that read the residual stream and write to "
        "it. In LLaMA and Qwen it is SwiGLU.",
        ("01", "09"),
    ),
    Term(
        "neuron",
        "One of the d_mlp numbers of an MLP, `silu(pre) * pre_linear` (`mlp.hook_post`). It reads with a column of "
        "W_gate and a column of W_in, and writes a row of W_out. A dimension of the residual stream is not a neuron.",
        ("09",),
        "Geva et al. 2021, Transformer Feed-Forward Layers Are Key-Value Memories, https://arxiv.org/abs/2012.14913",
    ),
    Term(
        "SwiGLU",
        "The MLP of LLaMA and Qwen: `(silu(x @ W_gate) * (x @ W_in)) @ W_out`. The gate decides how much of each "
        "neuron's content passes.",
        ("01", "09"),
        "Shazeer 2020, GLU Variants Improve Transformer, https://arxiv.org/abs/2002.05202",
    ),
    Term(
        "RMSNorm",
        "Before each part reads the residual stream, the stream is divided by its root mean square and multiplied by "
        "a learned weight. Unlike LayerNorm it does not subtract the mean.",
        ("01", "02"),
        "Zhang and Sennrich 2019, Root Mean Square Layer Normalization, https://arxiv.org/abs/1910.07467",
    ),
    Term(
        "unembedding",
        "The matrix W_U with one column for each token. A token's logit is the dot product of its column with the "
        "last residual stream, after the final norm.",
        ("04", "06"),
    ),
    Term(
        "logit",
        "The model's score for a token as the next one, before the softmax. The difference of two logits is the "
        "logarithm of the ratio of the two probabilities.",
        ("00", "06"),
    ),
    Term(
        "key-value cache",
        "The keys and values of earlier positions, stored while text is generated. Each step then computes one "
        "position only.",
        ("01",),
        spellings=("KV cache",),
    ),
)

READING = (
    Term(
        "activation",
        "A value that a run computes: a neuron's output, a head's pattern, the residual stream at a position. A "
        "weight, by contrast, is learned and the same in every run.",
        ("00", "09"),
    ),
    Term(
        "hook point",
        "A named place in the forward pass where a callback can read a value or replace it. `tinymi points` lists "
        "them.",
        ("00", "01"),
    ),
    Term(
        "logit difference",
        "The logit of an answer minus the logit of a wrong answer: how much the model prefers the one to the other. "
        "Whatever moves both cancels.",
        ("06", "07", "10"),
    ),
    Term(
        "KL divergence",
        "How far one distribution of next tokens is from another: the mean, over the first, of the logarithm of their "
        "ratio. It is 0 only where they are equal. With the logarithm to base 2 it is in bits.",
        ("05", "08", "11"),
    ),
    Term(
        "Frobenius norm",
        "The size of a matrix: the square root of the sum of its squared entries.",
        ("02",),
    ),
    Term(
        "direction",
        "A vector in a space of activations that stands for something: a difference of two means, a token's column of "
        "the unembedding, a neuron's output weights.",
        ("06", "11"),
    ),
    Term(
        "logit lens",
        "Reading the residual stream between layers with the model's own final norm and unembedding: what would the "
        "model say if it ended here?",
        ("04", "05"),
        "nostalgebraist 2020, interpreting GPT: the logit lens, https://www.lesswrong.com/posts/AcKRB8wDpdaN6v6ru",
    ),
    Term(
        "tuned lens",
        "The logit lens behind an affine map that is learned for each layer. It reads what a layer knows in a form "
        "that the end of the model does not understand yet.",
        ("05",),
        "Belrose et al. 2023, Eliciting Latent Predictions from Transformers with the Tuned Lens, "
        "https://arxiv.org/abs/2303.08112",
    ),
    Term(
        "Jacobian lens",
        "The logit lens behind the average derivative of the last residual stream with respect to an earlier one. It "
        "reads a layer by what the later layers make of a small change there.",
        ("16",),
        "Hernandez et al. 2023, Linearity of Relation Decoding in Transformer Language Models, "
        "https://arxiv.org/abs/2308.09124",
        ("average Jacobian",),
    ),
    Term(
        "linear probe",
        "A linear regression or classifier that reads a property off an activation. It shows that the property can be "
        "read there, on words that the probe has not learned from, and not that the model reads it, too.",
        ("18",),
        "Alain and Bengio 2016, Understanding Intermediate Layers Using Linear Classifier Probes, "
        "https://arxiv.org/abs/1610.01644; Marks and Tegmark 2023, The Geometry of Truth, "
        "https://arxiv.org/abs/2310.06824",
        ("probe", "ridge regression"),
    ),
    Term(
        "control task",
        "A task with nothing to find, such as a label dealt to each word at random. How much better a probe does on "
        "the real labels is its selectivity: what it can learn by heart does not count.",
        ("18",),
        "Hewitt and Liang 2019, Designing and Interpreting Probes with Control Tasks, https://arxiv.org/abs/1909.03368",
        ("selectivity",),
    ),
    Term(
        "direct logit attribution",
        "The last residual stream is the sum of what every component wrote, so a logit difference is a sum of their "
        "shares, once the scale of the final norm is taken as given. It shows what a component writes to the output "
        "directly, not what it causes through later components.",
        ("06", "10"),
        _FRAMEWORK,
        ("DLA",),
    ),
    Term(
        "gradient",
        "How fast a number that a run computes, such as a logit difference, grows with each entry of a value. The "
        "backward pass finds it at every hook point by the chain rule. Gradient times activation is the slope as a "
        "component is turned up, not what its removal costs.",
        ("13",),
        "Simonyan et al. 2013, Deep Inside Convolutional Networks, https://arxiv.org/abs/1312.6034",
        ("backward pass", "gradient times activation", "gradient x activation"),
    ),
    Term(
        "OV circuit",
        "W_V @ W_O of a head: the map from what the head reads to what it writes.",
        ("02", "07"),
        _FRAMEWORK,
    ),
    Term(
        "QK circuit",
        "W_Q @ W_K transposed of a head: how much one position looks at another, from what stands at both. In a model "
        "with RoPE a rotation by the distance stands between the two matrices; the plain product is right at distance "
        "0 only.",
        ("03",),
        _FRAMEWORK,
    ),
)

CHANGING = (
    Term(
        "ablation",
        "Removing a component from a run to see what changes. Zero ablation puts zeros in its place. Mean ablation "
        "puts its average over other prompts there, which disturbs the rest of the model less.",
        ("06", "10"),
        spellings=("zero ablation", "mean ablation", "ablate", "ablated", "ablating"),
    ),
    Term(
        "knock-out",
        "Removing a whole head from the run by setting its output z to zero. The sign of the effect alone does not "
        "tell what role the head has.",
        ("10",),
        spellings=("knockout", "knocking out"),
    ),
    Term(
        "direct and total effect",
        "The direct effect of a component is what it writes to the logits itself. Its total effect is how the logits "
        "change when it is removed, including what later components then do differently.",
        ("06",),
        "McGrath et al. 2023, The Hydra Effect, https://arxiv.org/abs/2307.15771",
        ("direct effect", "total effect"),
    ),
    Term(
        "self-repair",
        "After a component is removed, later components (or the scale of the final norm) make up for part of the loss.",
        ("06",),
        "Rushing and Nanda 2024, Explorations of Self-Repair in Language Models, https://arxiv.org/abs/2402.15390",
    ),
    Term(
        "activation patching",
        "Copying an activation from one run into another. The two prompts differ in what the answer depends on, and "
        "the share of the answer that comes along says what the activation carries. Also called causal tracing (where "
        "the corruption is noise) and interchange intervention.",
        ("07",),
        "Vig et al. 2020, Causal Mediation Analysis for Interpreting Neural NLP, https://arxiv.org/abs/2004.12265; "
        "Meng et al. 2022, Locating and Editing Factual Associations in GPT, https://arxiv.org/abs/2202.05262; "
        "Zhang and Nanda 2023, Towards Best Practices of Activation Patching, https://arxiv.org/abs/2309.16042; "
        "Heimersheim and Nanda 2024, How to use and interpret activation patching, https://arxiv.org/abs/2404.15255",
        ("causal tracing", "interchange intervention"),
    ),
    Term(
        "path patching",
        "Activation patching of one connection: what a head writes is exchanged for one reader alone, the query, key "
        "or value of a later head, and everything else stays as it was. It tells who talks to whom.",
        ("15",),
        _IOI + "; Goldowsky-Dill et al. 2023, Localizing Model Behavior with Path Patching, "
        "https://arxiv.org/abs/2304.05969",
    ),
    Term(
        "clean, corrupted and patched run",
        "The three runs of activation patching: the prompt with the answer of interest, a similar prompt with another "
        "answer, and one of the two with an activation of the other.",
        ("07",),
        spellings=(
            "clean run",
            "corrupted run",
            "patched run",
            "clean prompt",
            "corrupted prompt",
        ),
    ),
    Term(
        "attribution patching",
        "A guess for all patches from one backward pass: what a patch changes, times the gradient of the metric. It is "
        "the slope at which the metric starts to move, so it fails where the way there bends. Integrated gradients "
        "take the slope at several places.",
        ("14",),
        "Nanda 2023, Attribution Patching, https://www.neelnanda.io/mechanistic-interpretability/attribution-patching; "
        "Kramar et al. 2024, AtP*, https://arxiv.org/abs/2403.00745",
        ("integrated gradients",),
    ),
    Term(
        "edge attribution patching",
        "The same guess for an edge: what one component writes, times the gradient at what a later one reads. Edges "
        "with the largest guesses make a circuit, which then has to show that it is faithful.",
        ("14",),
        "Syed et al. 2023, Attribution Patching Outperforms Automated Circuit Discovery, "
        "https://arxiv.org/abs/2310.10348; Hanna et al. 2024, Have Faith in Faithfulness (EAP-IG), "
        "https://arxiv.org/abs/2403.17806",
        ("EAP",),
    ),
    Term(
        "attribution graph",
        "What leads to what in one prediction: words, heads, and neurons or features are nodes. An edge is what one "
        "writes times what another reads. Attention patterns and norm scales are held, so that edges sum to what they "
        "explain. What is held, and what features do not rebuild, are error nodes.",
        ("21",),
        "Ameisen et al. 2025, Circuit Tracing, https://transformer-circuits.pub/2025/attribution-graphs/methods.html; "
        "Dunefsky et al. 2024, Transcoders Find Interpretable LLM Feature Circuits, https://arxiv.org/abs/2406.11944; "
        "Marks et al. 2024, Sparse Feature Circuits, https://arxiv.org/abs/2403.19647",
        ("error node",),
    ),
    Term(
        "DeepLIFT",
        "Going back through a model with the slope between two runs, the change of a value over that of its input, in "
        "the place of the gradient. Then the parts' shares sum exactly to the difference of the two runs.",
        ("21",),
        "Shrikumar et al. 2017, Learning Important Features Through Propagating Activation Differences, "
        "https://arxiv.org/abs/1704.02685",
    ),
    Term(
        "attention knockout",
        "Keeping chosen positions from looking at chosen others: the scores of these edges become minus infinity "
        "before the softmax, in some or all layers. Which flow of information does the answer need?",
        ("08",),
        "Geva et al. 2023, Dissecting Recall of Factual Associations in Auto-Regressive Language Models, "
        "https://arxiv.org/abs/2304.14767",
    ),
    Term(
        "steering",
        "Adding a direction to the residual stream while the model writes, to change what it writes. The dose has a "
        "price: too far from what the model knows, the text falls apart.",
        ("11", "20", "22"),
        "Turner et al. 2023, Activation Addition, https://arxiv.org/abs/2308.10248; "
        "Rimsky et al. 2023, Steering Llama 2 via Contrastive Activation Addition, https://arxiv.org/abs/2312.06681",
    ),
)

KNOWN_PARTS = (
    Term(
        "attention sink",
        "A position, usually the first, that gets much attention whatever token stands there. One interpretation is "
        "that a head looks there when it has nothing to move. Why models learn it is still studied.",
        ("00", "03", "08"),
        "Xiao et al. 2023, Efficient Streaming Language Models with Attention Sinks, https://arxiv.org/abs/2309.17453; "
        "Gu et al. 2024, When Attention Sink Emerges in Language Models, https://arxiv.org/abs/2410.10781; "
        "Barbero et al. 2025, Why do LLMs attend to the first token?, https://arxiv.org/abs/2504.02732",
        ("sink",),
    ),
    Term(
        "massive activation",
        "A few numbers of the residual stream, mostly at the first position, that are far larger than all others and "
        "hardly depend on the text. They occur together with the attention sink.",
        ("09",),
        "Sun et al. 2024, Massive Activations in Large Language Models, https://arxiv.org/abs/2402.17762",
    ),
    Term(
        "previous-token head",
        "A head that looks at the position just before.",
        ("03", "10"),
        _FRAMEWORK,
    ),
    Term(
        "duplicate-token head",
        "A head that looks from the second occurrence of a token to the first.",
        ("03", "10"),
        _IOI,
    ),
    Term(
        "induction head",
        "A head that looks, at the second occurrence of a token, at what followed the first occurrence. So it "
        "continues a repeated sequence.",
        ("03", "10"),
        "Olsson et al. 2022, In-context Learning and Induction Heads, https://arxiv.org/abs/2209.11895",
    ),
    Term(
        "circuit",
        "A set of components, and the edges between them, that do a task together. The rest of the model can be "
        "ablated without much loss (faithfulness).",
        ("10",),
        "Olah et al. 2020, Zoom In: An Introduction to Circuits, https://distill.pub/2020/circuits/zoom-in/; " + _IOI,
    ),
    Term(
        "indirect object identification",
        "The task of naming who receives something: 'When Mary and John went to the store, John gave a drink to' has "
        "the answer Mary. The measure is the logit of the indirect object minus the logit of the subject.",
        ("10",),
        _IOI,
        ("IOI", "indirect object"),
    ),
    Term(
        "name mover head",
        "A head that looks from the end of the prompt at the indirect object and copies that name to the output. A "
        "negative name mover lowers the logit of the name that it looks at.",
        ("10",),
        _IOI + "; McDougall et al. 2023, Copy Suppression, https://arxiv.org/abs/2310.04625",
        ("name mover", "negative name mover", "negative name mover head"),
    ),
    Term(
        "backup name mover",
        "A head whose direct effect on the indirect object grows only when the name movers are knocked out.",
        ("10",),
        _IOI,
        ("backup name mover head",),
    ),
    Term(
        "S-inhibition head",
        "A head that looks from the end of the prompt at the second occurrence of the subject, and keeps the name "
        "movers from looking at the subject. It hardly writes to the logits itself.",
        ("10",),
        _IOI,
    ),
    Term(
        "superposition",
        "A layer can hold more features than it has neurons, as directions that are nearly at right angles. Then one "
        "neuron responds to several unrelated things.",
        ("09", "17", "19"),
        "Elhage et al. 2022, Toy Models of Superposition, https://arxiv.org/abs/2209.10652; "
        "Bolukbasi et al. 2021, An Interpretability Illusion for BERT, https://arxiv.org/abs/2104.07143",
    ),
    Term(
        "sparse autoencoder",
        "Two matrices that write a value of the model as its mean plus a sum of few directions out of many, the "
        "features. They are trained to lose little of the value; nothing in the training asks for meaning.",
        ("19", "20"),
        "Bricken et al. 2023, Towards Monosemanticity, "
        "https://transformer-circuits.pub/2023/monosemantic-features/index.html; "
        "Gao et al. 2024, Scaling and Evaluating Sparse Autoencoders, https://arxiv.org/abs/2406.04093",
        ("SAE",),
    ),
    Term(
        "transcoder",
        "Like a sparse autoencoder, but its features predict what an MLP writes from what it reads. A skip transcoder "
        "has a linear map beside the features.",
        ("19",),
        "Paulo et al. 2025, Transcoders Beat Sparse Autoencoders for Interpretability, "
        "https://arxiv.org/abs/2501.18823",
        ("skip transcoder",),
    ),
    Term(
        "loss recovered",
        "How well a stand-in does in a value's place: the model's loss with it, on a scale from 0 (zero or the mean in "
        "that place) to 1 (the value itself).",
        ("19",),
    ),
)

EVIDENCE = (
    Term(
        "control",
        "The same measurement where the claimed cause is missing: other heads, shuffled labels, a random direction. A "
        "claim stands only if its control comes out clearly different.",
        ("00", "06", "10", "12"),
    ),
    Term(
        "held-out data",
        "Prompts that were not used to find a result, only to test it. What was chosen because it looked large on "
        "some prompts looks smaller on new ones.",
        ("09", "10"),
        spellings=("held-out prompt", "held-out text", "held out"),
    ),
    Term(
        "95 % interval",
        "The range in which the true value plausibly is. The lessons draw the prompts again with replacement, "
        "thousands of times (the bootstrap), and take the middle 95 % of the results.",
        ("06", "10"),
        spellings=("bootstrap", "confidence interval"),
    ),
)

GROUPS: Mapping[str, tuple[Term, ...]] = {
    "The model": THE_MODEL,
    "Reading a run": READING,
    "Changing a run": CHANGING,
    "What has been found in models": KNOWN_PARTS,
    "Evidence": EVIDENCE,
}
TERMS = tuple(term for group in GROUPS.values() for term in group)


@functools.cache
def forms() -> Mapping[str, Term]:
    """Every way to write a term, in lower case, with its plural."""
    singular = {name.lower(): term for term in TERMS for name in (term.name, *term.spellings)}
    return {f"{form}s": term for form, term in singular.items()} | singular


@functools.cache
def pattern() -> re.Pattern[str]:
    """Matches a term wherever a text uses one, the longest form first; `forms()[match[0].lower()]` is its entry."""
    longest_first = sorted(forms(), key=len, reverse=True)
    return re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, longest_first))})(?![\w-])", re.IGNORECASE)


def look_up(words: str) -> list[Term]:
    """The term of this name, or all terms that have these words in a name. Raises InputError where there is none.

    Case, hyphens and plurals do not matter.
    """
    wanted = _key(words)
    keys = {_key(form): term for form, term in forms().items()}
    if wanted in keys:
        return [keys[wanted]]
    matches = {term.name: term for key, term in keys.items() if wanted and f" {wanted}" in f" {key}"}
    if matches:
        return list(matches.values())
    raise InputError(f"glossary: no term {words!r}; {did_you_mean(wanted, keys)}`tinymi glossary` lists all terms")


def _key(name: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", name.lower()))
