// Heads of attention (cpu/attention.hpp): one block of threads for each head.
//
// Per head and step the products with C take M^2 (2 n + 1) multiply-adds on tensor cores
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
  double *c, *f;                     // (heads, M)
  double* parts;                     // (heads, sequences): outputs of a head
  double *drive, *move;              // (heads, M or those that train, columns)
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
  const int moving = p.scale == 0 ? 0 : keys, last = 2 * moving;
  for (index head = blockIdx.x; head < p.heads; head += gridDim.x) {
    double* const query = p.query + head * a.tokens * moving;
    double* const key = p.key + head * a.tokens * moving;
    double* const value = p.value + head * a.tokens * values;
    double* const readout = p.readout + head * values;
    double* const patterns = a.patterns + head * p.sequences * length * length;
    const double* const scores = p.score + (moving ? 0 : head * p.sequences * length * length);
    double* const c = a.c + head * a.tokens;
    double* const f = a.f + head * a.tokens;
    if (learns) {
      const double* const move = a.move + head * a.tokens * a.columns;
      const double* const drive = a.drive + head * a.train_tokens * a.columns;
      for (int i = thread; i < a.tokens * moving; i += threads) {
        query[i] += rate * move[i / moving * a.columns + i % moving];
        key[i] += rate * move[i / moving * a.columns + moving + i % moving];
      }
      for (int d = thread; d < values; d += threads) {
        const double w = readout[d];
        double sum = 0;
        for (int i = 0; i < a.tokens; ++i) {
          const double v = value[i * values + d];
          if (i < a.train_tokens) sum += drive[i * a.columns + last] * v;
          value[i * values + d] = v + rate * move[i * a.columns + last] * w;
        }
        readout[d] = w + rate * sum;
      }
    }
    __syncthreads(); // the new state is there
    for (int i = thread; i < a.tokens * length; i += threads) {
      const int s = i / length, t = s / length * length + i % length;
      double score = 0;
      if (moving == 0)
        score = scores[i];
      else
        for (int d = 0; d < keys; ++d) score += query[s * keys + d] * key[t * keys + d];
      if (moving) score /= p.scale;
      patterns[i] = p.attention == 0 ? score : attention_weight(p.attention, score, length);
    }
    if (p.attention == 0) {
      __syncthreads(); // all scores are there
      for (int s = thread; s < a.tokens; s += threads) {
        double* const row = patterns + s * length;
        double top = row[0], sum = 0;
        for (int t = 1; t < length; ++t) top = row[t] > top ? row[t] : top;
        for (int t = 0; t < length; ++t) sum += row[t] = exp(row[t] - top);
        for (int t = 0; t < length; ++t) row[t] /= sum;
      }
    }
    __syncthreads(); // all patterns are there
    for (int t = thread; t < a.tokens; t += threads) {
      const double* const column = patterns + t / length * length * length + t % length;
      double attended = 0, overlap = 0;
      for (int s = 0; s < length; ++s) attended += column[s * length];
      for (int d = 0; d < values; ++d) overlap += value[t * values + d] * readout[d];
      c[t] = attended / length;
      f[t] = overlap;
    }
    __syncthreads(); // what is read of all tokens is there
    for (int mu = thread; mu < p.sequences; mu += threads) {
      double sum = 0;
      for (int t = mu * length; t < (mu + 1) * length; ++t) sum += c[t] * f[t];
      a.parts[head * p.sequences + mu] = sum;
    }
  }
}

// The outputs of the groups; with `drives` the slopes of each head, and what drives its tokens.
// Shared memory: an error for each sequence that trains.
inline __global__ void __launch_bounds__(ATTENTION_THREADS, ATTENTION_BLOCKS)
    attention_drive(const AttentionState a, const bool drives, double* const outputs) {
  const AttentionOnDevice& p = a.p;
  double* const errors = shared_memory<double>();
  const int thread = int(threadIdx.x), threads = int(blockDim.x);
  const int length = int(p.length), moving = p.scale == 0 ? 0 : int(p.keys);
  const index each = p.heads / p.groups;
  for (index head = blockIdx.x; head < p.heads; head += gridDim.x) {
    const index group = head / each;
    __syncthreads(); // the errors of the head before have been read
    for (int mu = thread; mu < p.sequences; mu += threads) {
      double sum = 0;
      for (index other = group * each; other < (group + 1) * each; ++other)
        sum += p.weight[other] * a.parts[other * p.sequences + mu];
      sum = sum / p.gamma - p.centre[group * p.sequences + mu];
      if (head == group * each) outputs[group * p.sequences + mu] = sum;
      if (mu < p.train) errors[mu] = p.targets[mu] - sum;
    }
    if (!drives) continue;
    __syncthreads(); // all errors are there
    const double* const patterns = a.patterns + head * p.sequences * length * length;
    const double* const c = a.c + head * a.tokens;
    const double* const f = a.f + head * a.tokens;
    double* const slopes = a.slopes + head * a.train_tokens * length;
    for (int s = thread; s < a.train_tokens; s += threads) {
      const int mu = s / length;
      const double scale = errors[mu] / length;
      double mean = 0;
      if (p.attention == 0)
        for (int t = 0; t < length; ++t) mean += patterns[s * length + t] * f[mu * length + t];
      for (int t = 0; t < length; ++t) {
        const double pattern = patterns[s * length + t], overlap = f[mu * length + t];
        double slope = 0;
        if (p.attention == 0)
          slope = pattern * (overlap - mean);
        else if (p.attention == 1)
          slope = overlap / length;
        else if (p.attention == 2)
          slope = overlap * pattern;
        else if (pattern > 0)
          slope = overlap / length;
        slopes[s * length + t] = scale * slope;
      }
    }
    __syncthreads(); // all slopes are there
    double* const drive = a.drive + head * a.train_tokens * a.columns;
    const double* const query = p.query + head * a.tokens * moving;
    const double* const key = p.key + head * a.tokens * moving;
    for (int i = thread; i < a.train_tokens * a.columns; i += threads) {
      const int s = i / a.columns, column = i % a.columns, mu = s / length;
      double sum = 0;
      if (column == 2 * moving) {
        sum = errors[mu] * c[s];
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
