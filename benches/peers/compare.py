#!/usr/bin/env python3
"""octet against its peers on the same token ids, interleaved: run.sh calls this with everything in place.

A round starts every engine in a process of its own, then goes from cell to cell and asks each engine in turn, so that
what disturbs the machine disturbs all of them; the next round starts new processes. An engine's figure in a cell is the
median of its runs; over rounds the median and the best of those medians are kept. Slow engines take part in the first
round only. Parts that are not asked for keep what an earlier run found, with its date.
"""

import argparse
import contextlib
import datetime
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import accuracy
import cpu
import options
import processes
import report
import roster
import workload

# What the CPU must have for a part to differ from the others, by Linux's names.
NEEDED = {
    "no-amx": "amx_int8",
    "no-amx-threads-1": "amx_int8",
    "bert-base-no-amx": "amx_int8",
    "avx-vnni": "avx_vnni",
}
PACKAGES = ("ctranslate2", "nncf", "numpy", "onnx", "onnxruntime", "openvino", "tokenizers", "torch", "transformers")
# Engines spin for a moment after their last run.
PAUSE_SECONDS = 0.3
# Over the stream, after one that warms up.
STREAM_PASSES = 3


class SharedMachine:
    """Turns on a machine that others use too: a command that answers with a line when the machine is free, and gives it
    back when its standard input is closed. Held for some work at a time, so that all get on."""

    HOLD_SECONDS = 50

    def __init__(self, command: str | None):
        self.command = command and shlex.split(command)
        self.holder = None
        self.taken = 0.0

    @contextlib.contextmanager
    def turn(self):
        """Takes the machine, if it is shared and not held, and gives it back when it was held long enough."""
        if self.command and self.holder is None:
            self.holder = subprocess.Popen(self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.holder.stdout.readline()
            self.taken = time.monotonic()
        yield
        if time.monotonic() - self.taken > self.HOLD_SECONDS:
            self.give_back()

    def give_back(self) -> None:
        if self.holder:
            self.holder.stdin.close()
            self.holder.wait()
            self.holder = None


class Comparison:
    """What all parts share."""

    def __init__(self, args: argparse.Namespace):
        self.args = args
        # Of the parts beside threads-2 and no-amx.
        self.fewer = min(3, args.rounds)
        self.shared = SharedMachine(args.hold)
        root = args.root
        work = root / "target/peers"
        self.place = roster.Place(
            work=work,
            models=work / "models/minilm",
            octet_model=root / "models/all-MiniLM-L6-v2",
            float_model=args.float,
            octet=root / "target/release/octet",
            rten=work / "rten/release/peer-rten",
            python=Path(sys.executable),
        )
        self.base_place = roster.Place(
            **{
                **vars(self.place),
                "models": work / "models/bert-base",
                "octet_model": work / "bert-base-int8",
                "float_model": work / "bert-base",
            }
        )
        self.stream_file = root / "benches/stream.jsonl"
        self.sentences_file = root / "tests/goldens/sentences.jsonl"
        self.stream_ids = self.ids(self.stream_file, work / "stream-ids.jsonl")
        self.sentence_ids = self.ids(self.sentences_file, work / "sentence-ids.jsonl")

    def ids(self, texts: Path, out: Path) -> Path:
        workload.write_ids(out, workload.tokenize(self.place.float_model, workload.read_texts(texts)))
        return out

    def part(self, entries, others, place, threads: int, cells, orders, rounds: int) -> dict:
        """All rounds of one table: {"grid" | "stream": {cell or order: {engine: [summary of each round]}}}."""
        grid = {cell: {} for cell in cells}
        stream = {order: {} for order in orders}
        for number in range(rounds):
            taking_part = [*entries, *others] if number == 0 else [*entries]
            with self.shared.turn():
                running = [
                    (entry, processes.start(entry, place, threads, self.stream_file)) for entry in taking_part
                ]
            for step, cell in enumerate(cells):
                task = {"task": "grid", "ids": str(self.stream_ids), "cell": cell, "seconds": self.args.seconds}
                asked = [pair for pair in running if cell in pair[0].cells]
                self.ask_all(asked, task, number + step, grid[cell], f"round {number + 1}: {cell}, {threads} thread(s)")
            for order in orders:
                task = {"task": "stream", "ids": str(self.stream_ids), "order": order, "passes": STREAM_PASSES}
                asked = [pair for pair in running if order in pair[0].orders]
                self.ask_all(asked, task, number, stream[order], f"round {number + 1}: {order}, {threads} thread(s)")
            for _, process in running:
                process.close()
        titles = {entry.name: entry.title for entry in [*entries, *others]}
        int8 = [entry.name for entry in [*entries, *others] if entry.int8]
        return {"threads": threads, "rounds": rounds, "engines": titles, "int8": int8, "grid": grid, "stream": stream}

    def ask_all(self, running, task: dict, first: int, results: dict, what: str) -> None:
        """Asks each engine in turn, another one first each time, and checks that all had the same ids."""
        first %= len(running)
        print(what, file=sys.stderr, flush=True)
        digests = {}
        for entry, process in running[first:] + running[:first]:
            with self.shared.turn():
                time.sleep(PAUSE_SECONDS)
                answer = process.ask(task)
            digests[entry.name] = answer.pop("ids_sha256")
            results.setdefault(entry.name, []).append(answer)
        if len(set(digests.values())) != 1:
            raise processes.EngineFailed(f"{what}: the engines had different token ids: {digests}")

    def threads_2(self) -> dict:
        others = () if self.args.quick else roster.OTHERS
        orders = ("arrival", "sorted")
        return self.part(roster.CONTENDERS, others, self.place, 2, workload.GRID, orders, self.args.rounds)

    def threads_1(self) -> dict:
        return self.part(roster.CONTENDERS, (), self.place, 1, workload.GRID, ("arrival",), self.fewer)

    def no_amx(self) -> dict:
        entries, others = roster.without_amx(roster.CONTENDERS), roster.without_amx(roster.OTHERS)
        others = () if self.args.quick else others
        orders = ("arrival", "sorted")
        return self.part(entries, others, self.place, 2, workload.GRID, orders, self.args.rounds)

    def no_amx_threads_1(self) -> dict:
        entries = roster.without_amx(roster.CONTENDERS)
        return self.part(entries, (), self.place, 1, workload.GRID, ("arrival",), self.fewer)

    def avx_vnni(self) -> dict:
        return self.part(roster.without_avx512("avx_vnni"), (), self.place, 2, workload.GRID, ("arrival",), self.fewer)

    def avx2(self) -> dict:
        return self.part(roster.without_avx512("avx2"), (), self.place, 2, workload.GRID, ("arrival",), self.fewer)

    def bert_base(self) -> dict:
        return self.part(roster.BASE, (), self.base_place, 2, roster.BASE_CELLS, (), self.fewer)

    def bert_base_no_amx(self) -> dict:
        return self.part(roster.without_amx(roster.BASE), (), self.base_place, 2, roster.BASE_CELLS, (), self.fewer)

    def accuracy(self) -> dict:
        """Closeness to f32 of every engine's vectors of the golden sentences; no times."""
        texts = workload.read_texts(self.sentences_file)
        reference = accuracy.reference(self.sentences_file)
        expected = workload.digest(workload.read_ids(self.sentence_ids))
        found = {}
        entries = [*roster.CONTENDERS, *roster.OTHERS, roster.ONNXRUNTIME_AVX2]
        for entry in entries:
            if not entry.cells or "--float" in entry.flags:
                continue
            print(f"accuracy: {entry.title}", file=sys.stderr, flush=True)
            with self.shared.turn():
                if entry.engine == "octet":
                    vectors = accuracy.octet_vectors(self.place, texts)
                else:
                    vectors = self.vectors(entry, len(texts), expected)
            found[entry.name] = accuracy.closeness(vectors, reference)
        titles = {entry.name: entry.title for entry in entries}
        return {"engines": titles, "closeness": found}

    def vectors(self, entry: roster.Entry, count: int, expected: str):
        import numpy as np

        out = self.place.work / "vectors.bin"
        process = processes.start(entry, self.place, 2, self.stream_file)
        answer = process.ask({"task": "vectors", "ids": str(self.sentence_ids), "out": str(out)})
        process.close()
        if answer["ids_sha256"] != expected:
            raise processes.EngineFailed(f"{entry.name} had other token ids than it was given")
        return np.fromfile(out, dtype="<f4").reshape(count, -1)


def machine() -> str:
    """CPU, its number and its memory, in words."""
    fields = cpu.fields()
    known = ("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    flags = [flag for flag in known if cpu.has(flag)]
    memory = next(int(line.split()[1]) for line in Path("/proc/meminfo").read_text().splitlines() if "MemTotal" in line)
    return (
        f"{fields['model name']} (family {fields['cpu family']}, model {fields['model']}), "
        f"{os.cpu_count()} CPUs, {', '.join(flags)}, {memory / 2**20:.0f} GiB"
    )


def rust_versions(root: Path) -> dict:
    """Versions of candle and rten from the two lock files."""
    def locked(file: Path, package: str) -> str:
        lines = file.read_text(encoding="utf-8").splitlines()
        return lines[lines.index(f'name = "{package}"') + 1].split('"')[1]

    return {
        "candle": locked(root / "Cargo.lock", "candle-core"),
        "rten": locked(root / "benches/peers/rten/Cargo.lock", "rten"),
    }


def commit(root: Path) -> str:
    """The commit that last changed octet's source, with a + when files differ from it."""
    sources = ("--", "src", "Cargo.toml", "Cargo.lock")
    git = lambda *arguments: subprocess.run(["git", *arguments, *sources], cwd=root, capture_output=True, text=True).stdout.strip()
    return git("log", "-1", "--format=%h", "--abbrev=12") + ("+" if git("status", "--porcelain") else "")


def main() -> None:
    parser = options.parser()
    parser.add_argument("--root", type=Path, required=True, help="the repository")
    parser.add_argument("--float", type=Path, required=True, help="all-MiniLM-L6-v2 in f32")
    parser.add_argument("--command", required=True, help="what the reader types to run this, for the report")
    args = options.with_defaults(parser.parse_args())

    comparison = Comparison(args)
    file = comparison.place.work / "results.json"
    results = json.loads(file.read_text()) if file.exists() else {"parts": {}}
    results["machine"] = machine()
    results["versions"] = {name: version(name) for name in PACKAGES} | rust_versions(args.root)
    results["workload"] = report.describe_stream(workload.read_ids(comparison.stream_ids))
    for part in args.only:
        if part in NEEDED and not cpu.has(NEEDED[part]):
            print(f"{part}: left out, this CPU has no {NEEDED[part]}", file=sys.stderr)
            results["parts"].pop(part, None)
            continue
        started = time.monotonic()
        try:
            found = getattr(comparison, part.replace("-", "_"))()
        except processes.EngineFailed as error:
            sys.exit(f"{part}: {error}")
        comparison.shared.give_back()
        results["parts"][part] = found | {
            "command": args.command,
            "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": commit(args.root),
            "seconds": args.seconds,
            "minutes": round((time.monotonic() - started) / 60, 1),
        }
        file.write_text(json.dumps(results, indent=1) + "\n")
    markdown = report.markdown(results)
    file.with_suffix(".md").write_text(markdown)
    if args.docs:
        report.replace_section(args.docs, markdown)
    print(f"results: {file} and {file.with_suffix('.md')}")


if __name__ == "__main__":
    main()
