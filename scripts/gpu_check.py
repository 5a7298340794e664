#!/usr/bin/env python3
"""The standing GPU check: runs what scripts/gpu-bundle built, on a machine with a GPU, Python and no Rust.

All tests first, then equalities and a soak over HTTP, then the benchmarks, then the peers found there. Each part
has a log in the result folder, and a part that fails stops no other; the exit code tells whether any did. On a
machine that is lent for some minutes, --seconds says how many: a part begun later is not run, and the table says so.

usage: python3 gpu_check.py OUT [--seconds N] [--only WORD ...]     parts with one of these words in their name
"""

import argparse
import collections
import concurrent.futures
import csv
import glob
import http.client
import importlib.util
import json
import os
import pathlib
import random
import re
import socket
import subprocess
import sys
import sysconfig
import threading
import time

HERE = pathlib.Path(__file__).resolve().parent
SCONCE = HERE / "bin/sconce"
QWEN, LLAMA = HERE / "configs/qwen3-0.6b", HERE / "configs/llama-3.1-8b"
QWEN_EXPERTS, GPT_OSS = HERE / "configs/qwen3-30b-a3b", HERE / "configs/gpt-oss-20b"
GLM_AIR = HERE / "configs/glm-4.5-air"
# Goals of one H200; the ceilings they come from are in docs/cuda.md.
GOALS = {
    "llama-3.1-8b batch 1, tokens/s": 243,
    "llama-3.1-8b saturated over HTTP, tokens/s": 9000,
    "llama-3.1-8b prefill of 4096, tokens/s": 30000,
    "llama-3.1-8b fp8 saturated over HTTP, tokens/s": 16000,
    **{f"{model.name} batch {batch}, times transformers": 4 for model in [QWEN, LLAMA] for batch in [1, 256]},
}


def libraries():
    """Folders that may hold cuBLAS and cuRAND: of the toolkit, or of Python packages such as PyTorch's."""
    sites = {sysconfig.get_paths()["purelib"], *(path for path in sys.path if path.endswith("-packages"))}
    patterns = ["/usr/local/cuda/lib64", "/usr/local/cuda/targets/*/lib", "/usr/local/cuda-*/lib64"]
    patterns += [f"{site}/nvidia/*/lib" for site in sites]
    return [folder for pattern in patterns for folder in sorted(glob.glob(pattern))]


ENV = dict(os.environ, LD_LIBRARY_PATH=":".join([*libraries(), os.environ.get("LD_LIBRARY_PATH", "")]))


class Check:
    def __init__(self, out, only, seconds):
        self.out, self.only = out, only
        self.rows, self.figures = [], {}
        self.end = time.time() + seconds

    def execute(self, name, command, timeout, cwd=HERE):
        """Runs a command with its output in a log; raises if it fails. Returns the log's path."""
        log, text, fault = self.out / f"{name}.log", "", None
        timeout = max(min(timeout, self.end - time.time()), 1)
        try:
            done = subprocess.run(
                [str(part) for part in command], cwd=cwd, env=ENV, timeout=timeout,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
            text, fault = done.stdout, done.returncode and f"exit code {done.returncode}"
        except subprocess.TimeoutExpired as late:
            text, fault = (late.stdout or b"").decode(errors="replace"), f"ran past {timeout} s"
        except OSError as error:
            fault = f"cannot be run: {error}"
        log.write_text(f"$ {' '.join(map(str, command))}\n{text}")
        if fault:
            last = next((line for line in reversed(text.splitlines()) if line.strip()), "")
            raise RuntimeError(f"{fault}, see {log.name}: {last.strip()}" if last else f"{fault}, see {log.name}")
        return log

    def run(self, name, command, timeout, cwd=HERE):
        """A part that is one command."""
        self.part(name, lambda: self.execute(name, command, timeout, cwd) and "ok")

    def part(self, name, function):
        """Runs a function that raises when something is wrong; what it returns is "ok" and perhaps more."""
        if not any(word in name for word in self.only):
            return
        begun = time.time()
        if begun > self.end:
            self.row(name, "not run: no time was left", 0)
            return
        try:
            self.row(name, function() or "ok", time.time() - begun)
        except Exception as error:  # Whatever it is belongs into the table.
            self.row(name, f"FAILED: {error}", time.time() - begun)

    def row(self, name, verdict, seconds):
        self.rows.append((name, verdict, seconds))
        print(f"{name:42} {seconds:8.1f} s  {verdict}", flush=True)
        self.write()

    def write(self):
        lines = [f"# GPU check of {(HERE / 'commit').read_text().strip()}", "", f"{time.strftime('%F %T %Z')}", ""]
        lines += ["| part | result | seconds |", "|---|---|---|"]
        lines += [f"| {name} | {verdict} | {seconds:.1f} |" for name, verdict, seconds in self.rows]
        lines += ["", "| figure | measured | goal (H200) |", "|---|---|---|"]
        names = [*GOALS, *(name for name in self.figures if name not in GOALS)]
        shown = lambda name: f"{self.figures[name]:.1f}" if name in self.figures else "not measured"
        lines += [f"| {name} | {shown(name)} | {GOALS.get(name, '')} |" for name in names]
        (self.out / "README.md").write_text("\n".join(lines) + "\n")
        (self.out / "figures.json").write_text(json.dumps(self.figures, indent=2) + "\n")


class Server:
    """A server with these flags, until the end of the block."""

    def __init__(self, out, name, *flags):
        self.log = open(out / f"serve-{name}.log", "w")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [SCONCE, "serve", "--port", self.port, *flags]
        self.process = subprocess.Popen([str(part) for part in command], env=ENV, stdout=self.log, stderr=self.log)

    def __enter__(self):
        deadline = time.time() + 240
        while time.time() < deadline and self.process.poll() is None:
            try:
                if self.get("/ready")[0] == 200:
                    return self
            except OSError:
                pass
            time.sleep(0.1)
        self.__exit__()
        raise RuntimeError(f"not ready: see {self.log.name}")

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.log.close()

    def get(self, path):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    def complete(self, **body):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(body), {"content-type": "application/json"})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status != 200:
            raise RuntimeError(f"{answer.status}: {text[:300]}")
        return json.loads(text)["choices"][0]["text"]

    def abandon(self, seconds, **body):
        """Streams and hangs up."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=300)
        connection.request("POST", "/v1/completions", json.dumps(dict(body, stream=True)), {"content-type": "application/json"})
        connection.getresponse().read(64)
        time.sleep(seconds)
        connection.close()

    def gauge(self, name):
        found = re.search(rf"^{re.escape(name)}(?:{{[^}}]*}})? ([0-9.e+]+)$", self.get("/metrics")[1], re.M)
        return float(found.group(1))


PROMPTS = [f"Question {n}: what is {n} and {n * 7 % 11}? Answer:" for n in range(24)]


def answers(server, at_once, **more):
    """Of all prompts: greedy, and sampled with every kind of parameter, with seeds."""
    jobs = []
    for n, prompt in enumerate(PROMPTS):
        jobs.append(dict(prompt=prompt, max_tokens=24, temperature=0))
        kinds = [dict(top_k=20), dict(top_p=0.8), dict(min_p=0.05), dict(frequency_penalty=0.7), dict(logit_bias={"5": -3})]
        jobs.append(dict(prompt=prompt, max_tokens=24, temperature=0.7, seed=n, **kinds[n % len(kinds)]))
    given, next_job, lock = [None] * len(jobs), iter(range(len(jobs))), threading.Lock()

    def work():
        while True:
            with lock:
                at = next(next_job, None)
            if at is None:
                return
            given[at] = server.complete(**jobs[at], **more)

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if None in given:
        raise RuntimeError(f"{given.count(None)} of {len(given)} requests were not answered")
    return given


def equalities(out):
    """The same text from the processor and the GPU, with and without recorded steps, alone and together.

    In f32, of a trained model: sums in another order may turn a close choice, so a few texts may differ.
    """
    ways = {
        "cpu": ["--device", "cpu"], "eager": ["--device", "cuda", "--enforce-eager", "--no-async-scheduling"],
        "ahead": ["--device", "cuda", "--enforce-eager"], "graphs": ["--device", "cuda"],
    }
    given = {}
    for name, flags in ways.items():
        with Server(out, f"equal-{name}", "--dtype", "float32", *flags) as server:
            given[f"{name}, alone"] = answers(server, 1)
            given[f"{name}, together"] = answers(server, 32)
    expected, total = given["cpu, alone"], 2 * len(PROMPTS)
    # What does not depend on its batch is the same to the letter, also in bf16.
    with Server(out, "equal-invariant", "--device", "cuda", "--dtype", "bfloat16", "--batch-invariant") as server:
        alone, together = answers(server, 1), answers(server, 32)
    if alone != together:
        count = sum(a != b for a, b in zip(alone, together))
        raise RuntimeError(f"with --batch-invariant {count} of {len(alone)} texts differ alone and together")
    different = {name: sum(a != b for a, b in zip(expected, texts)) for name, texts in given.items()}
    said = ", ".join(f"{name}: {count}" for name, count in different.items())
    if max(different.values()) > total * 0.05:
        raise RuntimeError(f"texts of {total} that differ from the processor's: {said}")
    return f"ok, of {total} texts differ {said}"


# How steps of few sequences are computed.
WAYS = {"operations": ["--decode-megakernel=false"], "megakernel": ["--decode-megakernel"]}


def whole_steps(out):
    """Steps that are one launch have the bits of their operations: alone, every text is the same in bf16, too."""
    given = []
    for name, more in WAYS.items():
        with Server(out, f"equal-{name}", "--device", "cuda", "--dtype", "bfloat16", *more) as server:
            given.append(answers(server, 1))
    different = sum(a != b for a, b in zip(*given))
    if different:
        raise RuntimeError(f"with and without --decode-megakernel {different} of {len(given[0])} texts differ")
    return f"ok, {len(given[0])} texts"


def num_gpus():
    listed = subprocess.run(["nvidia-smi", "-L"], stdout=subprocess.PIPE, text=True)
    return sum(line.startswith("GPU ") for line in listed.stdout.splitlines())


def shared_out(out):
    """The same texts from the processor and from two GPUs, in f32: sums in another order may turn a close choice."""
    if num_gpus() < 2:
        return "ok, skipped: there is one GPU here"
    with Server(out, "ranks-cpu", "--dtype", "float32", "--device", "cpu") as server:
        expected = answers(server, 1)
    with Server(out, "ranks", "--dtype", "float32", "--device", "cuda", "--tensor-parallel-size", "2") as server:
        given = {"alone": answers(server, 1), "together": answers(server, 32)}
    different = {name: sum(a != b for a, b in zip(expected, texts)) for name, texts in given.items()}
    if max(different.values()) > len(expected) * 0.05:
        raise RuntimeError(f"of {len(expected)} texts differ from the processor's {different}")
    return f"ok, of {len(expected)} texts differ {different}"


def soak(out, seconds):
    """1 to 256 streams with random cancels; then nothing is left over and the answers are as before.

    They are asked for one by one, and find nothing in the prefix cache: the same work, so the same bits.
    """
    with Server(out, "soak", "--device", "cuda", "--max-num-seqs", "256") as server:
        before = answers(server, 1, cache_salt="before")
        end, failures, dice = time.time() + seconds, [], random.Random(7)

        def work(dice):
            while time.time() < end:
                body = dict(prompt=dice.choice(PROMPTS) * dice.randint(1, 6), max_tokens=dice.randint(1, 400), ignore_eos=True)
                try:
                    if dice.random() < 0.4:
                        server.abandon(dice.random(), **body)
                    else:
                        server.complete(**body)
                except Exception as error:
                    failures.append(repr(error))

        for streams in [1, 16, 256]:
            end = time.time() + seconds / 3
            threads = [threading.Thread(target=work, args=[random.Random(dice.random())]) for _ in range(streams)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        time.sleep(2)
        if failures:
            raise RuntimeError(f"{len(failures)} requests failed, the first: {failures[0]}")
        for gauge in ["vllm:num_requests_running", "vllm:num_requests_waiting"]:
            if server.gauge(gauge) != 0:
                raise RuntimeError(f"{gauge} is {server.gauge(gauge)} when nothing runs")
        differ = sum(a != b for a, b in zip(before, answers(server, 1, cache_salt="after")))
        if differ:
            raise RuntimeError(f"{differ} of {len(before)} answers differ from those before")


# In the names of tests whose ranks wait for each other on the GPU.
RANKS = ["collectives", "ranks"]


def tests(check, binary, cwd=HERE):
    """Every test in a process of its own: after a fault of the device nothing else would run in it.

    Not those that run kernels on the host, which CI does.
    """
    def each():
        listed = subprocess.run([HERE / "bin" / binary, "--list", "--format", "terse"], env=ENV, stdout=subprocess.PIPE, text=True, check=True)
        names = [line.removesuffix(": test") for line in listed.stdout.splitlines() if line.endswith(": test")]
        names = [name for name in names if "cuda_tests" not in name]

        def one(name):
            command = [HERE / "bin" / binary, "--exact", name, "--test-threads", "1"]
            # Ranks that share a GPU wait for each other: what is wrong with them is likely to be a wait without end.
            most = 30 if any(word in name for word in RANKS) else 120
            try:
                done = subprocess.run(command, cwd=cwd, env=ENV, timeout=most, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
                return name, done.returncode == 0 and "1 passed" in done.stdout, done.stdout
            except subprocess.TimeoutExpired as late:
                return name, False, f"{late.stdout}\nran past {most} s"

        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            done = list(pool.map(one, names))
        (check.out / f"{binary}.log").write_text("".join(f"== {name}\n{text}" for name, passed, text in done if not passed) or "all passed\n")
        failed = [name for name, passed, _ in done if not passed]
        if failed or not done:
            raise RuntimeError(f"{len(failed)} of {len(done)} failed, see {binary}.log: {', '.join(failed)}")
        return f"ok, {len(done)} tests"
    check.part(binary, each)


def sanitizers(check):
    """Every kernel under compute-sanitizer: memory, and races within a block.

    But those that wait for others at the same time, which it runs one after the other.
    """
    sanitizer = next(iter(glob.glob("/usr/local/cuda*/bin/compute-sanitizer")), None)
    if sanitizer is None:
        return
    skipped = [part for word in ["cuda_tests", *RANKS] for part in ["--skip", word]]
    for tool in ["memcheck", "racecheck"]:
        for binary in ["kernels-tests", "golden-tests", "pooling-tests"]:
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", HERE / "bin" / binary]
            check.run(f"sanitizer-{tool}-{binary}", [*command, "--test-threads", "1", *skipped], 500, cwd=HERE / "models")


def field(path, *names):
    value = json.loads(pathlib.Path(path).read_text())
    for name in names:
        value = value[name]
    return value


def benchmarks(check):
    for model in [LLAMA, QWEN, QWEN_EXPERTS, GPT_OSS, GLM_AIR]:
        flags = ["--load-format", "dummy", "--device", "cuda", "--max-model-len", 8192]

        def roofline(name, *more, model=model, flags=flags, streams="1,8,32,256", prompts="512,4096", input_tokens=32):
            result = check.out / f"roofline-{name.replace(' ', '-')}.json"
            check.execute(result.stem, [
                SCONCE, "bench", "roofline", model, *flags, *more, "--streams", streams, "--prompts", prompts,
                "--input-tokens", input_tokens, "--output-tokens", 192, "-o", result], 200)
            for row in field(result, "rows"):
                load = f"batch {row['size']}" if row["phase"] == "decode" else f"prefill of {row['size']}"
                check.figures[f"{name} {load}, tokens/s"] = row["tokens_per_second"]
                check.figures[f"{name} {load}, % of the ceiling"] = 100 * row["reached"]
            for rate in ["bytes_per_second", "flops_per_second"]:
                check.figures[f"{rate.replace('_', ' ')}, measured"] = field(result, rate)
        if model == GLM_AIR:  # In 16 bits it is larger than a card.
            check.part(f"roofline-{model.name}-fp8", lambda: roofline(f"{model.name} fp8", "--quantization", "fp8"))
            continue
        check.part(f"roofline-{model.name}", lambda: roofline(model.name))

        def saturated(name, *more, model=model, flags=flags, users=256):
            with Server(check.out, f"bench-{name.replace(' ', '-')}", model, *flags, *more) as server:
                result = check.out / f"serve-{name.replace(' ', '-')}.json"
                check.execute(result.stem, [
                    SCONCE, "bench", "serve", "--url", f"http://127.0.0.1:{server.port}", "--api", "completions", "--tokenizer",
                    model / "tokenizer.json", "--concurrency", users, "--requests", 2 * users, "--input-tokens", 1000, "--output-tokens", 1000,
                    "--ignore-eos=always", "-q", "-o", result, "--report", result.with_suffix(".html")], 300)
                check.figures[f"{name} saturated over HTTP, tokens/s"] = field(result, "output_throughput")
        check.part(f"saturated-{model.name}", lambda: saturated(model.name))
        if model == GPT_OSS:  # Its experts have four bits already.
            continue
        fp8 = f"{model.name} fp8"
        check.part(f"saturated-{model.name}-fp8", lambda: saturated(fp8, "--quantization", "fp8", "--kv-cache-dtype", "fp8"))
        if model == QWEN_EXPERTS:
            continue
        # Half the bytes of keys leave room for twice the users, who share the reading of weights.
        more_users = ["--quantization", "fp8", "--kv-cache-dtype", "fp8", "--max-num-seqs", 512]
        check.part(f"saturated-{model.name}-fp8-512", lambda: saturated(f"{fp8} 512 users", *more_users, users=512))
        invariant = f"{model.name} batch-invariant"
        check.part(f"roofline-{invariant.replace(' ', '-')}", lambda: roofline(invariant, "--batch-invariant"))

        # By as many GPUs as there are; nothing where there is one.
        def by_ranks(name=model.name):
            for ranks in [2, 4, 8]:
                if ranks <= num_gpus():
                    roofline(f"{name} {ranks} GPUs", "--tensor-parallel-size", ranks)
        check.part(f"tensor-parallel-{model.name}", by_ranks)

        # Steps of few sequences as one launch and as operations, after short and long prompts.
        def whole_or_not(name):
            for input_tokens in [32, 7000]:
                for way, more in WAYS.items():
                    roofline(f"{name} {way} {input_tokens}", *more, streams="1,2,4,8", prompts="512", input_tokens=input_tokens)
        check.part(f"megakernel-{model.name}", lambda name=model.name: whole_or_not(name))


def attention(check):
    """Attention alone, and what it reads of keys and values."""
    log = check.execute("attention", [HERE / "bin/attention-bench", "cuda"], 120)
    for line in log.read_text().splitlines():
        words = line.split()
        if words[1:4] == ["64", "1", "4096"]:
            check.figures[f"decode attention, {words[0]} cache, batch 64, context 4096, GB/s"] = float(words[5])


def profile(check):
    """Where the time of a step goes: each kernel's time and traffic, of two layers of the large model's shape."""
    ncu = next(iter(glob.glob("/usr/local/cuda*/bin/ncu")), None)
    if ncu is None:
        return
    small = HERE / "configs/two-layers"
    small.mkdir(exist_ok=True)
    for name in ["tokenizer.json", "config.json"]:
        (small / name).write_bytes((LLAMA / name).read_bytes())
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(dict(config, num_hidden_layers=2)))
    fp8 = ["--quantization", "fp8", "--kv-cache-dtype", "fp8"]
    for name, batch, more in [("batch-1", 1, []), ("batch-256", 256, []), ("batch-256-fp8", 256, fp8)]:
        def kernels(name=name, batch=batch, more=more):
            metrics = "gpu__time_duration.sum,dram__bytes.sum"
            log = check.execute(f"profile-{name}", [
                ncu, "--clock-control", "none", "--metrics", metrics, "--csv", "--print-units", "base", SCONCE,
                "bench", "latency", small, "--load-format", "dummy", "--device", "cuda", "--enforce-eager", "--batch-size", batch,
                "--input-tokens", 32, "--output-tokens", 4, "--iterations", 1, "--warmup-iterations", 0, *more], 120)
            lines = [line for line in log.read_text().splitlines() if line.startswith('"')]
            found = collections.defaultdict(lambda: collections.defaultdict(list))
            for row in csv.DictReader(lines):
                found[row["Kernel Name"].split("(")[0], row["Grid Size"]][row["Metric Name"]].append(float(row["Metric Value"].replace(",", "")))
            table = ["| kernel | grid | launches | us each | GB/s |", "|---|---|---|---|---|"]
            for (kernel, grid), values in sorted(found.items(), key=lambda entry: -sum(entry[1]["gpu__time_duration.sum"])):
                times, moved = values["gpu__time_duration.sum"], values["dram__bytes.sum"]
                table.append(f"| {kernel} | {grid} | {len(times)} | {sum(times) / len(times) / 1e3:.2f} | {sum(moved) / sum(times):.0f} |")
            (check.out / f"profile-{name}.md").write_text("\n".join(table) + "\n")
            log.unlink()  # Megabytes; the table says it.
        check.part(f"profile-{name}", kernels)


PEER = """
import json, sys, torch
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig
config = AutoConfig.from_pretrained(sys.argv[1])
with torch.device("cuda"):
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
for batch, steps in [(1, 64), (256, 64)]:
    ids = torch.randint(0, config.vocab_size, (batch, 32)).tolist()
    ask = GenerationConfig(do_sample=False, max_new_tokens=steps, eos_token_id=-1, pad_token_id=0)
    # It warms up by itself. Counted from when the last sequence has its first token: all are decoded.
    answers = model.generate_batch(ids, generation_config=ask, record_timestamps=True).values()
    times = [time for answer in answers for time in answer.timestamps]
    begun = max(answer.timestamps[0] for answer in answers)
    rate = sum(time > begun for time in times) / (max(times) - begun)
    print(json.dumps({"batch": batch, "tokens_per_second": rate}), flush=True)
"""


def peers(check):
    """transformers' continuous batching with random weights of the same shape, and how often it goes into our figures."""
    absent = [name for name in ["torch", "transformers"] if importlib.util.find_spec(name) is None]
    for model in [QWEN, LLAMA]:
        part = f"transformers-{model.name}"

        def generate(model=model, part=part):
            if absent:
                return f"ok, skipped: there is no {' and no '.join(absent)} here"
            try:
                check.execute(part, [sys.executable, "-c", PEER, model], 400)
            finally:  # A batch may be measured before another fails.
                for line in (check.out / f"{part}.log").read_text().splitlines():
                    if line.startswith("{"):
                        compare(check.figures, model, **json.loads(line))
        check.part(part, generate)


def compare(figures, model, batch, tokens_per_second):
    figures[f"transformers, {model.name} batch {batch}, tokens/s"] = tokens_per_second
    ours = figures.get(f"{model.name} batch {batch}, tokens/s")
    if ours is not None:
        figures[f"{model.name} batch {batch}, times transformers"] = ours / tokens_per_second


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--only", nargs="+", default=[""], metavar="WORD")
    parser.add_argument("--soak-seconds", type=float, default=60, metavar="N")
    parser.add_argument("--seconds", type=float, default=float("inf"), metavar="N")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    check = Check(args.out.resolve(), ["machine", "device"], args.seconds)
    check.run("machine", ["nvidia-smi"], 60)
    # Without a device everything else would fail, each in a way of its own.
    check.run("device", [SCONCE, "plan", "spark", "--device", "cuda"], 60)
    check.only = args.only if check.rows[-1][1].startswith("ok") else []
    tests(check, "kernels-tests")
    tests(check, "golden-tests", cwd=HERE / "models")
    tests(check, "pooling-tests", cwd=HERE / "models")
    check.part("equalities", lambda: equalities(check.out))
    check.part("equal-megakernel", lambda: whole_steps(check.out))
    check.part("equal-tensor-parallel", lambda: shared_out(check.out))
    check.part("soak", lambda: soak(check.out, args.soak_seconds))
    sanitizers(check)
    check.part("attention", lambda: attention(check))
    profile(check)
    benchmarks(check)
    peers(check)
    print((check.out / "README.md").read_text())
    sys.exit(any(not verdict.startswith("ok") for _, verdict, _ in check.rows))


if __name__ == "__main__":
    main()
