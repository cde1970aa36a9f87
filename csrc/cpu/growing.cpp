#include "cpu/growing.hpp"

#include <cmath>
#include <utility>

namespace dmftcore::cpu {

namespace {

constexpr std::int64_t LONGEST_GAP = 64;

double norm(const double* x, index n) {
  double sum = 0;
  for (index i = 0; i < n; ++i) sum += x[i] * x[i];
  return std::sqrt(sum);
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

GrowingNetwork::GrowingNetwork(const double* scales, const double* targets, index rank,
                               index outputs, const Parameters& parameters)
    : p_(parameters), rank_(rank), outputs_(outputs), kernels_(network_kernels()), scales_(1, rank),
      targets_(outputs, rank), predictor_(outputs, rank), error_(outputs, rank) {
  std::copy_n(scales, rank, scales_.data());
  for (index k = 0; k < outputs; ++k) std::copy_n(targets + k * rank, rank, targets_.row(k));

  const index L = p_.depth;
  w_.resize(at(L));
  forward_.resize(at(L));
  backward_.resize(at(L));
  for (index l = 0; l <= L; ++l) {
    const index neurons = l == 0 ? rank : l == L ? outputs : 0;
    h_.emplace_back(outputs, neurons);
    g_.emplace_back(outputs, neurons);
    g_before_.emplace_back(outputs, neurons);
  }
  for (index l = 0; l < L; ++l) {
    w_[at(l)].resize(neurons(l + 1), neurons(l));
    forward_[at(l)].directions.resize(0, neurons(l));
    backward_[at(l)].directions.resize(0, neurons(l + 1));
  }
  for (index k = 0; k < outputs; ++k) g_[at(L)].row(k)[k] = p_.sigma;
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

// g^l = W^l^T g^{l+1}
void GrowingNetwork::backward() {
  for (index l = p_.depth - 1; l >= 1; --l) std::swap(g_[at(l)], g_before_[at(l)]);
  for (index l = p_.depth - 1; l >= 1; --l) {
    grow(backward_[at(l)], g_[at(l + 1)], l, false);
    update_and_apply_transposed(l, g_[at(l + 1)], g_[at(l)]);
  }
  update_and_apply_transposed(0, g_[at(1)], g_[0]);
  pending_ = false;
}

// Delta = y - f,  h^0 = X^T Delta, in the eigenbasis of the data
void GrowingNetwork::errors() {
  double loss = 0;
  for (index k = 0; k < outputs_; ++k) {
    double *predictor = predictor_.row(k), *error = error_.row(k);
    const double *scale = scales_.data(), *target = targets_.row(k), *g0 = g_[0].row(k);
    if (p_.ntk_rate == 0)
      for (index j = 0; j < rank_; ++j) predictor[j] = g0[j] / p_.gamma;
    for (index j = 0; j < rank_; ++j) error[j] = target[j] - scale[j] * predictor[j];
    loss += dot(error, error, rank_);
    for (index j = 0; j < rank_; ++j) h_[0].row(k)[j] = scale[j] * error[j];
  }
  if (!(loss <= p_.loss_limit)) status_ = Status::diverged;
}

// h^{l+1} = W^l h^l
void GrowingNetwork::forward() {
  for (index l = 0; l < p_.depth; ++l) {
    grow(forward_[at(l)], h_[at(l)], l, true);
    apply(w_[at(l)], h_[at(l)], h_[at(l + 1)]);
  }
}

// predictor += (eta/P) sum_l W^0^T ... W^{l-1}^T h^l G^{l+1}(t,t), from the top by Horner's rule:
// H^l(t,t) Delta needs no unvisited direction, because h^l is a visited one.
void GrowingNetwork::follow_tangent_kernel() {
  const index L = p_.depth;
  Matrix above(outputs_, neurons(L));
  for (index k = 0; k < outputs_; ++k) add(1, h_[at(L)].row(k), above.row(k), neurons(L));
  for (index l = L - 1; l >= 0; --l) {
    Matrix here(outputs_, neurons(l));
    apply_transposed(w_[at(l)], above, here);
    const Matrix& g = g_[at(l + 1)];
    for (index k = 0; k < outputs_; ++k)
      for (index j = 0; j < outputs_; ++j)
        add(dot(g.row(k), g.row(j), g.cols()), h_[at(l)].row(j), here.row(k), neurons(l));
    above = std::move(here);
  }
  for (index k = 0; k < outputs_; ++k) add(p_.ntk_rate, above.row(k), predictor_.row(k), rank_);
}

// W^l += a g^{l+1} h^{l T} is left pending for the next backward pass; w += a h^L
void GrowingNetwork::update() {
  if (p_.ntk_rate != 0) follow_tangent_kernel();
  const index L = p_.depth;
  Matrix &readout = g_[at(L)], &before = g_before_[at(L)];
  for (index k = 0; k < outputs_; ++k) {
    std::copy_n(readout.row(k), readout.cols(), before.row(k));
    add(p_.rate, h_[at(L)].row(k), readout.row(k), readout.cols());
  }
  pending_ = true;
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
    std::fill_n(r, padded(n), 0.0);
    std::copy_n(vectors.row(k), n, r);
    double left = project_out(basis, r);
    if (left > threshold) left = project_out(basis, r);
    if (threshold > 0) worst = std::max(worst, left / threshold);
    if (!(left > threshold)) continue;

    const index layer = is_forward ? link + 1 : link;
    const index neuron = neurons(layer);
    if (neuron >= p_.max_neurons) {
      status_ = Status::full;
      return;
    }
    const index direction = basis.directions.rows();
    basis.directions.resize(direction + 1, n);
    for (index j = 0; j < n; ++j) basis.directions.row(direction)[j] = r[j] / left;
    basis.neurons.push_back(neuron);
    append_neuron(layer);
    Matrix& w = w_[at(link)];
    for (index j = 0; j < n; ++j)
      (is_forward ? w.row(neuron)[j] : w.row(j)[neuron]) = p_.sigma * (r[j] / left);
  }
  if (worst > 2)
    basis.gap = 1;
  else if (worst > 1)
    basis.gap = std::max<std::int64_t>(1, basis.gap / 2);
  else
    basis.gap = std::min(LONGEST_GAP, basis.gap + 1);
  basis.next = step_ + basis.gap;
}

// Pads everything that counts neurons of `layer`.
void GrowingNetwork::append_neuron(index layer) {
  const index n = neurons(layer) + 1;
  for (auto* fields : {&h_, &g_, &g_before_}) (*fields)[at(layer)].resize(outputs_, n);
  const auto widen = [&](Matrix& m) { m.resize(m.rows(), n); };
  w_[at(layer - 1)].resize(n, w_[at(layer - 1)].cols());
  widen(backward_[at(layer - 1)].directions);
  if (layer < p_.depth) {
    widen(w_[at(layer)]);
    widen(forward_[at(layer)].directions);
  }
}

// x -= Q^T Q x; the norm of what is left.
double GrowingNetwork::project_out(const Basis& basis, double* x) {
  const Matrix& q = basis.directions;
  const index n = q.cols(), count = q.rows();
  if (count > 0) {
    if (coefficients_.cols() < count || coefficients_.ld() < padded(n))
      coefficients_.resize(2, std::max(count, n));
    double *c = coefficients_.row(0), *back = coefficients_.row(1);
    kernels_.apply(q.data(), padded(count), q.ld(), x, c);
    kernels_.apply_transposed(q.data(), count, q.ld(), c, back);
    add(-1, back, x, n);
    multiply_adds_ += 2.0 * static_cast<double>(n * count);
  }
  return norm(x, n);
}

void GrowingNetwork::apply(const Matrix& w, const Matrix& x, Matrix& y) {
  for (index k = 0; k < outputs_; ++k)
    kernels_.apply(w.data(), padded(w.rows()), w.ld(), x.row(k), y.row(k));
  multiply_adds_ += static_cast<double>(outputs_ * w.rows() * w.cols());
}

void GrowingNetwork::apply_transposed(const Matrix& w, const Matrix& g, Matrix& y) {
  for (index k = 0; k < outputs_; ++k)
    kernels_.apply_transposed(w.data(), w.rows(), w.ld(), g.row(k), y.row(k));
  multiply_adds_ += static_cast<double>(outputs_ * w.rows() * w.cols());
}

void GrowingNetwork::update_and_apply_transposed(index link, const Matrix& g, Matrix& y) {
  Matrix& w = w_[at(link)];
  if (!pending_) return apply_transposed(w, g, y);
  const Matrix &left = g_before_[at(link + 1)], &right = h_[at(link)];
  // All updates of W come before its first use.
  for (index k = 1; k < outputs_; ++k)
    kernels_.rank_one(w.data(), w.rows(), w.ld(), p_.rate, left.row(k), right.row(k));
  kernels_.rank_one_apply_transposed(w.data(), w.rows(), w.ld(), p_.rate, left.row(0), right.row(0),
                                     g.row(0), y.row(0));
  for (index k = 1; k < outputs_; ++k)
    kernels_.apply_transposed(w.data(), w.rows(), w.ld(), g.row(k), y.row(k));
  multiply_adds_ += 2.0 * static_cast<double>(outputs_ * w.rows() * w.cols());
}

} // namespace dmftcore::cpu
