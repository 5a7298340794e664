"""Writes a training checkpoint as a Hugging Face model in bfloat16.

    python export.py /tmp/spark/run/checkpoint.pt ..
"""

import json
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer


def main(checkpoint: Path, folder: Path):
    saved = torch.load(checkpoint, map_location="cpu")
    weights = {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in saved["average"].items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    token = Tokenizer.from_file(str(folder / "tokenizer.json")).token_to_id
    shape = {key: value for key, value in saved["config"].items() if key != "rope_theta"}
    config = {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", **shape, "rope_theta": saved["config"]["rope_theta"], "rope_scaling": None,
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": True, "use_cache": True,
        "use_sliding_window": False, "sliding_window": None, "max_window_layers": shape["num_hidden_layers"], "initializer_range": 0.02,
        "bos_token_id": None, "eos_token_id": token("<|im_end|>"), "pad_token_id": token("<|endoftext|>"), "torch_dtype": "bfloat16",
    }
    generation = {"do_sample": False, "temperature": 0.0, "eos_token_id": [token("<|im_end|>"), token("<|endoftext|>")], "pad_token_id": token("<|endoftext|>"), "max_new_tokens": 512}
    for name, content in ("config.json", config), ("generation_config.json", generation):
        (folder / name).write_text(json.dumps(content, indent=2) + "\n")
    print(f"step {saved['step']}, {saved['tokens'] / 1e6:.1f}M tokens, {saved['seconds'] / 60:.0f} min,",
          sum(w.numel() for w in weights.values()), "parameters,", (folder / "model.safetensors").stat().st_size, "bytes")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
