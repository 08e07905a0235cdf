// An MLP (lsp/models/layers.py) on a block of rows: linear layers with LayerNorm, if any, and ELU between
// them; and the way back, to its input and to its weights.

#pragma once

#include "layers.h"

constexpr int MAX_LAYERS = 16;
constexpr int64_t FEW = 2;  // outputs that are cheaper one by one than padded to a product

template <class T>
struct Mlp {
  const Layer<T>* layers;
  int64_t count;

  const Layer<T>& operator[](int64_t l) const { return layers[l]; }
  const Layer<T>& last() const { return layers[count - 1]; }

  // The widest of what goes in and out of any layer.
  int64_t widest() const {
    int64_t width = 0;
    for (int64_t l = 0; l < count; ++l)
      width = std::max({width, layers[l].in_padded, layers[l].out_padded});
    return width;
  }
};

// What an MLP keeps of its rows: the input of each layer, and what lies behind it.
template <class T>
struct Trace {
  T* input[MAX_LAYERS];
  Hidden hidden[MAX_LAYERS];

  // Room for `rows` rows.
  void carve_inputs(const Mlp<T>& mlp, int64_t rows, Carver& memory) {
    for (int64_t l = 0; l < mlp.count; ++l)
      input[l] = memory.take<T>(rows * mlp[l].in_padded);
  }
  void carve_hidden(const Mlp<T>& mlp, int64_t rows, Carver& memory, bool learned) {
    for (int64_t l = 0; l + 1 < mlp.count; ++l)
      hidden[l] = Hidden::carve(rows, mlp[l].out_padded, memory, learned);
  }

  // Of what nothing is learned from. The first input is where it was before.
  void carve(const Mlp<T>& mlp, int64_t rows, Carver& memory) {
    for (int64_t l = 1; l < mlp.count; ++l) input[l] = memory.take<T>(rows * mlp[l].in_padded);
    carve_hidden(mlp, rows, memory, false);
  }

  // That of the rows from `row` on.
  Trace at(const Mlp<T>& mlp, int64_t row) const {
    Trace there;
    for (int64_t l = 0; l < mlp.count; ++l)
      there.input[l] = input[l] + row * mlp[l].in_padded;
    for (int64_t l = 0; l + 1 < mlp.count; ++l)
      there.hidden[l] = hidden[l].at(row, mlp[l].out_padded);
    return there;
  }
};

// From trace.input[0] to y: the last layer's outputs with their bias, [rows, out_padded].
template <class T>
void forward(const Mlp<T>& mlp, int64_t rows, const Trace<T>& trace, float* y) {
  for (int64_t l = 0; l + 1 < mlp.count; ++l)
    for_each_tile(rows, [&](int64_t first, int64_t count) {
      const Trace<T> tile = trace.at(mlp, first);
      mlp[l].forward(count, tile.input[l], y);
      activate(mlp[l], count, y, tile.hidden[l], tile.input[l + 1]);
    });
  const Layer<T>& last = mlp.last();
  const T* x = trace.input[mlp.count - 1];
  const int64_t width = last.out_padded;
  if (last.out <= FEW) {
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t i = 0; i < last.out; ++i)
        y[r * width + i] = last.bias[i] + last.dot(i, x + r * last.in_padded);
    return;
  }
  last.forward(rows, x, y);
  for (int64_t r = 0; r < rows; ++r)
#pragma omp simd
    for (int64_t i = 0; i < whole(width); ++i) y[r * width + i] += last.bias[i];
}

// Gradients of an MLP's products, [rows, out_padded] of each layer, and of its LayerNorms.
template <class T>
struct Gradients {
  T* products[MAX_LAYERS];
  Affine affine[MAX_LAYERS];

  // Those of the rows from `row` on, which are in block `index`.
  Gradients at(const Mlp<T>& mlp, int64_t row, int64_t index) const {
    Gradients there;
    for (int64_t l = 0; l < mlp.count; ++l) {
      const int64_t width = mlp[l].out_padded;
      there.products[l] = products[l] + row * width;
      there.affine[l] = affine[l].of_block(index, width);
    }
    return there;
  }

  // Where nobody learns: the products of a layer in place of those of the last but one.
  static Gradients unwanted(const Mlp<T>& mlp, T* room, T* other) {
    Gradients nowhere;
    for (int64_t l = 0; l < mlp.count; ++l) nowhere.products[l] = l % 2 ? other : room;
    return nowhere;
  }
};

// The way back, from the gradient of the last layer's products to that of the first's, which leaves
// mlp[0].backward to whoever wants the gradient of the input. `room` is as wide as the widest layer.
template <class T>
void backward(const Mlp<T>& mlp, int64_t rows, const Trace<T>& trace,
              const Gradients<T>& gradients, float* room) {
  for (int64_t l = mlp.count - 1; l > 0; --l)
    for_each_tile(rows, [&](int64_t first, int64_t count) {
      const Trace<T> tile = trace.at(mlp, first);
      const int64_t width = mlp[l - 1].out_padded;
      mlp[l].backward(count, gradients.products[l] + first * mlp[l].out_padded, room);
      activate_backward(mlp[l - 1], count, room, tile.hidden[l - 1], tile.input[l],
                        gradients.products[l - 1] + first * width, gradients.affine[l - 1]);
    });
}

// One MLP on many rows. The same fields as `mlp.Arguments` in Python.
template <class T>
struct Pass {
  int64_t rows, block;
  Mlp<T> mlp;
  const T* input;  // [rows, in]
  float* output;   // [rows, out]
  char* memory;    // of the trace, `pass_bytes`; null where nothing is learned
  T* inputs[MAX_LAYERS];
  T* slope;  // [rows, in]: gradient of the first output, while all of it is near; null: not wanted
  const float* d_output;
  T* d_input;  // null where nobody wants it
  int64_t learns;  // whether the weights want gradients
  Gradients<T> gradients;
};

template <class T>
size_t pass_bytes(const Pass<T>& of) {
  Carver memory(nullptr);
  Trace<T>().carve_hidden(of.mlp, of.rows, memory, true);
  return memory.used;
}

template <class T>
Trace<T> trace_of(const Pass<T>& of) {
  Carver memory(of.memory);
  Trace<T> trace;
  std::copy(of.inputs, of.inputs + of.mlp.count, trace.input);
  trace.carve_hidden(of.mlp, of.rows, memory, true);
  return trace;
}

// Rows [rows, width] without their padding, to those of `to` from `first` on.
template <class T, class S>
void copy_rows(int64_t rows, const S* from, int64_t width, T* to, int64_t count, int64_t first) {
  for (int64_t r = 0; r < rows; ++r)
    copy_row(from + r * width, count, to + (first + r) * count, count);
}

template <class T>
void run_block(const Pass<T>& of, int64_t first, int64_t rows) {
  const Mlp<T>& mlp = of.mlp;
  Trace<T> trace;
  float* y;
  T *products, *others;
  carved([&](Carver& memory) {
    y = memory.take<float>(of.block * mlp.widest());
    products = memory.take<T>(of.block * mlp.widest());
    others = memory.take<T>(of.block * mlp.widest());
    if (of.memory) return;
    trace.carve_inputs(mlp, of.block, memory);
    trace.carve_hidden(mlp, of.block, memory, of.slope);
  });
  if (of.memory) trace = trace_of(of).at(mlp, first);
  const int64_t in = mlp[0].in, wide_in = mlp[0].in_padded, out = mlp.last().out;
  for (int64_t r = 0; r < rows; ++r)
    copy_row(of.input + (first + r) * in, in, trace.input[0] + r * wide_in, wide_in);
  forward(mlp, rows, trace, y);
  copy_rows(rows, y, mlp.last().out_padded, of.output, out, first);
  if (!of.slope) return;
  const Gradients<T> gradients = Gradients<T>::unwanted(mlp, products, others);
  const T one = rounded<T>(1.0f);
  for (int64_t r = 0; r < rows; ++r)
    copy_row(&one, 1, gradients.products[mlp.count - 1] + r * mlp.last().out_padded,
             mlp.last().out_padded);
  backward(mlp, rows, trace, gradients, y);
  mlp[0].backward(rows, gradients.products[0], y);
  copy_rows(rows, y, wide_in, of.slope, in, first);
}

template <class T>
void run_block_backward(const Pass<T>& of, int64_t index, int64_t first, int64_t rows) {
  const Mlp<T>& mlp = of.mlp;
  const Layer<T>& last = mlp.last();
  float* room;
  T *products, *others;
  carved([&](Carver& memory) {
    room = memory.take<float>(of.block * mlp.widest());
    products = memory.take<T>(of.block * mlp.widest());
    others = memory.take<T>(of.block * mlp.widest());
  });
  const Gradients<T> gradients = of.learns ? of.gradients.at(mlp, first, index)
                                           : Gradients<T>::unwanted(mlp, products, others);
  T* given = gradients.products[mlp.count - 1];
  for (int64_t r = 0; r < rows; ++r)
    copy_row(of.d_output + (first + r) * last.out, last.out, given + r * last.out_padded,
             last.out_padded);
  backward(mlp, rows, trace_of(of).at(mlp, first), gradients, room);
  if (!of.d_input) return;
  mlp[0].backward(rows, gradients.products[0], room);
  copy_rows(rows, room, mlp[0].in_padded, of.d_input, mlp[0].in, first);
}
