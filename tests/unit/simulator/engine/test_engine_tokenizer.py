"""The byte-level tokenizer, on the tiny model's tokenizer.json."""

from __future__ import annotations

import json

import pytest

from tests.simulator.engine.tokenizer import TextStreamer, Tokenizer, pre_tokenize
from tests.unit.simulator.engine import merging


@pytest.fixture(scope="module")
def tokenizer():
    folder = merging.PAIR / "w8a8"
    return Tokenizer(json.loads((folder / "tokenizer.json").read_text()), json.loads((folder / "tokenizer_config.json").read_text()))


@pytest.mark.parametrize("text", ["Hello, world!", "  two  blanks\n\nand lines\t", "12345 六朝 naïve ½", "it's we'll", ""])
def test_text_comes_back(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_merges_are_used(tokenizer):
    first = json.loads((merging.PAIR / "w8a8" / "tokenizer.json").read_text())["model"]["merges"][0].replace(" ", "")
    assert tokenizer.encode(first) == [tokenizer.vocabulary[first]]


def test_special_tokens_are_one_token_and_left_out_of_text(tokenizer):
    numbers = tokenizer.encode("<s>a</s>")
    assert numbers == [0, tokenizer.vocabulary["a"], 1]
    assert (tokenizer.decode(numbers), tokenizer.decode(numbers, skip_special_tokens=False)) == ("a", "<s>a</s>")
    assert tokenizer.eos_token_id == 1


@pytest.mark.parametrize("text, words", [
    ("one two", ["one", " two"]),
    ("a  b", ["a", " ", " b"]),
    ("x1234y", ["x", "123", "4", "y"]),
    ("it's (fine)!", ["it", "'s", " (", "fine", ")!"]),
    ("end  ", ["end", "  "]),
    ("a\n\nb", ["a", "\n", "\n", "b"]),
])
def test_pre_tokenizer(text, words):
    assert pre_tokenize(text) == words


def test_the_stream_shows_whole_words_only(tokenizer):
    stream = TextStreamer(tokenizer)
    shown = [stream.put(tokenizer.vocabulary[piece]) for piece in ("a", "b", "\u0120", "c")]
    assert (shown, stream.end()) == (["", "", "ab ", ""], "c")
