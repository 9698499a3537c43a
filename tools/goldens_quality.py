#!/usr/bin/env python3
"""The bundled model's mean −ln probability a token on the built-in text, as transformers computes it in fp32 on a CPU,
for the tests of --quality to compare with (src/bench/quality_pass_test.cpp holds the figures).

    python3 tools/goldens_quality.py

Windows are those of llama.cpp's perplexity: 512 tokens that do not overlap, each begun by <|begin_of_text|> in place of
its first token, the tokens behind the first half of each scored. Needs PyTorch, transformers and tokenizers.
"""

import math
from pathlib import Path

import tokenizers
import torch
import transformers

MODEL = Path(__file__).resolve().parent.parent / "models" / "bundled"
WINDOW, TEXT_BYTES, FIRST = 512, 128 << 10, 4


def main():
    text = (MODEL / "validation.txt").read_bytes()[:TEXT_BYTES]
    text = text[: text.rfind(b"\n") + 1].decode("utf-8")
    ids = tokenizers.Tokenizer.from_file(str(MODEL / "tokenizer.json")).encode(text, add_special_tokens=True).ids
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    losses = []
    with torch.no_grad():
        for start in range(0, len(ids) - WINDOW + 1, WINDOW):
            window = torch.tensor([[model.config.bos_token_id, *ids[start + 1:start + WINDOW]]])
            logits = model(window).logits[0, WINDOW // 2:-1].double()
            losses.append(torch.nn.functional.cross_entropy(logits, window[0, WINDOW // 2 + 1:]).item())
    print(f"torch {torch.__version__}, transformers {transformers.__version__}: {len(ids)} tokens")
    for count in (FIRST, len(losses)):
        mean = sum(losses[:count]) / count
        print(f"first {count} windows: {mean:.6f} nats a token, perplexity {math.exp(mean):.4f}")


if __name__ == "__main__":
    main()
