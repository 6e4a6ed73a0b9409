"""How close an engine's sentence vectors are to f32's, so that nobody is fast by being wrong."""

import base64
import json
import re
import subprocess
import urllib.request
from pathlib import Path

import numpy as np

import roster

# Texts in one request to octet.
REQUEST = 32


def closeness(found: np.ndarray, reference: np.ndarray) -> dict:
    """Cosine of each vector to its reference, and the share of texts whose nearest other text stays the same.

    Both [texts, hidden], in the same order, not necessarily of length 1.
    """
    found, reference = normalized(found), normalized(reference)
    cosines = (found * reference).sum(axis=1)
    same = nearest(found) == nearest(reference)
    return {
        "texts": len(cosines),
        "mean": float(cosines.mean()),
        "p1": float(np.quantile(cosines, 0.01)),
        "min": float(cosines.min()),
        "same_nearest": float(same.mean()),
    }


def normalized(vectors: np.ndarray) -> np.ndarray:
    vectors = vectors.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def nearest(vectors: np.ndarray) -> np.ndarray:
    """Index of the most similar other row."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return similarity.argmax(axis=1)


def reference(sentences: Path) -> np.ndarray:
    """The f32 vectors beside the sentences' file: mean over tokens, computed by PyTorch one text at a time."""
    from safetensors.numpy import load_file

    return load_file(sentences.with_suffix(".safetensors"))["pooled"]


def octet_vectors(place: roster.Place, texts: list[str]) -> np.ndarray:
    """The vectors that a running `octet serve` answers with."""
    command = [place.octet, "serve", "--port", "0", "--model", f"model={place.octet_model}"]
    with subprocess.Popen([str(part) for part in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as server:
        try:
            address = next(found[0] for line in server.stdout if (found := re.search(r"127\.0\.0\.1:[1-9]\d*", line)))
            return np.concatenate([embed(address, texts[i : i + REQUEST]) for i in range(0, len(texts), REQUEST)])
        finally:
            server.terminate()


def embed(address: str, texts: list[str]) -> np.ndarray:
    body = json.dumps({"model": "model", "input": texts, "encoding_format": "base64"}).encode()
    request = urllib.request.Request(f"http://{address}/v1/embeddings", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        data = json.load(answer)["data"]
    return np.stack([np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in data])
