"""Writes what transformers makes of the public chat templates in crates/text/tests/goldens/public.

The conversations stand in cases.json, as OpenAI's clients send them; NAME.json has what apply_chat_template makes
of each with NAME.jinja, the message of the exception that the template raises, or which case came out the same. As servers do before they
render: a call's arguments are parsed, and content in parts is joined where the template does not read parts. The
clock stands still. Never run by tests: `python scripts/template_goldens.py` from the repository's root, with
another folder of templates as its argument where wanted.
"""

import copy
import datetime
import json
import sys
from pathlib import Path

import jinja2
import transformers
from tokenizers import Tokenizer, models
from transformers.utils import chat_template_utils

FOLDER = Path("crates/text/tests/goldens/public")
NOW = datetime.datetime(2026, 11, 3, 9, 5, 7)
IDS = ["a1b2c3d4e", "f5g6h7i8j"]
SEED = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Looks up the weather\nin a city. <b>&\"quoted\"</b> 日本",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "The city, e.g. Zürich"},
                    "days": {"type": "integer", "minimum": 1, "default": 3},
                    "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
                    "exact": {"type": "boolean", "default": False},
                    "hours": {"type": "array", "items": {"type": "integer"}},
                },
                "required": ["city"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "book_trip",
            "description": "Books a trip.",
            "parameters": {
                "type": "object",
                "properties": {
                    "place": {
                        "type": "object",
                        "description": "Where to",
                        "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
                        "required": ["name"],
                    },
                    "note": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                    "price": {"type": "number", "maximum": 99.5},
                },
                "required": ["place"],
                "additionalProperties": False,
            },
        },
    },
]


def message(role, content, **more):
    return {"role": role, "content": content, **more}


def call(index, name, **arguments):
    function = {"name": name, "arguments": json.dumps(arguments, ensure_ascii=False)}
    return {"id": IDS[index], "type": "function", "function": function}


def parts(*texts):
    return [{"type": "text", "text": text} for text in texts]


def result(index, content, **more):
    return message("tool", content, tool_call_id=IDS[index], **more)


WEATHER = call(0, "get_weather", city="Zürich \"HB\" <1>", days=2, exact=True, hours=[7, 19])
TRIP = call(1, "book_trip", place={"name": "日本", "tags": ["a", "b c"]}, note="two\nlines & more", price=12.5)
SYSTEM = message("system", "Be brief.\n")
ASK = message("user", "Weather in Zürich, and book 日本?")
THOUGHT = "First the weather.\n\nThen {the} trip."
TURNS = [SYSTEM, message("user", "  Hi! 2 < 3 & \"x\" "), message("assistant", "Hello — 是的 😀 "), message("user", "Thanks 👍🏽\n")]
ONE = message("assistant", None, tool_calls=[WEATHER])
BOTH = message("assistant", "Let me look.", tool_calls=[WEATHER, TRIP])
AFTER_ONE = [SYSTEM, ASK, ONE, result(0, "12 °C", name="get_weather")]
AFTER_BOTH = [ASK, BOTH, result(0, parts("12 °C", "sunny")), result(1, "{\"ok\": true, \"n\": 1.0}")]
THOUGHTS = [
    message("user", "3+4?"), message("assistant", "7", reasoning_content="three plus four"),
    message("user", "5+5?"), message("assistant", "10", reasoning_content="five\n\nand five"), message("user", "Thanks"),
]
LONG = [
    SYSTEM, ASK, ONE | {"reasoning_content": THOUGHT}, result(0, "12 °C"),
    message("assistant", None, reasoning_content="Now the trip.", tool_calls=[TRIP]), result(1, "booked"),
    message("assistant", "12 °C, booked.", reasoning_content="Done."), message("user", "And Rome?"),
    message("assistant", None, tool_calls=[call(0, "get_weather", city="Rome")]), result(0, "20 °C"),
]
ON = {"enable_thinking": True, "thinking": True, "reasoning_effort": "high"}
OFF = {"enable_thinking": False, "thinking": False, "reasoning_effort": "low"}
NO_ARGUMENTS = {"id": IDS[0], "type": "function", "function": {"name": "get_weather", "arguments": ""}}

CASES = {
    "user": {"messages": [message("user", "Hello, who are you?")]},
    "turns": {"messages": TURNS},
    "turns_closed": {"messages": TURNS[:3], "add_generation_prompt": False},
    "parts": {"messages": [message("system", parts("Be", "brief.")), message("user", parts("Look: ", "a list"))]},
    "developer": {"messages": [message("developer", "Be brief."), message("user", "Hi")]},
    "odd_role": {"messages": [message("critic", "hm")]},
    "two_users": {"messages": [message("user", "a"), message("user", "b")]},
    "on": {"messages": TURNS, "chat_template_kwargs": ON},
    "off": {"messages": TURNS, "chat_template_kwargs": OFF},
    "thoughts": {"messages": THOUGHTS},
    "thoughts_on": {"messages": THOUGHTS, "chat_template_kwargs": ON},
    "tools": {"messages": [SYSTEM, ASK], "tools": True},
    "tools_alone": {"messages": [ASK], "tools": True},
    "tools_on": {"messages": [ASK], "tools": True, "chat_template_kwargs": ON},
    "after_one": {"messages": AFTER_ONE, "tools": True},
    "after_both": {"messages": AFTER_BOTH, "tools": True},
    "no_tools_after_one": {"messages": AFTER_ONE},
    "no_arguments": {"messages": [ASK, message("assistant", None, tool_calls=[NO_ARGUMENTS]), result(0, "?")], "tools": True},
    "long": {"messages": LONG, "tools": True},
    "long_on": {"messages": LONG, "tools": True, "chat_template_kwargs": ON},
    "long_off": {"messages": LONG, "tools": True, "chat_template_kwargs": OFF},
    # For the round trip: what follows `tools_alone` or `tools_on` is what the model is taken to have written.
    "one": {"messages": [ASK, ONE], "tools": True, "add_generation_prompt": False},
    "both": {"messages": [ASK, BOTH], "tools": True, "add_generation_prompt": False},
    "one_on": {"messages": [ASK, ONE | {"reasoning_content": THOUGHT}], "tools": True, "add_generation_prompt": False,
               "chat_template_kwargs": ON},
    "both_on": {"messages": [ASK, BOTH | {"reasoning_content": THOUGHT}], "tools": True, "add_generation_prompt": False,
                "chat_template_kwargs": ON},
}

class Clock(datetime.datetime):
    @classmethod
    def now(cls, tz=None):
        return cls(*NOW.timetuple()[:6])


def named_ids(name):
    """Kimi's ids name the function, and its template writes nothing else of a call's name."""
    if "kimi" in name.lower():
        return {IDS[0]: "functions.get_weather:0", IDS[1]: "functions.book_trip:1"}
    return {}


class Renderer:
    """One template, and the forms of a message that it reads."""

    def __init__(self, template):
        backend = Tokenizer(models.WordLevel({"<s>": 0, "</s>": 1, "<unk>": 2}, unk_token="<unk>"))
        self.tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **SEED)
        self.template = template
        self.parts = {}
        self.arguments, self.absent = self.call_form()

    def render(self, messages, tools=None, **options):
        if self.absent == "null":
            # apply_chat_template would take the null away.
            rendered, _ = chat_template_utils.render_jinja_template(
                [messages], tools=tools, chat_template=self.template, **self.tokenizer.special_tokens_map, **options)
            return rendered[0]
        return self.tokenizer.apply_chat_template(
            messages, tools=tools, chat_template=self.template, tokenize=False, **options)

    def tried(self, messages, tools=None):
        try:
            return self.render(messages, tools, add_generation_prompt=True)
        except Exception:
            return None

    def call_form(self):
        """How a call without content is shown: arguments parsed or not, content missing, empty or null.

        transformers' own form comes first, and the others where it fails or leaves the call out."""
        forms = [(arguments, absent) for arguments in ("object", "string") for absent in ("missing", "empty", "null")]
        chat = [message("user", "a"), message("assistant", None, tool_calls=[call(0, "f", x="probe-value")]),
                message("tool", "b", tool_call_id=IDS[0], name="f")]
        tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object", "properties": {}}}}
        texts = {}
        for form in forms:
            self.absent = form[1]
            texts[form] = self.tried(in_form(chat, *form), [tool])
        shown = [form for form in forms if "probe-value" in (texts[form] or "")]
        return (shown + [form for form in forms if texts[form] is not None] + forms)[0]

    def reads_parts(self, role):
        """Whether it shows each part's text of such a message, and not the list."""
        if role not in self.parts:
            content = parts("first-probe", "second-probe")
            chat = [message("user", "a"), ONE, message("tool", content, tool_call_id=IDS[0], name="get_weather")]
            chat = {"tool": chat, "user": [message(role, content)]}.get(role, [message(role, content), message("user", "a")])
            text = self.tried(in_form(chat, self.arguments, self.absent), TOOLS if role == "tool" else None) or ""
            structure = "'text'" in text or '"text":' in text
            self.parts[role] = "first-probe" in text and "second-probe" in text and not structure
        return self.parts[role]

    def expected(self, case):
        messages = in_form(case["messages"], self.arguments, self.absent)
        for each in messages:
            if isinstance(each.get("content"), list) and not self.reads_parts(each["role"]):
                each["content"] = "\n".join(part["text"] for part in each["content"])
        options = {"add_generation_prompt": case.get("add_generation_prompt", True)} | case.get("chat_template_kwargs", {})
        try:
            tools = copy.deepcopy(TOOLS) if case.get("tools") else None
            return {"expected": self.render(messages, tools, **options)}
        except (jinja2.exceptions.UndefinedError, jinja2.exceptions.SecurityError, jinja2.exceptions.TemplateSyntaxError) as error:
            return {"error": str(error)}
        except jinja2.exceptions.TemplateError as error:
            return {"raised": error.message}
        except (TypeError, ValueError, ArithmeticError, AttributeError, KeyError) as error:
            return {"error": str(error)}


def in_form(messages, arguments, absent):
    messages = copy.deepcopy(messages)
    for each in messages:
        if arguments == "object" and each.get("tool_calls"):
            each["tool_calls"] = [parsed(made) for made in each["tool_calls"]]
        if each["content"] is None:
            del each["content"]
            if absent != "missing":
                each["content"] = {"empty": "", "null": None}[absent]
    return messages


def parsed(made):
    made = copy.deepcopy(made)
    made["function"]["arguments"] = json.loads(made["function"]["arguments"] or "{}")
    return made


def write(path, value):
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


def with_ids(case, ids):
    text = json.dumps(case)
    for plain, named in ids.items():
        text = text.replace(plain, named)
    return json.loads(text)


def main(folder):
    chat_template_utils.datetime = Clock
    write(folder / "cases.json", {"now": NOW.isoformat(), "tools": TOOLS, "cases": CASES})
    for path in sorted(folder.glob("*.jinja")):
        template = path.read_bytes().decode("utf-8")
        renderer = Renderer(template)
        ids = named_ids(path.stem)
        results = {name: renderer.expected(with_ids(case, ids)) for name, case in CASES.items()}
        if "error" in results["user"]:
            # A template for requests with tools: never rendered without, see `tool_use`.
            results = {name: made for name, made in results.items() if CASES[name].get("tools")}
        first = {}
        for name, made in results.items():
            results[name] = {"same_as": first[str(made)]} if str(made) in first else made
            first.setdefault(str(made), name)
        made = {"arguments": renderer.arguments, "absent_content": renderer.absent, "ids": ids, "cases": results}
        write(path.with_suffix(".json"), made)
        errors = {name: made["error"] for name, made in results.items() if "error" in made}
        print(path.stem, renderer.arguments, renderer.absent, [role for role, reads in renderer.parts.items() if reads], errors or "")


if __name__ == "__main__":
    print(f"transformers {transformers.__version__}, jinja2 {jinja2.__version__}")
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
