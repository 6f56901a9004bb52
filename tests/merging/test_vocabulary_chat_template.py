"""Chat templates write the formats that models were trained with."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from jinja2.sandbox import ImmutableSandboxedEnvironment

from evomerge.merging.vocabulary.chat_template import BUILT_IN, find_template
from evomerge.merging.vocabulary.tokenizer_files import with_chat_template
from evomerge.recipe.vocabulary import BUILT_IN_TEMPLATES

if TYPE_CHECKING:
    from pathlib import Path

TALK = [("system", "S"), ("user", "U"), ("assistant", "A"), ("user", "V")]
WRITTEN = {
    "alpaca": "S\n\n### Instruction:\nU\n\n### Response:\nA</s>\n\n### Instruction:\nV\n\n",
    "chatml": (
        "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nU<|im_end|>\n"
        "<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nV<|im_end|>\n"
    ),
    "exaone": "[|system|]S[|endofturn|]\n[|user|]U\n[|assistant|]A[|endofturn|]\n[|user|]V\n",
    "llama3": (
        "<s><|start_header_id|>system<|end_header_id|>\n\nS<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nU<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nA<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nV<|eot_id|>"
    ),
    "mistral": "<s>[INST] S\n\nU [/INST] A</s>[INST] V [/INST]",
}
PROMPTS = {
    "alpaca": "### Response:\n",
    "chatml": "<|im_start|>assistant\n",
    "exaone": "[|assistant|]",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "",
}


def render(template: str, talk: list[tuple[str, str]], *, prompt: bool) -> str:
    # As transformers does it.
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    messages = [{"role": role, "content": content} for role, content in talk]
    settings = {"add_generation_prompt": prompt, "bos_token": "<s>", "eos_token": "</s>"}
    return environment.from_string(template).render(messages=messages, **settings)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_conversation_is_written_as_the_format_says(name):
    assert render(BUILT_IN[name], TALK, prompt=False) == WRITTEN[name]
    assert render(BUILT_IN[name], TALK, prompt=True) == WRITTEN[name] + PROMPTS[name]


def test_exaone_opens_with_an_empty_system_message():
    written = render(BUILT_IN["exaone"], [("user", "U")], prompt=True)
    assert written == "[|system|][|endofturn|]\n[|user|]U\n[|assistant|]"


def test_recipes_may_name_exactly_the_built_in_templates():
    assert set(BUILT_IN_TEMPLATES) == set(BUILT_IN) == set(WRITTEN)


def folder_with(folder: Path, template: object) -> Path:
    folder.mkdir()
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    return folder


def test_the_most_common_template_is_taken_and_the_first_of_equals(tmp_path):
    templates = ["x", " y", [{"name": "default", "template": "y\n"}], None, {"default": "z"}]
    folders = [folder_with(tmp_path / str(n), each) for n, each in enumerate(templates)]
    assert find_template("auto", folders) == "y"
    assert find_template("auto", [folders[4], folders[0], folders[3]]) == "z"
    assert find_template("auto", [folders[3]]) is None


def test_a_literal_template_is_taken_as_it_is():
    assert find_template("{{ messages }} ", []) == "{{ messages }} "
    assert find_template("chatml", []) == BUILT_IN["chatml"]


def test_a_template_replaces_those_in_other_places():
    old = json.dumps({"chat_template": "old", "eos_token": "e"}).encode()
    files = {"tokenizer_config.json": old, "chat_template.json": b"{}", "tokenizer.json": b"[]"}
    changed = with_chat_template(files, "new")
    assert changed.keys() == {"tokenizer_config.json", "chat_template.jinja", "tokenizer.json"}
    assert changed["chat_template.jinja"] == b"new"
    assert json.loads(changed["tokenizer_config.json"]) == {"eos_token": "e"}
    untouched = {"tokenizer_config.json": b'{"eos_token":   "e"}'}
    assert with_chat_template(untouched, "new")["tokenizer_config.json"] == b'{"eos_token":   "e"}'
