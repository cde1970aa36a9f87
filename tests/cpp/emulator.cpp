// The emulator by itself: what a correct kernel computes in every order of its threads, and that
// each fault it is meant to find is found. Prints the faults that passed unseen.
#include <cmath>
#include <cstdio>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "cuda/device_code.cuh"

using namespace dmftcore;
using namespace dmftcore::cuda;

namespace {

int failures = 0;

void expect(bool condition, const std::string& what) {
  if (condition) return;
  ++failures;
  std::printf("FAILED: %s\n", what.c_str());
}

const emulate::Order ORDERS[] = {emulate::Order::forward, emulate::Order::backward,
                                 emulate::Order::shuffled};

std::string error_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const std::exception& error) {
    return error.what();
  }
  return "";
}

// The text that each order reports contains the words.
void expect_error(const std::string& words, const std::function<void()>& run) {
  for (const emulate::Order order : ORDERS) {
    emulate::set_order(order);
    const std::string text = error_of(run);
    expect(text.find(words) != std::string::npos, "expected '" + words + "', not '" + text + "'");
  }
}

// In how many orders the result is 0, 1, 2, ...
int orders_right(const std::function<void(double*)>& run, int count) {
  int right = 0;
  for (const emulate::Order order : ORDERS) {
    emulate::set_order(order);
    std::vector<double> result(static_cast<std::size_t>(count), NAN);
    run(result.data());
    bool equal = true;
    for (int i = 0; i < count; ++i) equal = equal && result[static_cast<std::size_t>(i)] == i;
    right += equal;
  }
  return right;
}

enum class Fault { none, missing_barrier, late_wait, misaligned, divergent, overrun, thrown };

// Reverses in shared memory what was copied there reversed.
__global__ void reverse_twice(Fault fault, const double* from, double* to) {
  double* const shared = shared_memory<double>();
  const unsigned i = threadIdx.x, last = blockDim.x - 1;
  const double* const start = from + blockIdx.x * blockDim.x;
  if (fault == Fault::misaligned) {
    const char* const odd = reinterpret_cast<const char*>(start + i) + 4;
    copy_async(shared + i, reinterpret_cast<const double*>(odd), true);
  } else {
    copy_async(shared + i, start + (last - i), true);
  }
  copy_async_commit();
  if (fault == Fault::late_wait)
    copy_async_wait<1>();
  else
    copy_async_wait<0>();
  if (fault == Fault::divergent && threadIdx.x < 32)
    __syncthreads();
  else if (fault != Fault::missing_barrier)
    __syncthreads();
  if (fault == Fault::overrun && i == 0) shared[blockDim.x] = 1;
  if (fault == Fault::thrown) throw std::runtime_error("from inside");
  to[blockIdx.x * blockDim.x + i] = shared[last - i];
}

void run_reverse(Fault fault, double* to) {
  constexpr unsigned BLOCKS = 3, THREADS = 96;
  std::vector<double> from(BLOCKS * THREADS + 1);
  for (std::size_t i = 0; i < from.size(); ++i) from[i] = static_cast<double>(i);
  launch(reverse_twice, BLOCKS, THREADS, THREADS * sizeof(double), nullptr, fault, from.data(), to);
}

void barriers_and_copies() {
  expect(orders_right([](double* to) { run_reverse(Fault::none, to); }, 288) == 3, "reverse");
  for (const Fault fault : {Fault::missing_barrier, Fault::late_wait})
    expect(orders_right([=](double* to) { run_reverse(fault, to); }, 288) < 3, "unseen fault");
  std::vector<double> to(288);
  const auto faulty = [&](Fault fault) { return [&, fault] { run_reverse(fault, to.data()); }; };
  expect_error("misaligned", faulty(Fault::misaligned));
  expect_error("__syncthreads reached at line", faulty(Fault::divergent));
  expect_error("emulator.cpp", faulty(Fault::divergent));
  expect_error("from inside", faulty(Fault::thrown));
#ifndef __SANITIZE_ADDRESS__ // which stops the program
  expect_error("outside of its shared memory", faulty(Fault::overrun));
#endif
  expect(orders_right([](double* p) { run_reverse(Fault::none, p); }, 288) == 3, "after errors");
}

__global__ void half_a_warp_waits() {
  if (threadIdx.x < 16) __syncwarp();
}

__global__ void wait_in_two_places() {
  if (threadIdx.x < 16)
    __syncwarp();
  else
    __syncwarp();
}

__global__ void one_warp_leaves() {
  if (threadIdx.x >= 32) __syncthreads();
}

void incomplete_barriers() {
  expect_error("__syncwarp not reached by every",
               [] { launch(half_a_warp_waits, 1, 32, 0, nullptr); });
  expect_error("__syncwarp reached at line", [] { launch(wait_in_two_places, 1, 32, 0, nullptr); });
  expect_error("__syncthreads not reached", [] { launch(one_warp_leaves, 1, 64, 0, nullptr); });
}

__global__ void shuffles(double* to) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  double sum = 1;
  for (unsigned delta = 16; delta > 0; delta /= 2) sum += __shfl_down_sync(WHOLE_WARP, sum, delta);
  const double all = __shfl_sync(WHOLE_WARP, sum, 0); // 32
  float rank = static_cast<float>(threadIdx.x);
  rank = __shfl_xor_sync(WHOLE_WARP, rank, 5);
  rank = __shfl_sync(WHOLE_WARP, rank, lane ^ 5);
  to[threadIdx.x] = static_cast<double>(rank) + all - 32;
}

// Tensor cores on small integers, whose products are exact: entry (i, j) is compared with a sum.
__global__ void multiply_tiles(const double* a, const double* b, double* small, double* large) {
  const unsigned lane = threadIdx.x, g = lane / 4, t = lane % 4;
  double c[2] = {1, 1};
  mma_m8n8k4(c, a[g * 16 + t], b[t * 8 + g]);
  for (unsigned q = 0; q < 2; ++q) small[g * 8 + 2 * t + q] = c[q];
  double left[8], right[4], sum[2][2] = {{1, 1}, {1, 1}};
  for (unsigned q = 0; q < 8; ++q) left[q] = a[(g + 8 * (q & 1)) * 16 + t + 4 * (q >> 1)];
  for (unsigned q = 0; q < 4; ++q) right[q] = b[(t + 4 * q) * 8 + g];
  mma_m16n8k16(sum, left, right);
  for (unsigned h = 0; h < 2; ++h)
    for (unsigned q = 0; q < 2; ++q) large[(g + 8 * h) * 8 + 2 * t + q] = sum[h][q];
}

void warps() {
  expect(orders_right([](double* to) { launch(shuffles, 1, 64, 0, nullptr, to); }, 64) == 3,
         "shuffles");
  std::vector<double> a(16 * 16), b(16 * 8);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = static_cast<double>(i * i % 23) - 9;
  for (std::size_t i = 0; i < b.size(); ++i) b[i] = static_cast<double>(i * 5 % 17) - 7;
  for (const emulate::Order order : ORDERS) {
    emulate::set_order(order);
    std::vector<double> small(8 * 8, NAN), large(16 * 8, NAN);
    launch(multiply_tiles, 1, 32, 0, nullptr, a.data(), b.data(), small.data(), large.data());
    for (std::size_t i = 0; i < 16; ++i)
      for (std::size_t j = 0; j < 8; ++j) {
        double sum = 1;
        for (std::size_t k = 0; k < 4; ++k) sum += a[i * 16 + k] * b[k * 8 + j];
        if (i < 8) expect(small[i * 8 + j] == sum, "m8n8k4");
        for (std::size_t k = 4; k < 16; ++k) sum += a[i * 16 + k] * b[k * 8 + j];
        expect(large[i * 8 + j] == sum, "m16n8k16");
      }
  }
}

__global__ void read_what_nobody_wrote(const double* scratch, double* to) {
  to[threadIdx.x] = threadIdx.x < 32 ? shared_memory<double>()[threadIdx.x] : scratch[threadIdx.x];
}

void fresh_memory() {
  std::vector<double> to(64);
  Scratch<double> scratch(nullptr, 64);
  launch(read_what_nobody_wrote, 1, 64, 32 * sizeof(double), nullptr, scratch.data(), to.data());
  for (const double value : to) expect(std::isnan(value), "memory that was not written");
  clear(nullptr, scratch.data(), 64);
  expect(scratch.data()[63] == 0, "clear");
}

void launches() {
  std::vector<double> to(64);
  const auto with = [&](unsigned blocks, unsigned threads, std::size_t shared) {
    return [&to, blocks, threads, shared] {
      launch(shuffles, blocks, threads, shared, nullptr, to.data());
    };
  };
  expect_error("invalid configuration", with(0, 32, 0));
  expect_error("invalid configuration", with(1, 0, 0));
  expect_error("invalid configuration", with(1, 48, 0));
  expect_error("invalid configuration", with(1, 2048, 0));
  expect_error("too much shared memory", with(1, 32, 300000));
}

} // namespace

int main() {
  barriers_and_copies();
  incomplete_barriers();
  warps();
  fresh_memory();
  launches();
  std::printf("%d failures\n", failures);
  return failures != 0;
}
