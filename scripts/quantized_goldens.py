"""Makes crates/engine/src/weights/golden/: weights as AWQ, GPTQ and compressed-tensors store them, of random bits,
with what the reference of each takes them for.

    python scripts/quantized_goldens.py FOLDER      (torch, transformers 5.24, compressed-tensors 0.20)

FOLDER has autoawq-0.2.9 (its sdist, unpacked) and auto_gptq 0.7.1 (its wheel, unpacked): both are read as files,
because they ask for versions of torch that are long gone.
"""

import importlib.util
import sys
from pathlib import Path

import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme
from safetensors.torch import save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

GOLDEN = Path(__file__).resolve().parent.parent / "crates/engine/src/weights/golden"
OUT, IN, GROUP = 24, 160, 32
GROUPS = IN // GROUP


def load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def words(*shape):
    return torch.randint(-(2**31), 2**31, shape, dtype=torch.int64).to(torch.int32)


def scales(*shape):
    return (torch.rand(shape) * 0.1 + 0.01).half()


def of_fields(fields, bits):
    """Words of so many fields along the last dimension."""
    shifts = torch.arange(0, 32, bits)
    whole = (fields.reshape(fields.shape[0], -1, 32 // bits) << shifts).sum(-1)
    return torch.where(whole >= 2**31, whole - 2**32, whole).to(torch.int32)


def gptq(module, bits, zeros_less_one=True, act_order=False):
    layer = module.QuantLinear(bits, GROUP, IN, OUT, bias=False)
    # The first format has zeros less one. Of a zero of 0, which that has no room for, the references take
    # different things.
    zeros = torch.randint(1, 2**bits, (GROUPS, OUT))
    layer.qweight, layer.qzeros = words(IN * bits // 32, OUT), of_fields(zeros - 1, bits)
    layer.scales = scales(GROUPS, OUT)
    if act_order:
        layer.g_idx = layer.g_idx[torch.randperm(IN)]
    tensors = {name: getattr(layer, name).clone() for name in ["qweight", "qzeros", "scales", "g_idx"]}
    if not zeros_less_one:
        tensors["qzeros"] = of_fields(zeros, bits)
    layer.scales = layer.scales.float()
    return tensors, layer(torch.eye(IN)).t()


def awq(module):
    tensors = {"qweight": words(IN, OUT // 8), "qzeros": words(GROUPS, OUT // 8), "scales": scales(GROUPS, OUT)}
    wide = module.dequantize_gemm(tensors["qweight"], tensors["qzeros"], tensors["scales"].float(), 4, GROUP)
    return tensors, wide.t()


def compressed(name, tensors, **args):
    """What the library makes of tensors of a layer."""
    scheme = QuantizationScheme(targets=["Linear"], weights=QuantizationArgs(**args))
    read = {key: value.float() if key == "weight_scale" else value for key, value in tensors.items()}
    return tensors, BaseCompressor.load_from_registry(name).decompress(read, scheme)["weight"]


def packed(bits, symmetric, strategy):
    width = GROUPS if strategy == "group" else 1
    tensors = {
        "weight_packed": words(OUT, IN * bits // 32),
        "weight_scale": scales(OUT, width).bfloat16(),
        "weight_shape": torch.tensor([OUT, IN]),
    }
    if not symmetric:
        tensors["weight_zero_point"] = words(OUT * bits // 32, width)
    group = {"group_size": GROUP} if strategy == "group" else {}
    return compressed("pack-quantized", tensors, num_bits=bits, symmetric=symmetric, strategy=strategy, **group)


def int8():
    weight = torch.randint(-128, 128, (OUT, IN)).to(torch.int8)
    tensors = {"weight": weight, "weight_scale": scales(OUT, 1).bfloat16()}
    return compressed("int-quantized", tensors, num_bits=8, symmetric=True, strategy="channel")


def fp8(rows, columns):
    weight = torch.randn(OUT, IN).to(torch.float8_e4m3fn)
    return weight, scales(-(-OUT // rows), -(-IN // columns)).float()


def fp8_blocks(rows, columns):
    """As DeepSeek's and Qwen's checkpoints, by transformers."""
    weight, scale = fp8(rows, columns)
    return {"weight": weight, "weight_scale_inv": scale}, Fp8Dequantize(None)._dequantize_one(weight, scale)


def fp8_blocks_compressed(rows, columns):
    """Blocks that the weight's sides are no multiples of."""
    weight, scale = fp8(rows, columns)
    args = {"num_bits": 8, "type": "float", "strategy": "block", "block_structure": [rows, columns]}
    return compressed("float-quantized", {"weight": weight, "weight_scale": scale}, **args)


def main():
    torch.manual_seed(0)
    sources = Path(sys.argv[1])
    of_gptq = load("gptq", sources / "auto_gptq/nn_modules/qlinear/qlinear_cuda.py")
    of_awq = load("awq", sources / "autoawq-0.2.9/awq/utils/packing_utils.py")
    goldens = {
        "gptq": gptq(of_gptq, 4),
        "gptq_8_bits": gptq(of_gptq, 8),
        "gptq_act_order": gptq(of_gptq, 4, act_order=True),
        "gptq_v2": gptq(of_gptq, 4, zeros_less_one=False),
        "awq": awq(of_awq),
        "packed": packed(4, True, "group"),
        "packed_zeros": packed(4, False, "group"),
        "packed_8_bits": packed(8, True, "channel"),
        "int8": int8(),
        "fp8_blocks": fp8_blocks(8, 32),
        "fp8_blocks_compressed": fp8_blocks_compressed(16, 64),
    }
    GOLDEN.mkdir(exist_ok=True)
    for name, (tensors, expected) in goldens.items():
        tensors = {f"layer.{key}": value.contiguous() for key, value in tensors.items()}
        save_file({**tensors, "expected": expected.float().contiguous()}, GOLDEN / f"{name}.safetensors")


main()
