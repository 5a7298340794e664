#!/usr/bin/env python3
"""Draws what `sconce bench roofline` printed: tokens a second, and the ceiling above them.

usage: python roofline_chart.py OUT.svg TITLE=TABLE.txt ...     needs matplotlib
"""

import pathlib
import re
import sys

import matplotlib

matplotlib.use("svg")
matplotlib.rcParams["svg.hashsalt"] = "sconce"  # the same file from the same figures
import matplotlib.pyplot as plt

ROW = re.compile(r"(decode|prefill), (\d+) (?:at once|tokens)\s+([\d.]+)\s+([\d.]+)\s+(\d+)%")


def main():
    out, *tables = sys.argv[1:]
    figure, panels = plt.subplots(1, len(tables), figsize=(5 * len(tables), 3.6), layout="constrained", squeeze=False)
    for panel, table in zip(panels[0], tables):
        title, path = table.split("=", 1)
        rows = ROW.findall(pathlib.Path(path).read_text())
        names = [f"{size} at once" if phase == "decode" else f"prompt of\n{size}" for phase, size, *_ in rows]
        reached, most = [[float(row[i]) for row in rows] for i in (2, 3)]
        panel.bar(names, most, color="#e5e7eb", label="ceiling")
        panel.bar(names, reached, color="#d97706", label="reached")
        for x, (y, row) in enumerate(zip(reached, rows)):
            panel.annotate(f"{row[4]} %", (x, y), ha="center", va="top", fontsize=8, color="white", xytext=(0, -2), textcoords="offset points")
        panel.set_yscale("log")
        panel.set_ylim(bottom=min(reached) / 3)
        panel.yaxis.set_major_formatter("{x:,.0f}")
        panel.yaxis.set_minor_formatter("")
        panel.set_title(title, fontsize=10)
        panel.set_ylabel("tokens/s")
        panel.tick_params(axis="x", labelsize=8)
        panel.spines[["top", "right"]].set_visible(False)
        panel.legend(frameon=False, fontsize=8, loc="upper left")
    figure.savefig(out, metadata={"Date": None})


if __name__ == "__main__":
    main()
