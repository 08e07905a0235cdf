// Gradients of a layer's weights and bias: one product over all rows and steps, by chunks of rows
// that stay in a core's cache. In bf16 PyTorch's own takes nearly twice as long.

#pragma once

#include <omp.h>

#include "layers.h"

constexpr int64_t CHUNK = 256;  // rows
constexpr int64_t TILE = 16;    // words in a line of a cache

// What products want of their right side: rows that lie beside each other in a word, one in fp32
// and two in bf16.
template <class T> constexpr int64_t PER_WORD = sizeof(uint32_t) / sizeof(T);
inline uint32_t bits_of(float x) { return as_bits(x); }
inline uint32_t bits_of(bf16 x) { return x.bits; }

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

// The same for its left side, which is their transpose, [width, depth]; and the sum of all rows to
// `sums`. Summing comes first: it reads row by row, as memory is fastest, and packing finds them in
// a cache.
template <class T>
void pack_left(int64_t rows, int64_t width, const T* from, int64_t depth, uint32_t* to,
               float* sums) {
  const int64_t words = depth / PER_WORD<T>, band = TILE * PER_WORD<T>;
  for (int64_t w = 0; w < words; w += TILE) {
    const int64_t above = w * PER_WORD<T>;
    add_rows(std::min(band, rows - above), width, from + above * width, sums);
    for (int64_t c = 0; c < width; c += TILE) {
      uint32_t tile[TILE][TILE];
      for (int64_t i = 0; i < TILE; ++i) {
        const int64_t r = (w + i) * PER_WORD<T>;
        interleave(rows - r, width, from + r * width + c, TILE, tile[i]);
      }
      for (int64_t j = 0; j < TILE; ++j)
        for (int64_t i = 0; i < TILE; ++i) to[(c + j) * words + w + i] = tile[i][j];
    }
  }
}

// As many rows as fill the lines that `pack_left` writes.
template <class T>
int64_t whole_lines(int64_t rows) {
  constexpr int64_t line = TILE * PER_WORD<T>;
  return (rows + line - 1) / line * line;
}

// From what the layer `read` [rows, in_padded] and the gradients of its `products` [rows,
// out_padded], as PyTorch keeps weights: [out, in] and [out].
template <class T>
void weight_gradient(const Layer<T>& layer, int64_t rows, const T* read, const T* products,
                     float* weight, float* bias) {
  const int64_t in = layer.in_padded, out = layer.out_padded, threads = omp_get_max_threads();
  const int64_t chunk = std::min(CHUNK, whole_lines<T>((rows + threads - 1) / threads));
  std::vector<float*> weights(threads, nullptr), biases(threads, nullptr);
#pragma omp parallel
  {
    FlushDenormals flushing;
    float *sums, *bias_sums;
    uint32_t *left, *right;
    carved([&](Carver& memory) {
      sums = memory.take<float>(out * in);
      bias_sums = memory.take<float>(out);
      left = memory.take<uint32_t>(chunk / PER_WORD<T> * out);
      right = memory.take<uint32_t>(chunk / PER_WORD<T> * in);
    });
    std::fill(sums, sums + out * in, 0.0f);
    std::fill(bias_sums, bias_sums + out, 0.0f);
    weights[omp_get_thread_num()] = sums, biases[omp_get_thread_num()] = bias_sums;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t count = std::min(chunk, rows - first), depth = whole_lines<T>(count);
      const T* dy = products + first * out;
      pack_left(count, out, dy, depth, left, bias_sums);
      pack_right(count, in, read + first * in, depth, right);
      multiply(out, in, depth, reinterpret_cast<const T*>(left),
               reinterpret_cast<const T*>(right), sums, true);
    }
#pragma omp for schedule(static)
    for (int64_t j = 0; j < layer.out; ++j) {
      const int64_t column = layer.column(j);
      float* row = weight + j * layer.in;
      std::fill(row, row + layer.in, 0.0f);
      bias[j] = 0;
      for (int64_t t = 0; t < threads; ++t) {
        if (!weights[t]) continue;  // fewer threads came than were asked for
        for (int64_t i = 0; i < layer.in; ++i) row[i] += weights[t][column * in + i];
        bias[j] += biases[t][column];
      }
    }
    at::native::cpublas::brgemm_release(true);
  }
}
