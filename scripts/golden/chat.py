"""Conversations as transformers' apply_chat_template renders them.

From transformers 5.23.0 and tokenizers 0.23.3. Two templates, written here from what the models are known to expect: the
tulu form of OLMo 2 Instruct, whose tags are plain text and whose text begins with the bos token, and the ChatML form
of OLMo 3, with a default system message and tools. A third exercises what templates in the wild use: Python's string
methods, namespaces, loop controls, tojson, slices, raise_exception. Writes chat/templates.json: `templates` by name,
the special tokens, and `cases`: template, messages, add_generation_prompt, and `text`, or `error` where it raises.
Where the tokenizer of OLMo 2 and 3 is at hand (../shared/data/tokenizers), also chat/dolma2.json: for the cases of the
first two templates that have a text, `ids` by apply_chat_template, each with the index of its case.

Usage: python scripts/golden/chat.py
"""

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from common import ROOT, record, write_json

DOLMA2 = ROOT.parent / "shared/data/tokenizers/allenai_dolma2.json"
SPECIAL = {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"}

TULU = """{{ bos_token }}
{%- for message in messages %}
    {%- if message['role'] == 'system' %}
        {{- '<|system|>\\n' + message['content'] + '\\n' }}
    {%- elif message['role'] == 'user' %}
        {{- '<|user|>\\n' + message['content'] + '\\n' }}
    {%- elif message['role'] == 'assistant' %}
        {{- '<|assistant|>\\n' + message['content'] + eos_token }}
        {%- if not loop.last %}
            {{- '\\n' }}
        {%- endif %}
    {%- endif %}
    {%- if loop.last and add_generation_prompt %}
        {{- '<|assistant|>\\n' }}
    {%- endif %}
{%- endfor %}
"""

CHATML = """{%- set has_system = messages | selectattr('role', 'equalto', 'system') | list | length > 0 -%}
{%- if not has_system -%}
<|im_start|>system
You are a helpful function-calling AI assistant.
{%- if tools is none %} You do not currently have access to any functions. <functions></functions>
{%- else %} <functions>{{ tools | tojson }}</functions>
{%- endif -%}
<|im_end|>
{% endif -%}
{% for message in messages %}
    {% if message.role in ['system', 'user', 'assistant'] %}
<|im_start|>{{ message.role }}
{{ message.content }}{% if message.role == 'assistant' and loop.last and not add_generation_prompt %}{% generation %}<|im_end|>{% endgeneration %}
{% else %}<|im_end|>
{% endif %}
    {% else %}
{{ raise_exception('unexpected role ' ~ message.role) }}
    {% endif %}
{% endfor %}
{%- if add_generation_prompt -%}
<|im_start|>assistant
{% endif -%}
"""

WILD = """{%- set ns = namespace(n=0, last='none') -%}
{%- for m in messages -%}
{%- if m['role'] == 'system' -%}{% continue %}{%- endif -%}
{%- if (m['role'] == 'user') != (ns.n % 2 == 0) -%}
{{ raise_exception('roles must alternate user/assistant') }}
{%- endif -%}
{%- set ns.n = ns.n + 1 -%}
{%- set ns.last = m.role.upper() -%}
[{{ loop.index0 }}:{{ m.role.capitalize() }}] {{ m.content.strip().split('</think>')[-1].lstrip('\\n') | trim }}
{% if m.content.startswith('Hi') and not m.content.endswith('?') %}(greeting {{ m.content[:2] }}){% endif %}
{{ m | tojson }}
{{ messages[0] | tojson(indent=2) }}
{{ m.items() | list | length }} {{ m.get('name', 'nobody') }} {{ 'x' if m.name is defined else 'y' }} {{ m.content.replace('a', 'A') }}
{% if loop.index > 3 %}{% break %}{% endif %}
{% endfor %}
{{ ns.n }} {{ ns.last }} {{ messages[1:] | length }} {{ messages | map(attribute='role') | join(',') }} {{ strftime_now('%%') }}
{%- if add_generation_prompt %} >{% endif %}
"""

TEMPLATES = {"tulu": TULU, "chatml": CHATML, "wild": WILD}


def say(*parts: str) -> list:
    """Messages of which the first may be `system: …`; the others take turns, the user first."""
    messages = []
    if parts and parts[0].startswith("system: "):
        messages.append({"role": "system", "content": parts[0].removeprefix("system: ")})
        parts = parts[1:]
    return messages + [{"role": ["user", "assistant"][i % 2], "content": part} for i, part in enumerate(parts)]


CONVERSATIONS = [
    say("Hi"),
    say("Hi there, what is 2 + 2?", "4"),
    say("system: Be brief — 生活 \"quoted\" <b>&amp;</b>\n", "  Hi \n", "Yes?\n\n", "a\\b\tc"),
    say("one", "<think>\nhm\n</think>\n\ntwo ", "three", "four", "five", "six"),
    say("<|endoftext|><|user|>\nnot a tag", ""),
    [{"role": "user", "content": "Hi"}, {"role": "user", "content": "again"}],
    [{"role": "tool", "content": "{}"}],
]


def main() -> None:
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0}, unk_token="a")), **SPECIAL)
    cases = []
    for name, template in TEMPLATES.items():
        for messages in CONVERSATIONS:
            for prompt in (False, True):
                case = {"template": name, "messages": messages, "add_generation_prompt": prompt}
                try:
                    text = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=prompt, tokenize=False)
                    cases.append(case | {"text": text})
                except Exception as error:
                    cases.append(case | {"error": str(error)})
    errors = {case["error"] for case in cases if "error" in case}
    print(f"{len(cases)} cases, errors: {errors}")
    path = write_json("chat/templates.json", {"templates": TEMPLATES, "special_tokens": SPECIAL, "cases": cases})
    record(path, __file__, ["tokenizers", "transformers"], None, "exact")

    if not DOLMA2.exists():
        print(f"no {DOLMA2}: chat/dolma2.json stays as it is")
        return
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(DOLMA2), **SPECIAL)
    encoded = []
    for i, case in enumerate(cases):
        if case["template"] != "wild" and "text" in case:
            options = {"chat_template": TEMPLATES[case["template"]], "add_generation_prompt": case["add_generation_prompt"]}
            ids = tokenizer.apply_chat_template(case["messages"], **options, tokenize=True, return_dict=False)
            encoded.append({"case": i, "ids": ids})
    record(write_json("chat/dolma2.json", encoded), __file__, ["tokenizers", "transformers"], None, "exact")


if __name__ == "__main__":
    main()
