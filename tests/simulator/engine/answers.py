# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""From a prompt to tokens: the real forward pass where numpy is at hand, otherwise a digest of everything that was loaded.

Weights of the simulation are random, and random weights speak no language. So that an answer can be read, and a program can see
that there is one, it is kept to words of letters: the model chooses each letter (the highest logit among those that the word has
not yet), the length of words and of the answer is fixed. Either way the answer depends on every byte that was asked for, and on the prompt.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
from pathlib import Path

from .contract import LoadedModel
from .tokenizer import Tokenizer

WORD_LETTERS = 5
ANSWER_WORDS = 12
# build.py writes here which file says where the computer has a real numpy: the simulated wheelhouse has a stand-in of that name.
NUMPY_POINTER = Path(__file__).parent / "numpy_pointer.txt"


def find_numpy():
    """The real numpy, or None. A stand-in of the simulated wheelhouse is put aside, and put back."""
    try:
        numpy = importlib.import_module("numpy")
        if hasattr(numpy, "einsum"):
            return numpy
    except ImportError:
        pass
    folder = numpy_folder()
    if folder is None:
        return None
    aside = {name: sys.modules.pop(name) for name in list(sys.modules) if name.partition(".")[0] == "numpy"}
    sys.path.insert(0, folder)
    try:
        return importlib.import_module("numpy")
    except Exception:  # another Python's build of it, or a broken one: the digest answers
        for name in [name for name in sys.modules if name.partition(".")[0] == "numpy"]:
            del sys.modules[name]
        sys.modules.update(aside)
        return None
    finally:
        sys.path.remove(folder)


def numpy_folder():
    """The folder that the pointer's file names, or None."""
    try:
        pointer = Path(NUMPY_POINTER.read_text(encoding="utf-8").strip())
        folder = pointer.read_text(encoding="utf-8").strip()
    except OSError:
        return None
    return folder if folder and os.path.isdir(folder) else None


class DigestModel:
    """No numpy: SHA-256 over the bytes of every asked tensor, mixed with the tokens so far, in place of logits."""

    words = "no numpy here: answers come from a SHA-256 over all tensors that were asked for, not from a forward pass"

    def __init__(self, model: LoadedModel):
        digest = hashlib.sha256()
        for name in sorted(model.tensors):
            tensor = model.tensors[name]
            digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode())
            digest.update(tensor.read())
        self.weights = digest.digest()
        self.ruined = any(name.endswith(".deq_scale") and tensor.dtype == "I64" for name, tensor in model.tensors.items())

    def start(self, tokens: list):
        self.tokens = list(tokens)
        return self

    def step(self, token=None):
        """A score for each of the first 2048 tokens, or None where real logits would be NaN."""
        if token is not None:
            self.tokens.append(token)
        if self.ruined:
            return None
        state = hashlib.sha256(self.weights + repr(self.tokens).encode()).digest()
        scores = b"".join(hashlib.sha256(state + bytes([index])).digest() for index in range(64))
        return list(scores)


def make(model: LoadedModel):
    """The model that answers: forward.py's with numpy, else the digest."""
    if find_numpy() is None:
        return DigestModel(model)
    # numpy is in sys.modules now, the real one.
    from . import forward
    return forward.ForwardModel(forward.weights_of(model))


def letters(tokenizer: Tokenizer) -> list:
    """The tokens that are one ASCII letter."""
    return sorted(number for piece, number in tokenizer.vocabulary.items() if len(piece) == 1 and piece.isascii() and piece.isalpha())


def generate(engine, tokenizer: Tokenizer, prompt: list, max_new_tokens: int):
    """Yields (token, scores) greedily; the last one is the end-of-sequence token unless max_new_tokens came first."""
    allowed = letters(tokenizer)
    space = tokenizer.vocabulary.get("\u0120", tokenizer.eos_token_id)
    engine.start(prompt)
    scores = engine.step()
    used: list = []
    for count in range(max_new_tokens):
        word, letter = divmod(count, WORD_LETTERS + 1)
        used = used if letter else []
        if scores is None or _is_nan(scores):
            # argmax over NaN is the first index: the begin-of-sentence token, which is never shown.
            token = 0
        elif word == ANSWER_WORDS:
            token = tokenizer.eos_token_id
        elif letter == WORD_LETTERS:
            token = space
        else:
            token = max((number for number in allowed if number not in used), key=lambda number: (scores[number], -number))
            used.append(token)
        yield token, scores
        if token == tokenizer.eos_token_id or count + 1 == max_new_tokens:
            return
        scores = engine.step(token)


def _is_nan(scores) -> bool:
    first = scores[0]
    return first != first
