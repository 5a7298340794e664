"""Builds spark's byte-level BPE tokenizer from generated conversations.

Words are merged without their leading space first, and the space is joined to
the first piece by the very last merges. So ` Kelvin` and `"Kelvin` fall into
the same pieces but for one space, which makes copying a value from a sentence
into JSON a matter of copying pieces. Digits stay alone so that sums line up.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from chats import training_parts
from values import NAMES, PLACES, WORDS, Source, held_out

WORD_VOCAB = 1850
VOCAB = 3072
SPLIT = r"'(?:s|t|re|ve|m|ll|d)\b|, (?=\p{N})|-\p{L}(?!\p{L})|SPACE\p{L}+|\p{N}|SPACE[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


def with_split(tokenizer: Tokenizer, space: str) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT.replace("SPACE", space)), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def corpus(count: int) -> list[str]:
    src = Source(seed=1)
    texts = [text for _ in range(count) for text, _ in training_parts(src)]
    for tag in SPECIAL + TAGS:
        texts = [text.replace(tag, "\n") for text in texts]
    words = [w for w in WORDS + NAMES + PLACES if not held_out(w)]
    return texts + words * 3


def main(folder: Path):
    texts = corpus(30000)
    words = with_split(Tokenizer(models.BPE()), "")
    words.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=WORD_VOCAB, max_token_length=12, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    model = json.loads(words.to_str())["model"]
    vocab, merges = model["vocab"], [tuple(pair) for pair in model["merges"]]

    starts = Counter()
    spaced = pre_tokenizers.Split(Regex(SPLIT.replace("SPACE", " ?")), "isolated")
    for text in texts:
        starts.update(piece for piece, _ in spaced.pre_tokenize_str(text) if len(piece) > 1 and piece[0] == " " and not piece[1].isspace())
    first = Counter()
    for piece, count in starts.items():
        first[words.encode(piece[1:]).tokens[0]] += count
    room = VOCAB - len(SPECIAL + TAGS) - len(vocab)
    for piece, _ in sorted(first.items(), key=lambda item: (-item[1], item[0]))[:room]:
        merges.append(("Ġ", piece))
        vocab["Ġ" + piece] = len(vocab)

    tokenizer = with_split(Tokenizer(models.BPE(vocab=vocab, merges=merges)), " ?")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, "add_bos_token": False, "clean_up_tokenization_spaces": False,
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
        "chat_template": (Path(__file__).parent / "chat_template.jinja").read_text().rstrip("\n"),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(tokenizer.get_vocab_size(), "tokens")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
