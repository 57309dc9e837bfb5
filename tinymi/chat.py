"""Chat templates: the text that an instruct model was trained to see around a conversation.

A template is a program that comes with the model, in Jinja. It runs in Jinja's sandbox: it reaches no file and nothing
of Python's insides, but like any program it can take long.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tinymi.errors import InputError, TokenizerError

Messages = Sequence[Mapping[str, Any]]  # such as [{"role": "user", "content": "Hello"}]


@dataclass(frozen=True)
class ChatTemplate:
    """A template, and the special tokens that it may name, such as {"bos_token": "<s>"}."""

    source: str
    special_tokens: Mapping[str, str] = field(default_factory=dict)

    def render(self, messages: Messages) -> str:
        """The text of a conversation, up to where the assistant's next answer begins.

        As transformers' apply_chat_template with add_generation_prompt=True. Raises InputError, TokenizerError.
        """
        from tinymi.chat_environment import chat_environment  # late: Jinja takes long to import

        _check(messages)
        given = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": True}
        try:
            return chat_environment().from_string(self.source).render(**given, **self.special_tokens)
        except Exception as error:  # whatever a program can raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise TokenizerError(
                f"chat template: fails on these messages ({reason}); give the roles that the model knows, mostly "
                "system, user and assistant in turn, or write the text yourself"
            ) from None


def _check(messages: Messages) -> None:
    listed = isinstance(messages, list | tuple) and bool(messages)
    if not listed or not all(isinstance(message, Mapping) and "role" in message for message in messages):
        raise InputError(
            f'messages: {str(messages)[:60]}; give a list of at least one, such as [{{"role": "user", "content": '
            '"Hello"}]'
        )
