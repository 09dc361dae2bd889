// Enough of CUDA to run our kernels on the host. Threads of a block are fibers of one thread, run from
// barrier to barrier, forwards and backwards in turn: what is read too early, for want of a barrier, is wrong
// every time. Found first on the include path when the .cu files are compiled as plain C++ for the tests.
#pragma once
#include <ucontext.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline dim3 threadIdx, blockIdx, blockDim, gridDim;

namespace emulation {

constexpr size_t kStack = 256 * 1024;

struct Fiber {
    ucontext_t context;
    std::unique_ptr<char[]> stack{new char[kStack]};
    void* fake_stack = nullptr;  // of AddressSanitizer
    bool done = false;
};

inline std::vector<Fiber> fibers;
inline ucontext_t scheduler;
inline Fiber* running = nullptr;
inline std::function<void()> body;
inline unsigned progress = 0;  // barriers passed and fibers ended
inline const void* scheduler_stack = nullptr;
inline size_t scheduler_size = 0;

// AddressSanitizer is told of every change of stacks.
inline void leaving(void** fake_stack, const void* to, size_t size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(fake_stack, to, size);
#else
    (void)fake_stack, (void)to, (void)size;
#endif
}
inline void arrived(void* fake_stack, const void** from, size_t* size) {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(fake_stack, from, size);
#else
    (void)fake_stack, (void)from, (void)size;
#endif
}

inline void yield() {
    Fiber* self = running;
    leaving(&self->fake_stack, scheduler_stack, scheduler_size);
    swapcontext(&self->context, &scheduler);
    arrived(self->fake_stack, &scheduler_stack, &scheduler_size);
}

inline void enter() {
    arrived(nullptr, &scheduler_stack, &scheduler_size);
    body();
    running->done = true;
    ++progress;
    leaving(nullptr, scheduler_stack, scheduler_size);
    setcontext(&scheduler);
}

inline void resume(unsigned thread) {
    running = &fibers[thread];
    threadIdx = dim3(thread);
    void* fake_stack = nullptr;
    leaving(&fake_stack, running->stack.get(), kStack);
    swapcontext(&scheduler, &running->context);
    arrived(fake_stack, nullptr, nullptr);
}

// All threads of one block to their ends.
inline void run(unsigned threads, bool backwards) {
    if (fibers.size() < threads) fibers = std::vector<Fiber>(threads);
    for (unsigned t = 0; t < threads; ++t) {
        Fiber& fiber = fibers[t];
        fiber.done = false;
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = kStack;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, &enter, 0);
    }
    for (unsigned left = threads; left > 0;) {
        const unsigned before = progress;
        for (unsigned i = 0; i < threads; ++i) {
            const unsigned t = backwards ? threads - 1 - i : i;
            if (fibers[t].done) continue;
            resume(t);
            left -= fibers[t].done;
        }
        if (progress == before) {
            std::printf("FAILED: a barrier that not all threads reach\n");
            std::abort();
        }
    }
}

class Barrier {
  public:
    explicit Barrier(unsigned count) : count_(count) {}
    void wait() {
        const unsigned turn = turn_;
        if (++arrived_ == count_) {
            arrived_ = 0;
            ++turn_;
            ++progress;
        }
        while (turn_ == turn) yield();
    }

  private:
    unsigned count_, arrived_ = 0, turn_ = 0;
};

struct Warp {
    Barrier barrier{32};
    uint64_t slots[32];
};

struct Block {
    explicit Block(unsigned threads) : barrier(threads), warps(threads / 32) {}
    Barrier barrier;
    std::vector<Warp> warps;
};

inline Block* block = nullptr;

template <class T>
T shuffle(T value, int from) {
    static_assert(sizeof(T) <= sizeof(uint64_t), "a shuffle moves at most eight bytes");
    Warp& warp = block->warps[threadIdx.x / 32];
    std::memcpy(&warp.slots[threadIdx.x % 32], &value, sizeof(T));
    warp.barrier.wait();
    T got = value;  // beyond the warp a lane keeps its own
    if (from >= 0 && from < 32) std::memcpy(&got, &warp.slots[from], sizeof(T));
    warp.barrier.wait();
    return got;
}

}  // namespace emulation

inline void __syncthreads() { emulation::block->barrier.wait(); }
inline void __syncwarp() { emulation::block->warps[threadIdx.x / 32].barrier.wait(); }
template <class T>
T __shfl_down_sync(unsigned, T value, int step) {
    return emulation::shuffle(value, static_cast<int>(threadIdx.x % 32) + step);
}
template <class T>
T __shfl_sync(unsigned, T value, int from) {
    return emulation::shuffle(value, from);
}
template <class T>
T __shfl_xor_sync(unsigned, T value, int mask) {
    return emulation::shuffle(value, static_cast<int>(threadIdx.x % 32) ^ mask);
}
template <class T>
T atomicAdd(T* at, T value) {
    return __atomic_fetch_add(at, value, __ATOMIC_RELAXED);
}

template <class T>
T atomicMax(T* at, T value) {
    T old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (old < value &&
           !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}
template <class T>
T atomicMin(T* at, T value) {
    T old = __atomic_load_n(at, __ATOMIC_RELAXED);
    while (old > value &&
           !__atomic_compare_exchange_n(at, &old, value, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {
    }
    return old;
}

using cudaError_t = int;
using cudaStream_t = void*;
constexpr cudaError_t cudaSuccess = 0;
inline const char* cudaGetErrorString(cudaError_t) { return "emulated"; }

struct cudaLaunchConfig_t {
    dim3 gridDim, blockDim;
    size_t dynamicSmemBytes = 0;
    cudaStream_t stream = nullptr;
};

template <class... Parameters, class... Arguments>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...),
                               const Arguments&... arguments) {
    ::gridDim = config->gridDim;
    ::blockDim = config->blockDim;
    const dim3 grid = config->gridDim;
    unsigned turn = 0;
    for (unsigned z = 0; z < grid.z; ++z)
        for (unsigned y = 0; y < grid.y; ++y)
            for (unsigned x = 0; x < grid.x; ++x) {
                emulation::Block block(config->blockDim.x);
                emulation::block = &block;
                blockIdx = dim3(x, y, z);
                emulation::body = [&] { kernel(arguments...); };
                emulation::run(config->blockDim.x, turn++ % 2);
            }
    return cudaSuccess;
}
