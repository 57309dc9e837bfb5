"""Chat templates, as transformers writes them, and templates that mean harm."""

import json
from pathlib import Path
from typing import Any

import tinymi
from tinymi.chat import ChatTemplate
from tinymi.errors import InputError, TokenizerError

import pytest
from transformers import PreTrainedTokenizerFast

CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {  # the forms in use, each with something that the others have not
    "ChatML": CHATML,
    "Llama 2": (
        "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}"
        "{% set system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}"
        "{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
        "{% if loop.index0 == 0 and system_message != false %}"
        "{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
        "{% else %}{% set content = message['content'] %}{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "Llama 3": (
        "{{- bos_token }}\n{%- if not date_string is defined %}\n  {%- set date_string = strftime_now('%d %b %Y') %}\n"
        "{%- endif %}\n{%- if tools is not none %}{{- 'tools' }}{%- endif %}\n{%- for message in messages %}\n"
        "    {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' + date_string }}\n"
        "    {{- message['content'] | trim + '<|eot_id|>' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n  {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}\n{%- endif %}\n"
    ),
    "Qwen 3": (
        "{%- set ns = namespace(last=messages|length - 1) %}\n{%- for message in messages[::-1] %}\n"
        "    {%- if message.role == 'system' %}{%- continue %}{%- endif %}\n"
        "    {%- set ns.last = loop.index0 %}{%- break %}\n{%- endfor %}\n"
        "{%- for message in messages %}{{- message.content.split('</think>')[-1].lstrip('\n') }}"
        "{{- message | tojson(indent=1) }}{%- endfor %}{{- ns.last }}"
    ),
    "marked": "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %}{% endfor %}",
}
CONVERSATIONS: dict[str, list[dict[str, Any]]] = {
    "one question": [{"role": "user", "content": " What is <b> & é 😀? "}],
    "a system": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
    "several turns": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "<think>\nHm\n</think>\n\nHi!"},
        {"role": "user", "content": "{{ 7 * 7 }}"},
    ],
}


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("conversation", CONVERSATIONS)
def test_a_conversation_as_transformers_writes_it(template: str, conversation: str, tiny_folder: Path) -> None:
    source, messages = TEMPLATES[template], CONVERSATIONS[conversation]
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    peer = PreTrainedTokenizerFast(tokenizer_file=str(tiny_folder / "tokenizer.json"), chat_template=source, **names)
    expected = peer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert ChatTemplate(source, names).render(messages) == expected


def folder_with(tiny_folder: Path, folder: Path, **files: Any) -> Path:
    for file in tiny_folder.iterdir():
        (folder / file.name).symlink_to(file)
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.unlink(missing_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return folder


@pytest.mark.parametrize("place", ["tokenizer_config.json", "one of several there", "chat_template.jinja"])
def test_where_a_template_may_be(place: str, tiny_folder: Path, tmp_path: Path) -> None:
    config: dict[str, Any] = {"bos_token": {"content": "<s>"}, "chat_template": CHATML}
    if place == "one of several there":
        config["chat_template"] = [{"name": "tool_use", "template": ""}, {"name": "default", "template": CHATML}]
    files: dict[str, Any] = {"tokenizer_config__json": config}
    if place == "chat_template.jinja":
        files = {"tokenizer_config__json": config | {"chat_template": "old"}, "chat_template__jinja": CHATML}
    model = tinymi.load(folder_with(tiny_folder, tmp_path, **files))
    ids = model.to_tokens(messages=[{"role": "user", "content": "Hi"}])
    assert model.to_string(ids[0]) == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    template = model.tokenizer.chat_template
    assert template is not None
    assert template.special_tokens == {"bos_token": "<s>"}


def test_the_default_model_answers_and_stops(default_model: tinymi.Model, default_model_folder: Path) -> None:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    config = json.loads((default_model_folder / "tokenizer_config.json").read_text("utf-8"))
    peer = PreTrainedTokenizerFast(
        tokenizer_file=str(default_model_folder / "tokenizer.json"), chat_template=config["chat_template"]
    )
    tokens = default_model.to_tokens(messages=messages)
    assert tokens[0].tolist() == peer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    written = default_model.generate(tokens, 40)[0, tokens.shape[1] :]
    assert default_model.to_string(written) == "The capital of France is Paris.<|im_end|>"


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ cycler.__init__.__globals__.os.popen('true').read() }}",
        "{% for i in range(10 ** 9) %}{% endfor %}",
        "{% include '/etc/passwd' %}",
        "{% for",
        "{{ messages[0].nothing.more }}",
        "{{ raise_exception('line one\nline two') }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    ],
)
def test_a_template_that_fails_or_means_harm_is_refused_in_one_line(source: str) -> None:
    with pytest.raises(TokenizerError, match=r"^chat template: fails on these messages \([A-Za-z]+: .*\); give"):
        ChatTemplate(source).render([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize("messages", [[], "Hello", {"role": "user"}, [{"content": "Hi"}], ["Hi"]])
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(InputError, match=r'give a list of at least one, such as \[\{"role": "user"'):
        ChatTemplate(CHATML).render(messages)


def test_a_model_without_a_template_says_so(tiny_model: tinymi.Model) -> None:
    with pytest.raises(InputError, match="messages: this model has no chat template"):
        tiny_model.to_tokens(messages=[{"role": "user", "content": "Hi"}])
