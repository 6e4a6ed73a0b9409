#!/usr/bin/env python3
"""Human-rated sentences (VADER's four corpora, MIT) as labelled jsonl: train.jsonl, dev.jsonl, test.jsonl.

    python3 models/recipes/sentences.py SDIST.tar.gz OUT_DIR

SDIST is the source distribution of the PyPI package vadersentiment 3.3.1 (its digest is checked). Each line has
text, label, probabilities, rating (mean of about 20 human ratings, -4..4), ratings (these; those of 199 tweets have
another mean than the source states), vader (what VADER 3.3.1 itself says, -1..1), and source (tweets, movie, amazon, nyt).

The probabilities say how likely each label is for the mean that many more people would give: normal around the mean of
these ratings, with their standard error. `octet train` learns them in place of the label.

Split: first four bytes, big-endian, of SHA-256 of the UTF-8 text, mod 10: 0-7 train, 8 dev, 9 test, so that equal
texts never fall on both sides. Label: negative below -0.2, positive above 0.2, neutral between.
Source: Hutto & Gilbert, VADER, ICWSM 2014.
"""
import hashlib
import importlib.util
import io
import json
import statistics
import sys
import tarfile
import tempfile
from pathlib import Path

SDIST_SHA256 = "6ea3b53f1835a1bb9125cbb9872e8740bd506ab1d9f2266d0c63109b858d71af"
CORPORA = "vaderSentiment-3.3.1/additional_resources/hutto_ICWSM_2014.tar.gz"
FILES = {
    "tweets": "tweets_GroundTruth.txt",
    "movie": "movieReviewSnippets_GroundTruth.txt",
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "nyt": "nytEditorialSnippets_GroundTruth.txt",
}
# VADER reads its lexicons from where it lies.
PROGRAM = ["vaderSentiment.py", "vader_lexicon.txt", "emoji_utf8_lexicon.txt"]


def split_of(text: str) -> str:
    bucket = int.from_bytes(hashlib.sha256(text.encode("utf-8")).digest()[:4], "big") % 10
    return "train" if bucket < 8 else "dev" if bucket == 8 else "test"


def label_of(rating: float) -> str:
    return "negative" if rating < -0.2 else "positive" if rating > 0.2 else "neutral"


def probabilities_of(rating: float, ratings: list) -> dict:
    error = max(statistics.stdev(ratings), 0.1) / len(ratings) ** 0.5
    mean = statistics.NormalDist(rating, error)
    negative, positive = mean.cdf(-0.2), 1 - mean.cdf(0.2)
    shares = {"negative": negative, "neutral": 1 - negative - positive, "positive": positive}
    return {label: round(share, 4) for label, share in shares.items()}


def checked(sdist: Path) -> bytes:
    data = sdist.read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    if digest != SDIST_SHA256:
        sys.exit(f"{sdist}: SHA-256 is {digest}, expected {SDIST_SHA256}")
    return data


def vader(data: bytes):
    """VADER's own score of a text, from the program in the source distribution."""
    with tempfile.TemporaryDirectory() as folder, tarfile.open(fileobj=io.BytesIO(data)) as outer:
        for name in PROGRAM:
            content = outer.extractfile(f"vaderSentiment-3.3.1/vaderSentiment/{name}").read()
            (Path(folder) / name).write_bytes(content)
        spec = importlib.util.spec_from_file_location("vaderSentiment", Path(folder) / PROGRAM[0])
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        analyzer = module.SentimentIntensityAnalyzer()
    return lambda text: analyzer.polarity_scores(text)["compound"]


def rows(sdist: Path):
    """Each rated snippet of the source distribution, in the corpora's order: text, label, rating, ratings, source."""
    with tarfile.open(fileobj=io.BytesIO(checked(sdist))) as outer:
        inner = io.BytesIO(outer.extractfile(CORPORA).read())
    with tarfile.open(fileobj=inner) as corpora:

        def lines(name: str):
            content = corpora.extractfile(f"hutto_ICWSM_2014/{name}").read().decode("utf-8", "replace")
            return [line.rstrip("\r") for line in content.lstrip("\ufeff").split("\n") if line.strip()]

        for source, name in FILES.items():
            single = {}
            for line in lines(name.replace("GroundTruth", "anonDataRatings")):
                key, _, _, ratings = line.split("\t", 3)
                single[key] = json.loads(ratings)
            for line in lines(name):
                key, rating, text = line.split("\t", 2)
                text, rating = text.strip(), float(rating)
                yield {
                    "text": text,
                    "label": label_of(rating),
                    "rating": rating,
                    "ratings": single[key],
                    "source": source,
                }


def main(sdist: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    files = {s: (out / f"{s}.jsonl").open("w", encoding="utf-8") for s in ("train", "dev", "test")}
    counts = dict.fromkeys(files, 0)
    score = vader(checked(sdist))
    for row in rows(sdist):
        split = split_of(row["text"])
        row["vader"] = score(row["text"])
        row["probabilities"] = probabilities_of(row["rating"], row["ratings"])
        files[split].write(json.dumps(row, ensure_ascii=False) + "\n")
        counts[split] += 1
    print(", ".join(f"{name}: {n}" for name, n in counts.items()))


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    main(*map(Path, sys.argv[1:]))
