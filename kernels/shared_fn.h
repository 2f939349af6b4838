// What host and device code of every backend have in common: one definition, compiled for both where nvcc compiles it.
#pragma once
#ifdef __CUDACC__
#define NT_SHARED_FN __host__ __device__ inline
#else
#define NT_SHARED_FN static inline
#endif
