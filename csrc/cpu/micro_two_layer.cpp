// A step of a network of one hidden layer, for a few vectors of neurons at a time: what is known of
// them stays in registers and in the nearest cache between the update and the outputs.
#include "cpu/functions.hpp"
#include "cpu/lanes.hpp"
#include "cpu/micro.hpp"

namespace {

using dmftcore::Activation;
using dmftcore::index;
using dmftcore::cpu::TWO_LAYER_PADDING;
using dmftcore::cpu::TwoLayerPiece;

// Whether phi' is a function of phi.
template <Activation PHI>
constexpr bool VALUE_TELLS_SLOPE = PHI == Activation::tanh || PHI == Activation::relu;

// Vectors of neurons at a time.
constexpr int WIDTH = 4;

#define EACH _Pragma("GCC unroll 4") for (int v = 0; v < WIDTH; ++v)

template <class T> struct Tile {
  static constexpr index SIZE = WIDTH * LANES<T>;

  vec<T> part[WIDTH];

  static Tile at(const T* p) {
    Tile t;
    EACH t.part[v] = load(p + v * LANES<T>);
    return t;
  }
  void put(T* p) const { EACH store<T>(p + v * LANES<T>, part[v]); }
  void add(T factor, const Tile& other) { EACH part[v] += factor * other.part[v]; }
};

// Inlined by force: tiles would go through memory.
template <class T>
[[gnu::always_inline]] inline Tile<T> state(const TwoLayerPiece<T>& l, const T* a, index mu) {
  Tile<T> h = {};
  const index end = l.triangular && mu < l.inputs ? mu + 1 : l.inputs;
  for (index i = 0; i < end; ++i) h.add(l.x[mu * l.inputs + i], Tile<T>::at(a + i * l.ld));
  return h;
}

// W along a direction, by heavy ball if there is a velocity.
template <class T>
[[gnu::always_inline]] inline void learn(const TwoLayerPiece<T>& l, const Tile<T>& direction,
                                         T* weight, T* velocity) {
  Tile<T> next = direction;
  if (velocity) {
    next.add(l.momentum, Tile<T>::at(velocity));
    next.add(-l.decay, Tile<T>::at(weight));
    next.put(velocity);
    Tile<T> moved = Tile<T>::at(weight);
    moved.add(l.rate, next);
    moved.put(weight);
  } else {
    next.add(l.kept, Tile<T>::at(weight));
    next.put(weight);
  }
}

template <class T, Activation PHI> void update(const TwoLayerPiece<T>& l, index p) {
  using One = Tile<T>;
  T *const a = l.a + p, *const w = l.w + p;
  // What is known has its own place.
  T *const gains = l.room, *const values = l.known ? l.known + p : gains + l.train * One::SIZE;
  const index pitch = l.known ? l.ld : One::SIZE;
  for (index mu = 0; mu < l.train; ++mu) {
    One value, slope, back = {};
    if (!l.known) {
      const One h = state(l, a, mu);
      EACH Functions<T>::value_and_slope(PHI, h.part[v], value.part[v], slope.part[v]);
      value.put(values + mu * pitch);
    } else if constexpr (PHI == Activation::tanh) {
      value = One::at(values + mu * pitch);
      EACH slope.part[v] = T(1) - value.part[v] * value.part[v];
    } else if constexpr (PHI == Activation::relu) {
      value = One::at(values + mu * pitch);
      EACH slope.part[v] = Functions<T>::slope(PHI, value.part[v]);
    } else {
      slope = One::at(values + (l.train + mu) * pitch);
    }
    for (index k = 0; k < l.outputs; ++k)
      back.add(l.errors[mu * l.outputs + k], One::at(w + k * l.ld));
    EACH back.part[v] *= slope.part[v];
    back.put(gains + mu * One::SIZE);
  }
  const auto row = [&](T* rows, index i) { return rows ? rows + i * l.ld + p : nullptr; };
  for (index k = 0; k < l.outputs; ++k) {
    One direction = {};
    for (index mu = 0; mu < l.train; ++mu)
      direction.add(l.errors[mu * l.outputs + k], One::at(values + mu * pitch));
    learn(l, direction, w + k * l.ld, row(l.w_velocity, k));
  }
  for (index i = 0; i < l.inputs; ++i) {
    One direction = {};
    for (index mu = l.triangular ? i : 0; mu < l.train; ++mu)
      direction.add(l.x[mu * l.inputs + i], One::at(gains + mu * One::SIZE));
    learn(l, direction, a + i * l.ld, row(l.a_velocity, i));
  }
}

template <class T, Activation PHI> void read(const TwoLayerPiece<T>& l, index p, T* sums) {
  using One = Tile<T>;
  const T *const a = l.a + p, *const w = l.w + p;
  for (index mu = 0; mu < l.points; ++mu) {
    One value = state(l, a, mu);
    if (l.known && mu < l.train && !VALUE_TELLS_SLOPE<PHI>) {
      One slope;
      EACH Functions<T>::value_and_slope(PHI, value.part[v], value.part[v], slope.part[v]);
      slope.put(l.known + (l.train + mu) * l.ld + p);
    } else {
      EACH value.part[v] = Functions<T>::value(PHI, value.part[v]);
    }
    if (l.known && mu < l.train) value.put(l.known + mu * l.ld + p);
    for (index k = 0; k < l.outputs; ++k) {
      const One weight = One::at(w + k * l.ld);
      T* const place = sums + (mu * l.outputs + k) * LANES<T>;
      vec<T> sum = load(place);
      EACH sum += weight.part[v] * value.part[v];
      store<T>(place, sum);
    }
  }
}

#undef EACH

template <class T, Activation PHI> void piece(const TwoLayerPiece<T>& l) {
  constexpr index SIZE = Tile<T>::SIZE;
  static_assert(TWO_LAYER_PADDING % SIZE == 0, "rows are padded to whole tiles");
  T* const sums = l.room + 2 * l.train * SIZE;
  const index count = l.points * l.outputs;
  for (index i = 0; i < count; ++i) store<T>(sums + i * LANES<T>, vec<T>{});
  for (index p = 0; p < l.count; p += SIZE) {
    if (l.errors) update<T, PHI>(l, p);
    for (index q = l.count; q < p + SIZE; ++q)
      for (index k = 0; k < l.outputs; ++k) l.w[k * l.ld + q] = 0;
    read<T, PHI>(l, p, sums);
  }
  for (index i = 0; i < count; ++i) l.sums[i] += total<T>(load(sums + i * LANES<T>));
}

template <class T> void step(const TwoLayerPiece<T>& l) {
  using A = Activation;
  switch (l.activation) {
  case A::relu:
    return piece<T, A::relu>(l);
  case A::tanh:
    return piece<T, A::tanh>(l);
  case A::erf:
    return piece<T, A::erf>(l);
  case A::gelu:
    return piece<T, A::gelu>(l);
  case A::softplus:
    return piece<T, A::softplus>(l);
  case A::quadratic:
    return piece<T, A::quadratic>(l);
  default:
    return piece<T, A::linear>(l);
  }
}

} // namespace

namespace dmftcore::cpu::DMFTCORE_ISA {

extern const TwoLayerKernels<double> two_layer_double;
extern const TwoLayerKernels<float> two_layer_float;

const TwoLayerKernels<double> two_layer_double = {step<double>};
const TwoLayerKernels<float> two_layer_float = {step<float>};

} // namespace dmftcore::cpu::DMFTCORE_ISA
