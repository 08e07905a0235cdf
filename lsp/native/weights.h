// Gradients of a layer's weights and bias: one product over all rows and steps, by chunks of rows
// that stay in a core's cache. PyTorch's own product takes two to three times as long, because it
// cannot read its left side from above to below.

#pragma once

#include <omp.h>

#include "layers.h"

constexpr int64_t CHUNK = 256;  // rows
constexpr int64_t LINE = 64;    // bytes of a cache's line

inline uint32_t bits_of(float x) { return as_bits(x); }
inline uint16_t bits_of(bf16 x) { return x.bits; }

// Rows that lie beside each other in one Unit.
template <class Unit, class T> constexpr int64_t ROWS_IN = sizeof(Unit) / sizeof(T);

// `width` units of the rows at `from` and below it, of which there are `rows`; others are zeros.
template <class Unit, class T>
void interleave(int64_t rows, int64_t stride, const T* from, int64_t width, Unit* to) {
  constexpr int64_t count = ROWS_IN<Unit, T>;
  const auto at = [=](int64_t r, int64_t i) {
    return Unit(bits_of(from[r * stride + i])) << (8 * sizeof(T) * r);
  };
  if (rows >= count) {
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) {
      Unit unit = 0;
      for (int64_t r = 0; r < count; ++r) unit |= at(r, i);
      to[i] = unit;
    }
  } else {
    std::fill(to, to + width, Unit(0));
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < width; ++i) to[i] |= at(r, i);
  }
}

// Rows [rows, width], and zeros up to `depth` of them, as products want their right side.
template <class T>
void pack_right(int64_t rows, int64_t width, const T* from, int64_t depth, uint32_t* to) {
  for (int64_t r = 0; r < depth; r += ROWS_IN<uint32_t, T>, to += width)
    interleave(rows - r, width, from + r * width, whole(width), to);
}

// The same for the left side: [width, depth]. By whole lines of both, and by units as large as a
// processor's word, which are fewer to move one by one.
template <class T>
void pack_left(int64_t rows, int64_t width, const T* from, int64_t depth, uint64_t* to) {
  constexpr int64_t tall = ROWS_IN<uint64_t, T>, high = LINE / sizeof(uint64_t), wide = 16;
  const int64_t units = depth / tall;
  for (int64_t u = 0; u < units; u += high)
    for (int64_t c = 0; c < width; c += wide) {
      uint64_t tile[high][wide];
      for (int64_t i = 0; i < high; ++i) {
        const int64_t r = (u + i) * tall;
        interleave(rows - r, width, from + r * width + c, wide, tile[i]);
      }
      for (int64_t j = 0; j < wide; ++j)
        for (int64_t i = 0; i < high; ++i) to[(c + j) * units + u + i] = tile[i][j];
    }
}

// As many rows as fill the lines that `pack_left` writes.
template <class T>
int64_t whole_lines(int64_t rows) {
  constexpr int64_t line = LINE / sizeof(T);
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
    float *sums, *bias_sums, *row_sums;
    uint64_t* left;
    uint32_t* right;
    carved([&](Carver& memory) {
      sums = memory.take<float>(out * in);
      bias_sums = memory.take<float>(out);
      row_sums = memory.take<float>(out);
      left = memory.take<uint64_t>(chunk / ROWS_IN<uint64_t, T> * out);
      right = memory.take<uint32_t>(chunk / ROWS_IN<uint32_t, T> * in);
    });
    std::fill(sums, sums + out * in, 0.0f);
    std::fill(bias_sums, bias_sums + out, 0.0f);
    weights[omp_get_thread_num()] = sums, biases[omp_get_thread_num()] = bias_sums;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t count = std::min(chunk, rows - first), depth = whole_lines<T>(count);
      const T* dy = products + first * out;
      pack_left(count, out, dy, depth, left);
      pack_right(count, in, read + first * in, depth, right);
      multiply(out, in, depth, reinterpret_cast<const T*>(left),
               reinterpret_cast<const T*>(right), sums, true);
      sum_rows(count, out, dy, row_sums);
      for (int64_t j = 0; j < out; ++j) bias_sums[j] += row_sums[j];
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
