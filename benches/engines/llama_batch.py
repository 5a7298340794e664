"""llama.cpp without its server: batches of sequences through `llama_decode`, by llama-cpp-python's bindings.

usage: python llama_batch.py MODEL.gguf THREADS     see in_process.py for stdin and stdout

Tokens of one pass (`n_ubatch`), and whether sequences share one cache (`kv_unified`), are tried first, and the fastest
are taken; a line of stdout has them as `settings`. Flash attention is llama.cpp's own choice. Weights in an order for
this processor (`use_extra_bufts`) it makes by itself; where that crashes (0.3.36 with AMX), it goes without.
"""

import ctypes
import json
import os
import random
import sys
import time

import in_process
import llama_cpp as llama
import numpy as np

# What is tried: values, and how many prompts of how many tokens get how many tokens of answer.
TRIALS = {"n_ubatch": ([256, 512, 1024], (1, 1024, 1)), "kv_unified": ([False, True], (16, 32, 8))}
QUIET = llama.llama_log_callback(lambda level, text, _: level >= 3 and sys.stderr.buffer.write(text))


class Engine:
    def __init__(self, path, threads, use_extra_bufts):
        llama.llama_log_set(QUIET, ctypes.c_void_p(0))
        llama.llama_backend_init()
        params = llama.llama_model_default_params()
        params.use_extra_bufts = use_extra_bufts
        self.model = llama.llama_model_load_from_file(path.encode(), params)
        assert self.model, f"{path} cannot be loaded"
        self.threads, self.context, self.batch = threads, None, None
        self.settings = {name: values[0] for name, (values, _) in TRIALS.items()}
        self.settings["use_extra_bufts"] = use_extra_bufts
        self.num_ids = llama.llama_vocab_n_tokens(llama.llama_model_get_vocab(self.model))

    def tune(self):
        """Takes the fastest of each setting, of two tries."""
        for name, (values, load) in TRIALS.items():
            seconds = {value: min(self.seconds(name, value, *load) for _ in range(2)) for value in values}
            self.settings[name] = min(seconds, key=seconds.get)

    def seconds(self, name, value, streams, length, num_tokens):
        self.settings[name] = value
        self.prepare(streams, length + num_tokens)
        prompts = [[random.randrange(self.num_ids) for _ in range(length)] for _ in range(streams)]
        begun = time.perf_counter()
        self.answer(prompts, num_tokens, lambda: None)
        return time.perf_counter() - begun

    def prepare(self, streams, length):
        if self.context:
            llama.llama_batch_free(self.batch)
            llama.llama_free(self.context)
        params = llama.llama_context_default_params()
        params.n_seq_max, params.n_ctx = streams, streams * -(-length // 256) * 256
        params.n_batch = params.n_ctx
        params.n_threads = params.n_threads_batch = self.threads
        params.n_ubatch, params.kv_unified = self.settings["n_ubatch"], self.settings["kv_unified"]
        self.context = llama.llama_init_from_model(self.model, params)
        assert self.context, "no context could be made"
        self.batch = llama.llama_batch_init(params.n_ctx, 0, 1)

    def answer(self, prompts, num_tokens, after_step):
        answers, new = [[] for _ in prompts], prompts
        for _ in range(num_tokens):
            at = [len(prompt) + len(answer) - len(ids) for prompt, answer, ids in zip(prompts, answers, new)]
            new = [[token] for token in self.step(new, at)]
            for answer, ids in zip(answers, new):
                answer += ids
            after_step()
        return answers

    def step(self, new, positions):
        """Feeds each sequence its new tokens, the first at this position, and returns the likeliest next ones."""
        batch, last = self.batch, []
        batch.n_tokens = 0
        for sequence, (ids, position) in enumerate(zip(new, positions)):
            for offset, token in enumerate(ids):
                at = batch.n_tokens
                batch.token[at], batch.pos[at] = token, position + offset
                batch.n_seq_id[at], batch.seq_id[at][0] = 1, sequence
                batch.logits[at] = offset == len(ids) - 1
                batch.n_tokens += 1
            last.append(batch.n_tokens - 1)
        code = llama.llama_decode(self.context, batch)
        assert code == 0, f"llama_decode gave {code}"
        row = lambda at: np.ctypeslib.as_array(llama.llama_get_logits_ith(self.context, at), (self.num_ids,))
        return [int(row(at).argmax()) for at in last]


def survives(*how):
    """Whether an engine made like this answers, tried in a process of its own."""
    child = os.fork()
    if child == 0:
        Engine(*how).seconds("n_ubatch", 256, 1, 32, 2)
        os._exit(0)
    return os.waitpid(child, 0)[1] == 0


if __name__ == "__main__":
    path, threads = sys.argv[1], int(sys.argv[2])
    engine = Engine(path, threads, use_extra_bufts=survives(path, threads, True))
    engine.tune()
    print(json.dumps({"settings": engine.settings}), flush=True)
    in_process.run(engine.answer, engine.prepare)
