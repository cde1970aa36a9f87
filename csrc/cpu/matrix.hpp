// A zero-padded row-major matrix that grows: the storage of the growing network.
#pragma once

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <new>

#include "cpu/micro.hpp"

namespace dmftcore::cpu {

constexpr index padded(index n) { return (n + PAD - 1) / PAD * PAD; }

// Numbers from one row to the next. A matrix is copied whenever its rows move apart: they do so in
// steps of at most 1/8 where it is large. Kernels do not touch what is between the rows.
constexpr index pitch(index cols) {
  index step = 32;
  while (cols >= 16 * step) step *= 2;
  return (cols + step - 1) / step * step;
}

// Invariant: everything outside rows x cols, up to padded(rows) x ld, is zero.
class Matrix {
public:
  Matrix() = default;
  Matrix(index rows, index cols) { resize(rows, cols); }

  index rows() const { return rows_; }
  index cols() const { return cols_; }
  index ld() const { return ld_; }
  double* row(index i) { return data_.get() + i * ld_; }
  const double* row(index i) const { return data_.get() + i * ld_; }
  double* data() { return data_.get(); }
  const double* data() const { return data_.get(); }

  Panel<double> panel() { return {data(), rows_, padded(cols_), ld_}; }
  Panel<const double> panel() const { return panel(0, rows_); }
  // Some of the rows.
  Panel<const double> panel(index begin, index count) const {
    return {row(begin), count, padded(cols_), ld_};
  }

  // Grows to rows x cols, new entries zero.
  void resize(index rows, index cols) {
    const index ld = pitch(std::max<index>(cols, 1));
    if (rows > capacity_ || ld > ld_) {
      const index capacity = rows > capacity_ ? padded(std::max(rows, 2 * capacity_)) : capacity_;
      Buffer data = allocate(capacity * ld);
      double* to = data.get();
      for (index i = 0; i < rows_; ++i, to += ld)
        std::fill(std::copy_n(row(i), cols_, to), to + ld, 0.0);
      std::fill(to, data.get() + capacity * ld, 0.0);
      data_ = std::move(data);
      capacity_ = capacity;
      ld_ = ld;
    }
    rows_ = rows;
    cols_ = cols;
  }

private:
  struct Free {
    void operator()(double* p) const { std::free(p); }
  };
  using Buffer = std::unique_ptr<double[], Free>;

  static Buffer allocate(index size) {
    const auto bytes = static_cast<std::size_t>(size) * sizeof(double);
    Buffer buffer(static_cast<double*>(std::aligned_alloc(64, bytes)));
    if (!buffer) throw std::bad_alloc();
    return buffer;
  }

  Buffer data_;
  index rows_ = 0, cols_ = 0, ld_ = 0, capacity_ = 0;
};

} // namespace dmftcore::cpu
