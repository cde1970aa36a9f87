// The part of a product that one warp computes and holds in its registers.
#pragma once

#include "cuda/device_code.cuh"

namespace dmftcore::cuda {

// The k that lie in shared memory together.
constexpr int DEPTH = 16;

// An M x N sum of products of a: M x DEPTH, row-major with pitch A, and b: DEPTH x N with pitch B,
// both in shared memory. The terms are added in the order of k, in groups that start at multiples
// of DEPTH: the sum does not depend on M and N.
template <class T, int M, int N> class WarpTile;

// FP64 tensor cores. With A = 4 mod 16 and B = 4 mod 16 doubles the sixteen lanes that are served
// together find the fragments in different banks. A warp of 64 x 32 reads shared memory for 24 of
// the 64 clocks its tensor core needs.
template <int M, int N> class WarpTile<double, M, N> {
  static_assert(M % 16 == 0 && N % 8 == 0);

public:
  template <int A, int B>
  __device__ __forceinline__ void add_product(const double* a, const double* b) {
    static_assert(DEPTH == 16 && A % 16 == 4 && B % 16 == 4);
    const int lane = static_cast<int>(threadIdx.x) % WARP, g = lane / 4, t = lane % 4;
    double right[N / 8][4];
    DMFTCORE_UNROLL
    for (int j = 0; j < N / 8; ++j) {
      DMFTCORE_UNROLL
      for (int q = 0; q < 4; ++q) right[j][q] = b[(t + 4 * q) * B + 8 * j + g];
    }
    DMFTCORE_UNROLL
    for (int i = 0; i < M / 16; ++i) {
      double left[8];
      DMFTCORE_UNROLL
      for (int q = 0; q < 8; ++q) left[q] = a[(16 * i + g + 8 * (q & 1)) * A + t + 4 * (q >> 1)];
      DMFTCORE_UNROLL
      for (int j = 0; j < N / 8; ++j) mma(sum_[i][j], left, right[j]);
    }
  }

  // use(row, column, sum) for each element this lane holds: neighbours along a row in turn.
  template <class Use> __device__ __forceinline__ void for_each(const Use& use) const {
    const int lane = static_cast<int>(threadIdx.x) % WARP, g = lane / 4, t = lane % 4;
    DMFTCORE_UNROLL
    for (int i = 0; i < M / 16; ++i) {
      DMFTCORE_UNROLL
      for (int h = 0; h < 2; ++h) {
        DMFTCORE_UNROLL
        for (int j = 0; j < N / 8; ++j) {
          DMFTCORE_UNROLL
          for (int q = 0; q < 2; ++q) use(16 * i + 8 * h + g, 8 * j + 2 * t + q, sum_[i][j][h][q]);
        }
      }
    }
  }

private:
  double sum_[M / 16][N / 8][2][2] = {};
};

// Multiply-adds on a grid of 8 x 4 lanes; both matrices are read in vectors of four. With A = 4 mod
// 16 floats the eight rows of a lie in different banks. A lane of 8 x 8 does 256 multiply-adds per
// 16 reads.
template <int M, int N> class WarpTile<float, M, N> {
  static_assert(M % 8 == 0 && N % 16 == 0);

  struct alignas(16) Four {
    float values[4];
  };
  static __device__ __forceinline__ const Four& four(const float* p) {
    return *reinterpret_cast<const Four*>(p);
  }

public:
  template <int A, int B>
  __device__ __forceinline__ void add_product(const float* a, const float* b) {
    static_assert(A % 16 == 4 && B % 4 == 0);
    const int lane = static_cast<int>(threadIdx.x) % WARP, r = lane / 4, c = lane % 4;
    DMFTCORE_UNROLL
    for (int k0 = 0; k0 < DEPTH; k0 += 4) {
      Four left[M / 8];
      DMFTCORE_UNROLL
      for (int i = 0; i < M / 8; ++i) left[i] = four(a + (8 * i + r) * A + k0);
      DMFTCORE_UNROLL
      for (int k = 0; k < 4; ++k) {
        DMFTCORE_UNROLL
        for (int j = 0; j < N / 16; ++j) {
          const Four right = four(b + (k0 + k) * B + 16 * j + 4 * c);
          DMFTCORE_UNROLL
          for (int i = 0; i < M / 8; ++i) {
            DMFTCORE_UNROLL
            for (int q = 0; q < 4; ++q) sum_[i][j][q] += left[i].values[k] * right.values[q];
          }
        }
      }
    }
  }

  template <class Use> __device__ __forceinline__ void for_each(const Use& use) const {
    const int lane = static_cast<int>(threadIdx.x) % WARP, r = lane / 4, c = lane % 4;
    DMFTCORE_UNROLL
    for (int i = 0; i < M / 8; ++i) {
      DMFTCORE_UNROLL
      for (int j = 0; j < N / 16; ++j) {
        DMFTCORE_UNROLL
        for (int q = 0; q < 4; ++q) use(8 * i + r, 16 * j + 4 * c + q, sum_[i][j][q]);
      }
    }
  }

private:
  float sum_[M / 8][N / 16][4] = {};
};

} // namespace dmftcore::cuda
