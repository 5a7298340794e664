"""Tokens per second of transformers' generate on the same shape, threads and token counts as the engine bench.

python transformers_generate.py CONFIG_FOLDER float32|bfloat16 BATCH [BATCH ...]

Prompts of 32 random tokens, answers of 48, greedy, all sequences of a batch in one call: its best case, since
requests that come one by one could not be batched at all. Random weights: the time does not depend on them.
"""

import sys
import time

import torch
from transformers import AutoConfig, AutoModelForCausalLM

folder, dtype, *batches = sys.argv[1:]
torch.set_num_threads(2)
config = AutoConfig.from_pretrained(folder)
torch.manual_seed(0)
model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype)).eval()


@torch.inference_mode()
def run(batch, new_tokens):
    ids = torch.randint(0, config.vocab_size, (batch, 32))
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        min_new_tokens=new_tokens,
        max_new_tokens=new_tokens,
        eos_token_id=None,
        pad_token_id=0,
    )


run(1, 4)
print(f"transformers generate, {dtype}\n\n| streams | tokens/s |\n|---|---|")
for batch in map(int, batches):
    start = time.perf_counter()
    run(batch, 48)
    print(f"| {batch} | {batch * 48 / (time.perf_counter() - start):.1f} |", flush=True)
