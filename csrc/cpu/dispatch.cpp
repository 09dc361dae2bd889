// Which instruction set the loops run on, and how their work is spread over threads.
#include <atomic>
#include <cstdlib>
#include <stdexcept>

#include "kernel_table.h"
#include "threads.h"

namespace rcfast::cpu {
namespace {

std::vector<const KernelTable*> usable() {
    std::vector<const KernelTable*> tables;
#if defined(RCFAST_X86)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("fma"))
        tables.push_back(&avx512_kernels);
    // Not asked for f16c, whose name Clang knows from 18 on: processors with AVX2 have it.
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) tables.push_back(&avx2_kernels);
#endif
    tables.push_back(&portable_kernels);
    return tables;
}

const KernelTable* find(const std::string& name, const std::string& what) {
    std::string names;
    for (const KernelTable* table : usable()) {
        if (name == table->name) return table;
        names += std::string(names.empty() ? "" : ", ") + table->name;
    }
    throw std::invalid_argument(what + " must be one of " + names + " on this machine, got '" + name + "'");
}

std::atomic<const KernelTable*>& current() {
    static std::atomic<const KernelTable*> table{[] {
        const char* wish = std::getenv("RCFAST_CPU");
        return wish && *wish ? find(wish, "RCFAST_CPU") : usable().front();
    }()};
    return table;
}

}  // namespace

std::vector<std::string> instruction_sets() {
    std::vector<std::string> names;
    for (const KernelTable* table : usable()) names.emplace_back(table->name);
    return names;
}

std::string instruction_set() { return current().load()->name; }

void use_instruction_set(const std::string& name) { current() = find(name, "instruction set"); }

const KernelTable& kernels_in_use() { return *current().load(); }

void sample_hypercube(const SampleHypercube& args, int threads) {
    const KernelTable* table = current();
    const int64_t item = args.n < kSegment ? args.n : kSegment;
    parallel_for(args.batch * segments(args.n) * args.samples, 32768 / (item + 1) + 1, threads,
                 [&](int64_t begin, int64_t end) { table->sample_hypercube(args, begin, end); });
}

void sample_noise(const SampleNoise& args, int threads) {
    const KernelTable* table = current();
    const bool segmented = is_independent(args.noise);
    const int64_t item = segmented && args.n > kSegment ? kSegment : args.n;
    parallel_for(args.batch * args.samples * (segmented ? segments(args.n) : 1), 16384 / (item + 1) + 1,
                 threads, [&](int64_t begin, int64_t end) { table->sample_noise(args, begin, end); });
}

void vote(const Vote& args, int threads) {
    const KernelTable* table = current();
    parallel_for(args.batch * args.samples, 32768 / (args.labels + 10) + 1, threads,
                 [&](int64_t begin, int64_t end) { table->vote(args, begin, end); });
}

void vote_soft(const VoteSoft& args, int threads) {
    const KernelTable* table = current();
    parallel_for(args.batch * args.samples, 8192 / (args.labels + 10) + 1, threads,
                 [&](int64_t begin, int64_t end) { table->vote_soft(args, begin, end); });
}

void distance(const Distance& args, int threads) {
    const KernelTable* table = current();
    parallel_for(args.batch * args.samples, 32768 / (args.n + 1) + 1, threads,
                 [&](int64_t begin, int64_t end) { table->distance(args, begin, end); });
}

void conv3x3(const Conv3x3& args, int threads) {
    const KernelTable* table = current();
    const int64_t height = args.height + 2 * args.padding - 2, width = args.width + 2 * args.padding - 2;
    const int64_t tiles = args.images * ((height + 3) / 4) * ((width + 3) / 4);
    const int64_t items = args.winograd ? (tiles + kConvTiles - 1) / kConvTiles : args.images * height;
    parallel_for(items, args.winograd ? 1 : 32, threads,
                 [&](int64_t begin, int64_t end) { table->conv3x3(args, begin, end); });
}

}  // namespace rcfast::cpu
