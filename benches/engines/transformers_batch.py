"""transformers without its server: all sequences of a batch in one call of `generate`, its best case.

usage: python transformers_batch.py FOLDER THREADS     see in_process.py for stdin and stdout
"""

import sys

import in_process
import torch
from transformers import AutoModelForCausalLM

folder, threads = sys.argv[1], int(sys.argv[2])
torch.set_num_threads(threads)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()


@torch.inference_mode()
def answer(prompts, num_tokens, after_step):
    ids = torch.tensor(prompts)
    going_on = torch.zeros(len(prompts), dtype=torch.bool)

    def stepped(*_, **__):
        after_step()
        return going_on

    whole = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        do_sample=False,
        max_new_tokens=num_tokens,
        eos_token_id=None,
        pad_token_id=0,
        stopping_criteria=[stepped],
    )
    return whole[:, ids.shape[1] :].tolist()


in_process.run(answer)
