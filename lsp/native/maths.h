// Elementary functions that compilers turn into vector code, and the two number formats.
// Accurate to about 1e-6; NaN in, NaN out.

#pragma once

#include <cstdint>
#include <cstring>

inline float as_float(int32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline int32_t as_bits(float x) { int32_t bits; std::memcpy(&bits, &x, 4); return bits; }

// e^x = 2^n e^r with |r| <= ln 2 / 2.
inline float exponential(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  float n = __builtin_rintf(x * 1.44269504f);
  float r = x - n * 0.693147181f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  return (p * r * r + r + 1.0f) * as_float((int32_t(n) + 127) << 23);
}

inline float magnitude(float x) { return as_float(as_bits(x) & 0x7FFFFFFF); }

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

inline float elu(float x) { return x > 0.0f ? x : exponential(x) - 1.0f; }

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
  return (x > 0.0f ? x : 0.0f * x) + 2.0f * t * series;
}

struct bf16 { uint16_t bits; };

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return as_float(int32_t(x.bits) << 16); }

template <class T> T rounded(float x);
template <> inline float rounded<float>(float x) { return x; }
template <> inline bf16 rounded<bf16>(float x) {  // to nearest, ties to even
  uint32_t bits = uint32_t(as_bits(x));
  return bf16{uint16_t((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16)};
}
