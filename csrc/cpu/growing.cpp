#include "cpu/growing.hpp"

#include <cmath>
#include <numeric>
#include <stdexcept>
#include <utility>

namespace dmftcore::cpu {

namespace {

constexpr std::int64_t LONGEST_GAP = 64;

// Updates that are written into the weights at a time: as many rows as a pass holds in registers,
// and as `apply` takes at once on wide vectors. Half as many are written twice as often, and the
// products with twice as many cost more than that saves: both were slower.
constexpr index COLLECTED = 8;

// The least part of the values that weight decay may leave before they are written anew.
constexpr double LEAST_SCALE = 0.5;

// Of a vector padded with zeros; PAD sums do not wait for one another.
double norm(const double* x, index n) {
  double sums[PAD] = {};
  for (index i = 0; i < n; i += PAD)
    for (index k = 0; k < PAD; ++k) sums[k] += x[i + k] * x[i + k];
  return std::sqrt(std::accumulate(sums, sums + PAD, 0.0));
}

double dot(const double* x, const double* y, index n) {
  double sum = 0;
  for (index i = 0; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

// y += a x
void add(double a, const double* x, double* y, index n) {
  for (index i = 0; i < n; ++i) y[i] += a * x[i];
}

} // namespace

GrowingNetwork::GrowingNetwork(const Data& data, Parameters parameters)
    : p_(std::move(parameters)), rank_(data.rank), outputs_(data.outputs),
      kernels_(network_kernels()), scales_(1, rank_), targets_(outputs_, rank_),
      predictor_(outputs_, rank_), error_(1, rank_), along_collected_(1, capacity()) {
  std::copy_n(data.scales, rank_, scales_.data());
  for (index k = 0; k < outputs_; ++k)
    std::copy_n(data.targets + k * rank_, rank_, targets_.row(k));
  forward_.resize(at(p_.depth));
  backward_.resize(at(p_.depth));
  for (auto* fields : {&h_, &g_, &g_before_})
    for (index l = 0; l <= p_.depth; ++l) fields->emplace_back(outputs_, l == 0 ? rank_ : 0);
  forward_[0].directions.resize(0, rank_);
  initial_.drift = -p_.decay / p_.gamma;
}

index GrowingNetwork::advance(const std::int64_t* stops, index count, double* predictors) {
  for (index i = 0; i < count; ++i) {
    if (!evaluated_) evaluate();
    while (status_ == Status::running && step_ < stops[i]) {
      update();
      ++step_;
      evaluate();
    }
    if (status_ != Status::running) return i;
    for (index k = 0; k < outputs_; ++k)
      std::copy_n(predictor_.row(k), rank_, predictors + (i * outputs_ + k) * rank_);
  }
  return count;
}

void GrowingNetwork::evaluate() {
  backward();
  errors();
  forward();
  evaluated_ = true;
}

// Delta = y - f,  h^0 = X^T Delta, in the eigenbasis of the data
void GrowingNetwork::errors() {
  double loss = 0;
  for (index k = 0; k < outputs_; ++k) {
    double *predictor = predictor_.row(k), *error = error_.data();
    const double *scale = scales_.data(), *target = targets_.row(k), *g0 = g_[0].row(k);
    if (!p_.follow_ntk)
      for (index j = 0; j < rank_; ++j) predictor[j] = g0[j] / p_.gamma;
    for (index j = 0; j < rank_; ++j) error[j] = target[j] - scale[j] * predictor[j];
    loss += dot(error, error, rank_);
    for (index j = 0; j < rank_; ++j) h_[0].row(k)[j] = scale[j] * error[j];
  }
  if (!(loss <= p_.loss_limit)) status_ = Status::diverged;
}

// predictor += (eta/P) sum_l x^{l T} h^l G^{l+1}(t,t), where x^l is what l links make of a point,
// from the top by Horner's rule: H^l(t,t) Delta needs no unvisited direction, because h^l is a
// visited one.
void GrowingNetwork::follow_tangent_kernel(double rate) {
  Matrix above(outputs_, neurons(p_.depth));
  for (index k = 0; k < outputs_; ++k) add(1, h_.back().row(k), above.row(k), above.cols());
  for (index l = p_.depth - 1; l >= 0; --l) {
    Matrix here = propagate_back(l, above);
    const Matrix& g = g_[at(l + 1)];
    for (index k = 0; k < outputs_; ++k)
      for (index j = 0; j < outputs_; ++j)
        add(tangent_factor(l) * dot(g.row(k), g.row(j), g.cols()), h_[at(l)].row(j), here.row(k),
            neurons(l));
    above = std::move(here);
  }
  for (index k = 0; k < outputs_; ++k) add(rate, above.row(k), predictor_.row(k), rank_);
}

// That of W^l, by a g^{l+1} h^{l T}, is left pending for the next backward pass.
void GrowingNetwork::update() {
  const double rate = p_.rates.size() == 1 ? p_.rates[0] : p_.rates[at(step_)];
  if (p_.follow_ntk) follow_tangent_kernel(rate);
  rate_ = rate * p_.gamma;
  keep_ = 1 - rate * p_.decay;
  update_readout();
  pending_ = true;
}

// w += a h^L, with what momentum and decay make of it.
void GrowingNetwork::update_readout() {
  Matrix &readout = g_.back(), &before = g_before_.back();
  const index n = readout.cols();
  for (index k = 0; k < outputs_; ++k) {
    double* w = readout.row(k);
    const double* h = h_.back().row(k);
    std::copy_n(w, n, before.row(k));
    if (has_momentum()) {
      const HeavyBall b = ball();
      double* drift = readout_drift_.row(k);
      for (index j = 0; j < n; ++j) {
        const double v = drift[j] + h[j];
        w[j] += b.rate * v;
        drift[j] = b.momentum * v - b.decay * w[j];
      }
      continue;
    }
    if (p_.decay != 0)
      for (index j = 0; j < n; ++j) w[j] *= keep_;
    add(rate_, h, w, n);
  }
}

void GrowingNetwork::advance_initial_weight() {
  const HeavyBall b = ball();
  const double v = initial_.drift;
  initial_.value += b.rate * v;
  initial_.drift = b.momentum * v - b.decay * initial_.value;
}

void GrowingNetwork::widen(index layer, index neurons) {
  for (auto* fields : {&h_, &g_, &g_before_}) (*fields)[at(layer)].resize(outputs_, neurons);
  if (layer == p_.depth && has_momentum()) readout_drift_.resize(outputs_, neurons);
}

void GrowingNetwork::set_initial_readout() {
  for (index k = 0; k < outputs_; ++k) {
    g_.back().row(k)[k] = p_.sigma;
    if (has_momentum()) readout_drift_.row(k)[k] = initial_.drift * p_.sigma;
  }
}

void GrowingNetwork::grow(Basis& basis, const Matrix& vectors, index link, bool is_forward) {
  if (step_ < basis.next) return;
  double worst = 0;
  for (index k = 0; k < outputs_; ++k) {
    const index n = vectors.cols();
    const double size = norm(vectors.row(k), n);
    basis.largest = std::max(basis.largest, size);
    const double threshold = p_.tol * std::max(size, p_.floor * basis.largest);
    if (residual_.cols() < n) residual_.resize(1, n);
    double* r = residual_.data();
    std::fill_n(r, residual_.ld(), 0.0);
    std::copy_n(vectors.row(k), n, r);
    double left = project_out(basis, r);
    if (left > threshold) left = project_out(basis, r);
    if (threshold > 0) worst = std::max(worst, left / threshold);
    if (!(left > threshold)) continue;

    const index neuron = neurons(is_forward ? link + 1 : link);
    if (neuron >= p_.max_neurons) {
      status_ = Status::full;
      return;
    }
    for (index j = 0; j < n; ++j) r[j] /= left;
    const index direction = basis.directions.rows();
    basis.directions.resize(direction + 1, n);
    std::copy_n(r, n, basis.directions.row(direction));
    basis.neurons.push_back(neuron);
    attach(link, is_forward, r, n);
  }
  if (worst > 2)
    basis.gap = 1;
  else if (worst > 1)
    basis.gap = std::max<std::int64_t>(1, basis.gap / 2);
  else
    basis.gap = std::min(LONGEST_GAP, basis.gap + 1);
  basis.next = step_ + basis.gap;
}

// x -= Q^T Q x; the norm of what is left.
double GrowingNetwork::project_out(const Basis& basis, double* x) {
  const Matrix& q = basis.directions;
  const index n = q.cols(), count = q.rows();
  if (count > 0) {
    if (coefficients_.cols() < std::max(count, n)) coefficients_.resize(2, std::max(count, n));
    double *c = coefficients_.row(0), *back = coefficients_.row(1);
    kernels_.apply(q.panel(), x, c);
    kernels_.apply_transposed(q.panel(), c, 0, back);
    add(-1, back, x, n);
    multiply_adds_ += 2.0 * static_cast<double>(n * count);
  }
  return norm(x, n);
}

index GrowingNetwork::capacity() const { return std::max(COLLECTED, padded(outputs_)); }

void GrowingNetwork::resize(Weights& w, index rows, index cols) const {
  w.values.resize(rows, cols);
  if (has_momentum()) {
    w.drift.resize(rows, cols);
  } else {
    w.left.resize(capacity(), rows);
    w.right.resize(capacity(), cols);
  }
}

void GrowingNetwork::set_initial(Weights& w, index row, index col, double value) const {
  w.values.row(row)[col] = initial_.value * value / w.scale;
  if (has_momentum()) w.drift.row(row)[col] = initial_.drift * value;
}

void GrowingNetwork::apply(const Matrix& w, const Matrix& x, Matrix& y) {
  for (index k = 0; k < x.rows(); ++k) kernels_.apply(w.panel(), x.row(k), y.row(k));
  multiply_adds_ += static_cast<double>(x.rows() * w.rows() * w.cols());
}

void GrowingNetwork::apply(const Weights& w, const Matrix& x, Matrix& y) {
  apply(w.values, x, y);
  add_collected(w, w.right, w.left, x, y);
}

void GrowingNetwork::apply_transposed(const Weights& weights, const Matrix& g, Matrix& y) {
  const Matrix& w = weights.values;
  for (index k = 0; k < g.rows(); ++k) kernels_.apply_transposed(w.panel(), g.row(k), 0, y.row(k));
  multiply_adds_ += static_cast<double>(g.rows() * w.rows() * w.cols());
  add_collected(weights, weights.left, weights.right, g, y);
}

// y <- scale (y + to^T from x)
void GrowingNetwork::add_collected(const Weights& w, const Matrix& from, const Matrix& to,
                                   const Matrix& x, Matrix& y) {
  if (w.collected == 0) return;
  double* c = along_collected_.data();
  for (index k = 0; k < x.rows(); ++k) {
    kernels_.apply(from.panel(0, w.collected), x.row(k), c);
    for (index i = 0; i < w.collected; ++i) c[i] *= w.scale;
    kernels_.apply_transposed(to.panel(0, w.collected), c, w.scale, y.row(k));
  }
  multiply_adds_ += static_cast<double>(x.rows() * w.collected * (from.cols() + to.cols()));
}

// W <- (1 - eta lambda) W + a left^T right
void GrowingNetwork::collect(Weights& w, const Matrix& left, const Matrix& right) {
  w.scale *= keep_;
  if (std::abs(w.scale) < LEAST_SCALE) write_collected(w);
  const double rate = rate_ / w.scale;
  for (index k = 0; k < outputs_; ++k, ++w.collected) {
    for (index j = 0; j < left.cols(); ++j) w.left.row(w.collected)[j] = rate * left.row(k)[j];
    std::copy_n(right.row(k), right.cols(), w.right.row(w.collected));
  }
  if (w.collected + outputs_ > capacity()) write_collected(w);
}

void GrowingNetwork::write_collected(Weights& w) {
  // Values that only decay take part in an update by nothing.
  if (w.collected == 0) std::fill_n(w.left.row(w.collected++), w.left.cols(), 0.0);
  if (w.scale != 1)
    for (index i = 0; i < w.collected; ++i)
      for (index j = 0; j < w.left.cols(); ++j) w.left.row(i)[j] *= w.scale;
  Matrix& values = w.values;
  kernels_.add_product(values.panel(), w.scale, w.left.panel(0, w.collected),
                       w.right.panel(0, w.collected));
  multiply_adds_ += static_cast<double>(w.collected * values.rows() * values.cols());
  w.collected = 0;
  w.scale = 1;
}

void GrowingNetwork::update_and_apply_transposed(Weights& weights, const Matrix& left,
                                                 const Matrix& right, const Matrix& g, Matrix& y) {
  if (pending_ && !has_momentum()) collect(weights, left, right);
  if (!pending_ || !has_momentum()) return apply_transposed(weights, g, y);
  Matrix& w = weights.values;
  // All gradients come before the step, which is taken in one pass with the product of output 0.
  Matrix& drift = weights.drift;
  kernels_.add_product(drift.panel(), 1, left.panel(1, outputs_ - 1), right.panel(1, outputs_ - 1));
  kernels_.momentum_apply_transposed(w.panel(), drift.data(), ball(), left.row(0), right.row(0),
                                     g.row(0), y.row(0));
  for (index k = 1; k < outputs_; ++k)
    kernels_.apply_transposed(std::as_const(w).panel(), g.row(k), 0, y.row(k));
  multiply_adds_ += 2.0 * static_cast<double>(outputs_ * w.rows() * w.cols());
}

void GrowingNetwork::visit(StateVisitor& visitor, const std::string& name, Weights& w, index rows,
                           index cols) const {
  visitor.visit(name, w.values, rows, cols);
  if (has_momentum()) return visitor.visit(name + ".drift", w.drift, rows, cols);
  visitor.visit(name + ".left", w.left, capacity(), rows);
  visitor.visit(name + ".right", w.right, capacity(), cols);
  visitor.visit(name + ".collected", w.collected);
  visitor.visit(name + ".scale", w.scale);
  if (w.collected < 0 || w.collected + outputs_ > capacity())
    throw std::invalid_argument(name + ".collected of the state is out of range");
}

void GrowingNetwork::visit(StateVisitor& visitor) {
  visitor.visit("step", step_);
  std::int64_t status = static_cast<std::int64_t>(status_), evaluated = evaluated_;
  visitor.visit("status", status);
  visitor.visit("evaluated", evaluated);
  status_ = static_cast<Status>(status);
  evaluated_ = evaluated != 0;
  visitor.visit("multiply_adds", multiply_adds_);
  visitor.visit("initial.value", initial_.value);
  visitor.visit("initial.drift", initial_.drift);
  visitor.visit("predictor", predictor_, outputs_, rank_);
  for (index l = 0; l <= p_.depth; ++l) {
    const std::string layer = std::to_string(l);
    visitor.visit("h." + layer, h_[at(l)], outputs_, l == 0 ? rank_ : StateVisitor::ANY);
    visitor.visit("g." + layer, g_[at(l)], outputs_, neurons(l));
    // Filled anew in every step.
    g_before_[at(l)].resize(outputs_, neurons(l));
  }
  if (has_momentum()) visitor.visit("readout.drift", readout_drift_, outputs_, neurons(p_.depth));
  const auto visit_basis = [&](const std::string& name, Basis& basis, index cols, index created) {
    visitor.visit(name + ".neurons", basis.neurons, created);
    visitor.visit(name + ".directions", basis.directions, static_cast<index>(basis.neurons.size()),
                  cols);
    visitor.visit(name + ".largest", basis.largest);
    visitor.visit(name + ".gap", basis.gap);
    visitor.visit(name + ".next", basis.next);
  };
  for (index l = 0; l < p_.depth; ++l) {
    visit_basis("forward." + std::to_string(l), forward_[at(l)], neurons(l), neurons(l + 1));
    if (l > 0)
      visit_basis("backward." + std::to_string(l), backward_[at(l)], neurons(l + 1), neurons(l));
  }
}

} // namespace dmftcore::cpu
