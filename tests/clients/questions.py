"""What the Python clients have in common: the server, the questions, what failed.

A client asks the questions in its own way, whole and streamed, and prints its answers as JSON:
tests/clients.rs compares them with the server's. Run one by hand: python CLIENT.py BASE_URL KEY PID
"""

import asyncio
import json
import os
import pathlib
import re
import signal
import sys
import time
import urllib.request

BASE, KEY, PID = sys.argv[1:4]
QUESTIONS = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())
PERSON = {"name": "Bob", "age": 42}
# Far more than an answer needs, and four times that: something to cancel.
ENDLESS = {"ignore_eos": True, "max_tokens": 1900, "n": 4}

answers, failures = {}, []


def same(what, found, expected):
    if found != expected:
        failures.append(f"{what}: {found!r} instead of {expected!r}")


def answered(name, whole, streamed):
    """Notes an answer, a dictionary of what the client shows of it."""
    same(f"{name}, streamed against whole", streamed, whole)
    answers[name] = whole


def raises(what, kind, call, **attributes):
    """`call` raises exactly `kind`, with these attributes."""
    try:
        failures.append(f"{what}: {call()!r} instead of {kind.__name__}")
    except Exception as error:
        same(what, type(error), kind)
        for name, value in attributes.items():
            same(f"{what}, {name} of {error}", getattr(error, name, None), value)


def metric(pattern):
    """A number of the server's metrics page."""
    page = urllib.request.urlopen(BASE.removesuffix("/v1") + "/metrics").read().decode()
    return int(re.search(rf"^vllm:{pattern} (.*)$", page, re.MULTILINE)[1])


def endings():
    """How many answers were aborted, and how many ran to the end of their length."""
    return [metric(f'request_success_total.*"{reason}"}}') for reason in ["abort", "length"]]


def cancels(what, act):
    """`act` asks for endless answers and leaves; the server then ends them."""
    while metric("num_requests_running.*"):  # What was aborted before is counted sooner than it is gone.
        time.sleep(0.01)
    before = endings()
    act()
    deadline = time.monotonic() + 60
    while endings()[0] < before[0] + 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    same(f"{what}: aborted and run to their ends", [now - then for now, then in zip(endings(), before)], [4, 0])


def cancel_task(answer):
    """Cancels an asynchronous call once the server works at it."""

    async def act():
        task = asyncio.create_task(answer())
        while metric("num_requests_running.*") == 0 and not task.done():
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(act())


def breaks_off(kind, *streams):
    """Ends the server amid endless streams, each of which then raises `kind` and seems no whole answer."""
    for stream in streams:
        for _ in range(3):
            next(stream)
    os.kill(int(PID), signal.SIGTERM)
    for stream in streams:
        raises("a stream that breaks off", kind, lambda: list(stream))


def finish():
    print(json.dumps(answers))
    sys.exit("\n".join(failures) or 0)
