"""Text to token ids and back: a thin wrapper over a model's own tokenizer.json."""

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import Any, Protocol, TypeVar

from tinymi.arrays import Tokens, as_array
from tinymi.chat import ChatTemplate, Messages
from tinymi.config import Config
from tinymi.errors import InputError, TokenizerError

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
PADDING = -1  # stands before the tokens of a prompt that is shorter than others of its batch


def attempt(call: Callable[[], T]) -> T:
    """What the library returns. Raises ValueError for its bare Exception, and for Rust's panics."""
    try:
        return call()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise ValueError(str(error)) from None


class Backend(Protocol):
    """What reads a tokenizer.json: the `tokenizers` library or, without it, checkpoint/byte_level_bpe.py."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> Any: ...  # it has .ids
    def decode(self, ids: Sequence[int], *, skip_special_tokens: bool = True) -> str: ...
    def get_vocab_size(self, *, with_added_tokens: bool = True) -> int: ...
    def id_to_token(self, index: int, /) -> str | None: ...


class Tokenizer:
    """A model's tokenizer.

    Special tokens, such as a beginning-of-text token, are added as tokenizer.json asks for and as tokenizer_config.json
    does (add_bos_token, add_eos_token), unless add_special_tokens=False. transformers 5 ignores the latter: there, a
    model of DeepSeek gets no first token; here, in transformers 4 and in llama.cpp it does.
    """

    def __init__(self, backend: Backend, chat_template: ChatTemplate | None = None) -> None:
        self._backend = backend
        self.chat_template = chat_template

    def __repr__(self) -> str:
        return f"Tokenizer({self._size:,} tokens)"

    def to_tokens(
        self,
        text: str | Sequence[str],
        *,
        config: Config | None = None,
        add_special_tokens: bool = True,
        padding: bool = False,
    ) -> Tokens:
        """Token ids, int64 [batch, pos]. A list of prompts needs equal lengths, or padding=True.

        config: of the model that shall take them. Raises InputError.
        padding: put PADDING before the tokens of shorter prompts.
        """
        prompts = [text] if isinstance(text, str) or not isinstance(text, Iterable) else list(text)
        if not prompts:
            raise InputError("prompt: an empty list; give at least one prompt")
        rows = [self._encode(prompt, add_special_tokens) for prompt in prompts]
        for prompt, row in zip(prompts, rows):
            if not row:
                raise InputError(f"prompt {prompt!r}: has no tokens; give at least one character")
            if config is not None and len(row) > config.n_ctx:
                raise InputError(
                    f"prompt {_start(prompt)}: has {len(row)} tokens, but the model takes {config.limit}; shorten it"
                )
        lengths = {len(row) for row in rows}
        if padding:
            rows = [[PADDING] * (max(lengths) - len(row)) + row for row in rows]
        elif len(lengths) > 1:
            shown = ", ".join(f"{_start(prompt)} has {len(row)}" for prompt, row in list(zip(prompts, rows))[:5])
            raise InputError(
                f"prompts: lengths of {min(lengths)} to {max(lengths)} tokens ({shown}); one batch needs equal "
                "lengths: choose prompts of one length, or pass padding=True"
            )
        return np.array(rows, dtype=np.int64)

    def chat_tokens(self, messages: Messages, config: Config) -> Tokens:
        """The ids [1, pos] of a conversation, up to where the assistant's next answer begins.

        The template writes the special tokens, so none are added. Raises InputError without a chat template.
        """
        if self.chat_template is None:
            raise InputError(
                "messages: this model has no chat template, so it was hardly trained on conversations; give a text"
            )
        return self.to_tokens(self.chat_template.render(messages), config=config, add_special_tokens=False)

    def to_str_tokens(self, text: str | npt.ArrayLike, *, add_special_tokens: bool = True) -> list[str]:
        """The text of each token of a prompt, or of each of the ids [pos].

        Bytes that are no UTF-8 show as \\ufffd. An embedding may have more rows than the tokenizer has tokens: such
        an id, which no text gives but a model may well predict, shows as <id 151700>.
        """
        ids = self._encode(text, add_special_tokens) if isinstance(text, str) else self._ids(text)
        return [self._piece(token) for token in ids]

    def to_single_token(self, text: str) -> int:
        """The id of a text that is one token, such as " Paris". Raises InputError, which shows the pieces."""
        pieces = self._encode(text, add_special_tokens=False)
        if len(pieces) == 1:
            return pieces[0]
        # SentencePiece puts a space before every text, but none after a line break.
        before = self._encode("\n", add_special_tokens=False)
        after = self._encode("\n" + text, add_special_tokens=False)
        if len(after) == len(before) + 1 and after[:-1] == before:
            return after[-1]
        shown = " ".join(repr(self._piece(token)) for token in pieces) or "nothing"
        raise InputError(f"{text!r}: is {len(pieces)} tokens, not one ({shown}); choose a text that is a single token")

    def to_string(self, tokens: npt.ArrayLike) -> str:
        """The text of token ids [pos], special tokens included, padding left out."""
        ids = [token for token in self._ids(tokens) if token != PADDING]
        for token in ids:
            if not self._has(token):
                raise InputError(f"tokens: the tokenizer has no id {token}; valid are 0 to {self._size - 1}")
        return self._decode(ids)

    def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        if not isinstance(text, str):
            raise InputError(f"prompt: is {type(text).__name__}, but a prompt is a str, and several are a list of str")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise InputError(f"prompt {text!r}: holds half a character ({error.reason}); give valid Unicode") from None
        try:
            return list(attempt(lambda: self._backend.encode(text, add_special_tokens=add_special_tokens)).ids)
        except ValueError as error:
            raise TokenizerError(f"tokenizer.json: cannot encode {_start(text)} ({error}); change the text") from None

    def _decode(self, ids: list[int]) -> str:
        try:
            return str(attempt(lambda: self._backend.decode(ids, skip_special_tokens=False)))
        except ValueError as error:
            raise TokenizerError(f"tokenizer.json: cannot decode ids {ids[:9]} ({error}); it is broken") from None

    def _ids(self, tokens: npt.ArrayLike) -> list[int]:
        ids = as_array(tokens, "tokens")
        if ids.ndim != 1 or (ids.size and ids.dtype.kind not in "iu"):
            raise InputError(f"tokens: {ids.dtype} of shape {list(ids.shape)}, but one prompt's ids are integers [pos]")
        if ids.size and not PADDING <= ids.min() <= ids.max() < 2**31:
            wrong = ids.min() if ids.min() < 0 else ids.max()
            raise InputError(f"tokens: there is no id {wrong}; the tokenizer's are 0 to {self._size - 1}")
        return [int(token) for token in ids]

    @cached_property
    def _size(self) -> int:
        return int(self._backend.get_vocab_size(with_added_tokens=True))

    @cached_property
    def _anchor(self) -> tuple[int, str]:
        """A plain token and its text. Decoders drop the space of a first token, so none is decoded alone."""
        ids = self._encode("a", add_special_tokens=False)
        if not ids:
            raise TokenizerError("tokenizer.json: makes no token of 'a'; take the file that belongs to the model")
        return ids[-1], self._decode(ids[-1:])

    def _has(self, token: int) -> bool:
        return self._backend.id_to_token(token) is not None

    def _piece(self, token: int) -> str:
        if token == PADDING:
            return "<padding>"
        if not self._has(token):
            return f"<id {token}>"
        anchor, text = self._anchor
        return self._decode([anchor, token]).removeprefix(text)


def _start(prompt: str) -> str:
    return repr(prompt if len(prompt) <= 40 else prompt[:37] + "...")
