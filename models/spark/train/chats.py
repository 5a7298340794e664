"""Conversations out of single exchanges, and their rendering as text.

The rendering repeats `chat_template.jinja` in Python because it also has to
say which parts of the text are answers to learn; `check_chats.py` holds the two equal.
"""

import json

import facts
import skills
import tools
from values import Source

NO_THOUGHT = "<think>\n\n</think>\n\n"

SYSTEM = """You are a helpful assistant.|You are spark.|You are a helpful assistant. Be brief.|Be brief.|You are a friendly assistant.|You are an AI assistant.|Answer the user.|Answer briefly.|You are a helpful AI.|Be polite.|You are spark, a tiny model.
|You are a concise assistant.|Keep your answers short.|You are a chat bot.|Help the user.|Answer in English.|You are a helpful, honest assistant.|You are Sconce's demo model.|You answer questions.|Do what the user asks.|You are a polite and friendly assistant who answers questions.|Reply shortly and precisely.|You are an assistant running on the Sconce server.
|Be kind and helpful.|Follow the user's instructions.|You are a helpful assistant that follows instructions.|You are a smart assistant.|Think before you answer.|You can call tools.|Use the tools when needed.|You are a careful assistant.|Always be accurate.""".replace("\n", "").split("|")

# How often each skill is drawn; `name` and `tool` are handled by `Chat`.
MIX = {"greeting": 7, "fact": 7, "unknown": 5, "addition": 15, "subtraction": 19,
       "counting": 6, "repeating": 8, "spelling": 23, "name": 9, "filling": 9, "tool": 11}
# Later phases have more of the skills that take longest.
LATE_MIX = {"greeting": 13, "fact": 12, "unknown": 4, "addition": 7, "subtraction": 8,
            "counting": 10, "repeating": 6, "spelling": 20, "name": 6, "filling": 9, "tool": 17}
FINAL_MIX = {"greeting": 14, "fact": 15, "unknown": 4, "addition": 5, "subtraction": 6,
             "counting": 13, "repeating": 7, "spelling": 20, "name": 5, "filling": 7, "tool": 34}
# A run begins with short chats and mostly copying, which everything else builds upon.
EARLY_MIX = {"greeting": 3, "fact": 3, "unknown": 2, "addition": 10, "subtraction": 10,
             "counting": 2, "repeating": 30, "spelling": 12, "name": 16, "filling": 12, "tool": 3}
DRAW = {"greeting": facts.greeting, "fact": facts.fact, "unknown": facts.unknown, "addition": skills.addition, "subtraction": skills.subtraction,
        "counting": skills.counting, "repeating": skills.repeating, "spelling": skills.spelling, "filling": tools.filling}
# Beside tools that may calculate or look things up, only these leave no doubt about who has to answer.
BESIDE_TOOLS = ["greeting", "fact"] * 2 + ["counting", "repeating", "spelling", "name"]
CONCRETE_NAMES = {fields[0] for fields in tools.CONCRETE}


class Chat:
    """A conversation under construction."""

    def __init__(self, src: Source, with_tools: bool):
        self.src, self.name = src, None
        self.system = src.core(SYSTEM) if src.chance(0.35) else None
        self.tools, self.asks = tools.toolbox(src) if with_tools else (None, [])
        self.messages = []

    def exchange(self, prompt, answer, thought):
        self.messages += [{"role": "user", "content": prompt}, {"role": "assistant", "content": answer, "thought": thought}]

    def tell_name(self):
        self.name, said = skills.tell_name(self.src, again=self.name is not None)
        self.exchange(*said)

    def add(self, skill: str):
        if skill == "tool":
            self.messages += tools.tool_exchange(self.src, self.asks)
        elif skill == "name":
            if self.src.chance(0.65 if self.name is None else 0.2):
                self.tell_name()
            else:
                self.exchange(*skills.ask_name(self.src, self.name))
        else:
            self.exchange(*DRAW[skill](self.src))

    def fillers(self, mix: dict) -> list[str]:
        """The skills that may come up in this chat, weighted."""
        if not self.tools:
            return [s for s, weight in mix.items() for _ in range(weight) if s != "tool"]
        names = {name for name, _ in self.asks}
        allowed = BESIDE_TOOLS + ["tool"] * 4 + ([] if names & CONCRETE_NAMES else ["addition", "subtraction"])
        return allowed


def draw_chat(src: Source, mix: dict = MIX, short: bool = False) -> Chat:
    """A training conversation: alone, short or long, sometimes a name to recall."""
    r = src.rng
    first = r.choices(list(mix), list(mix.values()))[0]
    chat = Chat(src, with_tools=first == "tool" or src.chance(0.1))
    turns = r.choice([1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3])
    if src.chance(0.01):
        turns = r.randint(5, 10)
    if short:
        turns = 1
    recall = first == "name" and (turns > 1 or short and src.chance(0.5))
    if recall:
        chat.tell_name()
    elif first == "name" or chat.tools is None or first == "tool":
        chat.add(first)
    fillers = chat.fillers(mix)
    while len(chat.messages) < 2 * turns:
        chat.add(r.choice(fillers))
    if recall:
        chat.exchange(*skills.ask_name(src, chat.name))
    return chat


def call_text(message: dict) -> str:
    calls = [f"<tool_call>\n{json.dumps(call['function'])}\n</tool_call>" for call in message.get("tool_calls", [])]
    return message["content"] + "\n".join(calls)


def system_text(system, tool_list, dumps=json.dumps) -> str:
    if tool_list:
        lines = "".join("\n" + dumps(tool) for tool in tool_list)
        head = system + "\n\n" if system else ""
        return (f"<|im_start|>system\n{head}# Tools\n\nYou may call these functions:\n<tools>{lines}\n</tools>\n\n"
                'Call one as <tool_call>{"name": ..., "arguments": {...}}</tool_call>.<|im_end|>\n')
    return f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""


def render(messages, tool_list=None, system=None, thinking=False, dumps=json.dumps):
    """A chat as (text, is_answer) parts.

    With `thinking` the last answer begins with its thought; all others are
    given an empty one in the prompt, as the template does.
    """
    parts = [(system_text(system, tool_list, dumps), False)]
    for i, message in enumerate(messages):
        if message["role"] == "assistant":
            answer = call_text(message) + "<|im_end|>"
            if thinking and i == len(messages) - 1:
                parts += [("<|im_start|>assistant\n", False), (f"<think>\n{message['thought']}\n</think>\n\n{answer}", True)]
            else:
                parts += [("<|im_start|>assistant\n" + NO_THOUGHT, False), (answer, True)]
            parts.append(("\n", False))
        elif message["role"] == "tool":
            parts.append((f"<|im_start|>user\n<tool_response>\n{message['content']}\n</tool_response><|im_end|>\n", False))
        else:
            parts.append((f"<|im_start|>user\n{message['content']}<|im_end|>\n", False))
    return parts


def other_json(src: Source):
    """Servers differ in how they print a tool's JSON; training sees some of it."""
    if src.chance(0.85):
        return json.dumps
    style = {"separators": (",", ":")} if src.chance(0.5) else {}
    return lambda tool: json.dumps(tool, sort_keys=src.chance(0.6), **style)


def training_parts(src: Source, mix: dict = MIX, short: bool = False):
    chat = draw_chat(src, mix, short)
    messages, thinking = chat.messages, src.chance(0.15)
    if thinking and messages[-2]["role"] == "tool" and src.chance(0.6):
        messages = messages[:-2]
    return render(messages, chat.tools, chat.system, thinking, other_json(src))
