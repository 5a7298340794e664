// Causal attention over paged keys and values; see mod.rs for the formula, the .cuh files for the
// kernels.
#include "../cuda/device.cuh"
#include "params.cuh"
#include "plain.cuh"
#include "split.cuh"
#include "tile.cuh"

using f32 = float;

// Storage of queries and results, then of the cache.
#define PLAIN(name, dtype, cache) \
    KERNEL(paged_attention_plain_##name, PagedAttentionParams, 128) { attend_plain<dtype, cache>(p); }

PLAIN(f32, f32, f32)
PLAIN(f16, f16, f16)
PLAIN(bf16, bf16, bf16)
PLAIN(f32_e4m3, f32, e4m3)
PLAIN(bf16_e4m3, bf16, e4m3)

#define SPLIT(head_dim, tiles, blocks, name, dtype, cache)                                  \
    KERNEL(paged_attention_split_##head_dim##x##tiles##_##name, PagedAttentionParams,       \
           SplitShape<dtype, cache, head_dim, tiles>::THREADS, blocks) {                    \
        using Shape = SplitShape<dtype, cache, head_dim, tiles>;                            \
        DYNAMIC_SHARED(shared);                                                             \
        attend_splits<dtype, Shape>(p, WholeBlock<dtype>{p.q}, SplitCursor<Shape>(p, blockIdx.x, gridDim.x), shared); \
    }
#define SPLITS(name, dtype, cache)        \
    SPLIT(64, 1, 3, name, dtype, cache)   \
    SPLIT(64, 2, 3, name, dtype, cache)   \
    SPLIT(96, 1, 3, name, dtype, cache)   \
    SPLIT(96, 2, 2, name, dtype, cache)   \
    SPLIT(128, 1, 3, name, dtype, cache)  \
    SPLIT(128, 2, 2, name, dtype, cache)  \
    SPLIT(256, 1, 3, name, dtype, cache)

SPLITS(bf16, bf16, bf16)
SPLITS(f16, f16, f16)
SPLITS(bf16_e4m3, bf16, e4m3)

#define TILE(head_dim, rows, keys, name, dtype, cache)                                   \
    KERNEL(paged_attention_tile_##head_dim##_##name, PagedAttentionParams, 128, 2) {     \
        attend_tiles<dtype, TileShape<cache, head_dim, rows, keys>>(p);                  \
    }
// As many keys as there are registers for.
#define TILES(keys_128, name, dtype, cache)       \
    TILE(64, 128, 64, name, dtype, cache)         \
    TILE(96, 128, 64, name, dtype, cache)         \
    TILE(128, 128, keys_128, name, dtype, cache)  \
    TILE(256, 64, 32, name, dtype, cache)

TILES(64, bf16, bf16, bf16)
TILES(64, f16, f16, f16)
TILES(48, bf16_e4m3, bf16, e4m3)
