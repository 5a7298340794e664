// Causal attention over paged keys and values; see mod.rs for the formula, the .cuh files for the
// kernels.
#include "../cuda/device.cuh"
#include "params.cuh"
#include "plain.cuh"
#include "split.cuh"
#include "tile.cuh"

KERNEL(paged_attention_plain_f32, PagedAttentionParams, 128) { attend_plain<float>(p); }
KERNEL(paged_attention_plain_bf16, PagedAttentionParams, 128) { attend_plain<bf16>(p); }
KERNEL(paged_attention_plain_f16, PagedAttentionParams, 128) { attend_plain<f16>(p); }

#define SPLIT(head_dim, row_tiles, blocks, dtype)                                              \
    KERNEL(paged_attention_split_##head_dim##x##row_tiles##_##dtype, PagedAttentionParams,     \
           SplitShape<head_dim, row_tiles>::THREADS, blocks) {                                 \
        attend_splits<dtype, SplitShape<head_dim, row_tiles>>(p);                              \
    }

SPLIT(64, 1, 4, bf16)
SPLIT(64, 2, 3, bf16)
SPLIT(96, 1, 3, bf16)
SPLIT(96, 2, 2, bf16)
SPLIT(128, 1, 3, bf16)
SPLIT(128, 2, 2, bf16)
SPLIT(256, 1, 3, bf16)
SPLIT(64, 1, 4, f16)
SPLIT(64, 2, 3, f16)
SPLIT(96, 1, 3, f16)
SPLIT(96, 2, 2, f16)
SPLIT(128, 1, 3, f16)
SPLIT(128, 2, 2, f16)
SPLIT(256, 1, 3, f16)

#define TILE(head_dim, rows, keys, blocks, dtype)                                             \
    KERNEL(paged_attention_tile_##head_dim##_##dtype, PagedAttentionParams, 128, blocks) {    \
        attend_tiles<dtype, TileShape<head_dim, rows, keys>>(p);                              \
    }

TILE(64, 128, 64, 2, bf16)
TILE(96, 128, 64, 2, bf16)
TILE(128, 128, 64, 2, bf16)
TILE(256, 64, 32, 2, bf16)
TILE(64, 128, 64, 2, f16)
TILE(96, 128, 64, 2, f16)
TILE(128, 128, 64, 2, f16)
TILE(256, 64, 32, 2, f16)
