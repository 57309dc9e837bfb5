"""Texts of every kind, hostile ones included, from a seed: what a tokenizer must cut as another one does."""

import sys
import unicodedata
from collections.abc import Iterator
from random import Random

ADDED = ("<|im_start|>", "<|im_end|>", "<s>", "<left>", "<right>", "<both>", "<think>", "é", "<think")


def _of_kind(*kinds: str) -> str:
    return "".join(c for c in map(chr, range(sys.maxunicode + 1)) if unicodedata.category(c) in kinds)


POOLS: tuple[str | tuple[str, ...], ...] = (
    "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ",
    "0123456789",
    "".join(map(chr, range(0x21, 0x30))) + "[]^_`{|}~:;<=>?@",
    (" ", " ", "  ", "\n", "\r\n", "\t"),
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u180e\u2000\u200a\u200b\u2028\u2029\u202f\u205f\u2060\u3000\ufeff",
    ("'s", "'S", "'ſ", "'T", "'rE", "'Ve", "'M", "'lL", "'D", "’s", "''ll", "'K", "I'm", "DON'T"),
    "éèüñßøåçÆıİŉǆﬁﬅΣςẞŊ",
    ("e\u0301", "u\u0308\u0301", "a\u0323\u0307", "q\u0307\u0323", "\u1100\u1161\u11a8", "\u212b", "\u2126", "\uf900"),
    "日本語の文漢字中文測試한국어조선말ひらがなカタカナ々〆㐀𠀀",
    "العربيةעבריתفارسیދިވެހިܐܪܡܝܐ\u200e\u200f\u202e\u2066",
    "हिन्दीதமிழ்ไทยខ្មែរမြန်မာქართულიЁжикΕλλάδα",
    ("👩‍👩‍👧", "🏳️‍🌈", "👍🏽", "🇫🇷", "1️⃣", "☃️", "🙂", "👨\u200d", "\ufe0f", "\U000e0067"),
    "".join(map(chr, (*range(0x20), *range(0x7F, 0xA0), 0xAD))),
    "\ud7ff\ue000\uf8ff\ufdd0\ufffd\ufffe\uffff\U00010000\U0001ffff\U000f0000\U0010ffff",
    _of_kind("Nd", "Nl", "No"),
    _of_kind("Mn", "Mc", "Me"),
    _of_kind("Lm", "Lt", "Pc", "Cf", "Zs", "Sk"),
    ADDED,
    (" <left>", "<right>\n ", " \u3000<both>\t\t", "< s>", "<|im_", "|im_end|>", "<<s>>", "<s><s>", "<think><s>"),
)


def text(random: Random) -> str:
    """Some pieces of one or several kinds; now and then a long run, or characters from all of Unicode."""
    pools = random.choices(POOLS, k=random.randint(1, 4))
    pieces = [random.choice(random.choice(pools)) for _ in range(random.randint(0, 16))]
    if random.random() < 0.2:
        pieces.insert(random.randint(0, len(pieces)), random.choice(random.choice(POOLS)) * random.randint(2, 80))
    if random.random() < 0.2:
        codes = [random.randrange(0x110000 - 0x800) for _ in range(random.randint(1, 6))]
        pieces += [chr(code if code < 0xD800 else code + 0x800) for code in codes]
    return "".join(pieces)


def texts(seed: int | str, number: int) -> Iterator[str]:
    random = Random(seed)
    return (text(random) for _ in range(number))
