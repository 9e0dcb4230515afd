"""The result's chat template: that of most models, one with a name, or a text of the recipe.

The named ones write a conversation in the form that the models of that name were trained on.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from jinja2 import TemplateSyntaxError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from lab.core.errors import BadInput, UnknownName
from lab.models.config import read_json

AUTO = "auto"
FILE, SETTINGS, KEY = "chat_template.jinja", "tokenizer_config.json", "chat_template"

_ROLE = "{% for message in messages %}"
_END = "{% endfor %}"

NAMED = {
    "chatml": (
        f"{_ROLE}{{{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] }}}}"
        f"{{{{ '<|im_end|>\\n' }}}}{_END}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    "llama3": (
        "{{ bos_token }}"
        f"{_ROLE}{{{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' "
        "+ message['content'] | trim + '<|eot_id|>' }}"
        f"{_END}"
        "{% if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    "mistral": (
        "{% if messages[0]['role'] == 'system' %}"
        "{% set system = messages[0]['content'] + '\n\n' %}{% set turns = messages[1:] %}"
        "{% else %}{% set system = '' %}{% set turns = messages %}{% endif %}"
        "{{ bos_token }}"
        "{% for message in turns %}"
        "{% if message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
        "{% else %}{{ '[INST] ' + (system if loop.first else '') + message['content'] }}"
        "{{ ' [/INST]' }}{% endif %}"
        f"{_END}"
    ),
    "alpaca": (
        f"{_ROLE}"
        "{% if message['role'] == 'system' %}{{ message['content'] + '\\n\\n' }}"
        "{% elif message['role'] == 'user' %}{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}"
        "{% else %}{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}{% endif %}"
        f"{_END}"
        "{% if add_generation_prompt %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "exaone": (
        f"{_ROLE}"
        "{% if message['role'] == 'user' %}{{ '[|user|]' + message['content'] + '\\n' }}"
        "{% else %}{{ '[|' + message['role'] + '|]' + message['content'] + '[|endofturn|]\\n' }}{% endif %}"
        f"{_END}"
        "{% if add_generation_prompt %}{{ '[|assistant|]' }}{% endif %}"
    ),
}
"""Templates by the names that mergekit knows."""


def check_template(setting: str) -> None:
    """Refuse what is no known name and no template.

    Raises:
        BadInput: it is neither, or its syntax is wrong.
    """
    if setting == AUTO or setting in NAMED:
        return
    if "{{" not in setting and "{%" not in setting:
        raise UnknownName.among("chat template", setting, (AUTO, *NAMED)).at(KEY)
    try:
        ImmutableSandboxedEnvironment().parse(setting)
    except TemplateSyntaxError as error:
        raise BadInput(
            f"The chat template has a mistake in line {error.lineno}: {error.message}.",
            "It is a Jinja template over messages.",
            "Mend it, or name one: " + ", ".join(NAMED) + ".",
            field=KEY,
        ) from None


def template_of(folder: Path) -> str | None:
    """Return a model folder's own chat template, if it has one."""
    if (folder / FILE).is_file():
        return (folder / FILE).read_text("utf-8")
    template = read_json(folder / SETTINGS).get(KEY) if (folder / SETTINGS).is_file() else None
    return template if isinstance(template, str) else None


def write_template(
    setting: str | None, folders: Iterable[Path], target: Path, tell: Callable[[str], None]
) -> None:
    """Give a result the chat template that the recipe asks for; None leaves what came with its tokenizer.

    Args:
        setting: "auto", a name or a template.
        folders: those of the models, base first.
        target: the result's folder.
        tell: is told what "auto" chose.
    """
    if setting is None:
        return
    template = NAMED.get(setting, setting)
    if setting == AUTO:
        found = Counter(text for folder in folders if (text := template_of(folder)))
        if not found:
            tell("No model has a chat template, so the result has none.")
            return
        ((template, votes),) = found.most_common(1)  # of equal ones the first counted
        tell(f"The chat template is that of {votes} of the models.")
    (target / FILE).write_text(template, "utf-8")
    settings = read_json(target / SETTINGS) if (target / SETTINGS).is_file() else {}
    if settings.pop(KEY, None) is not None:
        (target / SETTINGS).write_text(json.dumps(settings, ensure_ascii=False, indent=2) + "\n", "utf-8")
