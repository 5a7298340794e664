"""Writes `answers.json`: held-out prompts and the greedy answers to them.

    python make_answers.py ..

The answers come from transformers' `generate` in float32 and are what any other
implementation of the model is tested against. Each must also be the answer that
`evaluate.py` expects or is marked as wrong.
"""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from chats import call_text
from check_chats import with_system
from evaluate import SKILLS, scored_chat
from values import Source

PER_SKILL = 3


def main(folder: str):
    torch.set_num_threads(2)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    answers = []
    for number, skill in enumerate(SKILLS):
        src = Source(5000 + number, evaluating=True)
        for count in range(PER_SKILL):
            chat, thinking = scored_chat(skill, src), count == PER_SKILL - 1
            messages = with_system(chat)[:-1]
            options = {"enable_thinking": True} if thinking else {}
            prompt = tokenizer.apply_chat_template(messages, tools=chat.tools, add_generation_prompt=True, return_dict=False, **options)
            output = model.generate(torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.long), do_sample=False, temperature=None, max_new_tokens=400)
            ids = output[0, len(prompt):].tolist()
            text = tokenizer.decode(ids, skip_special_tokens=True)
            expected = f"<think>\n{chat.messages[-1]['thought']}\n</think>\n\n" * thinking + call_text(chat.messages[-1])
            answers.append({"skill": skill, "messages": messages, "tools": chat.tools, "template_kwargs": options, "prompt_tokens": len(prompt),
                            "prompt_ids": prompt, "answer": text, "answer_ids": ids, "right": text == expected})
    lines = ",\n".join(json.dumps(answer) for answer in answers)
    (Path(folder) / "answers.json").write_text(f"[\n{lines}\n]\n")
    print(len(answers), "answers,", sum(a["right"] for a in answers), "as expected")


if __name__ == "__main__":
    main(sys.argv[1])
