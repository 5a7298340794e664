// Times the kernel of a whole decode step alone, on random weights of the shapes of Llama-3.1-8B and Qwen3-0.6B.
//   nvcc -std=c++17 -O3 -gencode=arch=compute_90a,code=sm_90a --cudart static -w decode_step.cu -o decode_step
//   ./decode_step [steps]
// "check" is a sum over the first logits: a change that keeps the bits keeps it.
#include "../../../crates/kernels/src/decode_step/kernel.cu"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

void ok(cudaError_t error) {
    if (error == cudaSuccess) return;
    printf("%s\n", cudaGetErrorString(error));
    exit(1);
}

constexpr int DIM = 128, BLOCK = 16, TABLE_WIDTH = 512, NUM_BLOCKS = 8 * 520, POSITIONS = 8192, PARTIALS = 66;

struct Shape {
    const char* name;
    int hidden, intermediate, heads, kv_heads, layers;
    unsigned vocab;
    bool has_head_norms;
    int query_width() const { return heads * DIM; }
    int qkv_width() const { return query_width() + 2 * kv_heads * DIM; }
};

__global__ void fill(bf16* to, size_t len, unsigned seed, float scale) {
    for (size_t i = blockIdx.x * size_t(blockDim.x) + threadIdx.x; i < len; i += size_t(gridDim.x) * blockDim.x) {
        unsigned bits = (unsigned(i) * 2654435761u) ^ seed;
        bits ^= bits >> 15, bits *= 2246822519u, bits ^= bits >> 13, bits *= 3266489917u, bits ^= bits >> 16;
        to[i] = __float2bfloat16((int(bits & 0xffff) - 32768) / 32768.0f * scale);
    }
}

std::vector<void*> taken;

void* take(size_t bytes) {
    void* memory;
    ok(cudaMalloc(&memory, bytes));
    ok(cudaMemset(memory, 0, bytes));
    taken.push_back(memory);
    return memory;
}

bf16* random_values(size_t len, float scale) {
    static unsigned seed = 1;
    bf16* values = static_cast<bf16*>(take(2 * len));
    fill<<<1024, 256>>>(values, len, 7919u * seed++, scale);
    return values;
}

bf16* weight(size_t out, size_t in) { return random_values(out * in, 1.7f / sqrtf(float(in))); }

template <class T>
T* upload(const std::vector<T>& values) {
    void* memory = take(values.size() * sizeof(T));
    ok(cudaMemcpy(memory, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
    return static_cast<T*>(memory);
}

int padded(int len) { return (len + 63) / 64 * 64 + 32; }

// As `plan` of crates/kernels/src/decode_step/cuda.rs. The bytes of shared memory, 0 if there are too few.
int divide(const Shape& shape, StepParams& p, int shared) {
    const int widest = std::max({shape.intermediate, shape.hidden, shape.query_width()});
    const int attention = 4 * 2 * 2 * 16 * (DIM + 8) * 2 + 2 * 8 * DIM * 2;
    p.region_bytes = std::max(2 * p.num_rows * padded(widest), attention);
    const int kept = p.region_bytes + (p.num_rows + 1) * shape.hidden * 2 + 2 * TILES_AT_ONCE * int(sizeof(TileSums)) +
                     MAX_ROWS * (16 + 2) * 4 + shape.layers * int(sizeof(StepLayer));
    p.num_stages = std::min((shared - kept - 1024) / (STAGE_BYTES + 16), 12);
    p.norm_threads = std::min((shape.hidden / 8 / 2 + 31) / 32 * 32, 512);
    return p.num_stages < STAGES_AHEAD ? 0 : kept + p.num_stages * (STAGE_BYTES + 16);
}

StepParams params_of(const Shape& shape, const std::vector<StepLayer>& layers) {
    StepParams p = {};
    std::vector<float> cosines(POSITIONS * DIM / 2), sines(cosines.size());
    for (size_t i = 0; i < cosines.size(); i++) cosines[i] = cosf(i % 977), sines[i] = sinf(i % 977);
    p.layers = upload(layers);
    p.embedding = random_values(size_t(shape.vocab) * shape.hidden, 1.0f);
    p.head = weight(shape.vocab, shape.hidden);
    p.norm = random_values(shape.hidden, 1.0f);
    p.cosine = upload(cosines), p.sine = upload(sines);
    p.arrivals = static_cast<unsigned*>(take(4));
    p.num_layers = shape.layers, p.hidden = shape.hidden, p.intermediate = shape.intermediate, p.vocab = shape.vocab;
    p.max_pos = POSITIONS, p.num_slots = NUM_BLOCKS * BLOCK, p.norm_eps = 1e-5f;
    PagedAttentionParams& a = p.attention;
    a.scale = 1.0f / sqrtf(float(DIM)), a.value_scale = 1.0f;
    a.num_heads = shape.heads, a.num_kv_heads = shape.kv_heads, a.head_dim = DIM;
    a.block_size = BLOCK, a.table_width = TABLE_WIDTH, a.split_rows = MAX_ROWS;
    return p;
}

// Rows that all see as many keys, whose blocks lie in turn.
void add_rows(const Shape& shape, StepParams& p, int rows, int context) {
    std::vector<unsigned> starts, contexts(rows, context), tables, ids, positions(rows, context - 1), slots;
    for (int row = 0; row <= rows; row++) starts.push_back(row);
    for (int row = 0; row < rows; row++) {
        ids.push_back(7 * row + 3);
        for (int i = 0; i < TABLE_WIDTH; i++) tables.push_back((i * 8 + row) % NUM_BLOCKS);
        const int last = context - 1;
        slots.push_back(tables[row * TABLE_WIDTH + last / BLOCK] * BLOCK + last % BLOCK);
    }
    p.num_rows = p.attention.num_seqs = rows;
    p.ids = upload(ids), p.positions = upload(positions), p.slots = upload(slots);
    PagedAttentionParams& a = p.attention;
    a.q_starts = upload(starts), a.context_lens = upload(contexts), a.block_tables = upload(tables);
    a.out = take(2 * size_t(rows) * shape.query_width());
    a.partial_out = static_cast<float*>(take(size_t(rows) * PARTIALS * shape.heads * DIM * 4));
    a.partial_softmax = static_cast<float2*>(take(size_t(rows) * PARTIALS * shape.heads * 8));
    a.arrivals = static_cast<unsigned*>(take(size_t(rows) * shape.heads * 16));
    p.qkv = take(2 * size_t(rows) * shape.qkv_width());
    p.branches = take(4 * size_t(rows) * shape.hidden);
    p.gated = take(2 * size_t(rows) * shape.intermediate);
    p.logits = static_cast<float*>(take(4 * size_t(rows) * shape.vocab));
}

void time_steps(const Shape& shape, const StepParams& p, int context, int shared, int processors, int steps) {
    void* kernel = reinterpret_cast<void*>(decode_step_bf16_128);
    void* arguments[] = {const_cast<StepParams*>(&p)};
    ok(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared));
    cudaEvent_t begin, end;
    ok(cudaEventCreate(&begin)), ok(cudaEventCreate(&end));
    float best = 1e9f, sum = 0.0f;
    for (int i = -3; i < steps; i++) {
        float ms;
        ok(cudaEventRecord(begin));
        ok(cudaLaunchCooperativeKernel(kernel, dim3(processors), dim3(THREADS), arguments, shared, 0));
        ok(cudaEventRecord(end)), ok(cudaEventSynchronize(end)), ok(cudaEventElapsedTime(&ms, begin, end));
        if (i >= 0) best = std::min(best, ms), sum += ms;
    }
    float logits[1000];
    ok(cudaMemcpy(logits, p.logits, sizeof logits, cudaMemcpyDeviceToHost));
    double check = 0.0;
    for (int i = 0; i < 1000; i++) check += logits[i] * (i % 7 - 3);
    const double layer = double(shape.qkv_width() + shape.query_width() + 3.0 * shape.intermediate) * shape.hidden;
    const double keys = double(p.num_rows) * context * shape.kv_heads * DIM * 2 * shape.layers;
    const double bytes = 2.0 * (shape.layers * layer + double(shape.vocab) * shape.hidden + keys), ms = sum / steps;
    printf("%s, %d rows, %d keys, %d stages: %.3f ms, least %.3f, %.0f GB/s of weights and keys (check %.6f)\n", shape.name,
           p.num_rows, context, p.num_stages, ms, best, bytes / ms / 1e6, check);
}

int main(int argc, char** argv) {
    const int steps = argc > 1 ? atoi(argv[1]) : 20;
    cudaDeviceProp device;
    ok(cudaGetDeviceProperties(&device, 0));
    const Shape shapes[] = {{"llama-3.1-8b", 4096, 14336, 32, 8, 32, 128256, false},
                            {"qwen3-0.6b", 1024, 3072, 16, 8, 28, 151936, true}};
    for (const Shape& shape : shapes) {
        std::vector<StepLayer> layers(shape.layers);
        for (StepLayer& layer : layers) {
            layer = {};
            layer.attention_norm = random_values(shape.hidden, 1.0f), layer.mlp_norm = random_values(shape.hidden, 1.0f);
            layer.qkv = weight(shape.qkv_width(), shape.hidden), layer.out = weight(shape.hidden, shape.query_width());
            layer.gate_up = weight(2 * size_t(shape.intermediate), shape.hidden);
            layer.down = weight(shape.hidden, shape.intermediate);
            const size_t cache = size_t(NUM_BLOCKS) * shape.kv_heads * BLOCK * DIM;
            layer.key = random_values(cache, 1.0f), layer.value = random_values(cache, 1.0f);
            if (shape.has_head_norms) layer.q_norm = random_values(DIM, 1.0f), layer.k_norm = random_values(DIM, 1.0f);
        }
        const StepParams of_model = params_of(shape, layers);
        for (int rows : {1, 4, 8}) {
            for (int context : {100, 7000}) {
                StepParams p = of_model;
                add_rows(shape, p, rows, context);
                const int shared = divide(shape, p, int(device.sharedMemPerBlockOptin));
                if (shared > 0) time_steps(shape, p, context, shared, device.multiProcessorCount, steps);
            }
        }
        for (void* memory : taken) ok(cudaFree(memory));
        taken.clear();
    }
}
