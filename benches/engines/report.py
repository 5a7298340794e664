"""What scripts/compare-engines measured, as medians and tables."""

import itertools
import statistics


def rate(load, raw):
    """Tokens per second: of answers where it decodes, of prompts where it prefills."""
    if load["name"].startswith("decode"):
        return raw["output_throughput"]
    return load["input"] / raw["median_e2el_ms"] * 1000


def by_tpot(load, raw):
    """Tokens per second by the time between tokens; None where a server sends all of an answer at once."""
    spread = raw["mean_tpot_ms"] * (load["output"] - 1)
    return 1000 * load["streams"] / raw["mean_tpot_ms"] if spread > 0.1 * raw["median_e2el_ms"] else None


def medians(figure, loads, runs):
    found = {load["name"]: [figure(load, run["points"][load["name"]]) for run in runs if load["name"] in run["points"]] for load in loads}
    known = {name: [value for value in values if value is not None] for name, values in found.items()}
    return {name: statistics.median(values) for name, values in known.items() if values}


def summarise(model):
    """Medians over the rounds, into what is written."""
    for engine in model["engines"]:
        engine["rates"] = medians(rate, model["points"], engine["runs"])
        decoding = [load for load in model["points"] if load["name"].startswith("decode")]
        engine["by_tpot"] = medians(by_tpot, decoding, engine["runs"])
        rss = [run["peak_rss_bytes"] for run in engine["runs"] if "peak_rss_bytes" in run]
        engine["peak_rss_bytes"] = max(rss, default=None)
    checks = [next((run["check"] for run in engine["runs"] if "check" in run), None) for engine in model["engines"]]
    reference = next((check for check in checks if check and isinstance(check[0], list)), [])
    model["check_tokens"] = sum(map(len, reference))
    for engine, check in zip(model["engines"], checks):
        equal = [equal_tokens(*pair, model["spelt"]) for pair in zip(reference, check or [])]
        engine["equal_tokens"] = sum(equal) if equal else None


def cell(value, form="{:,.1f}"):
    return "-" if value is None else form.format(value)


def table(model, precision):
    engines = [engine for engine in model["engines"] if engine["precision"] == precision]
    if not engines:
        return []
    own = next((engine for engine in engines if engine["engine"] == "sconce"), None)
    row = lambda cells: f"| {' | '.join(cells)} |"
    lines = [f"### {precision}", "", row(["tokens/s", *(engine["name"] for engine in engines), "Sconce to the best peer"])]
    lines += ["|" + "---|" * (len(engines) + 2)]
    for load in model["points"]:
        name = load["name"]
        peers = [engine["rates"][name] for engine in engines if engine["engine"] != "sconce" and name in engine["rates"]]
        ratio = own["rates"][name] / max(peers) if own and name in own["rates"] and peers else None
        lines.append(row([name, *(cell(engine["rates"].get(name)) for engine in engines), cell(ratio, "{:.2f}")]))
    for load in model["points"]:
        if load["name"].startswith("decode"):
            figures = [cell(engine["by_tpot"].get(load["name"])) for engine in engines]
            lines.append(row([f"{load['name']}, streams / TPOT", *figures, ""]))
    rss = [cell(engine["peak_rss_bytes"] and engine["peak_rss_bytes"] / 2**30, "{:.2f}") for engine in engines]
    lines.append(row(["peak RSS, GiB", *rss, ""]))
    lines.append(row([f"equal leading tokens of {model['check_tokens']}", *(cell(engine["equal_tokens"], "{}") for engine in engines), ""]))
    return lines + [""]


def markdown(state):
    lines = ["# Sconce and other engines", "", f"{state['date']}, {state['cpu']}, {state['threads']} threads. Commit {state['commit']}."]
    lines += [", ".join(f"{name} {version}" for name, version in state["versions"].items()) + ".", ""]
    lines += [f"Command: `{state['command']}`. What the rows mean is in docs/performance.md.", ""]
    for name, model in state["models"].items():
        lines += [f"## {name}: {model['about']}", ""]
        if model["left_out"]:
            lines += [f"Longer than the model's context, and left out: {', '.join(model['left_out'])}.", ""]
        for precision in ["16 bit", "8 bit", "4 bit"]:
            lines += table(model, precision)
        lines += ["| engine | load average before each run | command |", "|---|---|---|"]
        for engine in model["engines"]:
            load = ", ".join(f"{run['load_average']:.2f}" for run in engine["runs"])
            lines.append(f"| {engine['name']} | {load} | `{' '.join(engine['command'])}` |")
        lines.append("")
        for engine in model["engines"]:
            for at, run in enumerate(engine["runs"], 1):
                for where, fault in run["faults"].items():
                    lines += [f"{engine['name']}, run {at}, {where}:", "", "```", fault, "```", ""]
    return "\n".join(lines)


def equal_tokens(reference, answer, spelt):
    """How many leading tokens of the reference an answer has, given as ids or as text."""
    if isinstance(answer, list):
        return sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(reference, answer)))
    # Some servers drop an answer's leading space.
    text, count, so_far = answer.lstrip().encode(), 0, b""
    for token in reference:
        so_far += spelt.get(token, b"")
        if token not in spelt or not text.startswith(so_far.lstrip()):
            break
        count += 1
    return count
