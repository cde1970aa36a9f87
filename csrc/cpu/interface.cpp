// A sampled random matrix acts on fields of particles (dmftcore.sampled.interfaces): all that
// happens to the fields of one run is done while they, and the bases, are at hand.
#include "cpu/interface.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "cpu/micro.hpp"
#include "cpu/pool.hpp"
#include "cpu/scratch.hpp"

namespace dmftcore::cpu {
namespace {

// Ratio of the smallest to the largest pivot among columns that are made orthonormal at a time.
constexpr double WELL_CONDITIONED = 1e-6;

using Numbers = std::vector<double>;

std::size_t at(index i) { return static_cast<std::size_t>(i); }

// The inverse of the leading `rank` x `rank` lower triangle of a matrix with n columns, in place.
void invert_lower(index rank, index n, Numbers& l) {
  for (index j = 0; j < rank; ++j) {
    l[at(j * n + j)] = 1 / l[at(j * n + j)];
    for (index i = j + 1; i < rank; ++i) {
      double sum = 0;
      for (index k = j; k < i; ++k) sum += l[at(i * n + k)] * l[at(k * n + j)];
      l[at(i * n + j)] = -sum / l[at(i * n + i)];
    }
  }
}

// Combinations, factors (n, rank), of n columns with these inner products that are orthonormal, no
// more than `most`. The pivots of the Cholesky decomposition stop at the limit, and where rounding
// spoils them.
index pivoted(index n, const Numbers& gram, double limit, index most, Numbers& factors,
              double& left) {
  Numbers rest(at(n)), l(at(n * n));
  for (index j = 0; j < n; ++j) rest[at(j)] = gram[at(j * n + j)];
  left = n ? *std::max_element(rest.begin(), rest.end()) : 0;
  if (!(left > limit)) return 0;
  const double stop = std::max(limit, WELL_CONDITIONED * left);
  std::vector<index> order(at(n));
  std::iota(order.begin(), order.end(), index{0});
  index rank = 0;
  for (; rank < most; ++rank) {
    index pivot = rank;
    for (index i = rank + 1; i < n; ++i)
      if (rest[at(order[at(i)])] > rest[at(order[at(pivot)])]) pivot = i;
    const double square = rest[at(order[at(pivot)])];
    if (!(square > stop)) break;
    std::swap(order[at(rank)], order[at(pivot)]);
    for (index k = 0; k < rank; ++k) std::swap(l[at(rank * n + k)], l[at(pivot * n + k)]);
    const double root = l[at(rank * n + rank)] = std::sqrt(square);
    for (index i = rank + 1; i < n; ++i) {
      double sum = gram[at(order[at(i)] * n + order[at(rank)])];
      for (index k = 0; k < rank; ++k) sum -= l[at(i * n + k)] * l[at(rank * n + k)];
      const double entry = l[at(i * n + rank)] = sum / root;
      rest[at(order[at(i)])] -= entry * entry;
    }
  }
  invert_lower(rank, n, l);
  factors.assign(at(n * rank), 0);
  for (index i = 0; i < rank; ++i)
    for (index j = i; j < rank; ++j) factors[at(order[at(i)] * rank + j)] = l[at(j * n + i)];
  return rank;
}

// Factors (n, n) that make columns with these inner products orthonormal, from the first on.
Numbers orthonormal(index n, const Numbers& gram) {
  Numbers l(at(n * n)), factors(at(n * n));
  for (index j = 0; j < n; ++j)
    for (index i = j; i < n; ++i) {
      double sum = gram[at(i * n + j)];
      for (index k = 0; k < j; ++k) sum -= l[at(i * n + k)] * l[at(j * n + k)];
      if (i == j && !(sum > 0)) throw std::runtime_error("sources that depend on each other");
      l[at(i * n + j)] = i == j ? std::sqrt(sum) : sum / l[at(j * n + j)];
    }
  invert_lower(n, n, l);
  for (index i = 0; i < n; ++i)
    for (index j = i; j < n; ++j) factors[at(i * n + j)] = l[at(j * n + i)];
  return factors;
}

// n columns over particles, one behind the other.
template <class T> struct Columns {
  T* rows;
  index n;
};

// Those of one run.
template <class T> Columns<T> columns_of(const GrowingVectors<T>& v, index run, index particles) {
  return {v.rows + run * v.capacity * particles, v.used[run]};
}

template <class T> Columns<const T> columns_of(const Vectors<T>& v, index run, index particles) {
  return {v.rows + run * v.capacity * particles, v.used[run]};
}

// Columns on one set of particles of one run, as arguments of the operations.
template <class T> class Site {
public:
  explicit Site(index particles) : particles_(particles) {}

  void products(Columns<const T> x, Columns<const T> a, double* c) const {
    Products<T> p{};
    p.runs = 1, p.particles = particles_, p.n = x.n, p.c = c;
    p.x = vectors(x), p.a = vectors(a);
    particle_products(p);
  }

  Numbers gram(Columns<const T> x) const {
    Numbers result(at(x.n * x.n));
    Products<T> p{};
    p.runs = 1, p.particles = particles_, p.n = x.n, p.gram = result.data();
    p.x = vectors(x);
    particle_products(p);
    return result;
  }

  // y = base + scale sum_i c_i a_i, for n columns
  void combine(index n, Columns<const T> a, const double* c, const T* base, double scale,
               T* y) const {
    Expansion<T> e{};
    e.runs = 1, e.particles = particles_, e.n = n, e.c = c, e.skip = 1, e.scale = scale;
    e.a = vectors(a), e.base = {base, n, nullptr}, e.repeat = 1, e.y = y;
    particle_expansion(e);
  }

  // Make columns orthogonal to a basis.
  void deflate(Columns<T> x, Columns<const T> basis) const {
    if (basis.n == 0) return;
    Numbers along(at(basis.n * x.n));
    products(constant(x), basis, along.data());
    combine(x.n, basis, along.data(), x.rows, -1, x.rows);
  }

  // The orthonormal columns made of x, in its place; `room` holds as many.
  void orthonormalise(Columns<T> x, T* room) const {
    combine(x.n, constant(x), orthonormal(x.n, gram(constant(x))).data(), nullptr, 1, room);
    std::copy_n(room, x.n * particles_, x.rows);
  }

  static Columns<const T> constant(Columns<T> x) { return {x.rows, x.n}; }

private:
  static Vectors<T> vectors(Columns<const T> x) { return {x.rows, x.n, nullptr}; }

  index particles_;
};

// What happens to the fields of one run.
template <class T> class Pass {
public:
  Pass(const InterfacePass<T>& pass, const FillNormals<T>& normals, index run)
      : p_(pass), normals_(normals), run_(run), source_(pass.sources), target_(pass.particles),
        x_{p_.x.rows + run * p_.x.capacity * p_.sources, p_.n} {}

  void operator()() {
    visit();
    answer();
  }

private:
  Columns<T> visited() const { return columns_of(p_.visited, run_, p_.sources); }
  Columns<T> fresh() const { return columns_of(p_.fresh, run_, p_.particles); }
  Columns<T> pool() const { return columns_of(p_.pool, run_, p_.particles); }
  Columns<const T> opposite() const { return columns_of(p_.opposite, run_, p_.particles); }
  Columns<const T> responding() const { return columns_of(p_.responding, run_, p_.sources); }
  double* along() const { return p_.along + run_ * p_.visited.capacity * p_.n; }
  double* response() const { return p_.response + run_ * p_.responding.capacity * p_.n; }

  // Coordinates of the fields along visited columns, which grow if they leave their span.
  void visit() {
    const index n = p_.n, S = p_.sources;
    const Columns<const T> known = source_.constant(visited()), z = responding();
    double* const gram = p_.gram + run_ * n * n;
    Products<T> products{};
    products.runs = 1, products.particles = S, products.n = n;
    products.a = {known.rows, known.n, nullptr}, products.b = {z.rows, z.n, nullptr};
    products.x = {x_.rows, n, nullptr};
    products.reference = p_.reference ? p_.reference + run_ * p_.x.capacity * S : nullptr;
    products.c = along(), products.d = response(), products.gram = gram;
    particle_products(products);

    double mean = 0, outside = n ? -HUGE_VAL : 0;
    for (index j = 0; j < n; ++j) {
      double excess = gram[j * n + j];
      mean += excess / static_cast<double>(n);
      for (index i = 0; i < known.n; ++i) excess -= along()[i * n + j] * along()[i * n + j];
      outside = std::max(outside, excess);
    }
    if (p_.formed || outside > p_.tol * mean) outside = grow(p_.tol * mean);
    p_.levels[2 * run_] = mean, p_.levels[2 * run_ + 1] = outside;
    const auto clear = [n](double* x, index used, index capacity) {
      std::fill(x + used * n, x + capacity * n, 0.0);
    };
    clear(along(), visited().n, p_.visited.capacity);
    clear(response(), z.n, p_.responding.capacity);
  }

  // Append what is not visited, by Gram-Schmidt with pivots; the largest mean square that is left.
  double grow(double limit) {
    const index n = p_.n, S = p_.sources;
    Scratch<T> scratch(3 * n * S);
    const Columns<T> rest{scratch.data(), n};
    T *const made = rest.rows + n * S, *const room = made + n * S;
    source_.combine(n, source_.constant(visited()), along(), x_.rows, -1, rest.rows);
    Numbers factors;
    index count = 0;
    double left = 0;
    for (;;) {
      const Numbers gram = source_.gram(source_.constant(rest));
      const index rank = pivoted(n, gram, limit, n - count, factors, left);
      if (rank == 0) break;
      const Columns<T> fresh{made, rank};
      source_.combine(rank, source_.constant(rest), factors.data(), nullptr, 1, made);
      // Once more, because rounding leaves something along the visited columns.
      source_.deflate(fresh, source_.constant(visited()));
      source_.orthonormalise(fresh, room);
      source_.deflate(rest, source_.constant(fresh));
      const index first = visited().n;
      append(p_.visited, made, rank, S);
      source_.products(x_, source_.constant(fresh), along() + first * n);
      count += rank;
    }
    if (count > 0) draw(count);
    return left;
  }

  // Sources for new columns: see dmftcore.sampled.particles.Particles.draw.
  void draw(index count) {
    const index S = p_.particles, column = fresh().n, pooled = pool().n;
    const bool matched = p_.match && count + pooled + opposite().n < S;
    const index even = matched ? std::clamp<index>(p_.room - pooled, 0, count) : 0;
    Scratch<T> scratch(2 * count * S);
    const Columns<T> drawn{scratch.data(), count};
    // The constant comes before the first dimension.
    const index quasi = p_.quasi ? even : 0;
    if (quasi > 0) normals_(drawn.rows, quasi, run_, column, pooled - 1);
    if (quasi < count) normals_(drawn.rows + quasi * S, count - quasi, run_, column + quasi, -1);
    if (!matched) {
      target_.deflate(drawn, opposite());
    } else {
      for (int twice = 0; twice < 2; ++twice) {
        target_.deflate(drawn, target_.constant(pool()));
        target_.deflate(drawn, opposite());
      }
      for (int twice = 0; twice < 2; ++twice)
        target_.orthonormalise(drawn, scratch.data() + count * S);
      append(p_.pool, drawn.rows, even, S);
    }
    append(p_.fresh, drawn.rows, count, S);
  }

  void append(const GrowingVectors<T>& v, const T* rows, index count, index particles) const {
    index& used = v.used[run_];
    std::copy_n(rows, count * particles, v.rows + (run_ * v.capacity + used) * particles);
    used += count;
  }

  // c F C + Q (c R + M C), and what follows it elementwise.
  void answer() const {
    const index n = p_.n, S = p_.particles, met = visited().n, learned = opposite().n;
    Numbers c(at(met * n)), d(at(learned * n)), turned(at(std::max(met, learned) * n));
    const double* const m = p_.matrix + run_ * p_.above * p_.below;
    const auto& kernels = particle_kernels<double>();
    if (p_.transposed) {
      kernels.combine(learned, met, m, p_.below, n, along(), n, turned.data(), learned);
      for (index i = 0; i < learned; ++i)
        for (index j = 0; j < n; ++j) d[at(i * n + j)] = turned[at(j * learned + i)];
    } else {
      for (index i = 0; i < met; ++i)
        for (index j = 0; j < n; ++j) turned[at(j * met + i)] = along()[i * n + j];
      kernels.products(met, learned, m, p_.below, n, turned.data(), met, d.data(), n);
    }
    for (index i = 0; i < met * n; ++i) c[at(i)] = p_.kept * along()[i];
    for (index i = 0; i < learned * n; ++i) d[at(i)] += p_.kept * response()[i];

    const auto of_run = [&](Vectors<T> v) {
      return Vectors<T>{v.rows ? v.rows + run_ * v.capacity * S : nullptr, v.capacity, nullptr};
    };
    const auto result = [&](T* rows) { return rows ? rows + run_ * n * S : nullptr; };
    Expansion<T> e = p_.after;
    e.runs = 1, e.particles = S, e.n = n;
    e.a = {fresh().rows, met, nullptr}, e.b = {opposite().rows, learned, nullptr};
    e.c = c.data(), e.d = d.data();
    e.base = of_run(e.base), e.field = of_run(e.field);
    e.u = result(e.u), e.y = result(e.y), e.value = result(e.value);
    particle_expansion(e);
  }

  const InterfacePass<T>& p_;
  const FillNormals<T>& normals_;
  const index run_;
  const Site<T> source_, target_;
  const Columns<const T> x_;
};

} // namespace

template <class T>
void interface_pass(const InterfacePass<T>& pass, const FillNormals<T>& normals) {
  const auto body = [&](index run) { Pass<T>(pass, normals, run)(); };
  // Side by side they need no other: one after the other, only where threads would be idle.
  if (pass.runs >= num_threads())
    parallel_for(pass.runs, body);
  else
    for (index run = 0; run < pass.runs; ++run) body(run);
}

template void interface_pass(const InterfacePass<double>&, const FillNormals<double>&);
template void interface_pass(const InterfacePass<float>&, const FillNormals<float>&);

} // namespace dmftcore::cpu
