// An infinitely wide deep linear network under gradient descent, as the small network it is.
//
// A Gaussian matrix of infinite size acts on the finitely many directions that training has
// visited as  sigma [ sum_j u_j q_j^T + sum_i p_i z_i^T ]:  q_j visited forward directions, p_i
// visited backward ones, u_j and z_i fresh coordinate axes ("neurons"), appended when a vector
// leaves the span of the directions before. All else is plain gradient descent.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/matrix.hpp"

namespace dmftcore::cpu {

class GrowingNetwork {
public:
  struct Parameters {
    index depth;       // L hidden layers
    double rate;       // a = eta gamma_0 / P
    double gamma;      // gamma_0 > 0
    double sigma;      // standard deviation of the initial weights
    double tol;        // a direction is dropped while its part of the vector is below tol
    double floor;      // vectors are never measured against less than floor x their largest norm
    index max_neurons; // of a layer
    double ntk_rate;   // eta / P if the outputs follow the tangent kernel, else 0
    double loss_limit; // on the sum of squared errors
  };
  enum class Status { running, diverged, full };

  // The data in the eigenbasis of the training Gram matrix Kx = U diag(scales^2) U^T:
  // scales (r), targets U^T y as rows (outputs x r).
  GrowingNetwork(const double* scales, const double* targets, index rank, index outputs,
                 const Parameters& parameters);

  // Goes through `stops` (increasing steps, none behind), and at each writes the predictor
  // (outputs x rank): f' = scales * predictor. Returns how many were reached.
  index advance(const std::int64_t* stops, index count, double* predictors);

  index step() const { return step_; }
  Status status() const { return status_; }
  index outputs() const { return outputs_; }
  index rank() const { return rank_; }
  index depth() const { return p_.depth; }
  // Multiply-adds executed so far.
  double multiply_adds() const { return multiply_adds_; }

  // At the current step, before its update. Layers 0..L.
  index neurons(index layer) const { return h_[at(layer)].cols(); }
  const Matrix& weights(index link) const { return w_[at(link)]; }
  const Matrix& forward_basis(index link) const { return forward_[at(link)].directions; }
  const std::vector<std::int64_t>& forward_neurons(index link) const {
    return forward_[at(link)].neurons;
  }
  // h^l contracted with the errors (layers 0..L), g^l (layers 1..L): one row per output.
  const Matrix& features(index layer) const { return h_[at(layer)]; }
  const Matrix& gradients(index layer) const { return g_[at(layer)]; }

private:
  // Orthonormal directions visited by one map, and the neuron that each of them created.
  struct Basis {
    Matrix directions;
    std::vector<std::int64_t> neurons;
    double largest = 0;    // norm seen so far
    std::int64_t gap = 1;  // steps between two checks
    std::int64_t next = 0; // step of the next check
  };

  static std::size_t at(index i) { return static_cast<std::size_t>(i); }

  void evaluate();
  void backward();
  void errors();
  void forward();
  void follow_tangent_kernel();
  void update();

  void grow(Basis& basis, const Matrix& vectors, index link, bool is_forward);
  void append_neuron(index layer);
  double project_out(const Basis& basis, double* x);
  void apply(const Matrix& w, const Matrix& x, Matrix& y);
  void apply_transposed(const Matrix& w, const Matrix& g, Matrix& y);
  void update_and_apply_transposed(index link, const Matrix& g, Matrix& y);

  Parameters p_;
  index rank_, outputs_;
  const NetworkKernels& kernels_;
  Matrix scales_, targets_;
  std::vector<Matrix> w_;                 // W[l], l = 0..L-1
  std::vector<Basis> forward_, backward_; // per link
  std::vector<Matrix> h_;                 // h^0..h^L
  std::vector<Matrix> g_, g_before_;      // g^0 (unused), g^1..g^L; g^L is the readout
  Matrix predictor_, error_, residual_, coefficients_;
  bool pending_ = false; // W[l] still lacks the update a g_before^{l+1} h^{l T}
  bool evaluated_ = false;
  index step_ = 0;
  Status status_ = Status::running;
  double multiply_adds_ = 0;
};

} // namespace dmftcore::cpu
