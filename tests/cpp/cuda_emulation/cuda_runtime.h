// Enough of CUDA to run our kernels on the host: a thread of a block is a std::thread, blocks run one by one.
// Found first on the include path when the .cu files are compiled as plain C++ for the tests.
#pragma once
#include <pthread.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

#define __global__
#define __shared__ static  // one block runs at a time
#define __launch_bounds__(...)

struct dim3 {
    unsigned x, y, z;
    dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

inline thread_local dim3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;

namespace emulation {

class Barrier {
  public:
    explicit Barrier(unsigned count) { pthread_barrier_init(&barrier_, nullptr, count); }
    ~Barrier() { pthread_barrier_destroy(&barrier_); }
    void wait() { pthread_barrier_wait(&barrier_); }

  private:
    pthread_barrier_t barrier_;
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
    emulation::Block block(config->blockDim.x);
    emulation::Barrier turn(config->blockDim.x);
    emulation::block = &block;
    std::vector<std::thread> threads;  // of one block after the other: starting them is what takes the time
    for (unsigned t = 0; t < config->blockDim.x; ++t)
        threads.emplace_back([&, t] {
            threadIdx = dim3(t);
            for (unsigned z = 0; z < grid.z; ++z)
                for (unsigned y = 0; y < grid.y; ++y)
                    for (unsigned x = 0; x < grid.x; ++x) {
                        blockIdx = dim3(x, y, z);
                        kernel(arguments...);
                        turn.wait();
                    }
        });
    for (std::thread& thread : threads) thread.join();
    return cudaSuccess;
}
