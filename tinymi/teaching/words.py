"""An answer as a reader types it: the token " Paris" is asked for, and "Paris" is typed."""

from typing import TYPE_CHECKING

from tinymi.errors import InputError
from tinymi.text import SPACE

if TYPE_CHECKING:
    from tinymi.run import Model


def with_space(text: str, prompt: str, model: "Model") -> str:
    """`text` with a space in front where only that makes sense as the next token; else `text`.

    That is: a word, after a prompt that ends in a word or in a mark that a space follows, and " word" is a token of
    its own. The ␣ with which tinymi shows a space is read as one.
    """
    text = text.replace(SPACE, " ")
    follows_word = prompt[-1:].isalnum() or prompt.endswith((",", ".", ";", ":", "!", "?", ")"))
    if not text[:1].isalpha() or not follows_word:
        return text
    spaced = one_token(" " + text, model)
    return text if spaced is None or spaced == one_token(text, model) else " " + text


def one_token(text: str, model: "Model") -> int | None:
    """The token that a text is, or None if it is several."""
    try:
        return model.to_single_token(text)
    except InputError:
        return None
