"""Chat templates: those built in, and the one that most models of a merge have."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from evomerge.checkpoints.tokenizer import chat_template

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

# Each is written after the public description of its format.
BUILT_IN = {
    "alpaca": (
        "{%- for message in messages %}"
        "{%- if message.role == 'user' %}{{ '### Instruction:\\n' + message.content + '\\n\\n' }}"
        "{%- elif message.role == 'assistant' %}"
        "{{ '### Response:\\n' + message.content + eos_token + '\\n\\n' }}"
        "{%- else %}{{ message.content + '\\n\\n' }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '### Response:\\n' }}{%- endif %}"
    ),
    "chatml": (
        "{%- for message in messages %}"
        "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
    ),
    "exaone": (
        "{%- if messages and messages[0].role != 'system' %}"
        "{{ '[|system|][|endofturn|]\\n' }}{%- endif %}"
        "{%- for message in messages %}"
        "{{ '[|' + message.role + '|]' + message.content }}"
        "{{ '\\n' if message.role == 'user' else '[|endofturn|]\\n' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}{{ '[|assistant|]' }}{%- endif %}"
    ),
    "llama3": (
        "{{- bos_token }}"
        "{%- for message in messages %}"
        "{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}"
        "{{ message.content | trim + '<|eot_id|>' }}"
        "{%- endfor %}"
        "{%- if add_generation_prompt %}"
        "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}"
    ),
    "mistral": (
        "{{- bos_token }}"
        "{%- set told = namespace(system='') %}"
        "{%- for message in messages %}"
        "{%- if message.role == 'system' %}{%- set told.system = message.content + '\\n\\n' %}"
        "{%- elif message.role == 'user' %}"
        "{{ '[INST] ' + told.system + message.content + ' [/INST]' }}"
        "{%- set told.system = '' %}"
        "{%- else %}{{ ' ' + message.content + eos_token }}{%- endif %}"
        "{%- endfor %}"
    ),
}


def find_template(wanted: str, folders: Iterable[Path]) -> str | None:
    """Return the template that a recipe asks for.

    Args:
        wanted: `auto`, the name of a built-in template, or a template.
        folders: The folders of the models, the base first. Of several templates that are equally
            common, `auto` takes the one that comes first.

    Returns:
        The template; None if `auto` finds none.
    """
    if wanted != "auto":
        return BUILT_IN.get(wanted, wanted)
    found = (_default(chat_template(folder)) for folder in folders)
    counted = Counter(template.strip() for template in found if template)
    return counted.most_common(1)[0][0] if counted else None


def _default(template: object) -> str | None:
    """The default of several named templates, which older folders list."""
    if isinstance(template, list):
        template = {each.get("name"): each.get("template") for each in template}
    if isinstance(template, dict):
        template = template.get("default")
    return template if isinstance(template, str) else None
