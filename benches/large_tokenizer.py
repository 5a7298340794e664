"""A byte-level BPE tokenizer of Qwen3's size (151,936 ids, or as many as are asked for) for benches:

usage: python benches/large_tokenizer.py OUT.json [IDS]

Model weights and tokenizers of real models cannot be committed here. The merges are the first of OpenAI's
o200k_base as the npm package js-tiktoken (MIT) carries them: a vocabulary of real words, code and scripts, which
is what the time of a grammar's mask depends on. The text is split by Qwen2's rule.
"""

import base64
import json
import pathlib
import re
import subprocess
import sys
import tarfile
import tempfile

PACKAGE = "js-tiktoken@1.0.21"
NUM_IDS = int(sys.argv[2]) if len(sys.argv) > 2 else 151_936
# Qwen3 has as many special and unused ones.
NUM_MERGED = NUM_IDS - 293
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "</tool_call>", "<think>", "</think>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def ranks():
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["npm", "pack", "--silent", PACKAGE], cwd=folder, check=True, stdout=subprocess.DEVNULL)
        [archive] = pathlib.Path(folder).glob("*.tgz")
        with tarfile.open(archive) as files:
            text = files.extractfile("package/dist/ranks/o200k_base.js").read().decode()
    lines = json.loads('"' + re.search(r'bpe_ranks"?\s*:\s*"((?:[^"\\]|\\.)*)"', text).group(1) + '"')
    found = {}
    for line in lines.split("\n"):
        _, first, *words = line.split(" ")
        for at, word in enumerate(words):
            found[base64.b64decode(word)] = int(first) + at
    return found


def parts(word, rank_of, below):
    """The two tokens that merge into `word`."""
    pieces = [bytes([byte]) for byte in word]
    while len(pieces) > 2:
        pairs = [(rank_of.get(a + b, below), at) for at, (a, b) in enumerate(zip(pieces, pieces[1:]))]
        rank, at = min(pairs)
        if rank >= below:
            return None
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]
    return pieces


def byte_alphabet():
    """GPT-2's printable stand-ins for bytes."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + at) for at, byte in enumerate(hidden)}


def main():
    rank_of, letters = ranks(), byte_alphabet()
    spell = lambda word: "".join(letters[byte] for byte in word)
    vocab, merges = {}, []
    for word, rank in sorted(rank_of.items(), key=lambda item: item[1]):
        if rank >= NUM_MERGED:
            break
        vocab[spell(word)] = rank
        if len(word) > 1 and (pair := parts(word, rank_of, rank)):
            merges.append([spell(pair[0]), spell(pair[1])])
    special = SPECIAL + [f"<|unused_{at}|>" for at in range(NUM_IDS - NUM_MERGED - len(SPECIAL))]
    added = [
        {"id": NUM_MERGED + at, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
         "normalized": False, "special": True}
        for at, text in enumerate(special)
    ]
    split = {"type": "Split", "pattern": {"Regex": SPLIT}, "behavior": "Isolated", "invert": False}
    levels = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": False}
    tokenizer = {
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split, levels]},
        "post_processor": None, "decoder": levels,
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                  "vocab": vocab, "merges": merges},
    }
    pathlib.Path(sys.argv[1]).write_text(json.dumps(tokenizer, ensure_ascii=False))
    print(f"{len(vocab)} words, {len(merges)} merges, {len(added)} added tokens")


main()
