"""Greedy exact-match accuracy per skill on held-out prompts.

A greedy answer equals the expected one exactly if, given the expected tokens so
far, the most likely next token is the expected one at every step. So one pass over
the expected answer decides a prompt, and no text has to be generated.

    python evaluate.py ..

loads the exported model with transformers, prints the table and writes `eval.json`.
"""

import json
import sys
from pathlib import Path

import torch
from tokenizers import Tokenizer

from chats import DRAW, Chat, render
from skills import ask_name
from tools import tool_exchange
from values import Source

SKILLS = ["greeting", "fact", "unknown", "addition", "subtraction", "counting", "repeating", "spelling",
          "name", "tool_call", "tool_report", "tool_decline", "filling", "tool_choice"]

# The table's prompts; none of them was looked at before the weights were final.
TEST_SEED = 520617


def scored_chat(skill: str, src: Source) -> Chat:
    """A chat whose last message is the answer to score, alone or after a few other turns.

    `tool_call` has one tool to call, `tool_choice` several to choose from.
    """
    chat = Chat(src, with_tools=skill.startswith("tool"))
    while skill in ("tool_call", "tool_choice") and (len(chat.tools) == 1) != (skill == "tool_call"):
        chat = Chat(src, with_tools=True)
    name = skill == "name"
    if name:
        chat.tell_name()
    before = src.rng.choice([0, 1, 1, 2, 3, 4]) if name else src.rng.choice([0, 0, 0, 1, 2, 3])
    fillers = [s for s in chat.fillers({s: 1 for s in DRAW}) if s != "name"]
    for _ in range(before):
        chat.add(src.rng.choice(fillers))
    src.novel_core = False
    if name:
        chat.exchange(*ask_name(src, chat.name))
    elif skill == "tool_decline":
        chat.add(src.rng.choice(["greeting", "fact"]))
    elif skill.startswith("tool"):
        exchange = tool_exchange(src, chat.asks)
        chat.messages += exchange if skill == "tool_report" else exchange[:2]
    else:
        chat.add(skill)
    chat.novel_core = src.novel_core
    return chat


def encode(tokenizer: Tokenizer, chat: Chat, thinking: bool):
    parts = render(chat.messages, chat.tools, chat.system, thinking)
    prompt = tokenizer.encode("".join(text for text, _ in parts[:-2]), add_special_tokens=False).ids
    return prompt, tokenizer.encode(parts[-2][0], add_special_tokens=False).ids


def held_out_prompts(tokenizer: Tokenizer, per_skill: int, seed: int = 7, thinking: bool = False, novel: bool = False) -> dict:
    """For each skill, (prompt ids, answer ids) with held-out values, in known phrasings or else, with `novel`, in held-out ones."""
    prompts = {}
    for number, skill in enumerate(SKILLS):
        src, chosen = Source(seed * 1000 + number, evaluating=True), []
        while len(chosen) < per_skill:
            chat = scored_chat(skill, src)
            if chat.novel_core == novel:
                chosen.append(encode(tokenizer, chat, thinking))
        prompts[skill] = chosen
    return prompts


@torch.no_grad()
def exact(model, prompts: list, batch: int = 16) -> list[bool]:
    """Whether the model's greedy answer is the expected one, prompt by prompt."""
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i][0]) + len(prompts[i][1]))
    right = [False] * len(prompts)
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        rows = [prompts[i][0] + prompts[i][1] for i in group]
        length = max(map(len, rows))
        tokens = torch.tensor([row + [0] * (length - len(row)) for row in rows])
        wanted = torch.zeros_like(tokens, dtype=torch.bool)
        for j, i in enumerate(group):
            wanted[j, len(prompts[i][0]) - 1 : len(rows[j]) - 1] = True
        best = model(tokens, wanted).argmax(-1).split([len(prompts[i][1]) for i in group])
        for i, answer in zip(group, best):
            right[i] = answer.tolist() == prompts[i][1]
    return right


def accuracy(model, prompts: dict) -> dict:
    return {skill: (sum(exact(model, chosen)), len(chosen)) for skill, chosen in prompts.items()}


def load(folder: Path):
    """The exported model in float32, called as the training model is."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return lambda tokens, wanted: model(tokens).logits[wanted]


def main(folder: Path):
    torch.set_num_threads(2)
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    model, report = load(folder), {skill: {} for skill in SKILLS}

    def record(column: str, prompts: dict):
        for skill, chosen in prompts.items():
            right = exact(model, chosen)
            report[skill][column] = {"right": sum(right), "of": len(right)}

    record("held_out", held_out_prompts(tokenizer, 800, seed=TEST_SEED))
    record("thinking", held_out_prompts(tokenizer, 100, seed=TEST_SEED + 1, thinking=True))
    record("held_out_phrasing", held_out_prompts(tokenizer, 100, seed=TEST_SEED + 2, novel=True))
    for skill, columns in report.items():
        print(f"{skill:14}", *(f"{name} {c['right']}/{c['of']} = {c['right'] / c['of']:.3f};" for name, c in columns.items()))
    (folder / "eval.json").write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
