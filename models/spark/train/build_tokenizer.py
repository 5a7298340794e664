"""Builds spark's byte-level BPE tokenizer from generated conversations.

It has three layers of merges, from what a tiny model finds easy:

1. pieces of up to three letters, learned from the values that prompts are filled
   with: words are copied and spelled piece by piece, and there are few pieces;
2. whole words of the prompts and answers around the values;
3. a leading space, joined to the first piece last. So ` Kelvin` and `"Kelvin` fall
   into the same pieces but for one space.

Digits stay alone so that sums line up.
"""

import json
import sys
from collections import Counter
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from chats import training_parts
from values import NAMES, PLACES, WORDS, Source, held_out

PIECES, WORD_PIECES, VOCAB = 800, 1843, 2816
SPLIT = r"'(?:s|t|re|ve|m|ll|d)\b|, (?=\p{N})|-\p{L}(?!\p{L})|SPACE\p{L}+|\p{N}|SPACE[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TAGS = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"]


class Valueless(Source):
    """Fills no values in, which leaves the words of the prompts and answers themselves."""

    def word(self) -> str:
        return "x"

    odd_word = piece = piece_word = name = place = word


def split(space: str):
    return pre_tokenizers.Split(Regex(SPLIT.replace("SPACE", space)), "isolated")


def with_split(tokenizer: Tokenizer, space: str) -> Tokenizer:
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split(space), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def corpus(src: Source, count: int) -> list[str]:
    texts = [text for _ in range(count) for text, _ in training_parts(src)]
    for tag in SPECIAL + TAGS:
        texts = [text.replace(tag, "\n") for text in texts]
    return texts


def counted(texts: list[str], space: str) -> list[str]:
    """The parts that text is split into, the most frequent first."""
    counts = Counter(part for text in texts for part, _ in split(space).pre_tokenize_str(text) if len(part) > 1)
    return [part for part, _ in sorted(counts.items(), key=lambda item: (-item[1], item[0]))]


class Merges:
    def __init__(self, tokenizer: Tokenizer):
        model = json.loads(tokenizer.to_str())["model"]
        self.vocab, self.ranks = model["vocab"], {tuple(pair): rank for rank, pair in enumerate(model["merges"])}

    def encode(self, pieces: list[str]) -> list[str]:
        pieces = list(pieces)
        while len(pieces) > 1:
            rank, at = min((self.ranks.get(pair, len(self.ranks)), i) for i, pair in enumerate(zip(pieces, pieces[1:])))
            if rank == len(self.ranks):
                break
            pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
        return pieces

    def add(self, left: str, right: str):
        self.ranks[left, right] = len(self.ranks)
        self.vocab.setdefault(left + right, len(self.vocab))


def main(folder: Path):
    values = [w for w in WORDS + NAMES + PLACES if not held_out(w)]
    src = Source(seed=1)
    values += [src.odd_word() for _ in range(len(values))]
    pieces = with_split(Tokenizer(models.BPE()), "")
    pieces.train_from_iterator(values, trainers.BpeTrainer(
        vocab_size=PIECES, max_token_length=3, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    merges = Merges(pieces)

    as_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    letters = [f"-{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    for part in letters + counted(corpus(Valueless(seed=2), 25000), ""):
        word = merges.encode(as_bytes.pre_tokenize_str(part)[0][0])
        while len(word) > 1 and len(merges.vocab) < WORD_PIECES:
            merges.add(word[0], word[1])
            word = [word[0] + word[1], *word[2:]]

    firsts = Counter()
    for text in corpus(Source(seed=3), 12000):
        for part, _ in split(" ?").pre_tokenize_str(text):
            if len(part) > 1 and part[0] == " " and not part[1].isspace():
                firsts[part[1:]] += 1
    starts = Counter()
    for part, count in firsts.items():
        starts[merges.encode(as_bytes.pre_tokenize_str(part)[0][0])[0]] += count
    room = VOCAB - len(SPECIAL + TAGS) - len(merges.vocab)
    for piece, _ in sorted(starts.items(), key=lambda item: (-item[1], item[0]))[:room]:
        merges.add("Ġ", piece)

    tokenizer = with_split(Tokenizer(models.BPE(vocab=merges.vocab, merges=list(merges.ranks))), " ?")
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in TAGS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 2048, "add_bos_token": False, "clean_up_tokenization_spaces": False,
        "bos_token": None, "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None,
        "chat_template": (Path(__file__).parent / "chat_template.jinja").read_text().rstrip("\n"),
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    print(tokenizer.get_vocab_size(), "tokens,", room, "of", len(starts), "with a space")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
