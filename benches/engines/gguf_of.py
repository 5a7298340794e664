"""The GGUF form of a Qwen3 checkpoint in bf16, for llama.cpp: as it is, or in 8 or 4 bits, the embedding in 8 then.

usage: python gguf_of.py FOLDER bf16|q8_0|q4_0 OUT.gguf     needs gguf

llama.cpp's own converter knows tokenizers by a hash and refuses those it does not know. Prompts go in as ids here,
so that the tokenizer's rule does not matter.
"""

import json
import pathlib
import sys

import gguf
import numpy as np

ARCH = gguf.MODEL_ARCH.QWEN3


def read(path):
    """Name, shape and bits of each tensor of a safetensors file."""
    data = np.memmap(path, np.uint8, "r")
    begin = 8 + int.from_bytes(data[:8].tobytes(), "little")
    for name, entry in json.loads(data[8:begin].tobytes()).items():
        if name != "__metadata__":
            assert entry["dtype"] == "BF16", f"{name} is {entry['dtype']}, not BF16"
            first, last = entry["data_offsets"]
            yield name, data[begin + first : begin + last].view(np.uint16).reshape(entry["shape"])


def add_settings(writer, config):
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])


def add_tokenizer(writer, folder, num_ids):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    words = {at: word for word, at in tokenizer["model"]["vocab"].items()}
    added = {token["id"]: token["content"] for token in tokenizer["added_tokens"]}
    ids = range(num_ids)
    kind = lambda at: gguf.TokenType.CONTROL if at in added else gguf.TokenType.NORMAL if at in words else gguf.TokenType.UNUSED
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([added.get(at) or words.get(at) or f"[unused {at}]" for at in ids])
    writer.add_token_types([kind(at) for at in ids])
    merges = tokenizer["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])


def main():
    folder, form, out = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    config = json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(out, gguf.MODEL_ARCH_NAMES[ARCH])
    add_settings(writer, config)
    add_tokenizer(writer, folder, config["vocab_size"])
    names = gguf.get_tensor_name_map(ARCH, config["num_hidden_layers"])
    for name, bits in read(folder / "model.safetensors"):
        name = names.get_name(name, try_suffixes=(".weight",))
        if bits.ndim == 2 and form == "bf16":
            writer.add_tensor(name, np.ascontiguousarray(bits).view(np.uint8), raw_dtype=gguf.GGMLQuantizationType.BF16)
            continue
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        if bits.ndim == 2:
            kind = gguf.GGMLQuantizationType[form.upper()]
            if name.startswith("token_embd"):
                kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
