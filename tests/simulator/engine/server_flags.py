# Copyright (c) 2026, npuops contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The server's command line (ktransformers/server/args.py): argparse, defaults from ~/.ktransformers/config.yaml."""

from __future__ import annotations

import argparse
import os

# Flags that only pass through: the simulated engine takes them, and does nothing with them. (name, type)
PASSED = [
    ("ssl_keyfile", str), ("ssl_certfile", str), ("web", bool), ("device", str), ("architectures", str), ("q4_gguf_path", str),
    ("max_batch_size", int), ("json_mode", bool), ("healing", bool), ("ban_strings", list), ("gpu_split", str), ("length", int),
    ("rope_scale", float), ("rope_alpha", float), ("no_flash_attn", bool), ("low_mem", bool), ("experts_per_token", int),
    ("load_q4", bool), ("fast_safetensors", bool), ("draft_model_dir", str), ("no_draft_scale", bool), ("modes", bool), ("mode", str),
    ("username", str), ("botname", str), ("system_prompt", str), ("temperature", float), ("smoothing_factor", float),
    ("dynamic_temperature", str), ("top_k", int), ("top_p", float), ("top_a", float), ("skew", float), ("typical", float),
    ("repetition_penalty", float), ("frequency_penalty", float), ("presence_penalty", float), ("response_chunk", int),
    ("no_code_formatting", bool), ("cache_8bit", bool), ("cache_q4", bool), ("ngram_decoding", bool), ("print_timings", bool),
    ("amnesia", bool), ("batch_size", int), ("cache_lens", int), ("kvc2_config_dir", str), ("log_dir", str), ("log_file", str),
    ("log_level", str), ("backup_count", int), ("db_type", str), ("db_host", str), ("db_port", str), ("db_name", str),
    ("db_pool_size", int), ("db_database", str), ("user_secret_key", str), ("user_algorithm", str), ("web_cross_domain", bool),
    ("file_upload_dir", str), ("assistant_store_dir", str), ("prompt_file", str), ("sched_strategy", str), ("page_size", str),
    ("memory_gpu_only", str), ("utilization_percentage", str), ("cpu_memory_size_GB", str),
]


def parser(config: dict) -> argparse.ArgumentParser:
    server, model = config.get("server", {}), config.get("model", {})
    result = argparse.ArgumentParser(prog="kvcache.ai", description="Ktransformers (simulated)")
    result.add_argument("--host", type=str, default=server.get("ip", "0.0.0.0"))
    result.add_argument("--port", type=int, default=server.get("port", 9016))
    result.add_argument("--api_key", type=str, default=server.get("api_key", ""))
    result.add_argument("--model_name", type=str, default=model.get("name", ""))
    result.add_argument("--model_dir", type=str)
    result.add_argument("--model_path", type=str, default=model.get("path", ""))
    result.add_argument("--gguf_path", type=str, default=model.get("gguf_path"))
    result.add_argument("--optimize_config_path", type=str, default=model.get("optimize_config_path"))
    result.add_argument("--tp", type=int, default=1)
    result.add_argument("--cpu_infer", type=int, default=(os.cpu_count() or 4) // 2 - 3)
    result.add_argument("--backend_type", type=str, default=model.get("type", "transformers"))
    result.add_argument("--chunk_size", type=int, default=config.get("attn", {}).get("chunk_size", 256))
    result.add_argument("--max_new_tokens", type=int, default=model.get("max_new_tokens", 2000))
    # Two real switches, with a --no- form. Every other flag of type bool turns any text into True.
    result.add_argument("--force_think", action=argparse.BooleanOptionalAction, default=config.get("user", {}).get("force_think", False))
    result.add_argument("--use_cuda_graph", action=argparse.BooleanOptionalAction, default=model.get("use_cuda_graph", True))
    for name, kind in PASSED:
        result.add_argument("--" + name, type=kind)
    return result


def parse(argv: list, config: dict) -> argparse.Namespace:
    values = parser(config).parse_args(argv)
    if values.model_path is None:
        values.model_path = values.model_dir
    return values
