# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Byte-level BPE, as tokenizer.json describes it (DeepSeek's kind: a Split on digits, then GPT-2's ByteLevel).

Standard library only: Python's `re` has no \\p{…}, so the pre-tokenizer classifies characters itself.
Format: https://huggingface.co/docs/tokenizers, byte alphabet: https://github.com/openai/gpt-2 (encoder.py).
"""

from __future__ import annotations

CONTRACTIONS = ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d")


def byte_alphabet() -> dict:
    """byte -> printable character, GPT-2's reversible mapping."""
    kept = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    alphabet, extra = {}, 0
    for byte in range(256):
        if byte in kept:
            alphabet[byte] = chr(byte)
        else:
            alphabet[byte] = chr(256 + extra)
            extra += 1
    return alphabet


class Tokenizer:
    """`data` is tokenizer.json, `settings` tokenizer_config.json."""

    def __init__(self, data: dict, settings: dict):
        model = data["model"]
        self.settings = settings
        self.vocabulary = dict(model["vocab"])
        self.special = {}
        for token in data.get("added_tokens", []):
            self.vocabulary[token["content"]] = token["id"]
            if token.get("special"):
                self.special[token["content"]] = token["id"]
        self.pieces = {number: piece for piece, number in self.vocabulary.items()}
        merges = [tuple(merge.split(" ", 1)) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
        self.ranks = {merge: rank for rank, merge in enumerate(merges)}
        self.alphabet = byte_alphabet()
        self.bytes = {character: byte for byte, character in self.alphabet.items()}
        self.chat_template = settings.get("chat_template")

    @property
    def eos_token_id(self):
        token = self.settings.get("eos_token")
        return self.vocabulary.get(token["content"] if isinstance(token, dict) else token)

    def encode(self, text: str) -> list:
        numbers: list = []
        for part in self._split_special(text):
            if part in self.special:
                numbers.append(self.special[part])
                continue
            for word in pre_tokenize(part):
                symbols = self._merge([self.alphabet[byte] for byte in word.encode("utf-8")])
                numbers.extend(self.vocabulary[symbol] for symbol in symbols if symbol in self.vocabulary)
        return numbers

    def decode(self, numbers, skip_special_tokens: bool = True) -> str:
        text, pending = "", bytearray()
        for number in numbers:
            piece = self.pieces.get(int(number), "")
            if piece in self.special:
                text += pending.decode("utf-8", "replace")
                pending.clear()
                text += "" if skip_special_tokens else piece
            else:
                pending.extend(self.bytes[character] for character in piece if character in self.bytes)
        return text + pending.decode("utf-8", "replace")

    def _split_special(self, text: str) -> list:
        parts = [text]
        for token in sorted(self.special, key=len, reverse=True):
            split: list = []
            for part in parts:
                if part in self.special or token not in part:
                    split.append(part)
                    continue
                pieces = part.split(token)
                for index, piece in enumerate(pieces):
                    split.extend(([token] if index else []) + ([piece] if piece else []))
            parts = split
        return parts

    def _merge(self, symbols: list) -> list:
        while len(symbols) > 1:
            pairs = [(self.ranks[pair], index) for index, pair in enumerate(zip(symbols, symbols[1:])) if pair in self.ranks]
            if not pairs:
                break
            _, index = min(pairs)
            symbols = symbols[:index] + [symbols[index] + symbols[index + 1]] + symbols[index + 2:]
        return symbols


def pre_tokenize(text: str) -> list:
    """Runs of up to three digits alone (DeepSeek's Split), the rest by GPT-2's expression."""
    words: list = []
    position = 0
    while position < len(text):
        if text[position].isnumeric():
            end = position
            while end < len(text) and end - position < 3 and text[end].isnumeric():
                end += 1
            words.append(text[position:end])
        else:
            end = position
            while end < len(text) and not text[end].isnumeric():
                end += 1
            words.extend(_gpt2(text[position:end]))
        position = end
    return words


def _gpt2(text: str) -> list:
    """'s|'t|…| ?\\p{L}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+ on a text without digits."""
    words: list = []
    position = 0
    while position < len(text):
        contraction = next((word for word in CONTRACTIONS if text.startswith(word, position)), None)
        if contraction:
            words.append(contraction)
            position += len(contraction)
            continue
        start = position + 1 if text[position] == " " and position + 1 < len(text) else position
        end = start
        if text[start].isalpha():
            while end < len(text) and text[end].isalpha():
                end += 1
        elif not text[start].isspace():
            while end < len(text) and not text[end].isalpha() and not text[end].isspace():
                end += 1
        else:
            end = position
            while end < len(text) and text[end].isspace():
                end += 1
            # The last blank before a word belongs to that word.
            if end < len(text) and end - position > 1:
                end -= 1
        words.append(text[position:end])
        position = end
    return words


class TextStreamer:
    """Prints whole words, as soon as they are whole (ktransformers/util/textstream.py)."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        self.cache: list = []
        self.printed = 0

    def put(self, number: int) -> str:
        self.cache.append(number)
        text = self.tokenizer.decode(self.cache)
        if text.endswith("\n"):
            printable = text[self.printed:]
            self.cache, self.printed = [], 0
        elif text and is_chinese(ord(text[-1])):
            printable = text[self.printed:]
            self.printed += len(printable)
        else:
            printable = text[self.printed:text.rfind(" ") + 1]
            self.printed += len(printable)
        return printable

    def end(self) -> str:
        printable = self.tokenizer.decode(self.cache)[self.printed:] if self.cache else ""
        self.cache, self.printed = [], 0
        return printable


def is_chinese(point: int) -> bool:
    blocks = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F), (0x2B740, 0x2B81F), (0x2B820, 0x2CEAF),
              (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
    return any(first <= point <= last for first, last in blocks)
