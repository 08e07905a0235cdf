// Layers of networks on a block of rows, forward and backward. A block's numbers stay in a core's
// own cache from one layer to the next, which is what makes this faster than one product at a time.
//
// T is the precision of weights and of what products read: bf16 or float. Products add up in
// float, and everything between them is float. Matrices are row-major; widths are padded, and what
// is read by a product is zero in the padding.

#pragma once

#include <cmath>

#include "maths.h"

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

inline int64_t padded(int64_t width) { return (width + 31) / 32 * 32; }

// c (+)= a b, with b packed.
inline void multiply(int64_t rows, int64_t out, int64_t in, const bf16* a, const bf16* b, float* c,
                     bool add = false) {
  at::native::cpublas::brgemm(rows, out, in, in, out, out, add,
                              reinterpret_cast<const c10::BFloat16*>(a),
                              reinterpret_cast<const c10::BFloat16*>(b), c, true);
}
inline void multiply(int64_t rows, int64_t out, int64_t in, const float* a, const float* b,
                     float* c, bool add = false) {
  at::native::cpublas::brgemm(rows, out, in, in, out, out, add, a, b, c, false);
}

// Where row i, column j of a matrix [rows, columns] lies once packed: pairs of rows are
// interleaved for bf16 (the layout that its products want).
template <class T> int64_t packed(int64_t i, int64_t j, int64_t columns);
template <> inline int64_t packed<float>(int64_t i, int64_t j, int64_t columns) {
  return i * columns + j;
}
template <> inline int64_t packed<bf16>(int64_t i, int64_t j, int64_t columns) {
  return i / 2 * 2 * columns + 2 * j + i % 2;
}

// A linear layer, and the LayerNorm after it. The same fields as `layers.Layer` in Python.
template <class T>
struct Layer {
  int64_t in, out, groups;  // the outputs of each group (a gate of a GRU) are padded on their own
  const float *source, *bias, *gain, *shift;  // PyTorch's; no gain: no LayerNorm
  T *weight, *transposed;                     // packed, for x W and for d W^T

  int64_t width() const { return out / groups; }
  int64_t out_padded() const { return groups * padded(width()); }
  int64_t in_padded() const { return padded(in); }
  int64_t column(int64_t j) const { return j / width() * padded(width()) + j % width(); }

  void pack() {
    for (int64_t j = 0; j < out; ++j) {
      int64_t column = this->column(j);
      for (int64_t i = 0; i < in; ++i) {
        T w = rounded<T>(source[j * in + i]);
        weight[packed<T>(i, column, out_padded())] = w;
        transposed[packed<T>(column, i, in_padded())] = w;
      }
    }
  }

  // y = x W, without bias.
  void forward(int64_t rows, const T* x, float* y, bool add = false) const {
    multiply(rows, out_padded(), in_padded(), x, weight, y, add);
  }
  // dx = dy W^T.
  void backward(int64_t rows, const T* dy, float* dx, bool add = false) const {
    multiply(rows, in_padded(), out_padded(), dy, transposed, dx, add);
  }
};

// Numbers to what products read, with zeros in the padding.
template <class T, class S>
inline void copy_row(const S* from, int64_t count, T* to, int64_t width) {
  #pragma omp simd
  for (int64_t i = 0; i < count; ++i) to[i] = rounded<T>(to_float(from[i]));
  #pragma omp simd
  for (int64_t i = count; i < width; ++i) to[i] = rounded<T>(0.0f);
}

// What the backward pass of a hidden layer needs besides its output.
struct Hidden {
  float *normal, *inverse_std;  // [rows, out], [rows]
};

// Bias, LayerNorm and ELU, one row after another: y (overwritten) to out [rows, out_padded].
template <class T>
void activate(const Layer<T>& layer, int64_t rows, float* y, const Hidden& kept, T* out) {
  const int64_t n = layer.out, width = layer.out_padded();
  for (int64_t r = 0; r < rows; ++r, y += width, out += width) {
    float* __restrict normal = kept.normal + r * width;
    float sum = 0, squares = 0;
    for (int64_t i = 0; i < n; ++i) sum += y[i] += layer.bias[i];
    if (layer.gain) {
      const float mean = sum / n;
      for (int64_t i = 0; i < n; ++i) squares += (y[i] - mean) * (y[i] - mean);
      const float scale = 1.0f / std::sqrt(squares / n + 1e-5f);
      kept.inverse_std[r] = scale;
      #pragma omp simd
      for (int64_t i = 0; i < n; ++i) {
        normal[i] = (y[i] - mean) * scale;
        out[i] = rounded<T>(elu(normal[i] * layer.gain[i] + layer.shift[i]));
      }
    } else {
      #pragma omp simd
      for (int64_t i = 0; i < n; ++i) out[i] = rounded<T>(elu(y[i]));
    }
    #pragma omp simd
    for (int64_t i = n; i < width; ++i) out[i] = rounded<T>(0.0f);
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

// The inverse of `activate`: d, the gradient of its output, becomes that of its input, in T.
template <class T>
void activate_backward(const Layer<T>& layer, int64_t rows, float* d, const Hidden& kept,
                       const T* out, T* dy, const Affine& learned = {}) {
  const int64_t n = layer.out, width = layer.out_padded();
  for (int64_t r = 0; r < rows; ++r, d += width, out += width, dy += width) {
    const float* __restrict normal = kept.normal + r * width;
    #pragma omp simd
    for (int64_t i = 0; i < n; ++i) d[i] *= elu_slope(to_float(out[i]));
    if (layer.gain) {
      if (learned.gain)
        #pragma omp simd
        for (int64_t i = 0; i < n; ++i) {
          learned.gain[i] += d[i] * normal[i];
          learned.shift[i] += d[i];
        }
      float sum = 0, along = 0;
      for (int64_t i = 0; i < n; ++i) {
        d[i] *= layer.gain[i];
        sum += d[i];
        along += d[i] * normal[i];
      }
      const float mean = sum / n, slope = along / n, scale = kept.inverse_std[r];
      #pragma omp simd
      for (int64_t i = 0; i < n; ++i) d[i] = scale * (d[i] - mean - normal[i] * slope);
    }
    copy_row(d, n, dy, width);
  }
}

// A step of a GRU as PyTorch's GRUCell: h from h and the products x W and h U, gate by gate
// (reset, update, new). `gates` keeps r, z, n and h U_n for the backward pass.
template <class T>
void gru(const Layer<T>& input, const Layer<T>& hidden, int64_t rows, const float* xw,
         const float* hu, const float* h, float* gates, float* next) {
  const int64_t n = input.width(), width = padded(n);
  for (int64_t r = 0; r < rows; ++r) {
    const float *x = xw + 3 * r * width, *u = hu + 3 * r * width, *before = h + r * width;
    const float *bx = input.bias, *bu = hidden.bias;
    float* __restrict kept = gates + 4 * r * width;
    float* __restrict after = next + r * width;
    #pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float reset = sigmoid(x[i] + bx[i] + u[i] + bu[i]);
      const float update = sigmoid(x[width + i] + bx[n + i] + u[width + i] + bu[n + i]);
      const float recalled = u[2 * width + i] + bu[2 * n + i];
      const float fresh = hyperbolic_tangent(x[2 * width + i] + bx[2 * n + i] + reset * recalled);
      kept[i] = reset;
      kept[width + i] = update;
      kept[2 * width + i] = fresh;
      kept[3 * width + i] = recalled;
      after[i] = fresh + update * (before[i] - fresh);
    }
  }
}

// Its inverse: d, the gradient of the next h, becomes what reaches h directly; dx and du are the
// gradients of x W and h U.
template <class T>
void gru_backward(const Layer<T>& input, int64_t rows, const float* gates, const float* h, float* d,
                  T* dx, T* du) {
  const int64_t n = input.width(), width = padded(n);
  const T zero = rounded<T>(0.0f);
  for (int64_t r = 0; r < rows; ++r) {
    const float *kept = gates + 4 * r * width, *before = h + r * width;
    float* __restrict grad = d + r * width;
    T* __restrict x = dx + 3 * r * width;
    T* __restrict u = du + 3 * r * width;
    #pragma omp simd
    for (int64_t i = 0; i < n; ++i) {
      const float reset = kept[i], update = kept[width + i], fresh = kept[2 * width + i];
      const float recalled = kept[3 * width + i];
      const float d_new = grad[i] * (1 - update) * (1 - fresh * fresh);
      const float d_update = grad[i] * (before[i] - fresh) * update * (1 - update);
      const float d_reset = d_new * recalled * reset * (1 - reset);
      grad[i] *= update;
      x[i] = u[i] = rounded<T>(d_reset);
      x[width + i] = u[width + i] = rounded<T>(d_update);
      x[2 * width + i] = rounded<T>(d_new);
      u[2 * width + i] = rounded<T>(d_new * reset);
    }
    for (int64_t gate = 0; gate < 3; ++gate)
      #pragma omp simd
      for (int64_t i = n; i < width; ++i) x[gate * width + i] = u[gate * width + i] = zero;
  }
}

// Denormals slow a product down by a factor of 70, and the flag is each thread's own.
struct FlushDenormals {
#if defined(__SSE__)
  unsigned before = _mm_getcsr();
  FlushDenormals() { _mm_setcsr(before | 0x8040); }
  ~FlushDenormals() { _mm_setcsr(before); }
#endif
};
