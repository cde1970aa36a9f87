// One pass over the chunks for each step: the update with the errors of the step before, then the
// outputs of the new state. Chunks are tasks; what they add to the outputs of their group is summed
// in their order.
//
// A step of a head costs M^2 (2 n + K) multiply-adds for the product with C, or 2 M r (2 n + K) in
// coordinates of rank r, and 3 M S n for the attention of its sequences. Where the scores are the
// state it is 2 M^2 S, or 2 M r (S + r).
#include "cpu/attention.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "cpu/pool.hpp"
#include "cpu/product.hpp"
#include "cpu/scratch.hpp"

namespace dmftcore::cpu {
namespace {

class Run {
public:
  Run(const AttentionProblem& problem, const AttentionHeads& heads)
      : p_(problem), h_(heads), kernels_(attention_kernels(heads.lanes)),
        tokens_(p_.sequences * p_.length), train_(p_.train * p_.length),
        square_(p_.length * p_.length * h_.lanes), outputs_(p_.sequences * p_.outputs),
        patterns_(size(h_.chunks * p_.sequences * square_)),
        c_(size(h_.chunks * tokens_ * h_.lanes)), f_(c_.size() * size(p_.outputs)),
        parts_(size(h_.chunks * outputs_)), errors_(size(h_.groups * outputs_)) {}

  void forward(index chunk) {
    Scratch<double> scores(p_.scale == 0 ? 0 : square_), output(p_.outputs * h_.lanes);
    for (index mu = 0; mu < p_.sequences; ++mu) {
      double* const pattern = patterns(chunk) + mu * square_;
      kernels_.patterns(p_.attention, p_.causal, p_.length, scores_of(chunk, mu, scores.data()),
                        pattern);
      kernels_.read(p_.length, h_.values, p_.outputs, pattern,
                    values(chunk) + mu * p_.length * h_.values * h_.lanes, readout(chunk),
                    c(chunk) + mu * p_.length * h_.lanes,
                    f(chunk) + mu * p_.length * p_.outputs * h_.lanes, output.data());
      for (index k = 0; k < p_.outputs; ++k) {
        double sum = 0;
        for (index l = 0; l < h_.lanes; ++l)
          sum += h_.weight[chunk * h_.lanes + l] * output.data()[k * h_.lanes + l];
        parts_[size(chunk * outputs_ + mu * p_.outputs + k)] = sum;
      }
    }
  }

  // The outputs of the present state, and the errors; false if the loss is not below the limit.
  bool outputs(double loss_limit, double* out) {
    const index each = h_.chunks / h_.groups;
    bool below = true;
    for (index g = 0; g < h_.groups; ++g) {
      double loss = 0;
      for (index j = 0; j < outputs_; ++j) {
        double sum = 0;
        for (index chunk = g * each; chunk < (g + 1) * each; ++chunk)
          sum += parts_[size(chunk * outputs_ + j)];
        const index i = g * outputs_ + j;
        out[i] = sum / p_.gamma - h_.centre[i];
        if (j < p_.train * p_.outputs) {
          const double error = errors_[size(i)] = p_.targets[j] - out[i];
          loss += error * error / (2 * static_cast<double>(p_.train));
        }
      }
      below = below && loss <= loss_limit;
    }
    return below;
  }

  void update(index chunk, double rate) {
    const index moving = p_.scale == 0 ? 0 : h_.keys, parts = 2 * moving + p_.outputs;
    const index pitch = parts * h_.lanes, last = 2 * moving * h_.lanes;
    const double* const errors = errors_.data() + chunk / (h_.chunks / h_.groups) * outputs_;
    Scratch<double> slopes(p_.train * square_), drive(train_ * pitch), move(tokens_ * pitch);
    Scratch<double> demand(p_.length * h_.lanes), moves(p_.outputs * h_.values * h_.lanes);
    for (index mu = 0; mu < p_.train; ++mu) {
      const double* const error = errors + mu * p_.outputs;
      double* const slope = slopes.data() + mu * square_;
      double* const to = drive.data() + mu * p_.length * pitch;
      const index first = mu * p_.length * h_.lanes;
      kernels_.demand(p_.length, p_.outputs, error, f(chunk) + first * p_.outputs, demand.data());
      kernels_.slopes(p_.attention, p_.causal, p_.length, patterns(chunk) + mu * square_,
                      demand.data(), slope);
      if (moving > 0)
        kernels_.drives(p_.length, moving, p_.scale, slope, queries(chunk) + first * moving,
                        keys(chunk) + first * moving, pitch, to, to + moving * h_.lanes);
      for (index i = 0; i < p_.length; ++i)
        for (index k = 0; k < p_.outputs; ++k)
          for (index l = 0; l < h_.lanes; ++l)
            to[i * pitch + last + k * h_.lanes + l] = error[k] * c(chunk)[first + i * h_.lanes + l];
    }
    times_kernel(pitch, drive.data(), move.data());
    for (index a = 0; a < tokens_; ++a)
      for (index i = 0; i < moving * h_.lanes; ++i) {
        queries(chunk)[a * moving * h_.lanes + i] += rate * move.data()[a * pitch + i];
        keys(chunk)[a * moving * h_.lanes + i] +=
            rate * move.data()[a * pitch + moving * h_.lanes + i];
      }
    if (moving == 0) move_scores(chunk, rate, slopes.data());
    kernels_.learn(tokens_, train_, h_.values, p_.outputs, rate, move.data() + last,
                   drive.data() + last, pitch, values(chunk), readout(chunk), moves.data());
  }

  // The scores of a sequence: the state, or made in `space`.
  const double* scores_of(index chunk, index mu, double* space) const {
    if (p_.scale == 0) return h_.score + (chunk * p_.sequences + mu) * square_;
    const index first = mu * p_.length * h_.keys * h_.lanes;
    kernels_.scores(p_.length, h_.keys, 1 / p_.scale, queries(chunk) + first, keys(chunk) + first,
                    space);
    return space;
  }

  const double* pattern(index chunk, index mu) const {
    return patterns_.data() + (chunk * p_.sequences + mu) * square_;
  }

private:
  static std::size_t size(index count) { return static_cast<std::size_t>(count); }

  double* queries(index chunk) const { return h_.query + chunk * tokens_ * h_.keys * h_.lanes; }
  double* keys(index chunk) const { return h_.key + chunk * tokens_ * h_.keys * h_.lanes; }
  double* values(index chunk) const { return h_.value + chunk * tokens_ * h_.values * h_.lanes; }
  double* readout(index chunk) const {
    return h_.readout + chunk * p_.outputs * h_.values * h_.lanes;
  }
  double* patterns(index chunk) { return patterns_.data() + chunk * p_.sequences * square_; }
  double* c(index chunk) { return c_.data() + chunk * tokens_ * h_.lanes; }
  double* f(index chunk) { return f_.data() + chunk * tokens_ * p_.outputs * h_.lanes; }

  // move = C drive, in `columns` columns
  void times_kernel(index columns, const double* drive, double* move) const {
    if (p_.kernel) {
      product<double>(tokens_, columns, train_, {p_.kernel, train_, ALL}, {drive, columns, ALL},
                      {move, columns, ALL});
      return;
    }
    // tokens^T, of the tokens that train, times drive.
    Scratch<double> inside(p_.rank * columns), transposed(p_.rank * train_);
    for (index a = 0; a < train_; ++a)
      for (index i = 0; i < p_.rank; ++i)
        transposed.data()[i * train_ + a] = p_.tokens[a * p_.rank + i];
    product<double>(p_.rank, columns, train_, {transposed.data(), train_, ALL},
                    {drive, columns, ALL}, {inside.data(), columns, ALL});
    product<double>(tokens_, columns, p_.rank, {p_.tokens, p_.rank, ALL},
                    {inside.data(), columns, ALL}, {move, columns, ALL});
  }

  // A += 2 rate C J C within each sequence, J (train) the slopes.
  void move_scores(index chunk, double rate, const double* slopes) const {
    const index s = p_.length, r = p_.rank, lanes = h_.lanes;
    double* const score = h_.score + chunk * p_.sequences * square_;
    if (p_.kernel) {
      Scratch<double> half(square_);
      for (index mu = 0; mu < p_.sequences; ++mu)
        for (index nu = 0; nu < p_.train; ++nu) {
          const double* const block = p_.kernel + mu * s * train_ + nu * s;
          std::fill_n(half.data(), square_, 0.0);
          kernels_.left(s, s, s, block, train_, 1, slopes + nu * square_, half.data());
          kernels_.right(s, s, s, 2 * rate, block, train_, 1, half.data(), score + mu * square_);
        }
      return;
    }
    Scratch<double> half(r * s * lanes), inside(r * r * lanes), outer(s * r * lanes);
    std::fill_n(inside.data(), r * r * lanes, 0.0);
    for (index nu = 0; nu < p_.train; ++nu) {
      const double* const block = p_.tokens + nu * s * r;
      std::fill_n(half.data(), r * s * lanes, 0.0);
      kernels_.left(r, s, s, block, 1, r, slopes + nu * square_, half.data());
      kernels_.right(r, s, r, 2 * rate, block, 1, r, half.data(), inside.data());
    }
    for (index mu = 0; mu < p_.sequences; ++mu) {
      const double* const block = p_.tokens + mu * s * r;
      std::fill_n(outer.data(), s * r * lanes, 0.0);
      kernels_.left(s, r, r, block, r, 1, inside.data(), outer.data());
      kernels_.right(s, r, s, 1, block, r, 1, outer.data(), score + mu * square_);
    }
  }

  const AttentionProblem& p_;
  const AttentionHeads& h_;
  const AttentionKernels& kernels_;
  const index tokens_, train_, square_; // M, those that train, numbers of a pattern
  const index outputs_;                 // numbers that a group puts out
  std::vector<double> patterns_, c_, f_, parts_, errors_;
};

} // namespace

AttentionReached attention_run(const AttentionProblem& problem, const AttentionHeads& heads,
                               const double* rates, index count, double loss_limit,
                               double* outputs) {
  Run run(problem, heads);
  const index row = heads.groups * problem.sequences * problem.outputs;
  parallel_for(heads.chunks, [&](index chunk) { run.forward(chunk); });
  bool below = run.outputs(loss_limit, outputs);
  index t = 0;
  for (; t < count && below; ++t) {
    const double rate = rates[t] * problem.gamma / static_cast<double>(problem.train);
    parallel_for(heads.chunks, [&](index chunk) {
      run.update(chunk, rate);
      run.forward(chunk);
    });
    below = run.outputs(loss_limit, outputs + (t + 1) * row);
  }
  return {t, below};
}

void attention_patterns(const AttentionProblem& problem, const AttentionHeads& heads,
                        double* scores, double* patterns) {
  Run run(problem, heads);
  const index square = problem.length * problem.length * heads.lanes;
  parallel_for(heads.chunks, [&](index chunk) {
    run.forward(chunk);
    for (index mu = 0; mu < problem.sequences; ++mu) {
      const index at = (chunk * problem.sequences + mu) * square;
      const double* const from = run.scores_of(chunk, mu, scores + at);
      if (from != scores + at) std::copy_n(from, square, scores + at);
      std::copy_n(run.pattern(chunk, mu), square, patterns + at);
    }
  });
}

} // namespace dmftcore::cpu
