"""Trains spark on generated conversations, on the CPU, resumably.

    python train.py --tokenizer ../tokenizer.json --out /tmp/spark/run --steps 3000

A run that is started again with the same folder goes on from its checkpoint.
There is one process of one thread per core, and gradients meet once per step:
on a shared machine, threads that meet in every matrix product mostly wait.
"""

import argparse
import copy
import json
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer

from data import Batches
from evaluate import accuracy, held_out_prompts
from model import Config, Spark
from muon import Muon

DECAY = 0.3
# Phases of a run and the rate each begins with: each falls to zero, and the later ones refine a finished model.
PHASES = [(0, 1.0), (3200, 0.45), (3700, 0.4), (4350, 0.3)]
WARMUP = 40
# The exported weights are a running average over about 1 / AVERAGE steps.
AVERAGE = 0.03


def learning_rate(step: int, steps: int) -> float:
    """Warm up, stay and fall to zero; then fall to zero again in each later phase."""
    ends = [min(begin, steps) for begin, _ in PHASES[1:]] + [steps]
    begin, top, end = next((begin, top, end) for (begin, top), end in zip(PHASES, ends) if step < end)
    if begin == 0:
        return min(1.0, (step + 1) / WARMUP, (end - step) / (DECAY * end))
    return top * (end - step) / (end - begin)


def average_gradients(params: list, workers: int):
    flat = torch.cat([p.grad.flatten() for p in params])
    dist.all_reduce(flat)
    flat /= workers
    for p, mean in zip(params, flat.split([p.numel() for p in params])):
        p.grad.copy_(mean.view_as(p))


def train(rank: int, args, meeting: str):
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=args.workers)
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    config = Config(vocab_size=tokenizer.get_vocab_size())
    model = Spark(config)
    average = copy.deepcopy(model)
    for layer in model.model.layers:
        layer.compile(dynamic=True)
    params = list(model.parameters())
    matrices = [p for n, p in model.named_parameters() if p.dim() == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.dim() != 2 or "embed" in n]
    optimizers = [Muon(matrices, rank, args.workers), torch.optim.AdamW(others, lr=4e-3, betas=(0.9, 0.95), weight_decay=0.0)]
    peaks = [o.param_groups[0]["lr"] for o in optimizers]
    start, seconds, tokens_seen = 0, 0.0, 0
    checkpoint = args.out / "checkpoint.pt"
    if checkpoint.exists():
        saved = torch.load(checkpoint)
        model.load_state_dict(saved["model"])
        average.load_state_dict(saved.get("average", saved["model"]))
        for optimizer, state in zip(optimizers, saved["optimizers"]):
            optimizer.load_state_dict(state)
        start, seconds, tokens_seen = saved["step"], saved["seconds"], saved["tokens"]

    batches = Batches(tokenizer, args.batch_tokens, args.seed, rank, args.workers)
    prompts = held_out_prompts(tokenizer, per_skill=25)
    began, losses = time.time() - seconds, []
    for step in range(start, args.steps):
        rate = learning_rate(step, args.steps)
        for optimizer, peak in zip(optimizers, peaks):
            optimizer.param_groups[0]["lr"] = rate * peak
        parts = batches.step(step)
        count = sum(len(target) for _, _, target in parts)
        for tokens, wanted, target in parts:
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(tokens, wanted)
            loss = F.cross_entropy(logits.float(), target, reduction="sum") / count
            loss.backward()
            losses.append(loss.item())
            tokens_seen += tokens.numel() * args.workers
        average_gradients(params, args.workers)
        torch.nn.utils.clip_grad_norm_(others, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        with torch.no_grad():
            for slow, p in zip(average.parameters(), params):
                slow.lerp_(p, AVERAGE)
        seconds, done = time.time() - began, step + 1
        if rank != 0:
            continue
        if done % 20 == 0:
            print(f"step {done} loss {sum(losses) / 20:.4f} rate {rate:.3f} tokens {tokens_seen / 1e6:.2f}M {tokens_seen / seconds:.0f}/s {seconds:.0f}s", flush=True)
            losses = []
        if done % 50 == 0 or done == args.steps:
            state = {"model": model.state_dict(), "average": average.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": done,
                     "seconds": seconds, "tokens": tokens_seen, "config": asdict(config)}
            torch.save(state, checkpoint.with_suffix(".new"))
            checkpoint.with_suffix(".new").rename(checkpoint)
        if done % args.evaluate_every == 0 or done == args.steps:
            scores = accuracy(average, prompts)
            print(json.dumps({skill: round(right / count, 3) for skill, (right, count) in scores.items()}), flush=True)


def main():
    args = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    args.add_argument("--tokenizer", type=Path, required=True)
    args.add_argument("--out", type=Path, required=True)
    args.add_argument("--steps", type=int, default=4470)
    args.add_argument("--batch-tokens", type=int, default=4000, help="of each worker")
    args.add_argument("--workers", type=int, default=2)
    args.add_argument("--seed", type=int, default=1)
    args.add_argument("--evaluate-every", type=int, default=300)
    args = args.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(train, (args, f"{folder}/meeting"), nprocs=args.workers)


if __name__ == "__main__":
    main()
