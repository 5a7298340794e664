"""Times torch.nn.functional.linear for the shapes of the `linear` bench, in the same columns.

Run beside it on a quiet machine:
    cargo bench --workspace --locked --bench linear && python benches/linear_vs_torch.py
"""

import argparse
import statistics
import time

import torch

SHAPES = [("qkv", 4096, 1024), ("o", 1024, 2048), ("gate_up", 6144, 1024), ("down", 1024, 3072), ("lm_head", 151936, 1024)]
ROWS = [1, 4, 16, 32, 512]


def median_seconds(call, budget_s):
    call()
    times, start = [], time.perf_counter()
    while len(times) < 5 or time.perf_counter() - start < budget_s:
        before = time.perf_counter()
        call()
        times.append(time.perf_counter() - before)
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=0.4, help="for each cell of the table")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} threads, median of runs within {args.seconds} s")
    print(f"{'dtype':<6}{'shape':<9}{'rows':>5}{'ms':>10}{'GB/s':>8}{'GFLOP/s':>9}")
    with torch.inference_mode():
        for dtype, name in ((torch.float32, "f32"), (torch.bfloat16, "bf16")):
            for shape, out, inner in SHAPES:
                # As many copies as are larger together than the caches: in a model no layer finds its weight in one.
                copies = max(1, 256 * 2**20 // (out * inner * dtype.itemsize))
                weights = [torch.randn(out, inner).to(dtype) for _ in range(copies)]
                for rows in ROWS:
                    if shape == "lm_head" and rows > 32:
                        continue  # logits are computed for the last row of a sequence only
                    x = torch.randn(rows, inner).to(dtype)
                    turn = iter(range(1 << 60))
                    call = lambda: torch.nn.functional.linear(x, weights[next(turn) % copies])
                    seconds = median_seconds(call, args.seconds)
                    gigabytes = out * inner * dtype.itemsize / seconds / 1e9
                    gigaflops = 2 * rows * out * inner / seconds / 1e9
                    print(f"{name:<6}{shape:<9}{rows:>5}{seconds * 1e3:>10.3f}{gigabytes:>8.1f}{gigaflops:>9.0f}", flush=True)


if __name__ == "__main__":
    main()
