// What every core header needs: the same function for host and device, internal linkage per translation unit
// (one unit per instruction set is linked into the module: shared inline functions would mix them up).
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define RCFAST_HD __host__ __device__ __forceinline__
#else
#define RCFAST_HD inline __attribute__((always_inline))
#endif
