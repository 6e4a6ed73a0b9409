#!/usr/bin/env python3
"""One engine in a process of its own: a task a line on standard input, its answer a line on standard output, in JSON.

    {"task": "grid", "ids": FILE, "cell": "8x128", "seconds": 1.0}
    {"task": "stream", "ids": FILE, "order": "arrival" | "sorted", "passes": 3}
    {"task": "vectors", "ids": FILE, "out": FILE}

It says {"ready": true} when its model is loaded. The first two tasks answer with {"times": [seconds of each run], "ids_sha256"}. `vectors` writes the mean over the real tokens
of the last hidden states, f32 little-endian [sequences, hidden], one sequence at a time so that no padding is involved,
and answers with {"ids_sha256"}. Sorted means by length, for the whole stream. peer-rten understands the same tasks.
"""

import argparse
import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import roster
import workload

MIN_RUNS = 5


def grid(engine, sequences: list, task: dict) -> dict:
    """Runs the cell for `seconds` after a warm-up of a third of that: at least MIN_RUNS times, but a slow engine, whose
    run takes longer than `seconds`, only twice."""
    ids = workload.grid_cell(sequences, *workload.parse_cell(task["cell"]))
    mask = np.ones_like(ids)
    seconds = task["seconds"]
    run = lambda: engine.run(ids, mask)
    first = timed(run)
    spent = first
    while spent < seconds / 3:
        spent += timed(run)
    least = MIN_RUNS if first < seconds else 2
    times = []
    while len(times) < least or sum(times) < seconds:
        times.append(timed(run))
    return {"times": times, "ids_sha256": workload.digest(ids)}


def stream(engine, sequences: list, task: dict) -> dict:
    """Passes over the whole stream, padded before the clock starts; the first pass is the warm-up."""
    if task["order"] == "sorted":
        sequences = sorted(sequences, key=len)
    batches = [workload.pad(batch) for batch in workload.batches(sequences)]
    engine.run_all(batches)
    times = [timed(lambda: engine.run_all(batches)) for _ in range(task["passes"])]
    return {"times": times, "ids_sha256": workload.digest(sequences)}


def vectors(engine, sequences: list, task: dict) -> dict:
    pooled = [engine.run(ids[None], np.ones_like(ids[None]))[0].mean(axis=0) for ids in sequences]
    Path(task["out"]).write_bytes(np.stack(pooled).astype("<f4").tobytes())
    return {"ids_sha256": workload.digest(sequences)}


def timed(run) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", required=True, choices=sorted(roster.IN_PYTHON), metavar="NAME")
    parser.add_argument("--models", type=Path, required=True, help="folder that export.py wrote")
    parser.add_argument("--threads", type=int, required=True)
    args = parser.parse_args()
    # Only answers go to standard output, whatever the libraries print.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    engine = roster.IN_PYTHON[args.engine](args.models, args.threads)
    print(json.dumps({"ready": True}), file=answers, flush=True)
    tasks = {"grid": grid, "stream": stream, "vectors": vectors}
    for line in sys.stdin:
        task = json.loads(line)
        answer = tasks[task["task"]](engine, workload.read_ids(Path(task["ids"])), task)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
