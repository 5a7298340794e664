"""Checks that training text is what the chat template renders at inference.

    python check_chats.py ..

For generated chats, the prompt before every answer has to equal the template's
rendering of the history, and tokenizing text by parts has to equal tokenizing
it whole.
"""

import sys

from transformers import AutoTokenizer

from chats import draw_chat, render
from values import Source


def with_system(chat) -> list:
    """The chat as OpenAI messages."""
    messages = [{k: v for k, v in m.items() if k != "thought"} for m in chat.messages]
    return [{"role": "system", "content": chat.system}] * bool(chat.system) + messages


def main(folder: str):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    src = Source(seed=99)
    for count in range(400):
        chat, thinking = draw_chat(src), src.chance(0.3)
        parts = render(chat.messages, chat.tools, chat.system, thinking)
        trained = "".join(text for text, _ in parts[:-2])
        served = tokenizer.apply_chat_template(with_system(chat)[:-1], tools=chat.tools, tokenize=False, add_generation_prompt=True,
                                               **({"enable_thinking": True} if thinking else {}))
        assert trained == served, f"{trained!r}\n{served!r}"
        whole = "".join(text for text, _ in parts)
        by_parts = [token for text, _ in parts for token in tokenizer.encode(text, add_special_tokens=False)]
        assert by_parts == tokenizer.encode(whole, add_special_tokens=False), whole
        assert tokenizer.decode(by_parts) == whole, whole
    print(count + 1, "chats agree")


if __name__ == "__main__":
    main(sys.argv[1])
