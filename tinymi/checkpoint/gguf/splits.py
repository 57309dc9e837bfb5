"""The rules by which byte-level BPE splits a text before it merges, by the names that llama.cpp gave them.

Each is a list of pre-tokenizers, as the models' own tokenizer.json has them. SmolLM and GPT-2 use the regex of GPT-2,
which ByteLevel has built in; LLaMA's and Qwen's differ in how many digits stay together; DeepSeek's are several
regexes, one after the other.
"""

import re
from typing import Any

from tinymi.checkpoint.words import LLAMA3 as LLAMA3_WORDS
from tinymi.checkpoint.words import QWEN

LLAMA3 = ("llama-bpe", "llama3", "llama-v3")  # every text begins with a token, where the file does not say no
WHOLE_WORDS = (*LLAMA3, "falcon3")  # a word that is a token is taken whole, without merging
COMPOSED = ("qwen2", "deepseek-r1-qwen")  # text is brought to Unicode's composed form first

# The letters with a case that DeepSeek LLM's tokenizer lists, by their code points: most of \p{L&}, but not all.
_CASED = (
    "B5 C0-D6 D8-F6 F8-1BA 1BC-1BF 1C4-293 295-2AF 370-373 376-377 37B-37D 37F 386 388-38A 38C 38E-3A1 3A3-3F5 "
    "3F7-481 48A-52F 531-556 10A0-10C5 13A0-13F5 13F8-13FD 1C90-1CBA 1CBD-1CBF 1D00-1D2B 1D6B-1D77 1D79-1D9A "
    "1E00-1F15 1F18-1F1D 1F20-1F45 1F48-1F4D 1F50-1F57 1F59 1F5B 1F5D 1F5F-1F7D 1F80-1FB4 1FB6-1FBC 1FBE "
    "1FC2-1FC4 1FC6-1FCC 1FD0-1FD3 1FD6-1FDB 1FE0-1FEC 1FF2-1FF4 1FF6-1FFC 2102 2107 210A-2113 2115 2119-211D "
    "2124 2126 2128 212A-212D 212F-2134 2139 213C-213F 2145-2149 214E 2183-2184 2C00-2C7B 2C7E-2CE4 2CEB-2CEE "
    "2CF2-2CF3 A640-A66D A680-A69B A722-A76F A771-A787 A78B-A78E AB70-ABBF FB00-FB06 FB13-FB17 FF21-FF3A "
    "FF41-FF5A 10400-1044F 104B0-104D3 104D8-104FB 10C80-10CB2 10CC0-10CF2 118A0-118DF 1E900-1E943"
)
_CASED_LETTERS = r"\s?[A-Za-z" + re.sub(r"[0-9A-F]+ ?", lambda code: chr(int(code[0], 16)), _CASED) + "]+"
_MARKS = "\\s?[!-/:-~\uff01-\uff0f\uff1a-\uff5e\u2018-\u201f\u3000-\u3002]+"
_EAST_ASIAN = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"

_BYTES_ONLY: dict[str, Any] = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
_GPT2_REGEX = _BYTES_ONLY | {"use_regex": True}
_DIGITS: dict[str, Any] = {"type": "Digits", "individual_digits": True}


def _regexes(*patterns: str) -> list[dict[str, Any]]:
    """One split after the other."""
    return [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]


SPLITS: dict[object, list[dict[str, Any]]] = {
    "gpt-2": [_GPT2_REGEX],
    "smollm": [_DIGITS, _GPT2_REGEX],
    **{name: [*_regexes(QWEN), _BYTES_ONLY] for name in COMPOSED},
    **{name: [*_regexes(LLAMA3_WORDS), _BYTES_ONLY] for name in (*WHOLE_WORDS, "smaug-bpe")},
    "deepseek-llm": [*_regexes("[\r\n]", _CASED_LETTERS, _MARKS, r"\s+$", _EAST_ASIAN), _DIGITS, _BYTES_ONLY],
    "deepseek-coder": [*_regexes("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _EAST_ASIAN), _DIGITS, _BYTES_ONLY],
}
