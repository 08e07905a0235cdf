// Layers of networks on a block of rows, forward and backward. A block's numbers stay in a core's
// own cache from one layer to the next, which is what makes this faster than one product at a time.
//
// T is the precision of weights and of what products read: bf16 or float. Products add up in
// float, and everything between them is float. Matrices are row-major, widths padded, and numbers
// in the padding are zero: packed weights are zero there, and all that is done to it keeps it so.

#pragma once

#include <algorithm>
#include <cmath>
#include <vector>

#include "maths.h"
#include "memory.h"
#include "packing.h"

#if defined(__SSE__)
#include <immintrin.h>
#endif

// PyTorch's own small matrix product, made by oneDNN for the machine at hand (AMX, AVX-512, ...).
namespace c10 { struct BFloat16; }
namespace at::native::cpublas {
void brgemm(int64_t M, int64_t N, int64_t K, int64_t lda, int64_t ldb, int64_t ldc, bool add,
            const c10::BFloat16* A, const c10::BFloat16* B, float* C, bool vnni);
void brgemm(int64_t M, int64_t N, int64_t K, int64_t lda, int64_t ldb, int64_t ldc, bool add,
            const float* A, const float* B, float* C, bool vnni);
void brgemm_release(bool vnni);
}  // namespace at::native::cpublas

// c (+)= a b, with b packed: of rows that are `width` apart in a, the first `depth` numbers. In bf16
// products want whole lines of them, and the padding is less than what a tail takes.
inline void multiply(int64_t rows, int64_t out, int64_t, int64_t width, const bf16* a,
                     const bf16* b, float* c, bool add = false) {
  at::native::cpublas::brgemm(rows, out, width, width, out, out, add,
                              reinterpret_cast<const c10::BFloat16*>(a),
                              reinterpret_cast<const c10::BFloat16*>(b), c, true);
}
inline void multiply(int64_t rows, int64_t out, int64_t depth, int64_t width, const float* a,
                     const float* b, float* c, bool add = false) {
  at::native::cpublas::brgemm(rows, out, depth, width, out, out, add, a, b, c, false);
}

// Whether this processor, and this PyTorch, has such products: it throws where there are none.
template <class T>
bool can_multiply() {
  const int64_t n = 32;
  std::vector<T> ones(n * n, rounded<T>(1.0f));
  std::vector<float> sums(n * n);
  try {
    multiply(n, n, n, n, ones.data(), ones.data(), sums.data());
  } catch (...) {
    return false;
  }
  at::native::cpublas::brgemm_release(true);
  return sums[0] == n;
}

// A linear layer, and the LayerNorm after it. The same fields as `layers.Layer` in Python: PyTorch's
// weights, and the packed copies of them.
template <class T>
struct Layer {
  int64_t in, out, groups, in_padded, out_padded;  // a group, a gate of a GRU, is padded on its own
  const float *source_weight, *source_bias, *source_gain, *source_shift;  // no gain: no LayerNorm
  T *weight, *transposed;  // for x W and for d W^T
  float *bias, *gain, *shift;

  bool has_norm() const { return source_gain; }
  int64_t width() const { return out / groups; }
  // Where output j lies among the padded ones.
  int64_t column(int64_t j) const { return j / width() * (out_padded / groups) + j % width(); }

  // LayerNorm begins by taking off the mean over outputs. That can be taken off the weights, once.
  void pack() const {
    std::vector<float> mean(in, 0.0f);
    float mean_bias = 0;
    if (has_norm()) {
      for (int64_t j = 0; j < out; ++j)
        for (int64_t i = 0; i < in; ++i) mean[i] += source_weight[j * in + i];
      for (int64_t i = 0; i < in; ++i) mean[i] /= out;
      for (int64_t j = 0; j < out; ++j) mean_bias += source_bias[j] / out;
    }
    for (int64_t j = 0; j < out; ++j) {
      bias[column(j)] = source_bias[j] - mean_bias;
      if (has_norm()) gain[column(j)] = source_gain[j], shift[column(j)] = source_shift[j];
    }
    // A few outputs at a time, which stay near until they are packed both ways; what is written of
    // their transpose is whole lines of a cache.
    const int64_t each = (width() + TILE - 1) / TILE;
#pragma omp parallel
    {
      std::vector<T> rows(TILE * in_padded);
#pragma omp for schedule(static)
      for (int64_t f = 0; f < groups * each; ++f) {
        const int64_t first = f / each * width() + f % each * TILE, to = column(first);
        for (int64_t j = 0; j < TILE; ++j) {
          const float* row = source_weight + (first + j) * in;
          const int64_t count = f % each * TILE + j < width() ? in : 0;
#pragma omp simd
          for (int64_t i = 0; i < count; ++i)
            rows[j * in_padded + i] = rounded<T>(row[i] - mean[i]);
          std::fill(&rows[j * in_padded + count], &rows[(j + 1) * in_padded], rounded<T>(0.0f));
        }
        pack_columns(in_padded, rows.data(), out_padded, words_of(weight) + to);
        pack_right(TILE, in_padded, rows.data(), TILE, words_of(transposed + to * in_padded));
      }
    }
  }

  // y = x W, without bias.
  void forward(int64_t rows, const T* x, float* y) const {
    multiply(rows, out_padded, in, in_padded, x, weight, y);
  }
  // One output of one row, without bias.
  float dot(int64_t output, const T* x) const {
    const float* w = source_weight + output * in;
    float sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < in; ++i) sum += w[i] * to_float(x[i]);
    return sum;
  }
  // dx (+)= dy W^T.
  void backward(int64_t rows, const T* dy, float* dx, bool add = false) const {
    const int64_t depth = groups == 1 ? out : out_padded;  // each gate may be padded
    multiply(rows, in_padded, depth, out_padded, dy, transposed, dx, add);
  }
};

// `count` numbers to what a product reads, and zeros after them.
template <class T, class S>
inline void copy_row(const S* from, int64_t count, T* to, int64_t width) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = rounded<T>(to_float(from[i]));
  for (int64_t i = count; i < width; ++i) to[i] = rounded<T>(0.0f);
}

// What the backward pass of a hidden layer needs besides its output, if there is one.
struct Hidden {
  float *normal, *inverse_std;  // [rows, out_padded], or null; [rows]

  Hidden at(int64_t row, int64_t width) const {
    return {normal ? normal + row * width : nullptr, inverse_std + row};
  }

  static Hidden carve(int64_t rows, int64_t width, Carver& memory, bool learned) {
    return {learned ? memory.take<float>(rows * width) : nullptr, memory.take<float>(rows)};
  }
};

// The end of `activate` for one row; `keep` says whether `normal` is there.
template <bool keep, class T>
void activate_row(const Layer<T>& layer, const float* y, float scale, float* normal, T* out) {
  const float *gain = layer.gain, *shift = layer.shift;
#pragma omp simd
  for (int64_t i = 0; i < whole(layer.out_padded); ++i) {
    const float x = y[i] * scale;
    if constexpr (keep) normal[i] = x;
    out[i] = rounded<T>(elu<T>(x * gain[i] + shift[i]));
  }
}

// Bias, LayerNorm and ELU: y (overwritten) to out [rows, out_padded].
template <class T>
void activate(const Layer<T>& layer, int64_t rows, float* y, const Hidden& kept, T* out) {
  const int64_t width = layer.out_padded;
  const float* bias = layer.bias;
  if (!layer.has_norm()) {
    for (int64_t r = 0; r < rows; ++r, y += width, out += width)
#pragma omp simd
      for (int64_t i = 0; i < whole(width); ++i) out[i] = rounded<T>(elu<T>(y[i] + bias[i]));
    return;
  }
  for (int64_t r = 0; r < rows; ++r) {
    float *row = y + r * width, squares = 0;
#pragma omp simd reduction(+ : squares)
    for (int64_t i = 0; i < whole(width); ++i) {
      row[i] += bias[i];
      squares += row[i] * row[i];
    }
    kept.inverse_std[r] = squares;
  }
  // All roots at once: one after another, each row would wait for its own.
#pragma omp simd
  for (int64_t r = 0; r < rows; ++r)
    kept.inverse_std[r] = 1.0f / std::sqrt(kept.inverse_std[r] / layer.out + 1e-5f);
  for (int64_t r = 0; r < rows; ++r) {
    const float *row = y + r * width, scale = kept.inverse_std[r];
    T* to = out + r * width;
    if (kept.normal) activate_row<true>(layer, row, scale, kept.normal + r * width, to);
    else activate_row<false>(layer, row, scale, nullptr, to);
  }
}

// Where gradients of LayerNorm's gain and shift are added up; null where nobody wants them.
struct Affine {
  float *gain = nullptr, *shift = nullptr;

  // Those of one block, of [blocks, width].
  Affine of_block(int64_t index, int64_t width) const {
    return gain ? Affine{gain + index * width, shift + index * width} : Affine{};
  }
};

// The inverse of `activate`: d, the gradient of its output (overwritten), becomes dy, that of the
// product that it was given.
template <class T>
void activate_backward(const Layer<T>& layer, int64_t rows, float* d, const Hidden& kept,
                       const T* out, T* dy, const Affine& learned = {}) {
  const int64_t width = layer.out_padded;
  const float* gain = layer.gain;
  for (int64_t r = 0; r < rows; ++r, d += width, out += width, dy += width) {
#pragma omp simd
    for (int64_t i = 0; i < whole(width); ++i) d[i] *= elu_slope(to_float(out[i]));
    if (layer.has_norm()) {
      const float* normal = kept.normal + r * width;
      if (learned.gain) {
        float *d_gain = learned.gain, *d_shift = learned.shift;
#pragma omp simd
        for (int64_t i = 0; i < whole(width); ++i) {
          d_gain[i] += d[i] * normal[i];
          d_shift[i] += d[i];
        }
      }
      float sum = 0, along = 0;
#pragma omp simd reduction(+ : sum, along)
      for (int64_t i = 0; i < whole(width); ++i) {
        d[i] *= gain[i];
        sum += d[i];
        along += d[i] * normal[i];
      }
      const float mean = sum / layer.out, slope = along / layer.out;
      const float scale = kept.inverse_std[r];
      // Not in the padding, where the mean is no part of it.
#pragma omp simd
      for (int64_t i = 0; i < layer.out; ++i) d[i] = scale * (d[i] - mean - normal[i] * slope);
    }
#pragma omp simd
    for (int64_t i = 0; i < whole(width); ++i) dy[i] = rounded<T>(d[i]);
  }
}

// A step of a GRU as PyTorch's GRUCell: h from h and the products x W and h U, gate by gate
// (reset, update, new). `gates` keeps r, z, n and h U_n + b for the backward pass, if `keep`; the
// next h is written twice, as it is and for products to read.
template <bool keep, class T>
void gru(const Layer<T>& input, const Layer<T>& hidden, int64_t rows, const float* xw,
         const float* hu, const float* h, T* gates, float* next, T* read) {
  const int64_t width = input.out_padded / 3;
  const float *bx = input.bias, *bu = hidden.bias;
  for (int64_t r = 0; r < rows; ++r) {
    const float *x = xw + 3 * r * width, *u = hu + 3 * r * width, *before = h + r * width;
    T *kept = keep ? gates + 4 * r * width : nullptr, *rounded_after = read + r * width;
    float* after = next + r * width;
#pragma omp simd
    for (int64_t i = 0; i < whole(width); ++i) {
      const float reset = sigmoid(x[i] + bx[i] + u[i] + bu[i]);
      const float update =
          sigmoid(x[width + i] + bx[width + i] + u[width + i] + bu[width + i]);
      const float recalled = u[2 * width + i] + bu[2 * width + i];
      const float fresh =
          hyperbolic_tangent(x[2 * width + i] + bx[2 * width + i] + reset * recalled);
      if constexpr (keep) {
        kept[i] = rounded<T>(reset);
        kept[width + i] = rounded<T>(update);
        kept[2 * width + i] = rounded<T>(fresh);
        kept[3 * width + i] = rounded<T>(recalled);
      }
      after[i] = fresh + update * (before[i] - fresh);
      rounded_after[i] = rounded<T>(after[i]);
    }
  }
}

// Its inverse: d, the gradient of the next h, becomes what reaches h directly; dx and du are the
// gradients of x W and h U.
template <class T>
void gru_backward(const Layer<T>& input, int64_t rows, const T* gates, const T* h, float* d, T* dx,
                  T* du) {
  const int64_t width = input.out_padded / 3;
  for (int64_t r = 0; r < rows; ++r) {
    const T *kept = gates + 4 * r * width, *before = h + r * width;
    float* grad = d + r * width;
    T *x = dx + 3 * r * width, *u = du + 3 * r * width;
#pragma omp simd
    for (int64_t i = 0; i < whole(width); ++i) {
      const float reset = to_float(kept[i]), update = to_float(kept[width + i]);
      const float fresh = to_float(kept[2 * width + i]), recalled = to_float(kept[3 * width + i]);
      const float d_new = grad[i] * (1 - update) * (1 - fresh * fresh);
      const float d_update = grad[i] * (to_float(before[i]) - fresh) * update * (1 - update);
      const float d_reset = d_new * recalled * reset * (1 - reset);
      grad[i] *= update;
      // Not x = u = ..., of which compilers make no vector code.
      x[i] = rounded<T>(d_reset);
      u[i] = rounded<T>(d_reset);
      x[width + i] = rounded<T>(d_update);
      u[width + i] = rounded<T>(d_update);
      x[2 * width + i] = rounded<T>(d_new);
      u[2 * width + i] = rounded<T>(d_new * reset);
    }
  }
}

// All rows to `sums`, which become the gradient of a bias.
template <class T>
void add_rows(int64_t rows, int64_t width, const T* from, float* sums) {
  for (int64_t r = 0; r < rows; ++r, from += width)
#pragma omp simd
    for (int64_t i = 0; i < whole(width); ++i) sums[i] += to_float(from[i]);
}

// Denormals slow a product down by a factor of 70, and the flag is each thread's own.
struct FlushDenormals {
#if defined(__SSE__)
  unsigned before = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }
#endif
};

// The rows of a block, a few at a time: sums that a product leaves are still near when they are
// made outputs of, while the block is what every load of the weights serves.
template <class Work>
void for_each_tile(int64_t rows, Work work) {
  constexpr int64_t tile = 64;
  for (int64_t first = 0; first < rows; first += tile) work(first, std::min(tile, rows - first));
}

// All blocks of `block` rows, every one on one thread: work(index, first row, rows).
template <class Work>
void for_each_block(int64_t rows, int64_t block, Work work) {
#pragma omp parallel
  {
    FlushDenormals flushing;
#pragma omp for schedule(dynamic, 1)
    for (int64_t first = 0; first < rows; first += block)
      work(first / block, first, std::min(block, rows - first));
    at::native::cpublas::brgemm_release(true);
  }
}
