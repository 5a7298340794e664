"""Makes models/golden/: tiny random checkpoints with what transformers computes from them.

    python scripts/golden.py [NAME..]        (torch, transformers 5, safetensors)

Weights are random from a fixed seed, norms and biases included, and large enough that the most
likely token leads clearly: `MARGIN` below is asserted at every greedy step. The reference runs in
float32 on the CPU with eager attention, from the weights as they are stored.
"""

import copy
import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma3ForCausalLM, Gemma3TextConfig
from transformers import GemmaConfig, GemmaForCausalLM, Glm4MoeConfig, Glm4MoeForCausalLM
from transformers import GptOssConfig, GptOssForCausalLM, GraniteConfig, GraniteForCausalLM
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM
from transformers import MixtralConfig, MixtralForCausalLM
from transformers import Ministral3Config, Ministral3ForCausalLM
from transformers import Phi3Config, Phi3ForCausalLM
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers import Qwen3Config, Qwen3ForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers import SeedOssConfig, SeedOssForCausalLM, SmolLM3Config, SmolLM3ForCausalLM

GOLDEN = Path(__file__).resolve().parent.parent / "models" / "golden"
PROMPT_LENS = [1, 2, 37, 150]
NUM_GREEDY = 24
MARGIN = 0.05  # in logits, whose standard deviation is about 8
MAX_BF16_ERROR = 0.5  # more, where rounding sends a token to another expert
VOCAB = 131

SHARED = {
    "vocab_size": VOCAB,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

LONG_FACTORS = [1.0, 1.5, 2.0, 3.5, 6.0, 11.0]

GPT_OSS = {
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "head_dim": 16,
    "attention_bias": True,
    "rms_norm_eps": 1e-5,
    "sliding_window": 24,
    "swiglu_limit": 0.8,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 150000.0,
        "factor": 8.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 64,
        "truncate": False,
    },
}

# Name, classes, configuration, stored dtype, and what config.json and the files look like.
GOLDENS = [
    {
        "name": "llama2",  # multi-head attention, keys as transformers 4 wrote them, one file
        "classes": (LlamaConfig, LlamaForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "dtype": torch.float32,
        "old_keys": True,
    },
    {
        "name": "llama3",  # grouped queries, scaled rotation, all biases, tied, three shards
        "classes": (LlamaConfig, LlamaForCausalLM),
        "config": {
            "hidden_size": 96,
            "intermediate_size": 120,
            "tie_word_embeddings": True,
            "attention_bias": True,
            "mlp_bias": True,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 500000.0,
                "factor": 8.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64,
            },
        },
        "dtype": torch.bfloat16,
        "num_shards": 3,
    },
    {
        "name": "llama_linear",  # linear scaling, keys as transformers 4 wrote them
        "classes": (LlamaConfig, LlamaForCausalLM),
        "config": {
            "hidden_size": 40,
            "intermediate_size": 56,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
        },
        "dtype": torch.float32,
        "old_keys": True,
    },
    {
        "name": "qwen2",
        "classes": (Qwen2Config, Qwen2ForCausalLM),
        "config": {
            "hidden_size": 96,
            "intermediate_size": 104,
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "dtype": torch.float16,
        "old_keys": True,
    },
    {
        "name": "qwen3_yarn",  # made for 32 positions and stretched: pairs that are kept, and others
        "classes": (Qwen3Config, Qwen3ForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 64,
            "head_dim": 32,
            "max_position_embeddings": 32,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 10000.0,
                "factor": 16.0,
                "original_max_position_embeddings": 32,
            },
        },
        "dtype": torch.bfloat16,
        "old_keys": True,
    },
    {
        "name": "mistral",  # a window in every layer, shorter than two of the prompts
        "classes": (MistralConfig, MistralForCausalLM),
        "config": {
            "hidden_size": 72,
            "intermediate_size": 88,
            "head_dim": 16,
            "rms_norm_eps": 1e-5,
            "sliding_window": 24,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "dtype": torch.bfloat16,
    },
    {
        "name": "qwen2_window",  # a window in the last two layers
        "classes": (Qwen2Config, Qwen2ForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 64,
            "rms_norm_eps": 1e-6,
            "use_sliding_window": True,
            "sliding_window": 40,
            "max_window_layers": 1,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "dtype": torch.bfloat16,
    },
    {
        "name": "qwen3",  # heads wider than hidden_size / num_attention_heads, tied
        "classes": (Qwen3Config, Qwen3ForCausalLM),
        "config": {
            "hidden_size": 56,
            "intermediate_size": 88,
            "head_dim": 32,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "dtype": torch.bfloat16,
    },
    {
        # The language model of one that sees, with a head of its own.
        "name": "mistral_vision",
        "classes": (MistralConfig, MistralForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 60,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "dtype": torch.bfloat16,
        "beside_vision": ("Mistral3ForConditionalGeneration", "mistral3"),
    },
    {
        # YaRN, and queries that are longer behind the length of pre-training, which two prompts pass.
        "name": "ministral3",
        "classes": (Ministral3Config, Ministral3ForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "head_dim": 16,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1000000.0,
                "factor": 16.0,
                "original_max_position_embeddings": 32,
                "max_position_embeddings": 512,
                "beta_fast": 32.0,
                "beta_slow": 1.0,
                "mscale": 1.0,
                "mscale_all_dim": 1.0,
                "llama_4_scaling_beta": 0.3,
            },
        },
        "dtype": torch.bfloat16,
    },
    {
        "name": "phi3",  # merged projections, and a window
        "classes": (Phi3Config, Phi3ForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 0,
            "sliding_window": 40,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "dtype": torch.bfloat16,
    },
    {
        # A part of each head rotated, pairs by factors of their own: those of longer contexts, as tests run it.
        "name": "phi3_long",
        "classes": (Phi3Config, Phi3ForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "rms_norm_eps": 1e-5,
            "pad_token_id": 0,
            "tie_word_embeddings": True,
            "sliding_window": None,
            "original_max_position_embeddings": 64,
            "partial_rotary_factor": 0.75,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 10000.0,
                "short_factor": LONG_FACTORS,  # so that none of its prompts has others
                "long_factor": LONG_FACTORS,
                "original_max_position_embeddings": 64,
                "partial_rotary_factor": 0.75,
            },
        },
        "dtype": torch.bfloat16,
        "old_keys": True,
        "short_factors": [1.0, 1.0, 1.1, 1.2, 1.3, 1.4],
    },
    {
        "name": "qwen3_moe",  # an MLP between two layers of experts, weights that do not add up to 1
        "classes": (Qwen3MoeConfig, Qwen3MoeForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "moe_intermediate_size": 24,
            "num_experts": 10,
            "num_experts_per_tok": 3,
            "norm_topk_prob": False,
            "mlp_only_layers": [1],
            "decoder_sparse_step": 1,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "dtype": torch.bfloat16,
        "experts": ("mlp", "gate_proj", "up_proj", "down_proj"),
    },
    {
        "name": "mixtral",
        "classes": (MixtralConfig, MixtralForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 32,
            "num_local_experts": 6,
            "num_experts_per_tok": 2,
            "head_dim": 8,
            "rms_norm_eps": 1e-5,
            "sliding_window": None,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        "dtype": torch.bfloat16,
        "old_keys": True,
        "experts": ("block_sparse_moe", "w1", "w3", "w2"),
    },
    {
        # Sinks, a window in every other layer, experts with biases in one tensor, a limit low enough to clamp.
        "name": "gpt_oss",
        "classes": (GptOssConfig, GptOssForCausalLM),
        "config": GPT_OSS,
        "dtype": torch.bfloat16,
    },
    {
        "name": "gpt_oss_mxfp4",  # as published
        "classes": (GptOssConfig, GptOssForCausalLM),
        "config": GPT_OSS,
        "dtype": torch.bfloat16,
        "old_keys": True,
        "is_mxfp4": True,
    },
    {
        # A layer with an MLP, then sigmoids with a bias, weights that add up to a factor, an expert that all share;
        # a part of each head rotated behind its norm.
        "name": "glm4_moe",
        "classes": (Glm4MoeConfig, Glm4MoeForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "moe_intermediate_size": 24,
            "n_routed_experts": 10,
            "n_shared_experts": 2,
            "num_experts_per_tok": 3,
            "routed_scaling_factor": 1.5,
            "norm_topk_prob": True,
            "first_k_dense_replace": 1,
            "n_group": 1,
            "topk_group": 1,
            "head_dim": 16,
            "attention_bias": True,
            "use_qk_norm": True,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "partial_rotary_factor": 0.5},
        },
        "dtype": torch.bfloat16,
        "experts": ("mlp", "gate_proj", "up_proj", "down_proj"),
    },
    {
        # As Air, keys as transformers 4 wrote them: no norms, weights that do not add up, the whole count of
        # rotated elements left to the default.
        "name": "glm4_moe_air",
        "classes": (Glm4MoeConfig, Glm4MoeForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "moe_intermediate_size": 24,
            "n_routed_experts": 6,
            "n_shared_experts": 1,
            "num_experts_per_tok": 2,
            "routed_scaling_factor": 1.0,
            "norm_topk_prob": False,
            "first_k_dense_replace": 2,
            "head_dim": 16,
            "attention_bias": True,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "dtype": torch.bfloat16,
        "old_keys": True,
        "experts": ("mlp", "gate_proj", "up_proj", "down_proj"),
    },
    {
        "name": "granite",  # factors on the embedding, scores, branches and logits
        "classes": (GraniteConfig, GraniteForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "attention_multiplier": 0.2,
            "embedding_multiplier": 3.0,
            "residual_multiplier": 0.4,
            "logits_scaling": 2.0,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-5,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "dtype": torch.bfloat16,
        "old_keys": True,
    },
    {
        "name": "seed_oss",  # biases of queries, keys and values alone
        "classes": (SeedOssConfig, SeedOssForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "head_dim": 16,
            "attention_bias": True,
            "attention_out_bias": False,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000000.0},
        },
        "dtype": torch.bfloat16,
        "old_keys": True,
    },
    {
        "name": "smollm3",  # no rotary positions in the second layer, YaRN in the others
        "classes": (SmolLM3Config, SmolLM3ForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "no_rope_layer_interval": 2,
            "tie_word_embeddings": True,
            "rms_norm_eps": 1e-6,
            "use_sliding_window": False,
            "pad_token_id": 0,
            "max_position_embeddings": 128,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 5000000.0,
                "factor": 4.0,
                "original_max_position_embeddings": 128,
            },
        },
        "dtype": torch.bfloat16,
        "old_keys": True,
    },
    {
        "name": "gemma",
        "classes": (GemmaConfig, GemmaForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 96,
            "num_key_value_heads": 1,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "dtype": torch.bfloat16,
        "old_keys": True,
    },
    {
        "name": "gemma2",  # a window in the first and the last layer, caps low enough to bend
        "classes": (Gemma2Config, Gemma2ForCausalLM),
        "config": {
            "hidden_size": 72,
            "intermediate_size": 88,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 24,
            "sliding_window": 24,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 15.0,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
        },
        "dtype": torch.bfloat16,
    },
    {
        "name": "gemma3",  # two rotations, one of them stretched
        "classes": (Gemma3TextConfig, Gemma3ForCausalLM),
        "config": {
            "hidden_size": 72,
            "intermediate_size": 88,
            "head_dim": 16,
            "rms_norm_eps": 1e-6,
            "query_pre_attn_scalar": 24,
            "sliding_window": 24,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        "dtype": torch.bfloat16,
    },
    {
        # The language model of one that sees, keys as transformers 4 wrote them, defaults left out: none of the
        # three layers is the sixth.
        "name": "gemma3_vision",
        "classes": (Gemma3TextConfig, Gemma3ForCausalLM),
        "config": {
            "hidden_size": 48,
            "intermediate_size": 72,
            "num_attention_heads": 3,
            "num_key_value_heads": 3,
            "head_dim": 16,
            "sliding_window": 40,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1000000.0, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
            },
        },
        "dtype": torch.bfloat16,
        "old_keys": True,
        "beside_vision": ("Gemma3ForConditionalGeneration", "gemma3"),
    },
]


E2M1 = torch.tensor([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def mxfp4(weight):
    """Experts [experts, in, out] as numbers of four bits for each output feature, and exponents of their scales."""
    blocks = weight.transpose(1, 2).unflatten(-1, (-1, 32))  # [experts, out, in / 32, 32]
    exponents = blocks.abs().amax(-1).log2().floor() - 2
    scaled = blocks / exponents.exp2().unsqueeze(-1)
    numbers = (scaled.abs().unsqueeze(-1) - E2M1).abs().argmin(-1)
    return numbers + 8 * (scaled < 0), exponents


def of_mxfp4(numbers, exponents):
    """What they stand for."""
    values = E2M1[numbers % 8] * torch.where(numbers >= 8, -1.0, 1.0)
    return (values * exponents.exp2().unsqueeze(-1)).flatten(-2).transpose(1, 2)


def is_of_experts(name):
    return name.endswith(("experts.gate_up_proj", "experts.down_proj"))


def biases_of_choice(model):
    """They are no parameters, and float32 whatever those are."""
    return [(name, buffer) for name, buffer in model.named_buffers() if name.endswith("e_score_correction_bias")]


def randomise(model, golden, seed):
    """Fills every parameter; values are rounded to the stored type."""
    dtype = golden["dtype"]
    generator = torch.Generator().manual_seed(seed)
    # A tied embedding is kept small beside what the layers add, or every token predicts itself.
    embedding = 0.7 if model.config.tie_word_embeddings else 2.0
    if is_gemma := model.config.model_type.startswith("gemma"):
        embedding = 0.1  # it is scaled up there
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if name == "model.norm.weight":
            value = 8.0 / embedding + noise  # spreads the logits
            value = value * getattr(model.config, "logits_scaling", 1.0)
        elif name.endswith("norm.weight"):
            value = 1.0 + 0.3 * noise
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif name.endswith(".sinks"):
            value = 1.0 + noise
        elif name.endswith("experts.down_proj"):
            # Rounding sends some tokens to other experts, which shall count little.
            value = noise * (0.3 / parameter.shape[-1] ** 0.5)
        elif name in ("model.embed_tokens.weight", "lm_head.weight"):
            value = noise * (embedding / parameter.shape[1] ** 0.5)
        else:
            value = noise * (1.4 / parameter.shape[-1] ** 0.5)  # of experts the last is the input, too
        if is_gemma and name.endswith("norm.weight"):
            value = value - 1.0
        if golden.get("is_mxfp4") and is_of_experts(name):
            value = of_mxfp4(*mxfp4(value))
        parameter.data.copy_(value.to(dtype).float())
    for _, bias in biases_of_choice(model):
        bias.copy_(0.3 * torch.randn(bias.shape, generator=generator))


def expect(model, prompt):
    """Logits of the last position of the prompt, and the greedy continuation."""
    with torch.no_grad():
        output = model(torch.tensor([prompt]), use_cache=True)
        first = output.logits[0, -1]
        greedy, logits, margin = [], first, float("inf")
        for _ in range(NUM_GREEDY):
            top = logits.topk(2).values
            margin = min(margin, (top[0] - top[1]).item())
            greedy.append(logits.argmax().item())
            output = model(
                torch.tensor([[greedy[-1]]]), past_key_values=output.past_key_values, use_cache=True
            )
            logits = output.logits[0, -1]
    return {"prompt": prompt, "logits": first.tolist(), "greedy": greedy}, margin


def bf16_error(model, cases):
    """Root mean square by which transformers' own bf16 logits miss the float32 ones, worst case.

    With experts also of embeddings that are slightly other ones: which of them a token goes to may turn on less.
    """
    errors, exact = [], model.model.embed_tokens.weight.data.clone()
    for run in range(8 if any("experts" in name for name, _ in model.named_parameters()) else 1):
        generator = torch.Generator().manual_seed(run)
        jitter = torch.randn(exact.shape, generator=generator) * (2**-9 if run else 0)
        rounded = copy.deepcopy(model)
        rounded.model.embed_tokens.weight.data.copy_(exact * (1 + jitter))
        rounded = rounded.to(torch.bfloat16)
        with torch.no_grad():
            for case in cases:
                logits = rounded(torch.tensor([case["prompt"]])).logits[0, -1].float()
                missed = logits - torch.tensor(case["logits"])
                errors.append(missed.square().mean().sqrt().item())
    return max(errors)


def save_config(folder, golden, config):
    """config.json as transformers writes it, or with the keys of transformers 4."""
    values = json.loads(config.to_json_string(use_diff=False))
    keep = {
        "architectures", "model_type", "hidden_act", "head_dim", "torch_dtype",
        "tie_word_embeddings", "layer_types", "sliding_window", "max_window_layers",
        "hidden_activation", "num_local_experts",
        *SHARED, *golden["config"],
    }  # fmt: skip
    values = {key: value for key, value in values.items() if key in keep}
    values["architectures"] = [golden["classes"][1].__name__]
    dtype = str(golden["dtype"]).removeprefix("torch.")
    if golden.get("old_keys"):
        rope = values.pop("rope_parameters")
        if "full_attention" in rope:
            values["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
            rope = rope["full_attention"]
        values["rope_theta"] = rope.pop("rope_theta")
        if "short_factors" in golden:
            rope = {"rope_type": "longrope", "short_factor": golden["short_factors"], "long_factor": rope["long_factor"]}
        kind = rope.pop("rope_type")
        values["rope_scaling"] = None if kind == "default" else {"type": kind, **rope}
        values["torch_dtype"] = dtype
        if golden["name"] == "llama2":
            del values["head_dim"]
    else:
        values["dtype"] = dtype
    if golden.get("is_mxfp4"):
        values["quantization_config"] = {
            "modules_to_not_convert": [
                "model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head",
            ],
            "quant_method": "mxfp4",
        }  # fmt: skip
    if golden.get("beside_vision"):
        architecture, kind = golden["beside_vision"]
        kept = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "num_key_value_heads", "head_dim", "sliding_window", "rope_scaling", "vocab_size",
                "max_position_embeddings"}  # fmt: skip
        if kind == "mistral3":
            kept |= {"hidden_act", "model_type", "rms_norm_eps", "rope_parameters"}
        values = {
            "architectures": [architecture],
            "model_type": kind,
            "torch_dtype": dtype,
            "eos_token_id": [2],
            "text_config": {key: value for key, value in values.items() if key in kept},
            "vision_config": {},
        }
    (folder / "config.json").write_text(json.dumps(values, indent=2, sort_keys=True) + "\n")


def one_by_one(tensors, block, gate, up, down):
    """Experts as published: transformers 5 holds those of a layer in one tensor."""
    named = {}
    for name, tensor in tensors.items():
        name = name.replace(".mlp.", f".{block}.") if ".mlp.gate.weight" in name else name
        if ".mlp.experts." not in name:
            named[name] = tensor
            continue
        layer = name.split(".mlp.")[0]
        for number, expert in enumerate(tensor):
            parts = {down: expert}
            if name.endswith("gate_up_proj"):
                parts = dict(zip((gate, up), expert.chunk(2), strict=True))
            for part, values in parts.items():
                named[f"{layer}.{block}.experts.{number}.{part}.weight"] = values.contiguous()
    return named


def in_mxfp4(tensors):
    """Experts as published: two numbers to a byte, the first in its lower half, and scales of eight bits."""
    for name in [name for name in tensors if is_of_experts(name)]:
        numbers, exponents = mxfp4(tensors.pop(name).float())
        pairs = numbers.unflatten(-1, (-1, 2))
        tensors[f"{name}_blocks"] = (pairs[..., 0] | pairs[..., 1] << 4).to(torch.uint8)
        tensors[f"{name}_scales"] = (exponents + 127).to(torch.uint8)
    return tensors


def save_weights(folder, golden, model):
    """model.safetensors, or shards and their index."""
    tensors = {
        name: parameter.data.to(golden["dtype"]).contiguous()
        for name, parameter in model.named_parameters()  # a tied head is listed once
    }
    tensors.update(biases_of_choice(model))
    if golden.get("is_mxfp4"):
        tensors = in_mxfp4(tensors)
    if "experts" in golden:
        tensors = one_by_one(tensors, *golden["experts"])
    if golden.get("beside_vision"):
        tensors = {f"language_model.{name}": tensor for name, tensor in tensors.items()}
    num_shards = golden.get("num_shards", 1)
    if num_shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names, weight_map = list(tensors), {}
    for shard in range(num_shards):
        file = f"model-{shard + 1:05}-of-{num_shards:05}.safetensors"
        part = {name: tensors[name] for name in names[shard::num_shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(part, file))
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def make(golden):
    """Writes one folder, with the first seed whose greedy choices are all clear."""
    config_class, model_class = golden["classes"]
    config = config_class(**{**SHARED, **golden["config"]}, attn_implementation="eager")
    model = model_class(config).float().eval()
    for seed in range(200):
        randomise(model, golden, seed)
        generator = torch.Generator().manual_seed(1000 + seed)
        prompts = [
            torch.randint(3, VOCAB, (length,), generator=generator).tolist()
            for length in PROMPT_LENS
        ]
        cases, margins = zip(*(expect(model, prompt) for prompt in prompts), strict=True)
        if min(margins) >= MARGIN and (error := bf16_error(model, cases)) < MAX_BF16_ERROR:
            break
    else:
        raise SystemExit(f"{golden['name']}: no seed separates the logits")
    folder = GOLDEN / golden["name"]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    save_config(folder, golden, config)
    save_weights(folder, golden, model)
    if golden.get("is_mxfp4"):
        # What was packed here is what transformers unpacks.
        unpacked = model_class.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager")
        for name, parameter in unpacked.named_parameters():
            assert torch.equal(parameter, model.get_parameter(name)), name
    expected = {"cases": cases, "bf16_error": error}
    (folder / "expected.json").write_text(json.dumps(expected) + "\n")
    for file in folder.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size < 500_000, f"{golden['name']} takes {size} bytes"
    spread = torch.tensor(cases[2]["logits"]).std().item()
    distinct = len({token for case in cases for token in case["greedy"]})
    print(f"{golden['name']}: seed {seed}, {size} bytes, smallest margin {min(margins):.3f}, "
          f"logits' deviation {spread:.2f}, {distinct} distinct greedy tokens, "
          f"bf16 is off by {expected['bf16_error']:.3f}")  # fmt: skip


if __name__ == "__main__":
    torch.set_num_threads(1)
    for golden in GOLDENS:
        if not sys.argv[1:] or golden["name"] in sys.argv[1:]:
            make(golden)
