#include "cpu/growing_networks.hpp"

#include <utility>

namespace dmftcore::cpu {

namespace {

// At least rows x cols, contents of no meaning.
Matrix& at_least(Matrix& scratch, index rows, index cols) {
  scratch.resize(std::max(rows, scratch.rows()), std::max(cols, scratch.cols()));
  return scratch;
}

} // namespace

PlainNetwork::PlainNetwork(const Data& data, Parameters parameters)
    : GrowingNetwork(data, std::move(parameters)), w_(at(p_.depth)) {
  for (index l = 0; l < p_.depth; ++l) resize(w_[at(l)], 0, neurons(l));
  for (index k = 0; k < outputs_; ++k) append_neuron(p_.depth);
  set_initial_readout();
}

// g^l = W^l^T g^{l+1}
void PlainNetwork::backward() {
  for (index l = p_.depth - 1; l >= 1; --l) std::swap(g_[at(l)], g_before_[at(l)]);
  for (index l = p_.depth - 1; l >= 0; --l) {
    // New columns come before the pending update, which takes them along with the others.
    if (l > 0) grow(backward_[at(l)], g_[at(l + 1)], l, false);
    update_and_apply_transposed(w_[at(l)], g_before_[at(l + 1)], h_[at(l)], g_[at(l + 1)],
                                g_[at(l)]);
  }
  if (pending_) advance_initial_weight();
  pending_ = false;
}

// h^{l+1} = W^l h^l
void PlainNetwork::forward() {
  for (index l = 0; l < p_.depth; ++l) {
    grow(forward_[at(l)], h_[at(l)], l, true);
    apply(w_[at(l)], h_[at(l)], h_[at(l + 1)]);
  }
}

Matrix PlainNetwork::propagate(index link, const Matrix& x) {
  Matrix y(x.rows(), neurons(link + 1));
  apply(w_[at(link)], x, y);
  return y;
}

Matrix PlainNetwork::propagate_back(index link, const Matrix& y) {
  Matrix x(y.rows(), neurons(link));
  apply_transposed(w_[at(link)], y, x);
  return x;
}

void PlainNetwork::attach(index link, bool is_forward, const double* q, index n) {
  const index layer = is_forward ? link + 1 : link, neuron = neurons(layer);
  append_neuron(layer);
  Weights& w = w_[at(link)];
  for (index j = 0; j < n; ++j)
    is_forward ? set_initial(w, neuron, j, p_.sigma * q[j])
               : set_initial(w, j, neuron, p_.sigma * q[j]);
}

// Pads everything that counts neurons of `layer`.
void PlainNetwork::append_neuron(index layer) {
  const index n = neurons(layer) + 1;
  widen(layer, n);
  Weights& below = w_[at(layer - 1)];
  resize(below, n, below.values.cols());
  widen(backward_[at(layer - 1)], n);
  if (layer < p_.depth) {
    Weights& above = w_[at(layer)];
    resize(above, above.values.rows(), n);
    widen(forward_[at(layer)], n);
  }
}

void PlainNetwork::visit(StateVisitor& visitor) {
  GrowingNetwork::visit(visitor);
  for (index l = 0; l < p_.depth; ++l)
    GrowingNetwork::visit(visitor, "weights." + std::to_string(l), w_[at(l)], neurons(l + 1),
                          neurons(l));
}

ResidualNetwork::ResidualNetwork(const Data& data, Parameters parameters, double branch)
    : GrowingNetwork(data, std::move(parameters)), branch_(branch), learned_(at(p_.depth)) {
  for (auto* fields : {&forward_coordinates_, &backward_coordinates_, &backward_before_})
    for (index l = 0; l < p_.depth; ++l) fields->emplace_back(outputs_, 0);
  resize(first_, 0, rank_);
  for (index k = 0; k < outputs_; ++k) append_neuron();
  set_initial_readout();
}

// g^l = g^{l+1} + b W^l^T g^{l+1},  g^0 = W^0^T g^1
void ResidualNetwork::backward() {
  // W^l(0) is not among the weights that the pending update changes.
  if (pending_) advance_initial_weight();
  std::swap(backward_coordinates_, backward_before_);
  std::swap(g_[1], g_before_[1]);
  for (index l = p_.depth - 1; l >= 1; --l) {
    const Matrix& g = g_[at(l + 1)];
    Matrix& coordinates = backward_coordinates_[at(l)];
    grow(backward_[at(l)], g, l, false);
    apply(backward_[at(l)].directions, g, coordinates);
    Weights& m = learned_[at(l)];
    Matrix& learned = at_least(learned_part_, outputs_, m.values.cols());
    update_and_apply_transposed(m, backward_before_[at(l)], forward_coordinates_[at(l)],
                                coordinates, learned);
    pass(g, backward_[at(l)], coordinates, forward_[at(l)], learned, g_[at(l)]);
  }
  update_and_apply_transposed(first_, g_before_[1], h_[0], g_[1], g_[0]);
  pending_ = false;
}

// h^1 = W^0 h^0,  h^{l+1} = h^l + b W^l h^l
void ResidualNetwork::forward() {
  grow(forward_[0], h_[0], 0, true);
  apply(first_, h_[0], h_[1]);
  for (index l = 1; l < p_.depth; ++l) {
    const Matrix& h = h_[at(l)];
    Matrix& coordinates = forward_coordinates_[at(l)];
    grow(forward_[at(l)], h, l, true);
    apply(forward_[at(l)].directions, h, coordinates);
    const Weights& m = learned_[at(l)];
    Matrix& learned = at_least(learned_part_, outputs_, m.values.rows());
    apply(m, coordinates, learned);
    pass(h, forward_[at(l)], coordinates, backward_[at(l)], learned, h_[at(l + 1)]);
  }
}

Matrix ResidualNetwork::propagate(index link, const Matrix& x) {
  Matrix y(x.rows(), neurons(1));
  if (link == 0) {
    apply(first_, x, y);
    return y;
  }
  const Basis &met = forward_[at(link)], &opposite = backward_[at(link)];
  Matrix coordinates(x.rows(), met.directions.rows());
  Matrix learned(x.rows(), opposite.directions.rows());
  apply(met.directions, x, coordinates);
  apply(learned_[at(link)], coordinates, learned);
  pass(x, met, coordinates, opposite, learned, y);
  return y;
}

Matrix ResidualNetwork::propagate_back(index link, const Matrix& y) {
  Matrix x(y.rows(), neurons(link));
  if (link == 0) {
    apply_transposed(first_, y, x);
    return x;
  }
  const Basis &met = backward_[at(link)], &opposite = forward_[at(link)];
  Matrix coordinates(y.rows(), met.directions.rows());
  Matrix learned(y.rows(), opposite.directions.rows());
  apply(met.directions, y, coordinates);
  apply_transposed(learned_[at(link)], coordinates, learned);
  pass(y, met, coordinates, opposite, learned, x);
  return x;
}

// A block in either direction: `met` are the visited directions of the vectors x that come in,
// `opposite` those of the vectors that come the other way, u_j and z_i the neurons they created:
//     y = x + b c sigma [ sum_j u_j (q_j.x) + sum_i p_i (z_i.x) ] + b^2 sum_i p_i learned_i.
void ResidualNetwork::pass(const Matrix& x, const Basis& met, const Matrix& coordinates,
                           const Basis& opposite, const Matrix& learned, Matrix& y) {
  const double initial = branch_ * initial_.value * p_.sigma;
  const Matrix& p = opposite.directions;
  const index count = p.rows(), n = x.cols();
  double* along = at_least(along_opposite_, 1, std::max<index>(count, 1)).data();
  double* spread = at_least(spread_, 1, n).data();
  for (index k = 0; k < x.rows(); ++k) {
    const double* in = x.row(k);
    double* out = y.row(k);
    for (index i = 0; i < count; ++i)
      along[i] = initial * in[opposite.neurons[at(i)]] + branch_ * branch_ * learned.row(k)[i];
    kernels_.apply_transposed(p.panel(), along, 0, spread);
    for (index j = 0; j < n; ++j) out[j] = in[j] + spread[j];
    for (index j = 0; j < coordinates.cols(); ++j)
      out[met.neurons[at(j)]] += initial * coordinates.row(k)[j];
  }
  multiply_adds_ += static_cast<double>(x.rows() * count * n);
}

void ResidualNetwork::attach(index link, bool is_forward, const double* q, index n) {
  const index neuron = neurons(1);
  append_neuron();
  if (link == 0) {
    for (index j = 0; j < n; ++j) set_initial(first_, neuron, j, p_.sigma * q[j]);
    return;
  }
  const index forward = forward_[at(link)].directions.rows();
  const index backward = backward_[at(link)].directions.rows();
  resize(learned_[at(link)], backward, forward);
  if (is_forward)
    forward_coordinates_[at(link)].resize(outputs_, forward);
  else
    for (auto* fields : {&backward_coordinates_, &backward_before_})
      (*fields)[at(link)].resize(outputs_, backward);
}

void ResidualNetwork::append_neuron() {
  const index n = neurons(1) + 1;
  for (index l = 1; l <= p_.depth; ++l) widen(l, n);
  resize(first_, n, rank_);
  for (index l = 1; l < p_.depth; ++l) {
    widen(forward_[at(l)], n);
    widen(backward_[at(l)], n);
  }
}

void ResidualNetwork::visit(StateVisitor& visitor) {
  GrowingNetwork::visit(visitor);
  GrowingNetwork::visit(visitor, "weights.0", first_, neurons(1), rank_);
  for (index l = 1; l < p_.depth; ++l) {
    const std::string link = std::to_string(l);
    const index forward = forward_[at(l)].directions.rows();
    const index backward = backward_[at(l)].directions.rows();
    GrowingNetwork::visit(visitor, "weights." + link, learned_[at(l)], backward, forward);
    visitor.visit("forward_coordinates." + link, forward_coordinates_[at(l)], outputs_, forward);
    visitor.visit("backward_coordinates." + link, backward_coordinates_[at(l)], outputs_, backward);
    // Filled anew in every step.
    backward_before_[at(l)].resize(outputs_, backward);
  }
}

} // namespace dmftcore::cpu
