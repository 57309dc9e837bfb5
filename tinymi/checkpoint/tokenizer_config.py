"""tokenizer_config.json: tokens that tokenizer.json has not, which tokens begin and end a text, the chat template.

`add_bos_token` and `add_eos_token` decide where the file states them, as in llama.cpp. transformers 4 heeds them in
LLaMA's tokenizer classes only, transformers 5 not at all: there, tokenizer.json alone decides. The models of DeepSeek,
the distilled ones included, state their first token here and nowhere else.
"""

from itertools import takewhile
from pathlib import Path
from typing import Any

from tinymi.chat import ChatTemplate
from tinymi.checkpoint.json_object import read_bytes, read_object
from tinymi.checkpoint.tokenizer_library import AddedToken, TemplateProcessing, Tokenizer
from tinymi.tokenizer import attempt


def apply(path: Path, backend: Tokenizer) -> None:
    """Let a tokenizer do what the file at `path`, if there is one, asks for. Raises ValueError."""
    if path.exists():
        raw = read_object(path)
        _add_tokens(raw, backend)
        _set_ends(raw, backend)


def chat_template(folder: Path) -> ChatTemplate | None:
    """What the folder has: chat_template.jinja, or the template in tokenizer_config.json. Raises ValueError."""
    path, own = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    raw = read_object(path) if path.exists() else {}
    source = read_bytes(own).decode("utf-8") if own.exists() else raw.get("chat_template")
    if isinstance(source, list):  # several, by name
        source = next((entry.get("template") for entry in source if entry.get("name") == "default"), None)
    if not isinstance(source, str):
        return None
    tokens = {name: _content(raw[name]) for name in raw if name.endswith("_token")}
    return ChatTemplate(source, {name: token for name, token in tokens.items() if isinstance(token, str)})


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, dict) else token


def surround(backend: Tokenizer, before: list[str], after: list[str]) -> None:
    """Put these tokens before and after every text. Raises ValueError."""
    ids = {token: backend.token_to_id(token) for token in (*before, *after)}
    pair = [*before, "$A:0", *after, *(f"{token}:1" for token in before), "$B:1", *(f"{token}:1" for token in after)]
    backend.post_processor = attempt(
        lambda: TemplateProcessing([*before, "$A:0", *after], pair, special_tokens=list(ids.items()))
    )


def _add_tokens(raw: dict[str, Any], backend: Tokenizer) -> None:
    entries = raw.get("added_tokens_decoder") or {}
    if not isinstance(entries, dict) or not all(key.isdecimal() for key in entries):
        raise ValueError("its added_tokens_decoder is not an object of ids and tokens")
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    tokens = [_added_token(entries[key]) for key in sorted(entries, key=int)]  # they get the next ids, in this order
    attempt(lambda: backend.add_tokens([token for token in tokens if token.content not in known]))


def _added_token(entry: Any) -> AddedToken:
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    if not isinstance(entry, dict) or not isinstance(content := entry.get("content"), str) or not content:
        raise ValueError("its added_tokens_decoder has a token without content")
    return attempt(lambda: AddedToken(content, **{name: entry[name] for name in flags if name in entry}))


def _set_ends(raw: dict[str, Any], backend: Tokenizer) -> None:
    encoding = attempt(lambda: backend.encode("a"))
    added = list(zip(encoding.tokens, encoding.special_tokens_mask))
    before = [token for token, _ in takewhile(lambda item: item[1], added)]
    after = [token for token, _ in takewhile(lambda item: item[1], reversed(added))][::-1]
    wanted = _end(raw, backend, "bos", before), _end(raw, backend, "eos", after)
    if wanted != (before, after):
        surround(backend, *wanted)


def _end(raw: dict[str, Any], backend: Tokenizer, name: str, tokens: list[str]) -> list[str]:
    """The tokens at one end: `tokens`, with or without the one that the file is about."""
    add, token = raw.get(f"add_{name}_token"), _content(raw.get(f"{name}_token"))
    if not add:
        return tokens if add is None else [other for other in tokens if other != token]
    if not isinstance(token, str) or backend.token_to_id(token) is None:
        raise ValueError(f"its add_{name}_token is {add!r}, but its {name}_token {token!r} is not in tokenizer.json")
    return tokens if token in tokens else [token, *tokens] if name == "bos" else [*tokens, token]
