"""The parts of a tokenizer.json that byte-level BPE in Python has. Others are refused by their name."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, NoReturn

from tinymi.checkpoint.words import GPT2, LLAMA3, QWEN, Split, begin_with_space, split_by, split_digits

_PRINTED = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]  # bytes that are written as themselves
_OTHERS = sorted({*range(256)} - {*_PRINTED})
LETTERS = {byte: chr(byte) for byte in _PRINTED} | {byte: chr(256 + i) for i, byte in enumerate(_OTHERS)}
BYTES = {letter: byte for byte, letter in LETTERS.items()}

Merges = Mapping[tuple[int, int], tuple[int, int]]  # a pair of ids -> the rank of its merge, and what it becomes


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"it needs {what}, which only the tokenizers library has")


@dataclass(frozen=True)
class AddedToken:
    """A token that is found before a text is split. lstrip, rstrip: together with the spaces before it, behind it."""

    content: str
    single_word: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = True  # it is looked for in the normalized text
    special: bool = False

    def __post_init__(self) -> None:
        flags = {type(getattr(self, field.name)) for field in fields(self)[1:]}
        if not isinstance(self.content, str) or flags != {bool}:
            raise ValueError(f"its added token {str(self.content)[:80]!r} is no text with flags")
        if self.single_word:
            _refuse(f"single_word, of the added token {self.content[:80]!r}")


@dataclass(frozen=True)
class TemplateProcessing:
    """What stands around each text: tokens and, for the text, "$A:0"."""

    single: Sequence[str]
    pair: Sequence[str]  # around two texts at once
    special_tokens: Sequence[tuple[str, int]]

    def __post_init__(self) -> None:
        known = {name: index for name, index in self.special_tokens if type(index) is int and 0 <= index < 2**32}
        if len(known) < len(self.special_tokens) or not {*self.single} <= {"$A:0", *known}:
            _refuse("a template whose tokens have not one id each")
        if list(self.single).count("$A:0") != 1:
            _refuse("a template that has the text more than once, or not at all")

    @property
    def ends(self) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """The tokens before a text, and those after it, with their ids."""
        at, known = list(self.single).index("$A:0"), dict(self.special_tokens)
        before, after = self.single[:at], self.single[at + 1 :]
        return [(token, known[token]) for token in before], [(token, known[token]) for token in after]


def _kind(part: Any) -> str:
    return "null" if part is None else str(part["type"])[:40]


def flag(part: Mapping[str, Any], name: str, default: Any = None) -> bool:
    value = part.get(name, default)
    if not isinstance(value, bool):
        raise ValueError(f"its {name} is {str(value)[:40]!r}, and true or false would be valid")
    return value


def check_model(model: Mapping[str, Any], decoder: Any) -> None:
    """That the model is plain byte-level BPE, and its vocabulary a list of tokens."""
    if model.get("type", "BPE") != "BPE":
        _refuse(f"a model of type {_kind(model)}")
    for name in ("dropout", "byte_fallback", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(name):
            _refuse(f"{name} {str(model[name])[:40]}")
    if _kind(decoder) != "ByteLevel":
        _refuse(f"a decoder of type {_kind(decoder)}")
    vocab = model["vocab"]
    if not all(type(index) is int and 0 <= index < 2**32 for index in vocab.values()):
        raise ValueError("its vocab has ids that are no whole numbers")
    if len({*vocab.values()}) < len(vocab):
        raise ValueError("its vocab has two tokens with one id")
    if model.get("unk_token") is not None and not BYTES.keys() <= vocab.keys():
        _refuse(f"the token {str(model['unk_token'])[:40]!r} for bytes that have none")


def read_merges(entries: Iterable[Any], vocab: Mapping[str, int]) -> Merges:
    merges = {}
    for rank, entry in enumerate(entries):
        pair = entry.split(" ") if isinstance(entry, str) else entry
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocab.keys():
            raise ValueError(f"its merge {str(entry)[:80]!r} does not fit the vocab")
        merges[vocab[pair[0]], vocab[pair[1]]] = rank, vocab["".join(pair)]
    return merges


def read_added_token(entry: Mapping[str, Any]) -> AddedToken:
    return AddedToken(**{field.name: entry[field.name] for field in fields(AddedToken)})


def composes(normalizer: Any) -> bool:
    """Whether a text is brought to Unicode's composed form first."""
    if normalizer is None:
        return False
    if _kind(normalizer) == "Sequence":
        return True in list(map(composes, normalizer["normalizers"]))  # a list, so that each is looked at
    return _kind(normalizer) == "NFC" or _refuse(f"a normalizer of type {_kind(normalizer)}")


def read_splits(pre_tokenizer: Any) -> list[Split]:
    steps = pre_tokenizer["pretokenizers"] if _kind(pre_tokenizer) == "Sequence" else [pre_tokenizer]
    if [_kind(step) == "ByteLevel" for step in steps] != [False] * (len(steps) - 1) + [True]:
        _refuse("a pre_tokenizer that does not end in ByteLevel")
    return [split for step in steps for split in _steps(step)]


def _steps(step: Mapping[str, Any]) -> list[Split]:
    kind = _kind(step)
    if kind == "ByteLevel":
        rule = [split_by(GPT2)] if flag(step, "use_regex", True) else []
        return [begin_with_space, *rule] if flag(step, "add_prefix_space") else rule
    if kind == "Digits":
        return [split_digits(flag(step, "individual_digits"))]
    if kind != "Split":
        _refuse(f"a pre_tokenizer of type {kind}")
    rule = step["pattern"].get("Regex")
    if rule not in (QWEN, LLAMA3) or step["behavior"] != "Isolated" or flag(step, "invert"):
        _refuse(f"the split rule {str(step['pattern'])[:200]}")
    return [split_by(rule)]


def read_template(processor: Any) -> TemplateProcessing | None:
    if processor is None or _kind(processor) == "ByteLevel":  # which is about where a token stands
        return None
    if _kind(processor) == "Sequence":
        templates = [template for template in map(read_template, processor["processors"]) if template]
        return templates[0] if len(templates) == 1 else _refuse("two templates") if templates else None
    if _kind(processor) != "TemplateProcessing":
        _refuse(f"a post_processor of type {_kind(processor)}")
    pieces = [(kind, piece) for entry in processor["single"] for kind, piece in entry.items()]
    single = [f"${piece['id']}:0" if kind == "Sequence" else piece["id"] for kind, piece in pieces]
    known = [(name, index) for name, token in processor["special_tokens"].items() for index in token["ids"]]
    if any(token["tokens"] != [name] for name, token in processor["special_tokens"].items()):
        _refuse("a template that gives its tokens other names")
    return TemplateProcessing(single, (), known)
