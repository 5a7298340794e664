"""Resident memory of a server against its plan, and over many requests.

python benches/memory.py [--requests 10000] [--streams 32] [--prompt 24] [--tokens 8] -- SERVE_ARGUMENTS

Starts `target/release/sconce serve SERVE_ARGUMENTS` on a free port, sends completions of random token ids, and prints
the plan's total, the peak, and the resident size on the way. Standard library only.
"""

import argparse
import json
import random
import re
import subprocess
import sys
import threading
import urllib.request


def resident_mib(pid, key):
    with open(f"/proc/{pid}/status") as status:
        return int(re.search(rf"{key}:\s+(\d+)", status.read())[1]) / 1024


def start(arguments):
    server = subprocess.Popen(["target/release/sconce", "serve", "--port", "0", *arguments], stderr=subprocess.PIPE, text=True)
    url = total = None
    for line in server.stderr:
        if found := re.search(r"http://[\d.]+:\d+", line):
            url = found[0]
        if found := re.search(r"^  total +([\d.]+) (KiB|MiB|GiB)", line):
            total = float(found[1]) * {"KiB": 1 / 1024, "MiB": 1, "GiB": 1024}[found[2]]
        if "is ready" in line:
            threading.Thread(target=server.stderr.read, daemon=True).start()
            return server, url, total
    sys.exit("the server did not start")


def main():
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in [("requests", 10000), ("streams", 32), ("prompt", 24), ("tokens", 8)]:
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args(sys.argv[1:split])
    server, url, total = start(sys.argv[split + 1:])
    done, lock, seen = 0, threading.Lock(), []

    def work(seed):
        nonlocal done
        draw = random.Random(seed)
        while True:
            with lock:
                if done == options.requests:
                    return
                done += 1
                if done % max(1, options.requests // 10) == 0:
                    seen.append(resident_mib(server.pid, "VmRSS"))
            body = {"prompt": [draw.randrange(256) for _ in range(options.prompt)], "max_tokens": options.tokens, "ignore_eos": True, "temperature": 1}
            request = urllib.request.Request(f"{url}/v1/completions", json.dumps(body).encode(), {"content-type": "application/json"})
            answer = json.load(urllib.request.urlopen(request))
            assert answer["usage"]["completion_tokens"] == options.tokens, answer

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(options.streams)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    peak = resident_mib(server.pid, "VmHWM")
    print(f"plan {total:.1f} MiB, peak {peak:.1f} MiB: {100 * peak / total:.1f} %")
    print("resident after each tenth of the requests, MiB:", *(f"{size:.1f}" for size in seen))
    server.terminate()


if __name__ == "__main__":
    main()
