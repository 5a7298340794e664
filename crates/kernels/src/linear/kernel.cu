// Linear layers for few rows, and the way to e4m3; many rows are cuBLAS's.
#include "../cuda/device.cuh"
#include "plain.cuh"
#include "quantize.cuh"
#include "skinny.cuh"

#define PLAIN(name, weight, dtype, out)             \
    KERNEL(linear_plain_##name, SkinnyParams, 256) { \
        multiply_plain<dtype, weight, out>(p);      \
    }

using f32 = float;
PLAIN(f32_to_f32, f32, f32, f32)
PLAIN(f16_to_f16, f16, f16, f16)
PLAIN(f16_to_f32, f16, f16, f32)
PLAIN(bf16_to_bf16, bf16, bf16, bf16)
PLAIN(bf16_to_f32, bf16, bf16, f32)
PLAIN(e4m3_f32_to_f32, e4m3, f32, f32)
PLAIN(e4m3_f16_to_f16, e4m3, f16, f16)
PLAIN(e4m3_f16_to_f32, e4m3, f16, f32)
PLAIN(e4m3_bf16_to_bf16, e4m3, bf16, bf16)
PLAIN(e4m3_bf16_to_f32, e4m3, bf16, f32)

// Registers for two blocks of 8 warps.
#define SKINNY(weight, dtype, out, out_tiles, row_tiles)                                       \
    KERNEL(linear_##weight##_##dtype##_to_##out##_##out_tiles##x##row_tiles, SkinnyParams, 256, 2) { \
        multiply_skinny<dtype, weight, out, SkinnyShape<out_tiles, row_tiles>>(p);             \
    }
#define SKINNY_SHAPES(weight, dtype, out) \
    SKINNY(weight, dtype, out, 1, 1)      \
    SKINNY(weight, dtype, out, 2, 1)      \
    SKINNY(weight, dtype, out, 2, 2)

SKINNY_SHAPES(bf16, bf16, bf16)
SKINNY_SHAPES(bf16, bf16, f32)
SKINNY_SHAPES(f16, f16, f16)
SKINNY_SHAPES(f16, f16, f32)
SKINNY_SHAPES(e4m3, bf16, bf16)
SKINNY_SHAPES(e4m3, bf16, f32)
SKINNY_SHAPES(e4m3, f16, f16)
SKINNY_SHAPES(e4m3, f16, f32)

KERNEL(quantize_rows_f32, QuantizeParams, QUANTIZE_THREADS) { quantize_row<f32>(p); }
KERNEL(quantize_rows_f16, QuantizeParams, QUANTIZE_THREADS) { quantize_row<f16>(p); }
KERNEL(quantize_rows_bf16, QuantizeParams, QUANTIZE_THREADS) { quantize_row<bf16>(p); }
