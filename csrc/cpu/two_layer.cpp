// Networks of one hidden layer: one pass over the particles for each step of their training.
#include <algorithm>
#include <cmath>

#include "cpu/micro.hpp"
#include "cpu/pool.hpp"
#include "cpu/scratch.hpp"
#include "ops.hpp"

namespace dmftcore::cpu {
namespace {

// Particles of a piece, and parts of a run whose sums are added as a tree.
constexpr index PIECE = 512, PARTS = 64;
static_assert(PIECE % TWO_LAYER_PADDING == 0, "only the last piece is padded");
// What is known of the neurons of a run is kept until the next step if all their numbers are no
// more than these many bytes: in the cache it costs less than to evaluate it again.
constexpr index KEPT = 1 << 22;

index ceil_divide(index a, index b) { return (a + b - 1) / b; }

// Rows that are worth keeping: none, if they cost as little to evaluate.
index worth_keeping(Activation activation, index train) {
  switch (activation) {
  case Activation::linear:
  case Activation::quadratic:
    return 0;
  case Activation::relu:
  case Activation::tanh:
    return train;
  default:
    return 2 * train;
  }
}

// e = -(d loss / d f) of one point, times factor.
void point_errors(Loss loss, index outputs, const double* f, const double* y, double factor,
                  double* e) {
  switch (loss) {
  case Loss::logistic:
    for (index k = 0; k < outputs; ++k) e[k] = factor * y[k] / (1 + std::exp(y[k] * f[k]));
    return;
  case Loss::softmax: {
    const double largest = *std::max_element(f, f + outputs);
    double sum = 0;
    for (index k = 0; k < outputs; ++k) sum += e[k] = std::exp(f[k] - largest);
    for (index k = 0; k < outputs; ++k) e[k] = factor * (y[k] - e[k] / sum);
    return;
  }
  default:
    for (index k = 0; k < outputs; ++k) e[k] = factor * (y[k] - f[k]);
  }
}

// One run, its rows copied to where there is room for padding.
template <class T> class Run {
public:
  Run(const TwoLayerMarch<T>& march, const T* x, index run)
      : m_(march), run_(run), ld_(ceil_divide(m_.particles, TWO_LAYER_PADDING) * TWO_LAYER_PADDING),
        rows_(ld_ * (weights() * (m_.a_velocity ? 2 : 1) + known())), numbers_(count()),
        errors_(m_.train * m_.outputs) {
    pieces_ = ceil_divide(m_.particles, PIECE);
    per_part_ = std::max<index>(1, ceil_divide(pieces_, PARTS));
    parts_ = ceil_divide(pieces_, per_part_);
    piece_ = {m_.particles,
              m_.points,
              m_.train,
              m_.inputs,
              m_.outputs,
              ld_,
              x,
              triangular(),
              nullptr,
              0,
              0,
              static_cast<T>(m_.momentum),
              static_cast<T>(m_.decay),
              m_.activation,
              nullptr,
              nullptr,
              nullptr,
              nullptr,
              nullptr,
              nullptr,
              nullptr};
    T* next = rows_.data();
    const auto take = [&](index count) {
      T* const rows = next;
      next += count * ld_;
      return rows;
    };
    piece_.a = take(m_.inputs);
    piece_.w = take(m_.outputs);
    if (m_.a_velocity) piece_.a_velocity = take(m_.inputs), piece_.w_velocity = take(m_.outputs);
    if (known()) piece_.known = take(known());
    std::fill(rows_.data(), next, T(0));
    each_array([&](index count, T* own, T* given) {
      for (index i = 0; i < count; ++i)
        std::copy_n(given + (run_ * count + i) * m_.particles, m_.particles, own + i * ld_);
    });
  }

  void march() {
    Scratch<double> sums(parts_ * count());
    pass(sums.data(), 0);
    for (index step = 0; step < m_.steps; ++step) {
      const double rate = m_.rates[step];
      const bool ball = piece_.a_velocity != nullptr;
      const double factor = m_.gamma / static_cast<double>(m_.train) * (ball ? 1 : rate);
      const double* const f = outputs(step);
      for (index mu = 0; mu < m_.train; ++mu)
        point_errors(m_.loss, m_.outputs, f + mu * m_.outputs, m_.targets + mu * m_.outputs, factor,
                     numbers_.data() + mu * m_.outputs);
      std::transform(numbers_.data(), numbers_.data() + m_.train * m_.outputs, errors_.data(),
                     [](double e) { return static_cast<T>(e); });
      piece_.errors = errors_.data();
      piece_.rate = static_cast<T>(rate);
      piece_.kept = static_cast<T>(1 - rate * m_.decay);
      pass(sums.data(), step + 1);
    }
    if (!m_.steps) return;
    each_array([&](index count, T* own, T* given) {
      for (index i = 0; i < count; ++i)
        std::copy_n(own + i * ld_, m_.particles, given + (run_ * count + i) * m_.particles);
    });
  }

private:
  index count() const { return m_.points * m_.outputs; }
  index weights() const { return m_.inputs + m_.outputs; }
  double* outputs(index step) const { return m_.f + (step * m_.runs + run_) * count(); }
  // Points of which half of the coordinates are zero need half of the products.
  bool triangular() const {
    for (index mu = 0; mu < m_.points; ++mu)
      for (index i = mu + 1; i < m_.inputs; ++i)
        if (m_.x[mu * m_.inputs + i] != 0) return false;
    return true;
  }
  // Rows of what is kept between steps.
  index known() const {
    const index kept = worth_keeping(m_.activation, m_.train);
    const index rows = weights() * (m_.a_velocity ? 2 : 1) + kept;
    return rows * ld_ * index(sizeof(T)) <= KEPT ? kept : 0;
  }

  template <class Body> void each_array(const Body& body) {
    body(m_.inputs, piece_.a, m_.a);
    body(m_.outputs, piece_.w, m_.w);
    if (!m_.a_velocity) return;
    body(m_.inputs, piece_.a_velocity, m_.a_velocity);
    body(m_.outputs, piece_.w_velocity, m_.w_velocity);
  }

  // The update, if there are errors, and the outputs of a step.
  void pass(double* all, index step) {
    parallel_for(parts_, [&](index part) {
      Scratch<T> room(two_layer_room(m_.points, m_.train, m_.outputs));
      double* const sums = all + part * count();
      std::fill(sums, sums + count(), 0.0);
      const index end = std::min(pieces_, (part + 1) * per_part_);
      for (index p = part * per_part_; p < end; ++p) {
        const index at = p * PIECE;
        TwoLayerPiece<T> piece = piece_;
        piece.count = std::min(PIECE, m_.particles - at);
        for (T** rows : {&piece.a, &piece.w, &piece.a_velocity, &piece.w_velocity, &piece.known})
          if (*rows) *rows += at;
        piece.room = room.data();
        piece.sums = sums;
        two_layer_kernels<T>().step(piece);
      }
    });
    for (index stride = 1; stride < parts_; stride *= 2)
      for (index i = 0; i + stride < parts_; i += 2 * stride)
        for (index k = 0; k < count(); ++k) all[i * count() + k] += all[(i + stride) * count() + k];
    const double* const centre = m_.centre + run_ * count();
    const double scale = 1 / (m_.gamma * static_cast<double>(m_.particles));
    for (index k = 0; k < count(); ++k) outputs(step)[k] = scale * all[k] - centre[k];
  }

  const TwoLayerMarch<T>& m_;
  const index run_, ld_;
  index pieces_, per_part_, parts_;
  Scratch<T> rows_;
  Scratch<double> numbers_;
  Scratch<T> errors_;
  TwoLayerPiece<T> piece_;
};

} // namespace

template <class T> void two_layer_march(const TwoLayerMarch<T>& m) {
  Scratch<T> x(m.points * m.inputs);
  std::transform(m.x, m.x + m.points * m.inputs, x.data(),
                 [](double v) { return static_cast<T>(v); });
  const auto march = [&](index run) { Run<T>(m, x.data(), run).march(); };
  // Side by side they need no other: one after the other, only where threads would be idle.
  if (m.runs >= num_threads())
    parallel_for(m.runs, march);
  else
    for (index run = 0; run < m.runs; ++run) march(run);
}

template void two_layer_march(const TwoLayerMarch<double>&);
template void two_layer_march(const TwoLayerMarch<float>&);

} // namespace dmftcore::cpu
