// Gradients of a layer's weights and bias: one product over all rows and steps, by chunks of rows
// that stay in a core's cache. In bf16 PyTorch's own takes nearly twice as long.

#pragma once

#include <omp.h>

#include "layers.h"

constexpr int64_t CHUNK = 256;  // rows

// Rows [rows, width] for a product's left side, which is their transpose, [width, depth]; and the
// sum of all rows to `sums`. Summing comes first: it reads row by row, as memory is fastest, and
// packing finds them in a cache.
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
      multiply(out, in, depth, depth, reinterpret_cast<const T*>(left),
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
