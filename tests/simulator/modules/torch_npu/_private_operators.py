"""The operators that the guide's adapted op-plugin adds (facts: ktransformers.md), as names only: simulated by npuops."""


def _npu_matmul_dequant(x, *arguments, **keywords):
    return x


def _npu_flash_attention_mla(query, *arguments, **keywords):
    return query


def _npu_matmul_pp(x, *arguments, **keywords):
    return x


def _npu_topk_topp_sampling(logits, *arguments, **keywords):
    return logits


__all__ = ["_npu_matmul_dequant", "_npu_flash_attention_mla", "_npu_matmul_pp", "_npu_topk_topp_sampling"]
