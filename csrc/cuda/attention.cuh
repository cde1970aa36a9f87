// Heads of attention (cpu/attention.hpp): one block of threads for each head.
//
// Per head and step the products with C take M^2 (2 n + K) multiply-adds on tensor cores
// (product.cuh). The kernels here add 3 M S n and go through the 2 M n numbers of a head twice:
// with M = 256, n = 32 that is 0.13 MB, and 1000 heads take 55 us at 4.8 TB/s.
#pragma once

#include <cmath>

#include "cuda/device_code.cuh"
#include "ops.hpp"

namespace dmftcore::cuda {

// Threads of a block, and blocks of a multiprocessor: registers enough for every architecture.
constexpr int ATTENTION_THREADS = 128, ATTENTION_BLOCKS = 6;

struct AttentionState {
  AttentionOnDevice p;
  int tokens, train_tokens, columns; // M, those that train, columns of drives
  double *patterns, *slopes;         // (heads, sequences or train, length, length)
  double *c, *f;                     // (heads, M), (heads, M, K)
  double* parts;                     // (heads, sequences, K): outputs of a head
  double* demand;       // (heads, those that train): how much attention would lower the loss
  double* gain;         // (heads, K, m): of the read-out
  double *drive, *move; // (heads, M or those that train, columns)
};

__device__ __forceinline__ double attention_weight(int attention, double score, double length) {
  switch (attention) {
  case ATTENTION_NONE:
    return score;
  case 1:
    return (1 + score) / length;
  case 2:
    return exp(score) / length;
  default:
    return (score > 0 ? score : 0) / length;
  }
}

// With `learns` first the update by `move`; then patterns, what is read of them, and the outputs of
// each head.
inline __global__ void __launch_bounds__(ATTENTION_THREADS, ATTENTION_BLOCKS)
    attention_attend(const AttentionState a, const bool learns, const double rate) {
  const AttentionOnDevice& p = a.p;
  const int thread = int(threadIdx.x), threads = int(blockDim.x);
  const int length = int(p.length), keys = int(p.keys), values = int(p.values);
  const int moving = p.scale == 0 ? 0 : keys, last = 2 * moving, outputs = int(p.outputs);
  const bool masked = p.causal && p.attention != ATTENTION_NONE;
  for (index head = blockIdx.x; head < p.heads; head += gridDim.x) {
    double* const query = p.query + head * a.tokens * moving;
    double* const key = p.key + head * a.tokens * moving;
    double* const value = p.value + head * a.tokens * values;
    double* const readout = p.readout + head * outputs * values;
    double* const patterns = a.patterns + head * p.sequences * length * length;
    const double* const scores = p.score + (moving ? 0 : head * p.sequences * length * length);
    double* const c = a.c + head * a.tokens;
    double* const f = a.f + head * a.tokens * outputs;
    if (learns) {
      const double* const move = a.move + head * a.tokens * a.columns;
      const double* const drive = a.drive + head * a.train_tokens * a.columns;
      double* const gain = a.gain + head * outputs * values;
      for (int i = thread; i < a.tokens * moving; i += threads) {
        query[i] += rate * move[i / moving * a.columns + i % moving];
        key[i] += rate * move[i / moving * a.columns + moving + i % moving];
      }
      for (int i = thread; i < outputs * values; i += threads) {
        double sum = 0;
        for (int t = 0; t < a.train_tokens; ++t)
          sum += drive[t * a.columns + last + i / values] * value[t * values + i % values];
        gain[i] = sum;
      }
      __syncthreads(); // the values of the old state have been read
      for (int i = thread; i < a.tokens * values; i += threads) {
        double sum = 0;
        for (int k = 0; k < outputs; ++k)
          sum += move[i / values * a.columns + last + k] * readout[k * values + i % values];
        value[i] += rate * sum;
      }
      __syncthreads(); // the read-out of the old state has been read, and new queries are there
      for (int i = thread; i < outputs * values; i += threads) readout[i] += rate * gain[i];
    }
    for (int i = thread; i < a.tokens * length; i += threads) {
      const int s = i / length, t = s / length * length + i % length;
      double score = 0;
      if (moving == 0)
        score = scores[i];
      else
        for (int d = 0; d < keys; ++d) score += query[s * keys + d] * key[t * keys + d];
      if (moving) score /= p.scale;
      const bool seen = !masked || t <= s;
      patterns[i] = p.attention == 0 ? score
                    : seen           ? attention_weight(p.attention, score, length)
                                     : 0;
    }
    if (p.attention == 0) {
      __syncthreads(); // all scores are there
      for (int s = thread; s < a.tokens; s += threads) {
        double* const row = patterns + s * length;
        const int seen = masked ? s % length + 1 : length;
        double top = row[0], sum = 0;
        for (int t = 1; t < seen; ++t) top = row[t] > top ? row[t] : top;
        for (int t = 0; t < seen; ++t) sum += row[t] = exp(row[t] - top);
        for (int t = 0; t < seen; ++t) row[t] /= sum;
        for (int t = seen; t < length; ++t) row[t] = 0;
      }
    }
    __syncthreads(); // all patterns are there
    for (int t = thread; t < a.tokens; t += threads) {
      const double* const column = patterns + t / length * length * length + t % length;
      double attended = 0;
      for (int s = 0; s < length; ++s) attended += column[s * length];
      c[t] = attended / length;
    }
    for (int i = thread; i < a.tokens * outputs; i += threads) {
      const int t = i / outputs, k = i % outputs;
      double overlap = 0;
      for (int d = 0; d < values; ++d) overlap += value[t * values + d] * readout[k * values + d];
      f[i] = overlap;
    }
    __syncthreads(); // what is read of all tokens is there
    for (int i = thread; i < int(p.sequences) * outputs; i += threads) {
      const int first = i / outputs * length;
      double sum = 0;
      for (int t = first; t < first + length; ++t) sum += c[t] * f[t * outputs + i % outputs];
      a.parts[head * p.sequences * outputs + i] = sum;
    }
  }
}

// The outputs of the groups; with `drives` the slopes of each head, and what drives its tokens.
// Shared memory: the errors of the sequences that train.
inline __global__ void __launch_bounds__(ATTENTION_THREADS, ATTENTION_BLOCKS)
    attention_drive(const AttentionState a, const bool drives, double* const to) {
  const AttentionOnDevice& p = a.p;
  double* const errors = shared_memory<double>();
  const int thread = int(threadIdx.x), threads = int(blockDim.x);
  const int length = int(p.length), moving = p.scale == 0 ? 0 : int(p.keys);
  const int outputs = int(p.outputs), numbers = int(p.sequences) * outputs;
  const index each = p.heads / p.groups;
  for (index head = blockIdx.x; head < p.heads; head += gridDim.x) {
    const index group = head / each;
    __syncthreads(); // the errors of the head before have been read
    for (int i = thread; i < numbers; i += threads) {
      double sum = 0;
      for (index other = group * each; other < (group + 1) * each; ++other)
        sum += p.weight[other] * a.parts[other * numbers + i];
      sum = sum / p.gamma - p.centre[group * numbers + i];
      if (head == group * each) to[group * numbers + i] = sum;
      if (i < int(p.train) * outputs) errors[i] = p.targets[i] - sum;
    }
    if (!drives) continue;
    __syncthreads(); // all errors are there
    const double* const patterns = a.patterns + head * p.sequences * length * length;
    const double* const c = a.c + head * a.tokens;
    const double* const f = a.f + head * a.tokens * outputs;
    double* const demand = a.demand + head * a.train_tokens;
    for (int t = thread; t < a.train_tokens; t += threads) {
      double sum = 0;
      for (int k = 0; k < outputs; ++k)
        sum += errors[t / length * outputs + k] * f[t * outputs + k];
      demand[t] = sum / length;
    }
    __syncthreads(); // the demand of all tokens is there
    double* const slopes = a.slopes + head * a.train_tokens * length;
    for (int s = thread; s < a.train_tokens; s += threads) {
      const double* const pattern = patterns + s * length;
      const double* const of = demand + s / length * length;
      double mean = 0;
      if (p.attention == 0)
        for (int t = 0; t < length; ++t) mean += pattern[t] * of[t];
      for (int t = 0; t < length; ++t) {
        double slope = 0;
        if (p.attention == 0)
          slope = pattern[t] * (of[t] - mean);
        else if (p.attention == 2)
          slope = pattern[t] * of[t];
        else if (p.attention == 1 ? !p.causal || t <= s % length : pattern[t] > 0)
          slope = of[t] / length;
        slopes[s * length + t] = slope;
      }
    }
    __syncthreads(); // all slopes are there
    double* const drive = a.drive + head * a.train_tokens * a.columns;
    const double* const query = p.query + head * a.tokens * moving;
    const double* const key = p.key + head * a.tokens * moving;
    for (int i = thread; i < a.train_tokens * a.columns; i += threads) {
      const int s = i / a.columns, column = i % a.columns, mu = s / length;
      double sum = 0;
      if (column >= 2 * moving) {
        sum = errors[mu * outputs + column - 2 * moving] * c[s];
      } else if (column < moving) {
        for (int t = 0; t < length; ++t)
          sum += slopes[s * length + t] * key[(mu * length + t) * moving + column];
        sum *= p.scale;
      } else {
        for (int t = 0; t < length; ++t)
          sum += slopes[(mu * length + t) * length + s % length] *
                 query[(mu * length + t) * moving + column - moving];
        sum *= p.scale;
      }
      drive[i] = sum;
    }
  }
}

// Scores that are a state: A += 2 rate C J C within a sequence, a block for each of them and each
// head. Shared memory: two squares.
inline __global__ void __launch_bounds__(ATTENTION_THREADS, ATTENTION_BLOCKS)
    attention_move_scores(const AttentionState a, const double rate) {
  const AttentionOnDevice& p = a.p;
  const int thread = int(threadIdx.x), threads = int(blockDim.x), length = int(p.length);
  const int square = length * length;
  double *const half = shared_memory<double>(), *const sum = half + square;
  for (index i = blockIdx.x; i < p.heads * p.sequences; i += gridDim.x) {
    const index head = i / p.sequences, mu = i % p.sequences;
    const double* const slopes = a.slopes + head * a.train_tokens * length;
    for (int place = thread; place < square; place += threads) sum[place] = 0;
    for (int nu = 0; nu < p.train; ++nu) {
      // C between this sequence and nu.
      const double* const block = p.kernel + mu * length * a.train_tokens + nu * length;
      __syncthreads(); // the half of the sequence before has been read
      for (int place = thread; place < square; place += threads) {
        double total = 0;
        for (int k = 0; k < length; ++k)
          total += block[index(place / length) * a.train_tokens + k] *
                   slopes[nu * square + k * length + place % length];
        half[place] = total;
      }
      __syncthreads(); // the half is there
      for (int place = thread; place < square; place += threads)
        for (int k = 0; k < length; ++k)
          sum[place] +=
              half[place / length * length + k] * block[index(place % length) * a.train_tokens + k];
    }
    for (int place = thread; place < square; place += threads)
      p.score[i * square + place] += 2 * rate * sum[place];
  }
}

} // namespace dmftcore::cuda
