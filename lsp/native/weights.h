// Gradients of a layer's weights and bias: one product over all rows and steps, by chunks of rows
// that stay in a core's cache. PyTorch's own product takes two to three times as long, because it
// cannot read its left side from above to below.

#pragma once

#include <omp.h>

#include "layers.h"

// Two numbers in bf16, one in fp32, that lie beside each other on a product's left side, and above
// each other on its right.
using unit __attribute__((may_alias)) = uint32_t;
template <class T> constexpr int64_t PER_UNIT = sizeof(unit) / sizeof(T);
constexpr int64_t CHUNK = 256;  // rows
constexpr int64_t TILE = 16;    // units in a line of a cache

template <class T>
int64_t whole_tiles(int64_t rows) {
  constexpr int64_t tile = TILE * PER_UNIT<T>;
  return (rows + tile - 1) / tile * tile;
}

// `width` units, of the rows at `from` and below; of the first `rows` of them, the others are 0.
inline void interleave(int64_t rows, int64_t stride, const bf16* from, int64_t width, unit* to) {
  if (rows >= 2)
#pragma omp simd
    for (int64_t i = 0; i < width; ++i) to[i] = from[i].bits | uint32_t(from[stride + i].bits) << 16;
  else
    for (int64_t i = 0; i < width; ++i) to[i] = rows == 1 ? from[i].bits : 0;
}
inline void interleave(int64_t rows, int64_t, const float* from, int64_t width, unit* to) {
  if (rows >= 1) std::memcpy(to, from, width * sizeof(unit));
  else std::fill(to, to + width, 0);
}

// Rows [rows, width], and zeros up to `depth` of them, for a product's right side.
template <class T>
void pack_right(int64_t rows, int64_t width, const T* from, int64_t depth, unit* to) {
  for (int64_t r = 0; r < depth; r += PER_UNIT<T>)
    interleave(rows - r, width, from + r * width, whole(width), to + r / PER_UNIT<T> * width);
}

// The same for its left side, transposed.
template <class T>
void pack_left(int64_t rows, int64_t width, const T* from, int64_t depth, unit* to) {
  const int64_t units = depth / PER_UNIT<T>;
  for (int64_t u = 0; u < units; u += TILE)
    for (int64_t c = 0; c < width; c += TILE) {
      unit tile[TILE][TILE];  // read and written by lines, which makes both vector code
      for (int64_t i = 0; i < TILE; ++i) {
        const int64_t r = (u + i) * PER_UNIT<T>;
        interleave(rows - r, width, from + r * width + c, TILE, tile[i]);
      }
      for (int64_t j = 0; j < TILE; ++j)
#pragma omp simd
        for (int64_t i = 0; i < TILE; ++i) to[(c + j) * units + u + i] = tile[i][j];
    }
}

// From what the layer `read` [rows, in_padded] and the gradients of its `products` [rows,
// out_padded], as PyTorch keeps weights: [out, in] and [out].
template <class T>
void weight_gradient(const Layer<T>& layer, int64_t rows, const T* read, const T* products,
                     float* weight, float* bias) {
  const int64_t in = layer.in_padded, out = layer.out_padded, threads = omp_get_max_threads();
  const int64_t chunk = std::min(CHUNK, whole_tiles<T>((rows + threads - 1) / threads));
  std::vector<float*> weights(threads, nullptr), biases(threads, nullptr);
#pragma omp parallel
  {
    FlushDenormals flushing;
    float *sums, *bias_sums, *row_sums;
    unit *left, *right;
    carved([&](Carver& memory) {
      sums = memory.take<float>(out * in);
      bias_sums = memory.take<float>(out);
      row_sums = memory.take<float>(out);
      left = memory.take<unit>(chunk / PER_UNIT<T> * out);
      right = memory.take<unit>(chunk / PER_UNIT<T> * in);
    });
    std::fill(sums, sums + out * in, 0.0f);
    std::fill(bias_sums, bias_sums + out, 0.0f);
    weights[omp_get_thread_num()] = sums, biases[omp_get_thread_num()] = bias_sums;
#pragma omp for schedule(static)
    for (int64_t first = 0; first < rows; first += chunk) {
      const int64_t count = std::min(chunk, rows - first), depth = whole_tiles<T>(count);
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
