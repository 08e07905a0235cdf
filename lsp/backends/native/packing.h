// What products want of their right side: rows that lie beside each other in a word, one in fp32 and
// two in bf16.

#pragma once

#include <algorithm>

#include "maths.h"

constexpr int64_t TILE = 16;  // words in a line of a cache

template <class T> constexpr int64_t PER_WORD = sizeof(uint32_t) / sizeof(T);

// A padded width, such that compilers see that it is one: no loop needs a remainder.
inline int64_t whole(int64_t width) { return width / 16 * 16; }

inline uint32_t bits_of(float x) { return as_bits(x); }
inline uint32_t bits_of(bf16 x) { return x.bits; }
template <class T> uint32_t* words_of(T* x) { return reinterpret_cast<uint32_t*>(x); }

// `width` words of the rows at `from` and below it, of which there are `rows`; others are zeros.
template <class T>
void interleave(int64_t rows, int64_t stride, const T* from, int64_t width, uint32_t* to) {
  constexpr int64_t count = PER_WORD<T>;
  const auto at = [=](int64_t r, int64_t i) {
    return bits_of(from[r * stride + i]) << (8 * sizeof(T) * r);
  };
  if (rows >= count) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      uint32_t word = 0;
      for (int64_t r = 0; r < count; ++r) word |= at(r, i);
      to[i] = word;
    }
  } else {
    std::fill(to, to + width, 0);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < width; ++i) to[i] |= at(r, i);
  }
}

// Rows [rows, width], and zeros up to `depth` of them, for a product's right side.
template <class T>
void pack_right(int64_t rows, int64_t width, const T* from, int64_t depth, uint32_t* to) {
  for (int64_t r = 0; r < depth; r += PER_WORD<T>, to += width)
    interleave(rows - r, width, from + r * width, whole(width), to);
}

// The same of their transpose: TILE rows [TILE, width] become as many columns, which are `stride`
// words apart from row to row.
template <class T>
void pack_columns(int64_t width, const T* from, int64_t stride, uint32_t* to) {
  for (int64_t i = 0; i < width; i += PER_WORD<T>, to += stride)
    for (int64_t j = 0; j < TILE; ++j) std::memcpy(to + j, from + j * width + i, sizeof(uint32_t));
}
