"""A checkpoint of a Qwen3 shape with random weights, as Hugging Face folders are: for engines to be compared on.

usage: python random_checkpoint.py CONFIG.json TOKENIZER.json FOLDER     needs numpy

Weights keep the scale of what flows through them, and the head's logits have a standard deviation of 8: the most
likely token leads clearly enough that engines which compute the same mostly answer the same.
"""

import json
import pathlib
import shutil
import sys

import numpy as np

LOGIT_SCALE = 8
END = "<|im_end|>"


def tensors(config):
    """Name, shape, mean and standard deviation of each."""
    hidden, inner, head = config["hidden_size"], config["intermediate_size"], config["head_dim"]
    queries, keys = config["num_attention_heads"] * head, config["num_key_value_heads"] * head
    linear = lambda name, rows, columns: (f"{name}.weight", (rows, columns), 0, columns**-0.5)
    norm = lambda name, size: (f"{name}.weight", (size,), 1, 0.1)
    yield "model.embed_tokens.weight", (config["vocab_size"], hidden), 0, LOGIT_SCALE * hidden**-0.5
    for at in range(config["num_hidden_layers"]):
        layer = f"model.layers.{at}"
        yield norm(f"{layer}.input_layernorm", hidden)
        yield linear(f"{layer}.self_attn.q_proj", queries, hidden)
        yield linear(f"{layer}.self_attn.k_proj", keys, hidden)
        yield linear(f"{layer}.self_attn.v_proj", keys, hidden)
        yield norm(f"{layer}.self_attn.q_norm", head)
        yield norm(f"{layer}.self_attn.k_norm", head)
        yield linear(f"{layer}.self_attn.o_proj", hidden, queries)
        yield norm(f"{layer}.post_attention_layernorm", hidden)
        yield linear(f"{layer}.mlp.gate_proj", inner, hidden)
        yield linear(f"{layer}.mlp.up_proj", inner, hidden)
        yield linear(f"{layer}.mlp.down_proj", hidden, inner)
    yield norm("model.norm", hidden)


def bfloat16(values):
    """Rounds to the nearest, to even where two are as near."""
    bits = values.astype(np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def main():
    config_path, tokenizer_path, folder = map(pathlib.Path, sys.argv[1:])
    config = json.loads(config_path.read_text())
    assert config["model_type"] == "qwen3" and config["tie_word_embeddings"], "only the names of a tied Qwen3 are here"
    folder.mkdir(parents=True, exist_ok=True)
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape, *_ in tensors(config):
        begin, end = end, end + 2 * int(np.prod(shape))
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    random = np.random.default_rng(0)
    part = folder / "part"
    with open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, shape, mean, deviation in tensors(config):
            values = random.standard_normal(shape, dtype=np.float32)
            file.write(bfloat16(mean + deviation * values).tobytes())
    # Fields that Qwen's own file has and that some engines insist on.
    more = {"max_window_layers": config["num_hidden_layers"], "use_sliding_window": False, "sliding_window": None}
    (folder / "config.json").write_text(json.dumps(config | more, indent=2))
    shutil.copy(tokenizer_path, folder / "tokenizer.json")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": END, "clean_up_tokenization_spaces": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2))
    # The last to be written: a folder that has it is whole.
    part.rename(folder / "model.safetensors")


if __name__ == "__main__":
    main()
