"""Chat templates: the text that an instruct model was trained to see around a conversation.

A template is a program that comes with the model, in Jinja. It runs in Jinja's sandbox: it reaches no file and nothing
of Python's insides, but like any program it can take long.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NoReturn

from tinymi.errors import InputError, TokenizerError

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

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
        _check(messages)
        given = {"messages": list(messages), "tools": None, "documents": None, "add_generation_prompt": True}
        try:
            return _environment().from_string(self.source).render(**given, **self.special_tokens)
        except Exception as error:  # whatever a program can raise
            reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
            raise TokenizerError(
                f"chat template: fails on these messages ({reason}); give the roles that the model knows, mostly "
                "system, user and assistant in turn, or write the text yourself"
            ) from None


class _Generation(Extension):
    """{% generation %} ... {% endgeneration %} marks the assistant's words for training. Here, it marks nothing."""

    tags = {"generation"}  # noqa: RUF012

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


def _environment() -> jinja2.Environment:
    """Jinja with what transformers gives its templates."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation]
    )
    environment.filters["tojson"] = _to_json
    environment.globals |= {"raise_exception": _refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    return environment


def _to_json(
    value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """Jinja's own would escape < and &, for web pages."""
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _check(messages: Messages) -> None:
    listed = isinstance(messages, list | tuple) and bool(messages)
    if not listed or not all(isinstance(message, Mapping) and "role" in message for message in messages):
        raise InputError(
            f'messages: {str(messages)[:60]}; give a list of at least one, such as [{{"role": "user", "content": '
            '"Hello"}]'
        )
