// Elementary functions that compilers turn into vector code, and the two number formats.
// Accurate to about 1e-6; NaN in, NaN out.

#pragma once

#include <cstdint>
#include <cstring>

inline float as_float(int32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline int32_t as_bits(float x) { int32_t bits; std::memcpy(&bits, &x, 4); return bits; }

// Of these two, which are single instructions, NaN passes if it is x.
inline float at_least(float bound, float x) { return bound > x ? bound : x; }
inline float at_most(float bound, float x) { return bound < x ? bound : x; }

// e^x = 2^n e^r with |r| <= ln 2 / 2, where 1 + r + r^2 p(r) is off by 1e-7.
inline float exponential(float x) {
  x = at_most(88.0f, at_least(-87.0f, x));
  const float n = __builtin_rintf(x * 1.44269504f), r = x - n * 0.693147181f;
  const float p = 0.49999229f + r * (0.16667116f + r * (0.04189055f + r * 0.0083124777f));
  return (1.0f + r + r * r * p) * as_float((int32_t(n) + 127) << 23);
}

inline float magnitude(float x) { return as_float(as_bits(x) & 0x7FFFFFFF); }

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

inline float elu(float x) {
  const float below = exponential(x) - 1.0f;  // unless x is above 0
  return x > 0.0f ? x : below;
}

// Of elu, by what it gave.
inline float elu_slope(float y) { return y > 0.0f ? 1.0f : y + 1.0f; }

// log(1 + e^x); log(1 + u) for u in (0, 1] is 2 atanh(u / (2 + u)).
inline float softplus(float x) {
  float u = exponential(-magnitude(x)), t = u / (2.0f + u), s = t * t;
  float series = 1.0f / 11.0f;
  series = series * s + 1.0f / 9.0f;
  series = series * s + 1.0f / 7.0f;
  series = series * s + 1.0f / 5.0f;
  series = series * s + 1.0f / 3.0f;
  series = series * s + 1.0f;
  return at_least(0.0f, x) + 2.0f * t * series;
}

struct bf16 { uint16_t bits; };

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return as_float(int32_t(x.bits) << 16); }

template <class T> T rounded(float x);
template <> inline float rounded<float>(float x) { return x; }
template <> inline bf16 rounded<bf16>(float x) {  // to nearest, ties away from 0
  return bf16{uint16_t((uint32_t(as_bits(x)) + 0x8000) >> 16)};
}
