// Where the elements of A, B and C lie in the registers of a warp, for the FP64 matrix
// instructions the kernels use: the assumed layout, confirmed element by element.
//
// A probe has one operand with a single element 1 and the other with all elements different, so
// that the product shows which row of B, or column of A, this element selects, and where it lands.
// (A common permutation of the summation index in A and B changes no product: it neither can be
// seen nor matters.) Every element of A and of B is probed, and all of C is compared in each probe.
//
// Prints one line of JSON. Exit status: 0 all as assumed, 1 not, 2 the device could not be used.
#include <cuda_runtime.h>

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

// g = lane / 4, t = lane % 4; register q of a lane holds the element (row, column).
struct M8N8K4 {
  static constexpr int M = 8, N = 8, K = 4, A = 1, B = 1, C = 2;
  static constexpr const char* name = "m8n8k4";
  __host__ __device__ static int a(int g, int t, int) { return g * K + t; }
  __host__ __device__ static int b(int g, int t, int) { return t * N + g; }
  __host__ __device__ static int c(int g, int t, int q) { return g * N + 2 * t + q; }

  __device__ static void mma(double (&c)[C], const double (&a)[A], const double (&b)[B]) {
#if __CUDA_ARCH__ >= 800
    asm volatile("mma.sync.aligned.m8n8k4.row.col.f64.f64.f64.f64 {%0,%1}, {%2}, {%3}, {%0,%1};"
                 : "+d"(c[0]), "+d"(c[1])
                 : "d"(a[0]), "d"(b[0]));
#endif
  }
};

struct M16N8K16 {
  static constexpr int M = 16, N = 8, K = 16, A = 8, B = 4, C = 4;
  static constexpr const char* name = "m16n8k16";
  __host__ __device__ static int a(int g, int t, int q) {
    return (g + 8 * (q & 1)) * K + t + 4 * (q >> 1);
  }
  __host__ __device__ static int b(int g, int t, int q) { return (t + 4 * q) * N + g; }
  __host__ __device__ static int c(int g, int t, int q) {
    return (g + 8 * (q >> 1)) * N + 2 * t + (q & 1);
  }

  __device__ static void mma(double (&c)[C], const double (&a)[A], const double (&b)[B]) {
#if __CUDA_ARCH__ >= 900
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f64.f64.f64.f64 {%0,%1,%2,%3}, "
                 "{%4,%5,%6,%7,%8,%9,%10,%11}, {%12,%13,%14,%15}, {%0,%1,%2,%3};"
                 : "+d"(c[0]), "+d"(c[1]), "+d"(c[2]), "+d"(c[3])
                 : "d"(a[0]), "d"(a[1]), "d"(a[2]), "d"(a[3]), "d"(a[4]), "d"(a[5]), "d"(a[6]),
                   "d"(a[7]), "d"(b[0]), "d"(b[1]), "d"(b[2]), "d"(b[3]));
#endif
  }
};

// One warp per probe: c = a b for the matrices of this block, through the assumed layout.
template <class F> __global__ void products(const double* a, const double* b, double* c) {
  a += blockIdx.x * F::M * F::K;
  b += blockIdx.x * F::K * F::N;
  c += blockIdx.x * F::M * F::N;
  const int g = threadIdx.x / 4, t = threadIdx.x % 4;
  double fa[F::A], fb[F::B], fc[F::C] = {};
  for (int q = 0; q < F::A; ++q) fa[q] = a[F::a(g, t, q)];
  for (int q = 0; q < F::B; ++q) fb[q] = b[F::b(g, t, q)];
  F::mma(fc, fa, fb);
  for (int q = 0; q < F::C; ++q) c[F::c(g, t, q)] = fc[q];
}

void check(cudaError_t status) {
  if (status == cudaSuccess) return;
  std::printf("{\"error\": \"%s\"}\n", cudaGetErrorString(status));
  std::exit(2);
}

struct Buffer {
  double* device = nullptr;
  explicit Buffer(const std::vector<double>& host) {
    check(cudaMalloc(&device, host.size() * sizeof(double)));
    check(cudaMemcpy(device, host.data(), host.size() * sizeof(double), cudaMemcpyHostToDevice));
  }
  ~Buffer() { cudaFree(device); }
};

// JSON of one instruction; `wrong` counts probes that disagree.
template <class F> std::string probe(int& wrong_in_all) {
  constexpr int MK = F::M * F::K, KN = F::K * F::N, MN = F::M * F::N, PROBES = MK + KN;
  std::vector<double> a(PROBES * MK, 0.0), b(PROBES * KN, 0.0), c(PROBES * MN, NAN);
  for (int p = 0; p < PROBES; ++p)
    if (p < MK) {
      a[p * MK + p] = 1;
      for (int i = 0; i < KN; ++i) b[p * KN + i] = 1 + i;
    } else {
      b[p * KN + p - MK] = 1;
      for (int i = 0; i < MK; ++i) a[p * MK + i] = 1 + i;
    }
  const Buffer da(a), db(b), dc(c);
  products<F><<<PROBES, 32>>>(da.device, db.device, dc.device);
  check(cudaGetLastError());
  check(cudaMemcpy(c.data(), dc.device, c.size() * sizeof(double), cudaMemcpyDeviceToHost));

  int wrong = 0, first = -1;
  for (int p = 0; p < PROBES; ++p) {
    bool same = true;
    for (int i = 0; i < F::M; ++i)
      for (int j = 0; j < F::N; ++j) {
        double expected = 0; // integers: exact in any order
        for (int k = 0; k < F::K; ++k)
          expected += a[p * MK + i * F::K + k] * b[p * KN + k * F::N + j];
        same = same && c[p * MN + i * F::N + j] == expected;
      }
    if (!same && wrong++ == 0) first = p;
  }
  wrong_in_all += wrong;
  std::string text = "\"" + std::string(F::name) + "\": {\"probes\": " + std::to_string(PROBES) +
                     ", \"wrong\": " + std::to_string(wrong);
  if (first >= 0) {
    const bool in_a = first < MK;
    const int element = in_a ? first : first - MK, columns = in_a ? F::K : F::N;
    text += std::string(", \"first_wrong\": \"") + (in_a ? "A" : "B") + " row " +
            std::to_string(element / columns) + " column " + std::to_string(element % columns) +
            "\"";
  }
  return text + "}";
}

int main() {
  cudaDeviceProp device;
  check(cudaGetDeviceProperties(&device, 0));
  int wrong = 0;
  std::string text;
  if (device.major >= 8) text += probe<M8N8K4>(wrong);
  if (device.major >= 9) text += ", " + probe<M16N8K16>(wrong);
  std::printf("{%s}\n", text.c_str());
  return wrong ? 1 : 0;
}
