"""Makes tests/golden/data/core_flops.json: FLOPs of a token that OLMo-core measures MFU by, of released models.

From ai2-olmo-core 2.4.0 (olmo_core/nn/transformer/model.py, `Transformer.num_flops_per_token`), of models without
storage. The method of that name of `TransformerConfig` counts more, a key norm as wide as the model's.

Usage: python scripts/golden/core_flops.py
"""

from common import record, write_json
from olmo_core.nn.attention import AttentionBackendName
from olmo_core.nn.transformer import TransformerConfig

VOCABULARY = 100352


def cases() -> list:
    models = {
        "olmo2_1b": TransformerConfig.olmo2_1B_v2,
        "olmo2_7b": TransformerConfig.olmo2_7B,
        "olmo2_32b": TransformerConfig.olmo2_32B,
        "olmo3_7b": TransformerConfig.olmo3_7B,
        "olmo3_32b": TransformerConfig.olmo3_32B,
    }
    out = []
    for name, make in models.items():
        # Windows are of flash attention by default, which is for cards alone.
        model = make(vocab_size=VOCABULARY, attn_backend=AttentionBackendName.torch).build(init_device="meta")
        out += [{"preset": name, "seq_len": n, "flops": model.num_flops_per_token(n)} for n in (4096, 65536)]
    return out


if __name__ == "__main__":
    record(write_json("data/core_flops.json", cases()), __file__, ["ai2-olmo-core"], None, "exact")
