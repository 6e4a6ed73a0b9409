"""Results as Markdown tables, and the ratios between octet and its peers."""

import math
import statistics
from pathlib import Path

import numpy as np

import workload
from options import BEGIN, END

OCTET = "octet"
# The peers that are compared one by one, besides the best of all.
NAMED = ("onnxruntime-int8", "rten-int8")


def best(rounds: list[dict]) -> float:
    """The best of the rounds' medians."""
    return min(found["median"] for found in rounds)


def middle(rounds: list[dict]) -> float:
    """The median of the rounds' medians."""
    return statistics.median(found["median"] for found in rounds)


def ratio(cell: dict, peers: list[str], of) -> float | None:
    """Time of the fastest of `peers` over octet's, both by `of`; none where one of them was not measured."""
    times = [of(cell[name]) for name in peers if name in cell]
    return min(times) / of(cell[OCTET]) if times and OCTET in cell else None


def ratios(part: dict) -> dict:
    """{"best int8 peer" | engine: {"best" | "median": {cell: ratio}}}."""
    peers = [name for name in part["int8"] if name != OCTET]
    groups = {"best int8 peer": peers} | {part["engines"][name]: [name] for name in NAMED if name in peers}
    return {
        group: {
            label: {cell: found for cell in part["grid"] if (found := ratio(part["grid"][cell], names, of))}
            for label, of in (("best", best), ("median", middle))
        }
        for group, names in groups.items()
    }


def geometric_mean(values) -> float:
    values = list(values)
    return math.exp(sum(math.log(value) for value in values) / len(values))


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def milliseconds(seconds: float) -> str:
    found = seconds * 1e3
    return f"{found:.2f}" if found < 100 else f"{found:.0f}"


def latency_table(part: dict) -> str:
    """Median over rounds of each engine in each cell, in milliseconds; the fastest in bold."""
    cells = list(part["grid"])
    fastest = {cell: min(map(middle, part["grid"][cell].values())) for cell in cells}
    rows = []
    for name, title in part["engines"].items():
        times = [part["grid"][cell].get(name) for cell in cells]
        if not any(times):
            continue
        shown = ["" if found is None else milliseconds(middle(found)) for found in times]
        marks = [found is not None and middle(found) == fastest[cell] for cell, found in zip(cells, times)]
        rows.append([title] + [f"**{text}**" if mark else text for text, mark in zip(shown, marks)])
    if any("percent_of_peak" in found for cell in cells for found in part["grid"][cell].get(OCTET, [])):
        peak = [statistics.median(found["percent_of_peak"] for found in part["grid"][cell][OCTET]) for cell in cells]
        rows.append(["*octet, % of the int8 peak*"] + [f"*{found:.0f}*" for found in peak])
    return table(["ms"] + cells, rows)


def ratio_table(part: dict) -> str:
    cells = list(part["grid"])
    rows = []
    for group, kinds in ratios(part).items():
        for label, found in kinds.items():
            name = f"{group}, {label} of {'medians' if label == 'best' else 'the medians'}"
            rows.append([name] + [f"{found[cell]:.2f}" for cell in cells] + [f"{geometric_mean(found.values()):.2f}"])
    return table(["peer's time / octet's"] + cells + ["geometric mean"], rows)


def stream_table(part: dict, tokens: int) -> str:
    """Real tokens per second, median over rounds, and how many times as many octet does."""
    arrival, ordered = part["stream"]["arrival"], part["stream"].get("sorted", {})
    rate = lambda rounds: "" if rounds is None else f"{tokens / middle(rounds):,.0f}"
    octet = arrival.get(OCTET)
    over = lambda rounds, of: "" if rounds is None or octet is None else f"{of(rounds) / of(octet):.2f}"
    rows = []
    for name, title in part["engines"].items():
        found = arrival.get(name), ordered.get(name)
        if not any(found):
            continue
        if name == OCTET:
            rows.append([f"**{title}**", f"**{rate(found[0])}**", "", "", "not needed", "", ""])
            continue
        rows.append(
            [
                title,
                rate(found[0]),
                over(found[0], middle),
                over(found[0], best),
                rate(found[1]),
                over(found[1], middle),
                over(found[1], best),
            ]
        )
    header = ["real tokens/s", "as they arrive", "octet's / this, median", "best", "sorted by length first"]
    header += ["octet's as they arrive / this, median", "best"]
    if not ordered:
        header, rows = header[:4], [row[:4] for row in rows]
    return table(header, rows)


def accuracy_table(part: dict) -> str:
    rows = [
        [part["engines"][name], *(f"{found[key]:.4f}" for key in ("mean", "p1", "min")), f"{found['same_nearest']:.1%}"]
        for name, found in part["closeness"].items()
    ]
    return table(["cosine to f32", "mean", "1st percentile", "least", "same nearest neighbour"], rows)


def base_table(part: dict) -> str:
    """octet's ratios to its own f32 path and to the best int8 peer."""
    cells = list(part["grid"])
    peers = [name for name in part["int8"] if name != OCTET]
    groups = {"its own f32 path (candle)": ["candle-f32"], "best int8 peer": peers}
    rows = [
        [f"{title}, {label}"] + [f"{ratio(part['grid'][cell], names, of):.2f}" for cell in cells]
        for title, names in groups.items()
        for label, of in (("best", best), ("median", middle))
        if ratio(part["grid"][cells[0]], names, of)
    ]
    return table(["time / octet's"] + cells, rows)


def measured(part: dict) -> str:
    """How and when a part was measured, one line."""
    return (
        f"`{part['command']}`, {part['date']}, commit {part['commit']}: {part['rounds']} rounds, "
        f"{part['seconds']:g} s for each cell and engine; took {part['minutes']:g} minutes.\n"
    )


def describe_stream(sequences: list[np.ndarray]) -> dict:
    """Tokens of the stream, and what padding makes of them."""
    padded = lambda order: sum(workload.pad(batch)[0].size for batch in workload.batches(order))
    return {
        "texts": len(sequences),
        "tokens": sum(len(ids) for ids in sequences),
        "padded_arrival": padded(sequences),
        "padded_sorted": padded(sorted(sequences, key=len)),
    }


def markdown(results: dict) -> str:
    parts, stream = results["parts"], results["workload"]
    blocks = [
        f"Machine: {results['machine']}.\n",
        "Versions: " + ", ".join(f"{name} {number}" for name, number in results["versions"].items()) + ".\n",
    ]
    for key, heading in (
        ("threads-2", "As the machine is, two threads"),
        ("threads-1", "As the machine is, one thread"),
        ("no-amx", "AVX-512 VNNI without AMX, two threads"),
        ("no-amx-threads-1", "AVX-512 VNNI without AMX, one thread"),
        ("avx-vnni", "AVX2 with AVX-VNNI, two threads"),
        ("avx2", "AVX2 alone, two threads"),
    ):
        if part := parts.get(key):
            blocks += [f"### {heading}\n", measured(part), latency_table(part), ratio_table(part)]
            blocks += [
                f"Stream: {stream['texts']:,} texts, {stream['tokens']:,} tokens; padded in batches of "
                f"{workload.STREAM_BATCH} they are {stream['padded_arrival']:,} in the order of arrival and "
                f"{stream['padded_sorted']:,} sorted.\n",
                stream_table(part, stream["tokens"]),
            ]
    for key, heading in (
        ("bert-base", "BERT-base's size, as the machine is, two threads"),
        ("bert-base-no-amx", "BERT-base's size, AVX-512 VNNI without AMX, two threads"),
    ):
        if part := parts.get(key):
            blocks += [f"### {heading}\n", measured(part), latency_table(part), base_table(part)]
    if part := parts.get("accuracy"):
        blocks += ["### Accuracy\n", f"{part['date']}, commit {part['commit']}.\n", accuracy_table(part)]
    return "\n".join(blocks)


def replace_section(file: Path, text: str) -> None:
    """Puts `text` between the two markers of `file`, which has them."""
    before, _, rest = file.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    file.write_text(f"{before}{BEGIN}\n\n{text}\n{END}{after}", encoding="utf-8")
