// What every launcher shares.
#pragma once
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace rcfast::cuda {
namespace {

inline void check_launch(const char* kernel) {
    const cudaError_t error = cudaGetLastError();
    if (error != cudaSuccess)
        throw std::runtime_error(std::string(kernel) + ": launch failed: " + cudaGetErrorString(error));
}

constexpr int64_t kMaxGridY = 65535;

}  // namespace
}  // namespace rcfast::cuda
