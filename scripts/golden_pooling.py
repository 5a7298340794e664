"""Makes models/golden_pooling/: tiny random embedding models and cross-encoders, saved by
sentence-transformers itself, with what it computes from them.

    python scripts/golden_pooling.py        (torch, transformers 5, sentence-transformers 6)

Weights are random from a fixed seed, norms and biases included, and large enough that neither
attention nor a token's place washes out: texts must differ clearly, see `check`. The reference runs
in float32 on the CPU, each text alone, from the weights as they are stored.
"""

import json
import shutil
from pathlib import Path

import sentence_transformers.sentence_transformer.modules as st
import torch
import transformers as tf
from sentence_transformers import CrossEncoder, SentenceTransformer
from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE

GOLDEN = Path(__file__).resolve().parent.parent / "models" / "golden_pooling"
TEXTS = [
    "a",
    "What is the capital of France?",
    "Paris is the capital of France.",
    "The weather is lovely today; it is so sunny outside that nobody stays at home, "
    "and the parks are full of children who play until it is dark.",
]
PAIRS = [
    ("What is the capital of France?", "Paris is the capital of France."),
    ("What is the capital of France?", "Whales are mammals."),
    ("a", "b"),
    (TEXTS[3], "sunny"),
]
SHARED = {"num_hidden_layers": 2, "max_position_embeddings": 256}


def byte_tokenizer(special, templates, behind, **named):
    """Every byte a token, and what texts are put between; special tokens come first, or `behind`."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces = alphabet + special if behind else special + alphabet
    tokenizer = Tokenizer(BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    tokenizer.add_special_tokens(special)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    ids = [(piece, tokenizer.token_to_id(piece)) for piece in special]
    tokenizer.post_processor = processors.TemplateProcessing(special_tokens=ids, **templates)
    return tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=254, **named)


def end_of_text(side):
    end = "<|endoftext|>"
    tokens = {"eos_token": end, "pad_token": end}
    return byte_tokenizer([end], {"single": f"$A {end}"}, True, padding_side=side, **tokens)


def berts():
    templates = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B:1 [SEP]:1"}
    named = {f"{name.lower()}_token": f"[{name}]" for name in ["PAD", "UNK", "CLS", "SEP"]}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return byte_tokenizer([*named.values()], templates, False, model_input_names=inputs, **named)


def robertas():
    templates = {"single": "<s> $A </s>", "pair": "<s> $A </s> </s> $B </s>"}
    named = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    return byte_tokenizer([*named.values()], templates, False, **named)


def modern_berts():
    templates = {"single": "[CLS] $A [SEP]", "pair": "[CLS] $A [SEP] $B [SEP]"}
    named = {f"{name.lower()}_token": f"[{name}]" for name in ["PAD", "UNK", "CLS", "SEP"]}
    return byte_tokenizer([*named.values()], templates, False, **named)


DECODER = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 260}
ENCODER = {"num_attention_heads": 4, "vocab_size": 264, "hidden_size": 48, "intermediate_size": 72}
ROBERTA = {**ENCODER, "type_vocab_size": 1, "pad_token_id": 1}
# Far and near, and a window that a text of a few words is longer than.
MODERN = {**ENCODER, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 4, "local_attention": 16, "pad_token_id": 0,
          "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3}

EMBEDDERS = [
    {
        "name": "qwen3_last",  # as Qwen3-Embedding: the state of an end token, tied, bf16, no head
        "classes": (tf.Qwen3Config, tf.Qwen3Model),
        "config": {**DECODER, "hidden_size": 40, "intermediate_size": 64, "head_dim": 16,
                   "tie_word_embeddings": True},
        "tokenizer": lambda: end_of_text("left"),
        "pooling": "lasttoken",
        "normalize": True,
        "dtype": torch.bfloat16,
        "changes": {"architectures": ["Qwen3ForCausalLM"], "is_matryoshka": True},
    },
    {
        "name": "llama_mean",  # averaged, not normalised, and called by its trunk's name
        "classes": (tf.LlamaConfig, tf.LlamaModel),
        "config": {**DECODER, "hidden_size": 32, "intermediate_size": 48},
        "tokenizer": lambda: end_of_text("right"),
        "pooling": "mean",
        "normalize": False,
        "dtype": torch.float32,
        "changes": {},
    },
    {
        "name": "bert_cls",  # as BGE
        "classes": (tf.BertConfig, tf.BertModel),
        "config": ENCODER,
        "tokenizer": berts,
        "pooling": "cls",
        "normalize": True,
        "dtype": torch.float32,
        "changes": {},
    },
    {
        "name": "xlm_roberta_mean",  # as multilingual E5, in bf16
        "classes": (tf.XLMRobertaConfig, tf.XLMRobertaModel),
        "config": ROBERTA,
        "tokenizer": robertas,
        "pooling": "mean",
        "normalize": True,
        "dtype": torch.bfloat16,
        "changes": {},
    },
    {
        "name": "roberta_mean",
        "classes": (tf.RobertaConfig, tf.RobertaModel),
        "config": {**ROBERTA, "num_hidden_layers": 1, "hidden_size": 32},
        "tokenizer": robertas,
        "pooling": "mean",
        "normalize": False,
        "dtype": torch.float32,
        "changes": {},
    },
    {
        "name": "modernbert_mean",  # as GTE, every bias there is
        "classes": (tf.ModernBertConfig, tf.ModernBertModel),
        "config": {**MODERN, "norm_bias": True, "attention_bias": True, "mlp_bias": True},
        "tokenizer": modern_berts,
        "pooling": "mean",
        "normalize": True,
        "dtype": torch.float32,
        "changes": {},
    },
]

CROSS_ENCODERS = [
    {
        "name": "bert_score",  # the only one that tells the texts of a pair apart by their kind
        "classes": (tf.BertConfig, tf.BertForSequenceClassification),
        "config": ENCODER,
        "tokenizer": berts,
        "dtype": torch.float32,
        "activation": None,
        "changes": {},
    },
    {
        "name": "xlm_roberta_score",  # as BGE's rerankers, in bf16
        "classes": (tf.XLMRobertaConfig, tf.XLMRobertaForSequenceClassification),
        "config": ROBERTA,
        "tokenizer": robertas,
        "dtype": torch.bfloat16,
        "activation": None,
        "changes": {},
    },
    {
        "name": "roberta_score",  # numbers as they are
        "classes": (tf.RobertaConfig, tf.RobertaForSequenceClassification),
        "config": {**ROBERTA, "num_hidden_layers": 1, "hidden_size": 32},
        "tokenizer": robertas,
        "dtype": torch.float32,
        "activation": torch.nn.Identity(),
        "changes": {},
    },
    {
        "name": "modernbert_score",  # an averaging head, keys as transformers 4 wrote them
        "classes": (tf.ModernBertConfig, tf.ModernBertForSequenceClassification),
        "config": {**MODERN, "classifier_pooling": "mean", "classifier_bias": True},
        "tokenizer": modern_berts,
        "dtype": torch.float32,
        "activation": None,
        "changes": {"global_attn_every_n_layers": 3, "global_rope_theta": 160000.0,
                    "local_rope_theta": 10000.0, "layer_types": None, "rope_parameters": None},
    },
]  # fmt: skip


def randomise(model, dtype, seed=0):
    """Fills every parameter; values are rounded to the stored type."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 1:
            is_scale = name.endswith("weight")
            value = 1.0 + 0.3 * noise if is_scale else 0.3 * noise
        elif "position_embed" in name or "token_type_embed" in name:
            value = 0.5 * noise
        elif "embed" in name:
            value = noise
        elif any(part in name for part in ["query", "key", "Wqkv"]):
            value = noise * (3.0 / parameter.shape[1] ** 0.5)  # looks at some more than at others
        elif name in ("classifier.weight", "classifier.out_proj.weight"):
            value = noise * 0.5
        else:
            value = noise * (1.4 / parameter.shape[1] ** 0.5)
        parameter.data.copy_(value.to(dtype).float())


def write(folder, golden, expected):
    """What every folder has: weights in the stored type, changes to the configuration, answers."""
    config = json.loads((folder / "config.json").read_text())
    config.update({**golden["changes"], "dtype": str(golden["dtype"]).removeprefix("torch.")})
    (folder / "config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    (folder / "README.md").unlink(missing_ok=True)
    for file in folder.rglob("*"):
        file.chmod(0o755 if file.is_dir() else 0o644)
    size = sum(file.stat().st_size for file in folder.rglob("*"))
    assert size < 500_000, f"{golden['name']} takes {size} bytes"
    print(f"{golden['name']}: {size} bytes")


def check(vectors):
    """Texts that all look alike would hide faults."""
    vectors = torch.nn.functional.normalize(torch.tensor(vectors), dim=-1)
    likeness = vectors @ vectors.T
    off = likeness[~torch.eye(len(vectors), dtype=bool)]
    assert off.max() < 0.99, likeness


def make_embedder(golden):
    config_class, model_class = golden["classes"]
    trunk = model_class(config_class(**{**SHARED, **golden["config"]}, attn_implementation="eager"))
    randomise(trunk.float().eval(), golden["dtype"])
    folder = GOLDEN / golden["name"]
    shutil.rmtree(folder, ignore_errors=True)
    parts = folder.with_suffix(".parts")
    trunk.save_pretrained(parts)
    golden["tokenizer"]().save_pretrained(parts)
    transformer = st.Transformer(str(parts))
    width = golden["config"]["hidden_size"]
    pooling = st.Pooling(width, pooling_mode=golden["pooling"])
    modules = [transformer, pooling] + ([st.Normalize()] if golden["normalize"] else [])
    model = SentenceTransformer(modules=modules, device="cpu")
    shutil.rmtree(parts)
    cases = []
    for text in TEXTS:
        ids = transformer.tokenizer(text)["input_ids"]
        cases.append({"text": text, "ids": ids, "embedding": model.encode([text])[0].tolist()})
    check([case["embedding"] for case in cases])
    model.to(golden["dtype"])
    model.save(str(folder), create_model_card=False)
    write(folder, golden, {"cases": cases})


def make_cross_encoder(golden):
    config_class, model_class = golden["classes"]
    config = config_class(**{**SHARED, **golden["config"]}, num_labels=1, attn_implementation="eager")
    classifier = model_class(config)
    randomise(classifier.float().eval(), golden["dtype"])
    folder = GOLDEN / golden["name"]
    shutil.rmtree(folder, ignore_errors=True)
    parts = folder.with_suffix(".parts")
    classifier.save_pretrained(parts)
    tokenizer = golden["tokenizer"]()
    tokenizer.save_pretrained(parts)
    model = CrossEncoder(str(parts), device="cpu", activation_fn=golden["activation"])
    shutil.rmtree(parts)
    cases = []
    for pair in PAIRS:
        # Kinds that a model has one of are not told apart.
        encoded = tokenizer(*pair, return_token_type_ids=True)
        kinds = encoded["token_type_ids"]
        cases.append({
            "pair": pair,
            "ids": encoded["input_ids"],
            "second_text": kinds.index(1) if 1 in kinds else None,
            "score": model.predict([pair])[0].item(),
            "raw": model.predict([pair], activation_fn=torch.nn.Identity())[0].item(),
        })  # fmt: skip
    scores = sorted(case["score"] for case in cases)
    assert all(b - a > 0.001 for a, b in zip(scores, scores[1:])), scores
    model.to(golden["dtype"])
    model.save_pretrained(str(folder), create_model_card=False)
    write(folder, golden, {"cases": cases})
    print(scores)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for golden in EMBEDDERS:
        make_embedder(golden)
    for golden in CROSS_ENCODERS:
        make_cross_encoder(golden)
