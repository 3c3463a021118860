# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""ktransformers.local_chat: loads, then answers what comes on standard input, one line a prompt."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from . import flags
from .session import Session
from .tokenizer import TextStreamer

LARGEST_CHUNK = 4096
CACHE = 1024


def run(package: Path, torch_npu, argv: list) -> None:
    """What `python -m ktransformers.local_chat` does after its imports; leaves by SystemExit or an exception."""
    sys.stdout.reconfigure(line_buffering=True)
    local_chat(package, torch_npu, **flags.parse(argv, flags.LOCAL_CHAT))


def local_chat(package, torch_npu, model_path, optimize_config_path, gguf_path, max_new_tokens, cpu_infer, use_cuda_graph, prompt_file,
               mode, force_think, chunk_size, q4_gguf_path, tp):
    session = Session(package, torch_npu)
    session.load(model_path, gguf_path, optimize_config_path, use_cuda_graph, tp)
    if mode == "long_context":
        assert session.architecture == "LlamaForCausalLM", "only LlamaForCausalLM support long_context mode"
    chunk = min(max(int(chunk_size), 512), LARGEST_CHUNK)
    if chunk != int(chunk_size):
        print(f"[WARN] Chunk size reset to legal value between [512, {LARGEST_CHUNK}] which is {chunk}.")
    cache = CACHE + max_new_tokens
    if session.rank != 0:
        wait_for_rank_0()
    while True:
        for line in read_prompts(max_new_tokens, prompt_file):
            _, tokens, text = split_prompt(line)
            prompt = session.tokens_of_chat([{"role": "user", "content": text}])
            if force_think:
                prompt += session.tokenizer.encode("<think>\\n")
            if len(prompt) + tokens > cache:
                print("[WARN] current staticCache size exceeded, try create new staticCache...")
                cache = len(prompt) + tokens
            prefill_and_generate(session, prompt, tokens, bool(force_think))


def read_prompts(max_new_tokens, prompt_file):
    """The lines `LENGTH,MAX_NEW_TOKENS,TEXT` of the next input: a line, several between triple quotes, or a file's."""
    while True:
        try:
            content = input("Chat: ").strip()
        except KeyboardInterrupt:
            print("Exit all ranks with KeyboardInterrupt!")
            sys.exit(0)
        if content.startswith('"""'):
            content = content[3:] + "\n"
            while True:
                line = input("")
                if line.endswith('"""'):
                    content += line[:-3] + "\n" if line[:-3] else ""
                    break
                content += line + "\n"
        if content == "":
            if prompt_file is None:
                continue
            # As published: the text itself is walked, character by character, and the first one is no number.
            with open(prompt_file, encoding="utf-8") as stream:
                return stream.read()
        if os.path.isfile(content):
            with open(content, encoding="utf-8") as stream:
                return stream.readlines()
        return [f"{len(content)},{max_new_tokens},{content}"]


def split_prompt(line: str) -> tuple:
    parts = line.split(",")
    length, tokens = int(parts[0]), int(parts[1])
    return length, tokens, line[line.index(",", line.index(",") + 1) + 1:]


def wait_for_rank_0() -> None:
    """Other ranks sit in a barrier until the process that started them ends."""
    parent = os.getppid()
    while os.getppid() == parent:
        time.sleep(0.2)
    sys.exit(0)


def dump(values) -> str:
    """The published decode loop prints the logits of every token, shortened as torch shortens them."""
    if values is None:
        numbers = "nan, nan, nan,  ..., nan, nan, nan"
    else:
        words = [f"{float(value):.4f}" for value in (*values[:3], *values[-3:])]
        numbers = ", ".join(words[:3]) + ",  ..., " + ", ".join(words[3:])
    return f"tensor([[[{numbers}]]], device='npu:0',\n       dtype=torch.float16)"


def prefill_and_generate(session: Session, prompt: list, max_new_tokens: int, force_think: bool) -> None:
    """Streams the answer, then prints the seven closing lines."""
    stream, rank, end = TextStreamer(session.tokenizer), session.rank, session.tokenizer.eos_token_id
    count, started = 0, time.perf_counter()
    prefill_seconds = 0.0
    decode_started = started
    for token, logits in session.answer(prompt, max_new_tokens):
        if count == 0:
            prefill_seconds = time.perf_counter() - started
            decode_started = time.perf_counter()
            if force_think:
                print("<think>")
            print(stream.put(token), end="", flush=True)
        else:
            # The graph is captured at the second decoded token of the first prompt, at the first one later.
            if session.graph and count == (1 if session.captured else 2):
                session.capture_graph()
            print(dump(logits))
            if session.graph:
                print(f"tensor([{token}], device='npu:0')")
            print(stream.end() if token == end else stream.put(token), end="", flush=True)
        count += 1
    if session.graph:
        session.destroy_graph()
    session.profile()
    seconds = max(time.perf_counter() - decode_started, 1e-9)
    prefill_seconds = max(prefill_seconds, 1e-9)
    mark = f"[rank:{rank}]"
    print(f"\n{mark} Eval Time\n"
          f"{mark}prompt eval count:    {len(prompt)} token(s)\n"
          f"{mark}prompt eval duration: {prefill_seconds:.9f}s\n"
          f"{mark}prompt eval rate:     {len(prompt) / prefill_seconds:.9f} tokens/s\n"
          f"{mark}eval count:           {count} token(s)\n"
          f"{mark}eval duration:        {seconds:.9f}s\n"
          f"{mark}eval rate:            {count / seconds:.9f} tokens/s\n", flush=True)
