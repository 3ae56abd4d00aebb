"""Texts in, unit vectors out. Chroma never embeds for us: its default would download a model."""

from __future__ import annotations

import itertools
import re
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from threading import RLock
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from evolvent.memory.cache import embedder_path
from evolvent.memory.compute import compute
from evolvent.memory.quiet import quiet_transformers

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer


Floats = NDArray[np.float32]


class Embedder(Protocol):
    """A fixed map from text to direction.

    - `embed` gives float32 `[N, dim]` in the order of `texts`, each row of length 1.
    - Two embedders of one `name` give the same vectors: stored ones are found by it.
    """

    name: str
    dim: int

    def embed(self, texts: Sequence[str]) -> Floats: ...


class MiniLM:
    """all-MiniLM-L6-v2: sentences and short paragraphs, the first 256 tokens count.

    The weights are loaded at the first text that is not remembered.
    """

    name = "all-MiniLM-L6-v2"
    dim = 384

    def __init__(self, *, remembered: int = 4096) -> None:
        self._remembered = remembered
        """Texts whose vectors are kept: an episode asks the same question at every step."""
        self._vectors: OrderedDict[str, Floats] = OrderedDict()
        self._model: SentenceTransformer | None = None
        self._threads = RLock()

    def embed(self, texts: Sequence[str]) -> Floats:
        with self._threads:
            new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
            fresh = dict(zip(new, self._encode(new), strict=True)) if new else {}
            vectors = [fresh[text] if text in fresh else self._vectors[text] for text in texts]
            for text, vector in zip(texts, vectors, strict=True):
                self._vectors[text] = vector
                self._vectors.move_to_end(text)
            while len(self._vectors) > self._remembered:
                self._vectors.popitem(last=False)
        return np.stack(vectors) if vectors else np.zeros((0, self.dim), np.float32)

    def _encode(self, texts: list[str]) -> Floats:
        return compute(self._computed, texts)

    def _computed(self, texts: list[str]) -> Floats:
        if self._model is None:
            self._model = _load()
        vectors: Floats = self._model.encode(
            texts, batch_size=64, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )
        return vectors.astype(np.float32)


def _load() -> SentenceTransformer:
    from sentence_transformers import SentenceTransformer

    with quiet_transformers():  # no bar for a second's work, in the middle of whatever the caller shows
        return SentenceTransformer(str(embedder_path()), device="cpu")


class HashEmbedder:
    """Words and pairs of neighbouring words, hashed with a sign into `dim` places.

    No weights and no model to load: for tests, and for starts where shared words are all that matters.
    The signed hashing trick of Weinberger et al. 2009 (arXiv:0902.2206), counts unweighted.
    """

    def __init__(self, dim: int = 256) -> None:
        self.dim = dim
        self.name = f"hash-{dim}"

    def embed(self, texts: Sequence[str]) -> Floats:
        vectors = np.zeros((len(texts), self.dim), np.float32)
        for vector, text in zip(vectors, texts, strict=True):
            for gram in _grams(text):
                code = zlib.crc32(gram.encode())
                vector[code % self.dim] += 1.0 if code >> 31 else -1.0
            if not vector.any():
                vector[0] = 1.0
        unit: Floats = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit


def words(text: str) -> list[str]:
    """Lower-case words and numbers, in order."""
    return re.findall(r"\w+", text.lower())


def _grams(text: str) -> Iterator[str]:
    found = words(text)
    yield from found
    for pair in itertools.pairwise(found):
        yield " ".join(pair)
