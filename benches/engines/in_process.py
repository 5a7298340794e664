"""What the engines that are run without a server have in common: the points asked for on stdin, results on stdout.

Everything of a batch is known when it begins and no HTTP is spoken, which is in these engines' favour.
"""

import json
import random
import resource
import statistics
import sys
import time


def run(answer, prepare=lambda streams, length: None):
    """Has `answer(prompts, num_tokens, after_step)` make every answer of a batch greedily, and measures it.

    `after_step()` is to be called when every sequence has one token more; returned are the tokens of each answer.
    `prepare(streams, length)` is called before a batch and not measured, as a server's start is not.
    stdin has `check`, the ids of some prompts and how many tokens to answer each with, `num_ids` of the vocabulary,
    `seconds` after which no batch of a point begins, and `points`, each with `name`, `streams`, `input`, `output`,
    `requests` and `seed`. Every line of stdout is a result.
    """
    job = json.load(sys.stdin)
    say = lambda **result: print(json.dumps(result), flush=True)
    prompts, num_tokens = job["check"]
    prepare(len(prompts), len(prompts[0]) + num_tokens)
    say(check=answer(prompts, num_tokens, lambda: None))
    for point in job["points"]:
        numbers = random.Random(point["seed"])
        rounds = []
        while len(rounds) * point["streams"] < point["requests"] and sum(end for _, end in rounds) < job["seconds"]:
            rounds.append(measure(answer, prepare, point, numbers, job["num_ids"]))
        tokens = point["streams"] * point["output"]
        say(
            point=point["name"],
            output_throughput=tokens * len(rounds) / sum(end for _, end in rounds),
            median_e2el_ms=1000 * statistics.median(end for _, end in rounds),
            mean_tpot_ms=1000 * statistics.mean((end - first) / max(point["output"] - 1, 1) for first, end in rounds),
        )
    say(peak_rss_bytes=1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)


def measure(answer, prepare, point, numbers, num_ids):
    """Seconds until the first and the last token of a batch."""
    prompts = [[numbers.randrange(num_ids) for _ in range(point["input"])] for _ in range(point["streams"])]
    prepare(point["streams"], point["input"] + point["output"])
    times, begun = [], time.perf_counter()
    answer(prompts, point["output"], lambda: times.append(time.perf_counter() - begun))
    assert len(times) == point["output"], f"{len(times)} steps instead of {point['output']}"
    return times[0], times[-1]
