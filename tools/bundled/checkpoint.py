"""The trained student as a Hugging Face folder, and that folder as transformers measures it."""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from bundled.llama import Llama
from bundled.text import BEGIN, END, Corpus
from bundled.training import mean_loss


def write_checkpoint(student: Llama, corpus: Corpus, out: Path):
    shape = student.shape
    out.mkdir(parents=True, exist_ok=True)
    weights = {f"model.{name}": value.half().cpu().contiguous() for name, value in student.state_dict().items()}
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    (out / "model.safetensors").chmod(0o644)
    end = corpus.tokenizer.token_to_id(END)
    write_json(out / "config.json", {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "float16",
        "vocab_size": shape.vocabulary, "hidden_size": shape.hidden, "intermediate_size": shape.intermediate,
        "num_hidden_layers": shape.layers, "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.kv_heads, "head_dim": shape.head_dim, "hidden_act": "silu",
        "rms_norm_eps": shape.eps, "rope_theta": shape.theta, "rope_scaling": None,
        "max_position_embeddings": shape.context, "tie_word_embeddings": True, "attention_bias": False,
        "mlp_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02, "pretraining_tp": 1,
        "use_cache": True, "bos_token_id": corpus.begin, "eos_token_id": end})
    write_json(out / "generation_config.json", {"bos_token_id": corpus.begin, "eos_token_id": end})
    corpus.tokenizer.save(str(out / "tokenizer.json"), pretty=False)
    write_json(out / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": BEGIN, "eos_token": END,
        "clean_up_tokenization_spaces": False, "model_max_length": shape.context,
        "model_input_names": ["input_ids", "attention_mask"]})


def write_json(file: Path, value):
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


class Transformers(nn.Module):
    """The written checkpoint as transformers runs it, with the largest |activation| it has met."""

    def __init__(self, folder: Path, dtype: torch.dtype, context: int, device: str):
        from transformers import AutoModelForCausalLM
        super().__init__()
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).to(device).eval()
        self.shape = argparse.Namespace(context=context)
        self.largest = torch.zeros((), device=device)
        for module in self.model.modules():
            module.register_forward_hook(self.watch)

    def watch(self, module, inputs, output):
        if isinstance(output, torch.Tensor):
            self.largest = torch.maximum(self.largest, output.detach().abs().max().float())

    def forward(self, ids):
        with torch.autocast(ids.device.type, enabled=False):
            return self.model(ids).logits


def measure_checkpoint(context: int, corpus: Corpus, out: Path, device: str) -> dict:
    """Reads the checkpoint back through transformers and measures it; the figures of the model card."""
    from transformers import AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(out)
    probe = "It's 1887;\n\n\"Watson,\" said he -- 221B, café?"
    assert tokenizer(probe).input_ids == [corpus.begin] + corpus.tokenizer.encode(probe, add_special_tokens=False).ids
    stream = corpus.streams[0]
    sample = [stream[i * (len(stream) // 40):][:4 * context] for i in range(40)]
    report = {"training tokens": len(corpus.streams[0]), "validation tokens": len(corpus.validation),
              "model bytes": (out / "model.safetensors").stat().st_size}
    for name, dtype in {"fp32": torch.float32, "fp16": torch.float16}.items():
        model = Transformers(out, dtype, context, device)
        nats = mean_loss(model, [corpus.validation], corpus.begin)
        report[name] = {
            "validation, nats a token": nats,
            "validation, bits a byte": nats / math.log(2) * len(corpus.validation) / corpus.validation_bytes,
            "held out, nats a token": mean_loss(model, corpus.held_out, corpus.begin),
            "training sample, nats a token": mean_loss(model, sample, corpus.begin),
            "largest activation": float(model.largest)}
        report["parameters"] = sum(p.numel() for p in model.parameters())
    report["largest weight"] = max(float(w.abs().max()) for w in load_file(out / "model.safetensors").values())
    return report
