#include "cuda/attention.cuh"

#include <algorithm>

#include "cuda/product.hpp"

namespace dmftcore::cuda {
namespace {

unsigned blocks(index count) { return static_cast<unsigned>(std::min(count, MOST_BLOCKS)); }

// The scratch memory of a run, and its launches.
class Run {
public:
  Run(Stream stream, const AttentionOnDevice& p)
      : stream_(stream), tokens_(p.sequences * p.length), train_(p.train * p.length),
        columns_((p.scale == 0 ? 0 : 2 * p.keys) + p.outputs),
        patterns_(stream, p.heads * tokens_ * p.length),
        slopes_(stream, p.heads * train_ * p.length), c_(stream, p.heads * tokens_),
        f_(stream, p.heads * tokens_ * p.outputs),
        parts_(stream, p.heads * p.sequences * p.outputs), demand_(stream, p.heads * train_),
        gain_(stream, p.heads * p.outputs * p.values), drive_(stream, p.heads * train_ * columns_),
        move_(stream, p.heads * tokens_ * columns_),
        inside_(stream, p.kernel ? 0 : p.heads * p.rank * columns_),
        state_{p,
               static_cast<int>(tokens_),
               static_cast<int>(train_),
               static_cast<int>(columns_),
               patterns_.data(),
               slopes_.data(),
               c_.data(),
               f_.data(),
               parts_.data(),
               demand_.data(),
               gain_.data(),
               drive_.data(),
               move_.data()} {}

  void attend(bool learns, double rate) {
    launch(attention_attend, dim3(blocks(state_.p.heads)), dim3(ATTENTION_THREADS), 0, stream_,
           state_, learns, rate);
  }

  void outputs(bool drives, double* to) {
    launch(attention_drive, dim3(blocks(state_.p.heads)), dim3(ATTENTION_THREADS),
           static_cast<std::size_t>(state_.p.train * state_.p.outputs) * sizeof(double), stream_,
           state_, drives, to);
  }

  // move = C drive, and the scores that are a state.
  void move(double rate) {
    const AttentionOnDevice& p = state_.p;
    const Matrices<const double> drive{drive_.data(), columns_, ALL, {train_ * columns_}};
    const Matrices<double> move{move_.data(), columns_, ALL, {tokens_ * columns_}};
    if (p.kernel) {
      product<Form::plain, double>(stream_, {tokens_, columns_, train_, p.heads},
                                   {p.kernel, train_, ALL, {}}, drive, move);
    } else {
      const Matrices<double> inside{inside_.data(), columns_, ALL, {p.rank * columns_}};
      product<Form::plain, double>(stream_, {p.rank, columns_, train_, p.heads},
                                   {p.transposed, train_, ALL, {}}, drive, inside);
      product<Form::plain, double>(stream_, {tokens_, columns_, p.rank, p.heads},
                                   {p.tokens, p.rank, ALL, {}}, constant(inside), move);
    }
    if (p.scale == 0)
      launch(attention_move_scores, dim3(blocks(p.heads * p.sequences)), dim3(ATTENTION_THREADS),
             static_cast<std::size_t>(2 * p.length * p.length) * sizeof(double), stream_, state_,
             rate);
  }

  const double* patterns() const { return patterns_.data(); }

private:
  Stream stream_;
  index tokens_, train_, columns_;
  Scratch<double> patterns_, slopes_, c_, f_, parts_, demand_, gain_, drive_, move_, inside_;
  AttentionState state_;
};

} // namespace

void attention_run(Stream stream, const AttentionOnDevice& problem, const double* rates,
                   index count, double* outputs) {
  Run run(stream, problem);
  const index row = problem.groups * problem.sequences * problem.outputs;
  run.attend(false, 0);
  for (index t = 0; t < count; ++t) {
    const double rate = rates[t] * problem.gamma / static_cast<double>(problem.train);
    run.outputs(true, outputs + t * row);
    run.move(rate);
    run.attend(true, rate);
  }
  run.outputs(false, outputs + count * row);
}

void attention_patterns(Stream stream, const AttentionOnDevice& problem, double* patterns) {
  Run run(stream, problem);
  run.attend(false, 0);
  const index tokens = problem.sequences * problem.length, count = problem.heads * tokens;
  copy<double>(stream, count, problem.length, 1, {run.patterns(), problem.length, ALL, {}},
               {patterns, problem.length, ALL, {}});
}

} // namespace dmftcore::cuda
