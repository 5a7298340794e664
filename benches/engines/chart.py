"""Draws what scripts/compare-engines measured: decoding by streams and prompts, of each engine.

usage: python chart.py OUT.svg ENGINES.json..     needs matplotlib
"""

import json
import pathlib
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "sconce"  # the same file from the same figures
import matplotlib.pyplot as plt

# What weights have in bits: of lines, of bars, and how strong.
LOOKS = {"16 bit": ("-", None, 1), "8 bit": ("--", "//", 0.7), "4 bit": (":", "xx", 0.5)}
# Sconce in one hue, its peers in others.
COLOURS = {"sconce": "#d97706", "transformers": "#2563eb", "llama.cpp": "#059669", "mistral.rs": "#7c3aed"}


def draw(panels, title, model):
    decode, prefill = panels
    engines = [engine for engine in model["engines"] if engine["rates"]]
    points = {point["name"]: point for point in model["points"]}
    prompts = [name for name in points if name.startswith("prefill") and any(name in engine["rates"] for engine in engines)]
    width = 0.8 / max(len(engines), 1)
    for at, engine in enumerate(engines):
        style, hatch, alpha = LOOKS[engine["precision"]]
        rates, inside = engine["rates"], engine["in_process"]
        look = {"color": COLOURS[engine["engine"]], "alpha": alpha}
        line = [(points[name]["streams"], rate) for name, rate in rates.items() if name.startswith("decode")]
        decode.plot(*zip(*line), ls=style, marker="s" if inside else "o", ms=4, label=engine["name"], **look)
        bars = [(x + (at - (len(engines) - 1) / 2) * width, rates[name]) for x, name in enumerate(prompts) if name in rates]
        if bars:
            prefill.bar(*zip(*bars), width=0.9 * width, hatch=hatch, edgecolor="white", **look)
    decode.set_title(f"{title}: decoding", fontsize=10)
    decode.set_xlabel("streams")
    decode.set_xscale("log", base=2)
    decode.set_yscale("log")
    decode.yaxis.set_major_formatter("{x:,.0f}")
    decode.yaxis.set_minor_formatter("")
    decode.set_xticks(sorted({point["streams"] for point in points.values()}))
    decode.xaxis.set_major_formatter("{x:.0f}")
    prefill.legend(*decode.get_legend_handles_labels(), frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    prefill.yaxis.set_major_formatter("{x:,.0f}")
    prefill.set_title(f"{title}: prompts", fontsize=10)
    prefill.set_xticks(range(len(prompts)), [f"{points[name]['input']:,} tokens" for name in prompts])
    for panel in panels:
        panel.set_ylabel("tokens/s")
        panel.tick_params(labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)


def main():
    out, *paths = sys.argv[1:]
    models = {}
    for path in paths:
        models |= json.loads(pathlib.Path(path).read_text())["models"]
    figure, panels = plt.subplots(len(models), 2, figsize=(11, 3.6 * len(models)), layout="constrained", squeeze=False)
    for row, (title, model) in zip(panels, models.items()):
        draw(row, title, model)
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
