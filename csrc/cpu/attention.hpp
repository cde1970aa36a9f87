// Heads of an attention layer on a fixed set of sequences, trained together: dmftcore.heads.
//
// A head is held by what it makes of the tokens: queries, keys and values in as many components as
// its overlaps have rank. `lanes` heads lie side by side on the innermost axis and make a chunk;
// the chunks of a group share their outputs, and groups know nothing of each other.
#pragma once

#include "cpu/micro.hpp"

namespace dmftcore::cpu {

struct AttentionProblem {
  index sequences; // all of them; the first `train` of them train
  index train;
  index length;  // tokens of a sequence; M = sequences * length
  index outputs; // K
  Attention attention;
  bool causal; // whether a token attends to itself and those before it alone
  // C between all tokens and those that train, (M, train * length); or null, and C = tokens
  // tokens^T for tokens (M, rank).
  const double* kernel;
  const double* tokens;
  index rank;
  const double* targets; // (train, K)
  double gamma;
  // N^(alpha - 1): scores are queries times keys over it, and it slows their motion. 0 where the
  // scores themselves are the state.
  double scale;
};

struct AttentionHeads {
  index groups;
  index chunks;         // of all groups, as many in each
  index lanes;          // 1 or ATTENTION_LANES
  index keys;           // n
  index values;         // m
  double* query;        // (chunks, M, n, lanes), moving scores
  double* key;          // the same
  double* score;        // (chunks, sequences, length, length, lanes) where scale is 0
  double* value;        // (chunks, M, m, lanes)
  double* readout;      // (chunks, K, m, lanes)
  const double* weight; // (chunks, lanes): of a head in the mean over its group
  const double* centre; // (groups, sequences, K): output that is subtracted
};

// Writes the outputs (groups, sequences, K) of the present state and makes an update with each of
// the rates, writing the outputs after it. Stops at outputs whose training loss in any group is not
// below `loss_limit`. Returns the number of updates made, to which the last outputs belong, and
// whether it came to the end.
struct AttentionReached {
  index updates;
  bool finished;
};
AttentionReached attention_run(const AttentionProblem& problem, const AttentionHeads& heads,
                               const double* rates, index count, double loss_limit,
                               double* outputs);

// Scores and attention patterns, (chunks, sequences, length, length, lanes) each.
void attention_patterns(const AttentionProblem& problem, const AttentionHeads& heads,
                        double* scores, double* patterns);

} // namespace dmftcore::cpu
