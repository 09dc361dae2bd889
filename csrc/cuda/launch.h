// What every launcher shares. Launches go through cudaLaunchKernelEx rather than <<<>>>, so that a plain C++
// compiler can read the files too: tests/cpp/cuda_emulation runs the kernels on the host where there is no
// GPU.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#if defined(__CUDACC__)
#define RCFAST_DEVICE __device__ __forceinline__
#else
#define RCFAST_DEVICE inline
#endif

namespace rcfast::cuda {
namespace {

#if !defined(RCFAST_MAX_GRID_Y)
#define RCFAST_MAX_GRID_Y 65535  // less in the emulation, so that blocks have several examples
#endif
constexpr int64_t kMaxGridY = RCFAST_MAX_GRID_Y;

template <class Args>
void launch_kernel(const char* name, void (*kernel)(Args), dim3 grid, int threads, cudaStream_t stream,
                   const Args& args) {
    cudaLaunchConfig_t config = {};
    config.gridDim = grid;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.stream = stream;
    const cudaError_t error = cudaLaunchKernelEx(&config, kernel, args);
    if (error != cudaSuccess)
        throw std::runtime_error(std::string(name) + ": launch failed: " + cudaGetErrorString(error));
}

}  // namespace
}  // namespace rcfast::cuda
