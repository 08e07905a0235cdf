// Elementary functions that compilers turn into vector code, and the two number formats.
// Accurate to about 1e-6; NaN in, NaN out.

#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

inline float as_float(int32_t bits) { float x; std::memcpy(&x, &bits, 4); return x; }
inline int32_t as_bits(float x) { int32_t bits; std::memcpy(&bits, &x, 4); return bits; }

inline float magnitude(float x) { return as_float(as_bits(x) & 0x7FFFFFFF); }

// e^x = 2^n 2^f with |f| <= 1/2 and 2^f a polynomial, off by 1e-7 of it, or 1e-4 where bf16 is all
// that is wanted.
template <class T>
inline float power(float x) {
  const float y = x * 1.44269504f, n = __builtin_rintf(y), f = y - n;
  float p;
  if constexpr (sizeof(T) == 2) p = 0.69328293f + f * (0.24221096f + f * 0.055008929f);
  else
    p = 0.69314698f +
        f * (0.24022242f + f * (0.055507337f + f * (0.0096715127f + f * 0.0013264727f)));
  // 2^n times it: n is added to its exponent.
  return as_float(as_bits(1.0f + f * p) + (int32_t(n) << 23));
}

// Numbers of one sign are in the order of their bits. Compilers make one instruction of a bound on
// integers, but many of one that NaN has to pass; of this one it becomes the bound.
inline float bounded(float x, float bound) {
  const uint32_t bits = as_bits(x), most = as_bits(bound);
  const uint32_t least = std::min(bits, most);  // `?:` becomes a choice of floats
  return as_float(least);
}

inline float exponential(float x) {
  // Bounded with its sign set aside, as integers: half the instructions of comparing floats.
  const uint32_t bits = as_bits(x), size = std::min(bits & 0x7FFFFFFF, uint32_t(as_bits(87.0f)));
  const float y = as_float(size | (bits & 0x80000000));
  return x == x ? power<float>(y) : x;
}

inline float sigmoid(float x) { return 1.0f / (1.0f + exponential(-x)); }

inline float hyperbolic_tangent(float x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

template <class T>
inline float elu(float x) {
  const float below = power<T>(bounded(x, -87.0f)) - 1.0f;  // of x <= 0
  return x <= 0.0f ? below : x;                             // x also where it is NaN
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
  return (x < 0.0f ? 0.0f : x) + 2.0f * t * series;
}

struct bf16 { uint16_t bits; };

inline float to_float(float x) { return x; }
inline float to_float(bf16 x) { return as_float(int32_t(x.bits) << 16); }

template <class T> T rounded(float x);
template <> inline float rounded<float>(float x) { return x; }
template <> inline bf16 rounded<bf16>(float x) {  // to nearest, ties away from 0
  return bf16{uint16_t((uint32_t(as_bits(x)) + 0x8000) >> 16)};
}
