#!/usr/bin/env python3
"""The stream that octet and its peers are timed on: benches/stream.jsonl, {"text"} a line.

    python3 models/recipes/stream.py SDIST.tar.gz benches/stream.jsonl

2,000 real snippets, 500 from each of VADER's four corpora (see sentences.py beside this file), in a fixed arrival
order. Both the choice and the order follow SHA-256 of the text, so that they are the same with every Python: each
source gives its first 500 texts in the order of SHA-256 of "choice:" + text, and the texts arrive in the order of
SHA-256 of "arrival:" + text. The source distribution is MIT-licensed, and so is what is taken from it.
"""
import hashlib
import json
import sys
from pathlib import Path

from sentences import FILES, rows

PER_SOURCE = 500


def digest(salt: str, text: str) -> bytes:
    return hashlib.sha256(f"{salt}:{text}".encode("utf-8")).digest()


def main(sdist: Path, out: Path) -> None:
    texts = {source: set() for source in FILES}
    for row in rows(sdist):
        texts[row["source"]].add(row["text"])
    chosen = set()
    for source in FILES:
        # A text that two sources share counts for the first.
        candidates = sorted(texts[source] - chosen, key=lambda text: digest("choice", text))
        chosen.update(candidates[:PER_SOURCE])
    arrival = sorted(chosen, key=lambda text: digest("arrival", text))
    with out.open("w", encoding="utf-8") as file:
        for text in arrival:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    print(f"{out}: {len(arrival)} texts")


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
