"""Writes the fixtures of crates/text/tests/goldens with transformers, tokenizers and jinja2.

Chat templates: for each tests/goldens/chat/NAME.jinja, what apply_chat_template makes of messages, tools,
documents, flags and kwargs, into NAME.json. Tokenizers: small ones trained here on the text below, with
what transformers encodes and decodes, into tests/goldens/tokenizers/NAME/. Runs in seconds, is seeded by
its own text, and is never run by tests: `python scripts/text_goldens.py` from the repository's root.
"""

import datetime
import json
import shutil
from pathlib import Path

import jinja2
import tokenizers
import transformers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

GOLDENS = Path("crates/text/tests/goldens")
BOS, EOS = "<s>", "</s>"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Looks up the weather\nin a city. <b>&\"quoted\"</b> 日本",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "The city"},
                "days": {"type": "integer", "minimum": 1, "maximum": 7.5},
                "units": {"type": "array", "items": {"type": "string", "enum": ["C", "F"]}},
                "items": {"type": "object", "default": None},
            },
            "required": ["city"],
        },
    },
}
SUM = {
    "type": "function",
    "function": {"name": "add", "description": "Adds.", "parameters": {"type": "object", "properties": {}, "return": True}},
}
DOCUMENTS = [{"title": "One", "text": "First\ntext"}, {"title": "Zwei", "text": "größer als \"eins\"", "n": 2}]


def call(name, arguments, call_id="call12345"):
    return {"type": "function", "id": call_id, "function": {"name": name, "arguments": arguments}}


def message(role, content, **more):
    return {"role": role, "content": content, **more}


USER = [message("user", "Hello, who are you?")]
SYSTEM = [message("system", "Be brief.\n"), message("user", "  Hi!  ")]
TURNS = [
    *SYSTEM,
    message("assistant", "Hello. "),
    message("user", "What is 2 < 3 & 'quotes' \"double\"?"),
    message("assistant", "True — 是的 😀"),
    message("user", "Thanks 👍🏽\n\n"),
]
OPEN = [message("user", "Count to five"), message("assistant", "One, two, ")]
OPEN_TRIMMED = [message("user", "Count to five"), message("assistant", "  One, two,")]
THINKING = [
    message("user", "3+4?"),
    message("assistant", "<think>\nthree plus four\n</think>\n\n7"),
    message("user", "And 5+5?"),
    message("assistant", "10", reasoning_content="five plus five"),
    message("user", "Thanks"),
]
REASONING_LAST = [message("user", "3+4?"), message("assistant", "7", reasoning="a\nb")]
CALLS = [
    message("user", "Weather in Zürich?"),
    message("assistant", None, tool_calls=[call("get_weather", {"city": "Zürich", "days": 2, "x": 1.0, "y": None, "z": [True]})]),
    message("tool", "12 °C", name="get_weather", tool_call_id="call12345"),
    message("assistant", "It is 12 °C."),
    message("user", "And Rome?"),
]
TWO_CALLS = [
    message("user", "Both?"),
    message("assistant", "Let me look.", tool_calls=[call("get_weather", {"city": "A"}, "a23456789"), call("add", {}, "b23456789")]),
    message("tool", "1", tool_call_id="a23456789"),
    message("tool", "{\"sum\": 3}", tool_call_id="b23456789"),
]
TWO_USERS = [message("user", "a"), message("user", "b")]
ODD_ROLE = [message("critic", "hm")]
PARTS = [message("user", [{"type": "text", "text": "Look: "}, {"type": "text", "text": "a list"}])]
PARTS_OPEN = [*PARTS, message("assistant", [{"type": "text", "text": "I see "}])]


def case(messages, **options):
    return {"messages": messages, **options}


PLAIN = [case(USER), case(SYSTEM), case(TURNS), case(TURNS, add_generation_prompt=False), case(OPEN, continue_final_message=True),
         case(OPEN_TRIMMED, continue_final_message=True), case(USER, continue_final_message=True)]
TOOLS = [case(CALLS, tools=[WEATHER]), case(TURNS, tools=[WEATHER, SUM]), case(TWO_CALLS, tools=[WEATHER, SUM]), case(USER, tools=[])]
BAD = [case(TWO_USERS), case(ODD_ROLE)]
CASES = {
    "chatml": [*PLAIN, case(ODD_ROLE)],
    "llama2": [*PLAIN, *BAD],
    "llama3": [*PLAIN, *TOOLS, case(CALLS, tools=[WEATHER], chat_template_kwargs={"tools_in_user_message": False, "date_string": "1 Jan 2026"}),
               case(USER, chat_template_kwargs={"custom_tools": [SUM]})],
    "qwen2": [*PLAIN, *TOOLS],
    "qwen3": [*PLAIN, *TOOLS, case(THINKING), case(THINKING, chat_template_kwargs={"enable_thinking": False}),
              case(USER, chat_template_kwargs={"enable_thinking": True}), case(REASONING_LAST, add_generation_prompt=False)],
    "mistral": [*PLAIN, *TOOLS, *BAD],
    "gemma": [*PLAIN, *BAD, case(PARTS), case(PARTS_OPEN, continue_final_message=True)],
    "phi": [*PLAIN, case([message("system", "S", tools="[]"), *USER])],
    "deepseek": [*PLAIN, *TOOLS, case(THINKING)],
    "command_r": [*PLAIN, *TOOLS, *BAD, case(USER, documents=DOCUMENTS), case(TURNS, documents=DOCUMENTS, tools=[WEATHER])],
    "generation_blocks": [case(TURNS), case(OPEN, continue_final_message=True)],
    "parts_only": [case(PARTS), case(PARTS_OPEN, continue_final_message=True)],
}


# One template each: jinja2 and Python behaviour that templates lean on. `text` and `d` are set in front.
PRELUDE = "{% set text = '  Hello, World of text  ' %}{% set d = {'b': 1, 'a': {'x': [1, 2]}, 'items': 3, 'get': 4} %}"
VALUES = ["true", "false", "none", "1", "1.0", "0.1", "1e16", "1e-05", "123456789012", "\"it's\"", "'q\"q'", r"'é\n\t\\'", "[]", "{}",
          "{'a': [1, 'b'], 'c': none}", "(1, 'two')", "(1,)", "missing", "['é\\n', \"'\", 1e-7, none, true]", "messages"]
TESTS = ["string", "mapping", "iterable", "sequence", "number", "none", "boolean", "integer", "float", "defined", "undefined", "true", "false",
         "callable"]
EXPRESSIONS = [
    *[f"{{{{ {value} }}}} {{{{ {value} | string }}}}" for value in VALUES],
    *[f"{{{{ {value} | tojson }}}}" for value in VALUES],
    *[f"{{% set v = {value} %}}{{{{ 'yes' if v else 'no' }}}}" + "".join(f"{{{{ ' {test}' if v is {test} }}}}" for test in TESTS) for value in VALUES],
    *[f"{{{{ text.{call} }}}}" for call in (
        "strip()", "lstrip()", "rstrip()", "upper()", "lower()", "title()", "strip().capitalize()", "swapcase()", "split()", "split(' ', 3)",
        "rsplit(' ', 3)", "split(maxsplit=2)", "rsplit(None, 1)", "find('World')", "rfind('o')", "index('o')", "count('o')", "replace('o', '0')",
        "replace('o', '0', 1)", "nosuch()", "index('zz')", "split('')", "strip(' Ht')", "isspace()", "islower()", "find('zz')")],
    "{{ 'a,b,c'.split(',', maxsplit=1) }}", "{{ 'a,b,c'.rsplit(sep=',', maxsplit=1) }}", "{{ 'a,b,c'.split(',')[-1] }}",
    "{{ 'pre-fix'.removeprefix('pre-') }}{{ 'pre-fix'.removesuffix('-fix') }}",
    "{{ 'a=b=c'.partition('=') }}", "{{ 'a=b=c'.rpartition('=') }}", "{{ 'abc'.partition('x') }}", "{{ 'abc'.rpartition('x') }}",
    "{{ '7'.zfill(3) }}|{{ '-7'.zfill(4) }}|{{ 'ab'.ljust(5) }}|{{ 'ab'.rjust(5, '*') }}|{{ 'ab'.center(5, '-') }}|{{ 'abc'.center(6, '-') }}",
    "{{ 'STRASSE'.casefold() }}", r"{{ 'a\nb\r\nc\n'.splitlines() }}", r"{{ 'a\nb'.splitlines(true) }}", r"{{ 'a\nb'.splitlines(keepends=true) }}",
    "{{ 'abc'.startswith('ab') }}{{ 'abc'.startswith(('x', 'ab')) }}{{ 'abc'.endswith(('x', 'bc')) }}", "{{ '123'.isdigit() }}{{ 'abc'.isalpha() }}",
    "{{ ''.join(['x', 'y']) }}{{ ', '.join(['x', 'y']) }}", "{{ '{} and {}'.format('x', 2) }}", "{{ '%s-%d' | format('x', 2) }}",
    "{{ 'abc'[::-1] }}{{ 'abc'[1:] }}{{ 'abc'[-1] }}{{ 'abcdef'[1:5:2] }}", "{{ 'é日😀x'[1:3] }}{{ 'é日😀x' | length }}",
    "{{ d.get('b') }}{{ d.get('z') }}{{ d.get('z', 'dflt') }}{{ d['get'] }}", "{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}",
    "{{ d.keys() | list }}{{ d.values() | list }}{{ d | length }}{{ 'a' in d }}{{ 'q' in d }}", "{{ d | items | list }}", "{{ d | dictsort }}",
    "{{ d.b.c is defined }}", "{{ d.z is defined }}", "{{ d.z.y }}", "{{ d['z'] }}", "{{ missing.x }}", "{{ missing['x'] }}", "{{ none.x }}", "{{ missing() }}",
    "{{ d.pop('b') }}", "{{ [1].append(2) }}", "{{ d.copy() }}", "{{ [1, 2].index(2) }}{{ [1, 2, 2].count(2) }}",
    "{{ d | tojson(indent=2) }}", "{{ d | tojson(2) }}", "{{ d | tojson(separators=(',', ':')) }}", "{{ d | tojson(sort_keys=true) }}", r"{{ d | tojson(indent='\t') }}",
    "{{ d | tojson(indent=0) }}", "{{ d | tojson(indent=none) }}", "{{ d | tojson(separators=(', ', ': '), indent=2) }}",
    r"{{ 'é<>&\"日 😀' | tojson }}", "{{ 'é日😀' | tojson(ensure_ascii=true) }}", "{{ [] | tojson(indent=2) }}", "{{ [[], {}] | tojson(indent=1) }}",
    "{{ {1: 2, none: 3, 'x': 4} | tojson }}", "{{ [1.5, 2.0, 1e20, -0.0, 12345678901234567890] | tojson }}", r"{{ '\b\f\x01/' | tojson }}", "{{ d.missing | tojson }}",
    "{{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ 1 + 1.5 }} {{ 8 / 2 }}", "{{ -7 // 2 }} {{ -7 % 3 }}", "{{ 'a' * 3 }}{{ [1] + [2] }}", "{{ 'x' ~ 1 ~ true ~ none }}",
    "{{ 'x' ~ 1e20 ~ [1.0, 'a'] }}", "{{ 3 is divisibleby 3 }}{{ 5 is odd }}{{ 1 == 1.0 }}{{ 'a' < 'b' }}", "{{ 'a' + 1 }}", "{{ 1 / 0 }}", "{{ '%s and %d' % ('x', 2) }}",
    "{{ [3, 1, 2] | sort }}{{ [3, 1, 2] | sort(reverse=true) | join('-') }}{{ [1, 2, 3] | sum }}", "{{ [1, 2, 2] | unique | list }}", "{{ ['a', 'b'] | map('upper') | list }}",
    "{{ [{'r': 1}, {'r': 2}] | map(attribute='r') | list }}", "{{ [{'r': 1}, {'r': 2}] | selectattr('r', 'equalto', 2) | list }}",
    "{{ [{'r': 1}, {'r': 2}] | rejectattr('r', 'eq', 2) | list }}", "{{ [{'r': 1}, {'q': 2}] | selectattr('r', 'defined') | list }}",
    "{{ [{'r': 1}, {'q': 2}] | selectattr('r') | list }}", "{{ [1, 2, 3, 4] | select('even') | list }}", "{{ [1, none, 2] | reject('none') | list }}",
    "{{ [1, 2, 3] | batch(2) | list }}{{ [1, 2, 3] | first }}{{ [1, 2, 3] | last }}{{ [1, 2] | reverse | list }}{{ (1, 2) | list }}{{ 'abc' | list }}{{ [2, 5] | max }}{{ [2, 5] | min }}",
    r"{{ 'a\nb\n\nc' | indent }}", r"{{ 'a\nb\n\nc\n' | indent(2, true) }}", r"{{ 'a\n\nb' | indent(2, blank=true) }}", r"{{ 'a\nb' | indent(width='> ') }}", "{{ '' | indent }}",
    "{{ 'x' | default('y') }}{{ missing | default('y') }}{{ '' | default('y', true) }}{{ none | default('y') }}{{ missing | d('z') }}",
    "{{ '3' | int + 1 }}", "{{ 'z' | int }}", "{{ 'z' | int(7) }}", "{{ '2.5' | float }}", "{{ 'z' | float }}", "{{ 3.7 | int }}", "{{ '3.7' | int }}", "{{ none | int }}", "{{ 'ff' | int(base=16) }}",
    "{{ 3.14159 | round(2) }}{{ 2.5 | round }}{{ -3 | abs }}", "{{ '<b>' | escape }}", "{{ '<b>' | e }}", "{{ '<b>' | safe }}", "{{ 'a b' | wordcount }}",
    "{{ 'hello world' | truncate(8, true) }}", "{{ ' x ' | trim }}{{ 'xxaxx' | trim('x') }}{{ missing | trim }}", "{{ none | trim }}", "{{ 12 | trim }}", "{{ 12 | upper }}", "{{ none | upper }}",
    "{{ 'a-b' | replace('-', '+') }}{{ 'hello' | capitalize }}", "{{ 'hello wide world' | title }}", "{{ \"it's a x-ray\" | title }}", "{{ \"it's a x-ray\".title() }}",
    "{{ missing | length }}", "{{ missing | list }}", "{{ missing | join(',') }}", "{{ none | length }}", "{{ [1, none, 2.0] | join(',') }}", "{{ missing | upper }}", "{{ missing ~ 'x' }}", "{{ missing + 'x' }}",
    "{% for i in range(10) if i % 2 %}{% if i == 3 %}{% continue %}{% endif %}{% if i == 9 %}{% break %}{% endif %}{{ loop.index }}:{{ i }}{{ loop.cycle('a', 'b') }} {% endfor %}",
    "{% for i in [] %}x{% else %}empty{% endfor %}", "{% for i in missing %}x{% else %}none{% endfor %}", "{% for i in none %}x{% endfor %}", "{% for c in 'añ' %}{{ c }},{% endfor %}",
    "{% for k in d %}{{ k }}{% endfor %}", "{% for x in [1, 2, 3] %}{{ loop.first }}{{ loop.last }}{{ loop.revindex }}{{ loop.length }}{{ loop.depth }} {% endfor %}",
    "{% for x in [1, 2] %}{{ loop.previtem }}<{{ loop.nextitem }}{% endfor %}", "{% for x in [1, [2, [3]]] recursive %}{{ loop(x) if x is iterable else x }}{% endfor %}",
    "{% set captured %}<{{ 1 + 1 }}>{% endset %}{{ captured }}", "{% filter upper %}shout{% endfilter %}",
    "{% macro greet(name, mark='!') %}Hi {{ name }}{{ mark }}{% endmacro %}{{ greet('A') }}{{ greet('B', mark='?') }}{{ greet() }}", "{% macro wrap() %}[{{ caller() }}]{% endmacro %}{% call wrap() %}in{% endcall %}",
    "{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}", "{% raw %}{{ raw }}{% endraw %}", "a  {{- ' dash ' -}}  b", "a\n  {%+ if true %}plus{% endif %}\nb", "a{# comment #}b",
    "{{ 'a' if false }}|{{ missing }}|{{ d.missing is none }}", "{% set x = 1 %}{% for i in [1, 2] %}{% set x = i + 5 %}{% endfor %}{{ x }}", "{% set x = 1 %}{% if true %}{% set x = 2 %}{% endif %}{{ x }}",
    "{% set ns = namespace(n=0, seen=[]) %}{% for i in [1, 2, 3] %}{% set ns.n = ns.n + i %}{% set ns.seen = ns.seen + [i] %}{% endfor %}{{ ns.n }}{{ ns.seen }}{{ ns.z is defined }}",
    "{% set a, b = (1, 2) %}{{ a }}{{ b }}{{ {'k': 'v'}.k }}{{ dict(a=1, b=2) }}{{ [1, [2, [3]]] }}", "{% for k, g in [{'a': 1, 'b': 2}, {'a': 1, 'b': 3}] | groupby('a') %}{{ k }}:{{ g | length }}{% endfor %}",
    "{{ not true }}{{ true and 'x' or 'y' }}{{ 'b' not in 'abc' }}{{ [1, 2] == [1, 2] }}{{ {'a': 1} == {'a': 1} }}{{ 1 in [1, 2] }}{{ (1, 2)[0] }}{{ [1, 2, 3][-2:] }}", "{{ [1, 2, 3][5] }}", "{{ 'abc'[5] }}",
    "{{ 1 < 2 < 3 }}", "{{ 'A' 'B' }}", "{{ 1_000 }}", "{{ 0x1f }}", "{{ [1, 2, 3] is iterable and 'x' is not mapping }}", "{{ range(3) | list }}{{ range(5, 1, -2) | list }}", "{{ [1] * 3 }}",
    "{{ raise_exception('stop: ' ~ 1) }}", "{{ messages[0]['content'] }}{{ messages | map(attribute='role') | join(', ') }}{{ messages[-1].role }}", "{{ bos_token ~ eos_token ~ pad_token }}",
    "{{ add_generation_prompt }}{{ tools }}{{ documents }}", "{{ 'a' is in 'abc' }}{{ 'a' is eq 'a' }}{{ 3 is gt 2 }}{{ 'x' is sameas 'x' }}", "{{ 'AbC' is lower }}{{ 'ABC' is upper }}", "{{ namespace is callable }}{{ raise_exception is callable }}",
    "{% if messages[0].content is string and messages[0].content.strip().lower().startswith('hello') %}greeted{% endif %}", "{% set t = messages | selectattr('role', 'in', ['user', 'tool']) | list %}{{ t | length }}",
    "line\n{% if true %}\n  kept\n{% endif %}\nend\n", "{%- for m in messages %}\n    {{- m.role }}\n{%- endfor %}\n\n", "    {% set x = 1 %}    tail\n\n", "{{ 'x' }}\n{{ 'y' }}\n\n",
    "{{ [1, 2] | tojson | length }}{{ {'a': 1} | string | length }}", "{{ 'a b'.split() | map('capitalize') | join(' ') }}", "{{ d.items() | list | length }}{{ d.items() | first }}", "{{ (d.keys() | list)[0] }}",
    "{{ 1e3 }} {{ 1.10 }} {{ 100.0 / 3 }} {{ 2 ** 0.5 }} {{ 10 ** 20 }} {{ -5 // 2 }} {{ 5.5 // 2 }}", "{{ 5 % -3 }}", "{{ -5 | abs }}", "{{ true + 1 }}", "{{ 'yes' if 0.0 else 'no' }}{{ 'yes' if '' else 'no' }}",
]


def expected(tokenizer, template, case):
    options = {"add_generation_prompt": not case.get("continue_final_message", False)}
    options |= {key: value for key, value in case.items() if key not in ("messages", "chat_template_kwargs")}
    try:
        text = tokenizer.apply_chat_template(
            case["messages"], chat_template=template, tokenize=False, **options, **case.get("chat_template_kwargs", {}))
        return {"expected": text}
    except (jinja2.exceptions.UndefinedError, jinja2.exceptions.SecurityError, jinja2.exceptions.TemplateSyntaxError) as error:
        return {"error": str(error)}
    except jinja2.exceptions.TemplateError as error:
        return {"raised": error.message}
    except (TypeError, ValueError, ArithmeticError, AttributeError) as error:
        return {"error": str(error)}


def write(path, value):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def chat_goldens():
    backend = Tokenizer(models.WordLevel({BOS: 0, EOS: 1, "<unk>": 2}, unk_token="<unk>"))
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS, unk_token="<unk>")
    expressions = [{"template": text} | expected(tokenizer, PRELUDE + text, case(USER)) for text in EXPRESSIONS]
    write(GOLDENS / "expressions.json", {"prelude": PRELUDE, "messages": USER, "cases": expressions})
    count = len(expressions)
    for name, cases in CASES.items():
        template = (GOLDENS / "chat" / f"{name}.jinja").read_text(encoding="utf-8")
        results = [case | expected(tokenizer, template, case) for case in cases]
        count += len(results)
        write(GOLDENS / "chat" / f"{name}.json", results)
    return count


def clock_goldens():
    """strftime at fixed times, in the directives that templates use."""
    formats = ["%d %b %Y", "%Y-%m-%d", "%B %d, %Y", "%A, %d %B %Y", "%H:%M:%S", "%I:%M %p", "%j %U %y", "%-d/%-m/%Y", "%a %e %b", "100%%"]
    times = [datetime.datetime(2026, 11, 3, 9, 5, 7), datetime.datetime(2024, 2, 29, 23, 59, 0)]
    results = [{"time": time.isoformat(), "format": form, "expected": time.strftime(form)} for time in times for form in formats]
    write(GOLDENS / "clock.json", results)
    return len(results)


CORPUS = """The quick brown fox jumps over the lazy dog. It's the dog's 1st day; they're 12,345 times happier, we'll see!
def main(args):\n    print(f"hello {args[0]}")\n\treturn 0\n\n\n# indented   text   with    spaces
Größe über alles, çà et là, naïve café, Ελληνικά, Привет мир, 日本語のテキスト、中文文本。한국어 😀👍🏽 e\u0301 a\u0308
{"name": "get_weather", "arguments": {"city": "Zürich"}} <html> & \"quotes\" 1 + 2 = 3
""".split("\n")

TEXTS = [
    "", " ", "  ", "\n", "\n\n", "Hello world", " Hello world", "  two leading", "trailing  ", "a  b   c    d", "it's they're WE'LL",
    "12345 67,890.12", "tab\tand\r\nreturn\n\n  indented", "Größe café", "e\u0301a\u0308 combining", "日本語 中文 한국어", "😀👍🏽👨‍👩‍👧",
    "Привет Ελληνικά", "\u00a0nbsp\u3000wide", "\u0000nul\u007f", "def f(x):\n    return x + 1\n", "<|im_start|>user\nHi<|im_end|>\n",
    "x<|im_end|>", "<|im_end|> y", " <|im_end|>", "<s>Hello</s>", "</s> after", "<s> <s>", "<tool_call>{}</tool_call>", "▁under▁score", "�broken�", "<0x41>",
]


def byte_level(split):
    tokenizer = Tokenizer(models.BPE())
    steps = [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)]
    if split is not None:
        steps.insert(0, pre_tokenizers.Split(Regex(split), behavior="isolated"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=420, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


def gpt2():
    tokenizer = byte_level(None)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer, {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}


def qwen():
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = byte_level(split)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False), AddedToken("</tool_call>", normalized=False)])
    return tokenizer, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "add_bos_token": False}


def llama3():
    split = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    tokenizer = byte_level(split)
    tokenizer.model.ignore_merges = True
    tokenizer.add_special_tokens([BOS, EOS, "<|im_start|>", "<|im_end|>"])
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, bos)])])
    return tokenizer, {"bos_token": BOS, "eos_token": "<|im_end|>"}


def sentencepiece(metaspace):
    """A Llama 2 tokenizer: byte fallback, a space in front. `metaspace`: as a pre-tokenizer, not normalizers."""
    space = "▁"
    specials = ["<unk>", BOS, EOS, *[f"<0x{byte:02X}>" for byte in range(256)]]
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace(replacement=space, prepend_scheme="first")
    trainer = trainers.BpeTrainer(vocab_size=300, limit_alphabet=90, show_progress=False)
    trained.train_from_iterator(CORPUS, trainer)
    learnt = json.loads(trained.to_str())["model"]
    vocab = {token: index for index, token in enumerate(specials)}
    for token in learnt["vocab"]:
        vocab.setdefault(token, len(vocab))
    vocab.setdefault(space, len(vocab))
    merges = [tuple(pair) for pair in learnt["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if metaspace:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement=space, prepend_scheme="first", split=False)
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(replacement=space, prepend_scheme="first")])
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(space), normalizers.Replace(" ", space)])
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace(space, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in ("<unk>", BOS, EOS)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS}:1 $B:1", special_tokens=[(BOS, vocab[BOS])])
    return tokenizer, {"bos_token": {"content": BOS, "__type": "AddedToken", "lstrip": False, "normalized": False, "rstrip": False,
                                     "single_word": False}, "eos_token": EOS, "unk_token": "<unk>"}


def gemma():
    """Byte fallback without a space in front, as Gemma."""
    tokenizer, config = sentencepiece(metaspace=False)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer, config


def bos_by_config():
    """tokenizer_config.json asks for BOS and EOS, tokenizer.json has no post-processor: none is added."""
    tokenizer, config = gpt2()
    tokenizer.add_special_tokens([BOS, EOS])
    return tokenizer, {"bos_token": BOS, "eos_token": EOS, "add_bos_token": True, "add_eos_token": True}


TOKENIZERS = {"gpt2": gpt2, "qwen": qwen, "llama3": llama3, "llama2": lambda: sentencepiece(False),
              "metaspace": lambda: sentencepiece(True), "gemma": gemma, "bos_by_config": bos_by_config}


def tokenizer_goldens():
    count = 0
    shutil.rmtree(GOLDENS / "tokenizers", ignore_errors=True)
    for name, build in TOKENIZERS.items():
        folder = GOLDENS / "tokenizers" / name
        folder.mkdir(parents=True)
        backend, config = build()
        backend.save(str(folder / "tokenizer.json"), pretty=False)
        write(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"} | config)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        cases = []
        for text in TEXTS:
            plain = tokenizer.encode(text, add_special_tokens=False)
            cases.append({
                "text": text, "ids": plain, "with_special": tokenizer.encode(text, add_special_tokens=True),
                "decoded": tokenizer.decode(plain, skip_special_tokens=False, clean_up_tokenization_spaces=False),
                "decoded_skipping": tokenizer.decode(plain, skip_special_tokens=True, clean_up_tokenization_spaces=False),
            })
        count += 4 * len(cases)
        write(folder / "cases.json", cases)
        size = (folder / "tokenizer.json").stat().st_size
        assert size < 60_000, (name, size)
    return count


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, tokenizers {tokenizers.__version__}, jinja2 {jinja2.__version__}")
    print(f"{chat_goldens()} chats, {clock_goldens()} times, {tokenizer_goldens()} tokenizer values")
