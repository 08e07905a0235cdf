// What the heads say of states (Networks.judge in lsp/networks.py), without a way back.

#pragma once

#include <algorithm>

#include "layers.h"
#include "memory.h"

// Heads on rows of features: networks of `layers` one after another, `counts` layers each.
template <class T>
struct Heads {
  int64_t rows, block, features, networks;
  const int64_t* counts;
  const Layer<T>* layers;
  const T* feature;
  float** outputs;  // [rows, out] of each network
};

template <class T>
void judge_block(const Heads<T>& of, int64_t index) {
  const int64_t first = index * of.block, n = std::min(of.block, of.rows - first);
  int64_t total = 0, width = padded(of.features);
  for (int64_t k = 0; k < of.networks; ++k) total += of.counts[k];
  for (int64_t l = 0; l < total; ++l) width = std::max(width, of.layers[l].out_padded());
  const int64_t size = of.block * width;
  Carver memory(scratch(size * 2 * (sizeof(float) + sizeof(T)) + of.block * sizeof(float) + 512));
  float *y = memory.take<float>(size), *normal = memory.take<float>(size);
  float* inverse_std = memory.take<float>(of.block);
  T *read = memory.take<T>(size), *x = memory.take<T>(size);
  const int64_t wide = padded(of.features);
  for (int64_t r = 0; r < n; ++r)
    copy_row(of.feature + (first + r) * of.features, of.features, read + r * wide, wide);
  const Layer<T>* layer = of.layers;
  for (int64_t k = 0; k < of.networks; ++k) {
    const T* input = read;
    for (int64_t l = 0; l + 1 < of.counts[k]; ++l, ++layer) {
      layer->forward(n, input, y);
      activate(*layer, n, y, Hidden{normal, inverse_std}, x);
      input = x;
    }
    layer->forward(n, input, y);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t i = 0; i < layer->out; ++i)
        of.outputs[k][(first + r) * layer->out + i] =
            y[r * layer->out_padded() + i] + layer->bias[i];
    ++layer;
  }
}
