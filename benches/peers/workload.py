"""What every engine is timed on: token ids of real texts, the same for all, and their digest.

A grid cell (B, T) holds B sequences of T tokens without padding: the ids of the stream's texts, concatenated in order,
cut every T ids (from the start again at the end). The stream holds the texts themselves, in batches of 32.
`octet bench` makes the same ids from the same texts by itself; the digests show that they are the same.
"""

import hashlib
import json
from pathlib import Path

import numpy as np

MAX_TOKENS = 256
STREAM_BATCH = 32
GRID = ("1x16", "1x32", "1x128", "1x512", "8x32", "8x128", "32x32", "32x128", "32x512")


def read_texts(path: Path) -> list[str]:
    """The `text` of each line of a jsonl file."""
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line)["text"] for line in lines]


def tokenize(model: Path, texts: list[str]) -> list[np.ndarray]:
    """int64 ids of each text by the tokenizer.json in `model`, [CLS] ... [SEP] included, at most MAX_TOKENS."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    return [np.array(encoded.ids, dtype=np.int64) for encoded in tokenizer.encode_batch(texts)]


def write_ids(path: Path, sequences: list[np.ndarray]) -> None:
    """One JSON array of ids a line, for the workers to read."""
    path.write_text("".join(json.dumps(ids.tolist()) + "\n" for ids in sequences), encoding="ascii")


def read_ids(path: Path) -> list[np.ndarray]:
    with path.open(encoding="ascii") as lines:
        return [np.array(json.loads(line), dtype=np.int64) for line in lines]


def parse_cell(cell: str) -> tuple[int, int]:
    """(sequences, tokens of each) of a name such as 8x128."""
    batch, _, tokens = cell.partition("x")
    return int(batch), int(tokens)


def grid_cell(sequences: list[np.ndarray], batch: int, tokens: int) -> np.ndarray:
    """int64 ids of shape [batch, tokens]."""
    return np.resize(np.concatenate(sequences), batch * tokens).reshape(batch, tokens)


def batches(sequences: list[np.ndarray]) -> list[list[np.ndarray]]:
    """`sequences` in their order, STREAM_BATCH at a time."""
    return [sequences[i : i + STREAM_BATCH] for i in range(0, len(sequences), STREAM_BATCH)]


def pad(batch: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """int64 ids and mask of shape [len(batch), longest], padded with 0 ([PAD]) on the right."""
    longest = max(len(ids) for ids in batch)
    ids = np.zeros((len(batch), longest), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, sequence in enumerate(batch):
        ids[row, : len(sequence)] = sequence
        mask[row, : len(sequence)] = 1
    return ids, mask


def digest(sequences) -> str:
    """SHA-256 over all ids, in order, as little-endian u32; padding does not count."""
    return hashlib.sha256(np.concatenate(list(sequences)).astype("<u4").tobytes()).hexdigest()
