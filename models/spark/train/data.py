"""Endless training batches, generated on the way.

The batch of a step depends on the seed, the step and the worker alone, so a
resumed run goes on with the data it would have seen.
"""

import random

import torch
from tokenizers import Tokenizer

from chats import EARLY_MIX, FINAL_MIX, LATE_MIX, MIX, training_parts
from values import Source

CHUNK_STEPS = 20
# A step takes batches of several lengths, as chats of one length are alike in topic.
PARTS = 3
EARLY_STEPS = 500
# From which step on which mix is drawn from; the last two are also where the rate rises (`train.py`).
MIXES = [(0, EARLY_MIX), (EARLY_STEPS, MIX), (3200, LATE_MIX), (3700, FINAL_MIX)]
LONGEST = 512
# Lengths are rounded up so that there are few shapes, as each new one costs the CPU's library some time.
ROUND = 8


class Batches:
    def __init__(self, tokenizer: Tokenizer, tokens_per_batch: int, seed: int, rank: int, workers: int):
        self.tokenizer, self.budget, self.seed, self.rank, self.workers = tokenizer, tokens_per_batch, seed, rank, workers
        self.current = None
        self.pieces = sorted(p for p in tokenizer.get_vocab() if p.isascii() and p.isalpha() and p.islower())

    def encode(self, parts):
        ids, answer = [], []
        for encoding, (_, is_answer) in zip(self.tokenizer.encode_batch([text for text, _ in parts]), parts):
            ids += encoding.ids
            answer += [is_answer] * len(encoding.ids)
        return ids, answer

    def chunk(self, index: int) -> list:
        """Batches for CHUNK_STEPS steps: rows of like length side by side."""
        seed = self.seed * 1_000_003 + index * self.workers + self.rank
        src = Source(seed)
        src.pieces = self.pieces
        step = index * CHUNK_STEPS
        mix = [mix for begin, mix in MIXES if begin <= step][-1]
        need, rows = CHUNK_STEPS * self.budget, []
        while need > 0:
            ids, answer = self.encode(training_parts(src, mix, short=step < EARLY_STEPS))
            if len(ids) <= LONGEST:
                rows.append((ids, answer))
                need -= len(ids)
        rows.sort(key=lambda row: len(row[0]))
        batches, batch = [], []
        for row in rows:
            if batch and rounded(len(row[0]) - 1) * (len(batch) + 1) > self.budget / PARTS:
                batches.append(batch)
                batch = []
            batch.append(row)
        batches.append(batch)
        random.Random(seed).shuffle(batches)
        return batches

    def step(self, index: int) -> list:
        """The batches whose gradients make one step of this worker."""
        chunk, place = divmod(index, CHUNK_STEPS)
        if self.current != chunk:
            self.current, self.batches = chunk, self.chunk(chunk)
        return [tensors(batch) for batch in self.batches[place::CHUNK_STEPS][:PARTS]]


def rounded(length: int) -> int:
    return -(-length // ROUND) * ROUND


def tensors(rows):
    """Tokens, the mask of positions that predict an answer token, and the targets."""
    length = rounded(max(len(ids) for ids, _ in rows) - 1) + 1
    tokens = torch.zeros(len(rows), length, dtype=torch.long)
    answers = torch.zeros(len(rows), length, dtype=torch.bool)
    for i, (ids, answer) in enumerate(rows):
        tokens[i, : len(ids)] = torch.tensor(ids)
        answers[i, : len(ids)] = torch.tensor(answer)
    return tokens[:, :-1], answers[:, 1:], tokens[:, 1:][answers[:, 1:]]
