"""Prompts for indirect object identification (Wang et al. 2022): who was given something?

"When Mary and John went to the store, John gave a drink to" asks for Mary. The one who gives (the subject, S) is named
twice, the other (the indirect object, IO) once, and the answer is the name that is not repeated.
"""

from dataclasses import dataclass

from tinymi import Model
from tinymi.arrays import Tokens

import numpy as np

TEMPLATES = (
    "When {a} and {b} went to the store, {s} gave a drink to",
    "After {a} and {b} finished dinner, {s} handed the bill to",
    "While {a} and {b} were waiting for the train, {s} offered a seat to",
    "When {a} and {b} met at the library, {s} lent a book to",
    "Once {a} and {b} had arrived at the hotel, {s} passed the key to",
    "Because {a} and {b} were good friends, {s} wrote a long letter to",
)
HELD_OUT_TEMPLATES = (
    "As soon as {a} and {b} reached the office, {s} showed the plan to",
    "Before {a} and {b} left the party, {s} said goodbye to",
    "When {a} and {b} moved to the city, {s} sold the old car to",
    "Since {a} and {b} shared a garden, {s} brought some flowers to",
    "After {a} and {b} had played chess, {s} served some tea to",
    "Although {a} and {b} had argued all day, {s} told the truth to",
)
NAMES = "Mary John Tom Anna James Alice Paul Sarah Peter Emma David Jane Mark Laura Robert Susan".split()  # noqa: SIM905


# What each class of head reads: the position that looks, and the position that it looks at.
READS = {
    "name mover": ("END", "IO"),
    "negative name mover": ("END", "IO"),
    "S suppressor": ("END", "S2"),
    "S-inhibition": ("END", "S2"),
    "duplicate token": ("S2", "S1"),
    "induction": ("S2", "S1+1"),
    "previous token": ("S1+1", "S1"),
}


@dataclass(frozen=True)
class Task:
    """Prompts of one template, all of one length.

    Each comes in both orders of the names ("Mary and John", "John and Mary"), so that no position gives the answer.
    """

    prompts: list[str]
    io: list[str]
    s: list[str]
    tokens: Tokens  # [prompt, pos]
    io_id: Tokens  # [prompt], the token id of each IO
    s_id: Tokens  # [prompt]
    positions: dict[str, Tokens]  # "IO", "S1", "S1+1", "S2", "END": where each prompt has them, [prompt]


def make_task(model: Model, template: str, n_pairs: int = 2, seed: int = 0) -> Task:
    """Two prompts for each of n_pairs pairs of names, which this model's tokenizer must write as one token each."""
    rng = np.random.default_rng(seed)
    pairs = rng.permutation(NAMES)[: 2 * n_pairs].reshape(n_pairs, 2)  # no name in two pairs
    orders = [(io, s, io, s) for io, s in pairs] + [(s, io, io, s) for io, s in pairs]  # first, second, IO, S
    prompts = [template.format(a=first, b=second, s=s) for first, second, _, s in orders]
    io = [str(case[2]) for case in orders]
    s = [str(case[3]) for case in orders]
    tokens = model.to_tokens(prompts)
    io_id, s_id = (np.array([model.to_single_token(f" {name}") for name in names]) for names in (io, s))
    rows = range(len(prompts))
    places = {
        "IO": [int((tokens[row] == io_id[row]).argmax()) for row in rows],
        "S1": [int((tokens[row] == s_id[row]).argmax()) for row in rows],
        "S2": [tokens.shape[1] - 1 - int((tokens[row, ::-1] == s_id[row]).argmax()) for row in rows],
    }
    places["S1+1"] = [place + 1 for place in places["S1"]]
    places["END"] = [tokens.shape[1] - 1 for _ in rows]
    return Task(prompts, io, s, tokens, io_id, s_id, {name: np.array(place) for name, place in places.items()})


def unrelated(model: Model, template: str, n: int = 8, seed: int = 1) -> Tokens:
    """Prompts of the same form with three different names, which ask nothing: [n, pos]. Wang et al. call them ABC."""
    rng = np.random.default_rng(seed)
    triples = [rng.choice(NAMES, 3, replace=False) for _ in range(n)]
    return model.to_tokens([template.format(a=a, b=b, s=c) for a, b, c in triples])
