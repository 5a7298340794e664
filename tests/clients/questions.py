"""What the Python clients have in common: the server, the questions, what failed.

A client asks the questions in its own way, whole and streamed, and prints its answers as JSON:
tests/clients.rs compares them with the server's. Run one by hand: python CLIENT.py BASE_URL KEY
"""

import json
import pathlib
import re
import sys
import time
import urllib.request

BASE, KEY = sys.argv[1:3]
QUESTIONS = json.loads(pathlib.Path(__file__).with_suffix(".json").read_text())
PERSON = {"name": "Bob", "age": 42}
# Far more than an answer needs: something to cancel.
ENDLESS = {"ignore_eos": True, "max_tokens": 1900}

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


def ended(reason):
    """How many answers the server has ended for this reason."""
    page = urllib.request.urlopen(BASE.removesuffix("/v1") + "/metrics").read().decode()
    return float(re.search(rf'sconce:request_success_total.*"{reason}"}} (.*)', page)[1])


def cancels(what, act):
    """`act` leaves one endless answer, which the server then ends."""
    aborted, finished = ended("abort"), ended("length")
    act()
    deadline = time.monotonic() + 60
    while ended("abort") == aborted and time.monotonic() < deadline:
        time.sleep(0.05)
    same(f"{what}: aborted and run to their ends", (ended("abort") - aborted, ended("length") - finished), (1, 0))


def finish():
    print(json.dumps(answers))
    sys.exit("\n".join(failures) or 0)
