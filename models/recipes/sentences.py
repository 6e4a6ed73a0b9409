#!/usr/bin/env python3
"""Human-rated sentences (VADER's four corpora, MIT) as labelled jsonl: train.jsonl, dev.jsonl, test.jsonl.

    python3 models/recipes/sentences.py SDIST.tar.gz OUT_DIR

SDIST is the source distribution of the PyPI package vadersentiment 3.3.1 (its digest is checked). Each line has
text, label, rating (mean of about 20 human ratings, -4..4), and source (tweets, movie, amazon, nyt).

Split: first four bytes, big-endian, of SHA-256 of the UTF-8 text, mod 10: 0-7 train, 8 dev, 9 test, so that equal
texts never fall on both sides. Label: negative below -0.2, positive above 0.2, neutral between.
Source: Hutto & Gilbert, VADER, ICWSM 2014.
"""
import hashlib
import io
import json
import sys
import tarfile
from pathlib import Path

SDIST_SHA256 = "6ea3b53f1835a1bb9125cbb9872e8740bd506ab1d9f2266d0c63109b858d71af"
CORPORA = "vaderSentiment-3.3.1/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}


def split_of(text: str) -> str:
    bucket = int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big") % 10
    return "train" if bucket < 8 else "dev" if bucket == 8 else "test"


def label_of(rating: float) -> str:
    return "negative" if rating < -0.2 else "positive" if rating > 0.2 else "neutral"


def rows(sdist: Path):
    """Each rated snippet of the source distribution, in the corpora's order: text, label, rating, source."""
    data = sdist.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SDIST_SHA256:
        sys.exit(f"{sdist}: SHA-256 is {digest}, expected {SDIST_SHA256}")
    with tarfile.open(fileobj=io.BytesIO(data)) as outer:
        inner = io.BytesIO(outer.extractfile(CORPORA).read())
    with tarfile.open(fileobj=inner) as corpora:
        for source, name in FILES.items():
            lines = corpora.extractfile(f"hutto_ICWSM_2014/{name}").read().decode("utf-8", "replace")
            for line in lines.split("\n"):
                if not line.strip():
                    continue
                _, rating, text = line.rstrip("\r").split("\t", 2)
                text, rating = text.strip(), float(rating)
                yield {"text": text, "label": label_of(rating), "rating": rating, "source": source}


def main(sdist: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    files = {s: (out / f"{s}.jsonl").open("w", encoding="utf-8") for s in ("train", "dev", "test")}
    counts = dict.fromkeys(files, 0)
    for row in rows(sdist):
        split = split_of(row["text"])
        files[split].write(json.dumps(row, ensure_ascii=False) + "\n")
        counts[split] += 1
    print(", ".join(f"{name}: {n}" for name, n in counts.items()))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(Path(sys.argv[1]), Path(sys.argv[2]))
