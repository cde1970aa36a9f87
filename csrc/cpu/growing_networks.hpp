// The growing networks (growing.hpp), by how their layers are connected.
#pragma once

#include "cpu/growing.hpp"

namespace dmftcore::cpu {

// h^{l+1} = W^l h^l: every layer has neurons of its own.
class PlainNetwork final : public GrowingNetwork {
public:
  PlainNetwork(const Data& data, Parameters parameters);

  Matrix propagate(index link, const Matrix& x) override;
  void visit(StateVisitor&) override;

private:
  void backward() override;
  void forward() override;
  Matrix propagate_back(index link, const Matrix& y) override;
  double tangent_factor(index) const override { return 1; }
  void attach(index link, bool is_forward, const double* q, index n) override;
  void append_neuron(index layer);

  std::vector<Weights> w_; // W^l, l = 0..L-1
};

// Residual blocks h^{l+1} = h^l + b W^l h^l, l = 1..L-1, on h^1 = W^0 h^0. The skips identify the
// neurons of layers 1..L: one space, with the axes that all the matrices have created.
//
// In it W^l is never formed. With the coordinates Qf h and Qb g of visited vectors,
//     W^l = c sigma [ sum_j u_j q_j^T + sum_i p_i z_i^T ] + b Qb^T M Qf,
// and training moves the small matrix M by a (Qb g^{l+1}) (Qf h^l)^T. A layer costs O(n k) with k
// directions of its own and n = O(L k) neurons of all, where a matrix would cost O(n^2).
class ResidualNetwork final : public GrowingNetwork {
public:
  ResidualNetwork(const Data& data, Parameters parameters, double branch);

  Matrix propagate(index link, const Matrix& x) override;
  void visit(StateVisitor&) override;

private:
  void backward() override;
  void forward() override;
  Matrix propagate_back(index link, const Matrix& y) override;
  double tangent_factor(index link) const override { return link == 0 ? 1 : branch_ * branch_; }
  void attach(index link, bool is_forward, const double* q, index n) override;
  void append_neuron();
  void pass(const Matrix& x, const Basis& met, const Matrix& coordinates, const Basis& opposite,
            const Matrix& learned, Matrix& y);

  const double branch_;
  Weights first_;                            // W^0
  std::vector<Weights> learned_;             // M per link; [0] is not used
  std::vector<Matrix> forward_coordinates_;  // Qf h^l per link
  std::vector<Matrix> backward_coordinates_; // Qb g^{l+1} per link
  std::vector<Matrix> backward_before_;      // the same at the step before
  Matrix learned_part_, along_opposite_, spread_;
};

} // namespace dmftcore::cpu
