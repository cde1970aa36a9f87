// An infinitely wide deep linear network under gradient descent, as the small network it is.
//
// A Gaussian matrix of infinite size acts on the finitely many directions that training has
// visited as  sigma [ sum_j u_j q_j^T + sum_i p_i z_i^T ]:  q_j visited forward directions, p_i
// visited backward ones, u_j and z_i fresh coordinate axes ("neurons"), appended when a vector
// leaves the span of the directions before. All else is plain gradient descent.
//
// With momentum m and weight decay lambda every entry of every matrix, and so every initial weight
// too, moves by  v <- m v + d - lambda W,  W <- W + eta v.  An initial weight that training has not
// met is c(t) times its first value, by the same rule with d = 0: a direction visited first at
// step t brings c(t) sigma q.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "cpu/matrix.hpp"

namespace dmftcore::cpu {

// Goes through all parts of a state, to copy them out or to put them back.
class StateVisitor {
public:
  static constexpr index ANY = -1;

  virtual ~StateVisitor() = default;
  // A matrix of rows x cols.
  virtual void visit(const std::string& name, Matrix&, index rows, index cols) = 0;
  // Numbers in 0..count-1.
  virtual void visit(const std::string& name, std::vector<std::int64_t>&, index count) = 0;
  virtual void visit(const std::string& name, std::int64_t&) = 0;
  virtual void visit(const std::string& name, double&) = 0;
};

// The march in time and the rule of growth; how layers are connected is left to the networks of
// growing_networks.hpp.
class GrowingNetwork {
public:
  // The training points in the eigenbasis of their Gram matrix Kx = U diag(scales^2) U^T:
  // scales (rank), targets U^T y as rows (outputs x rank).
  struct Data {
    const double* scales;
    const double* targets;
    index rank;
    index outputs;
  };
  struct Parameters {
    index depth;               // L hidden layers
    std::vector<double> rates; // eta / P of every update, or a single one for all of them
    double momentum;           // m
    double decay;              // lambda P
    double gamma;              // gamma_0 > 0
    double sigma;              // standard deviation of the initial weights
    double tol;                // a direction is dropped while its part of the vector is below tol
    double floor;      // vectors are never measured against less than floor x their largest norm
    index max_neurons; // of a layer
    bool follow_ntk;   // the outputs follow the tangent kernel
    double loss_limit; // on the sum of squared errors
  };
  enum class Status : std::int64_t { running, diverged, full };

  virtual ~GrowingNetwork() = default;

  // Goes through `stops` (increasing steps, none behind), and at each writes the predictor
  // (outputs x rank): f' = scales * predictor. Returns how many were reached.
  index advance(const std::int64_t* stops, index count, double* predictors);

  index step() const { return step_; }
  Status status() const { return status_; }
  index outputs() const { return outputs_; }
  index rank() const { return rank_; }
  index depth() const { return p_.depth; }
  // Updates the rates are given for; -1 for any number.
  index steps() const { return p_.rates.size() == 1 ? -1 : static_cast<index>(p_.rates.size()); }
  // Multiply-adds executed so far.
  double multiply_adds() const { return multiply_adds_; }
  // c: what has become of an initial weight that training has not met.
  double initial_weight() const { return initial_.value; }

  // At the current step, before its update. Layers 0..L.
  index neurons(index layer) const { return h_[at(layer)].cols(); }
  const Matrix& forward_basis(index link) const { return forward_[at(link)].directions; }
  const std::vector<std::int64_t>& forward_neurons(index link) const {
    return forward_[at(link)].neurons;
  }
  // g^l (layers 1..L): one row per output.
  const Matrix& gradients(index layer) const { return g_[at(layer)]; }
  // Vectors of layer l + 1 from vectors of layer l, as rows.
  virtual Matrix propagate(index link, const Matrix& x) = 0;

  // All that `advance` goes on from; meant for a network that was created alike.
  virtual void visit(StateVisitor&);

protected:
  // Orthonormal directions visited by one map, and the neuron that each of them created.
  struct Basis {
    Matrix directions;
    std::vector<std::int64_t> neurons;
    double largest = 0;    // norm seen so far
    std::int64_t gap = 1;  // steps between two checks
    std::int64_t next = 0; // step of the next check
  };
  // Weights W. Time is measured so that the gradient is g h^T and the rate is a = eta gamma_0 / P.
  //
  // With momentum W = values, and drift = m v - lambda W is the next velocity but for the gradient.
  // Without, W = scale (values + left^T right), where the first `collected` rows of left and right
  // are the latest updates a g h^T: writing them into the values costs as much as two products
  // with W, and is done for several at a time.
  struct Weights {
    Matrix values, drift, left, right;
    std::int64_t collected = 0;
    double scale = 1;
  };
  struct InitialWeight {
    double value = 1, drift = 0;
  };

  GrowingNetwork(const Data& data, Parameters parameters);

  static std::size_t at(index i) { return static_cast<std::size_t>(i); }

  // g^{L-1}..g^1, and the predictor times gamma_0 as g^0; completes the update of the last step.
  virtual void backward() = 0;
  // h^1..h^L
  virtual void forward() = 0;
  // Vectors of layer l from vectors of layer l + 1, as rows: the transpose of `propagate`.
  virtual Matrix propagate_back(index link, const Matrix& y) = 0;
  // Factor of H^l G^{l+1} in the tangent kernel.
  virtual double tangent_factor(index link) const = 0;
  // Create the neuron of a direction q (n entries) that a map has visited for the first time.
  virtual void attach(index link, bool is_forward, const double* q, index n) = 0;

  // Pads what counts the neurons of a layer: its vectors, and directions in it.
  void widen(index layer, index neurons);
  static void widen(Basis& basis, index neurons) {
    basis.directions.resize(basis.directions.rows(), neurons);
  }
  // The first neurons of layer L are those of the readout.
  void set_initial_readout();
  void grow(Basis& basis, const Matrix& vectors, index link, bool is_forward);
  void resize(Weights& w, index rows, index cols) const;
  void set_initial(Weights& w, index row, index col, double value) const;
  void visit(StateVisitor& visitor, const std::string& name, Weights& w, index rows,
             index cols) const;
  void advance_initial_weight();
  void apply(const Matrix& w, const Matrix& x, Matrix& y);
  void apply(const Weights& w, const Matrix& x, Matrix& y);
  void apply_transposed(const Weights& w, const Matrix& g, Matrix& y);
  // Completes the update of W with the gradient left^T right, if it is pending; y = W^T g.
  void update_and_apply_transposed(Weights& w, const Matrix& left, const Matrix& right,
                                   const Matrix& g, Matrix& y);

  const Parameters p_;
  const index rank_, outputs_;
  const NetworkKernels& kernels_;
  std::vector<Basis> forward_, backward_; // per link; backward_[0] is not used
  std::vector<Matrix> h_;                 // h^0..h^L, contracted with the errors
  std::vector<Matrix> g_, g_before_;      // g^0..g^L; g^L is the readout
  InitialWeight initial_;
  bool pending_ = false; // the weights still lack the update a g_before^{l+1} h^{l T}
  double multiply_adds_ = 0;

private:
  void evaluate();
  void errors();
  void follow_tangent_kernel(double rate);
  void update();
  void update_readout();
  double project_out(const Basis& basis, double* x);
  void collect(Weights& w, const Matrix& left, const Matrix& right);
  void write_collected(Weights& w);
  void add_collected(const Weights& w, const Matrix& from, const Matrix& to, const Matrix& x,
                     Matrix& y);
  // Rows of `left` and `right`: of one step at least.
  index capacity() const;
  bool has_momentum() const { return p_.momentum > 0; }
  HeavyBall ball() const { return {rate_, p_.momentum, p_.decay / p_.gamma}; }

  Matrix scales_, targets_, readout_drift_;
  Matrix predictor_;
  Matrix error_, residual_, coefficients_; // scratch
  Matrix along_collected_;                 // scratch
  double rate_ = 0, keep_ = 1;             // a and 1 - eta lambda of the last update
  bool evaluated_ = false;
  std::int64_t step_ = 0;
  Status status_ = Status::running;
};

} // namespace dmftcore::cpu
