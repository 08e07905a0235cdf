// The filter of the world model over whole sequences (RSSM.scan in lsp/models/world_model.py), and the way
// back to its weights and to the embeddings.

#pragma once

#include "mlp.h"

// The same fields as `filtering.Arguments` in Python. Arrays are time-major, [steps, rows, ...].
template <class T>
struct Filter {
  int64_t rows, steps, block;
  int64_t deter, stoch, action, embedding;
  const Layer<T> *enter, *gru_input, *gru_hidden;
  Mlp<T> posterior;
  double min_std;
  const float *actions, *embeddings, *keep, *noise;  // keep: 0 where an episode begins
  const float *start_deter, *start_stoch;
  float *deters, *stochs, *means, *stds;  // what is filtered
  // What the backward pass needs: what layers read, and in `memory` (`filter_bytes`) the rest.
  T *enter_in, *entered, *recalled, *posterior_in[MAX_LAYERS];
  char* memory;
  // Gradients of what is filtered; of the embeddings; of the products.
  const float *d_deters, *d_stochs, *d_means, *d_stds;
  float* d_embeddings;
  T *d_enter, *d_gru_input, *d_gru_hidden;
  Affine d_enter_affine;  // [blocks, out_padded]
  Gradients<T> d_posterior;

  int64_t widest() const {
    return std::max({gru_input->out_padded, enter->in_padded, enter->out_padded,
                     posterior.widest()});
  }
};

// What lies between what layers read.
template <class T>
struct Between {
  Hidden enter;
  Trace<T> posterior;
  T* gates;
  float* slopes;

  Between(const Filter<T>& of, Carver& memory) {
    const int64_t rows = of.steps * of.rows;
    enter = Hidden::carve(rows, of.enter->out_padded, memory, true);
    std::copy(of.posterior_in, of.posterior_in + of.posterior.count, posterior.input);
    posterior.carve_hidden(of.posterior, rows, memory, true);
    gates = memory.take<T>(4 * rows * of.gru_hidden->in_padded);
    slopes = memory.take<float>(rows * of.stoch);
  }
};

template <class T>
size_t filter_memory(const Filter<T>& of) {
  Carver memory(nullptr);
  Between<T>(of, memory);
  return memory.used;
}

template <class T>
void filter_block(const Filter<T>& of, int64_t first, int64_t rows) {
  const int64_t D = of.deter, S = of.stoch, A = of.action, E = of.embedding;
  const int64_t wide = of.gru_hidden->in_padded, wide_in = of.enter->in_padded;
  const int64_t wide_enter = of.enter->out_padded, wide_read = of.posterior[0].in_padded;
  const int64_t wide_out = of.posterior.last().out_padded;
  const float least = float(of.min_std);
  float *y, *y2, *h, *next;
  T* read_next;
  carved([&](Carver& memory) {
    y = memory.take<float>(of.block * of.widest());
    y2 = memory.take<float>(of.block * of.widest());
    h = memory.take<float>(of.block * wide);
    next = memory.take<float>(of.block * wide);
    read_next = memory.take<T>(of.block * wide);
  });
  Carver memory(of.memory);
  const Between<T> between(of, memory);

  const float *deter = of.start_deter + first * D, *stoch = of.start_stoch + first * S;
  for (int64_t t = 0; t < of.steps; ++t) {
    const int64_t at = t * of.rows + first;  // the first row of this block at step t
    T *in = of.enter_in + at * wide_in, *before = of.recalled + at * wide;
    for (int64_t r = 0; r < rows; ++r) {
      // Where an episode begins, nothing is left of what was before.
      const bool keep = of.keep[at + r];
      copy_row(stoch + r * S, keep ? S : 0, in + r * wide_in, S);
      copy_row(of.actions + (at + r) * A, keep ? A : 0, in + r * wide_in + S, wide_in - S);
      copy_row(deter + r * D, keep ? D : 0, h + r * wide, wide);
    }
    copy_row(h, rows * wide, before, rows * wide);
    T* entered = of.entered + at * wide_enter;
    of.enter->forward(rows, in, y);
    activate(*of.enter, rows, y, between.enter.at(at, wide_enter), entered);
    of.gru_input->forward(rows, entered, y);
    of.gru_hidden->forward(rows, before, y2);
    gru<true>(*of.gru_input, *of.gru_hidden, rows, y, y2, h, between.gates + 4 * at * wide, next,
              read_next);

    const Trace<T> posterior = between.posterior.at(of.posterior, at);
    for (int64_t r = 0; r < rows; ++r) {
      T* row = posterior.input[0] + r * wide_read;
      copy_row(next + r * wide, D, of.deters + (at + r) * D, D);
      copy_row(read_next + r * wide, D, row, D);
      copy_row(of.embeddings + (at + r) * E, E, row + D, wide_read - D);
    }
    forward(of.posterior, rows, posterior, y);
    for (int64_t r = 0; r < rows; ++r) {
      const float *out = y + r * wide_out, *noise = of.noise + (at + r) * S;
      float *mean = of.means + (at + r) * S, *std = of.stds + (at + r) * S;
      float *s = of.stochs + (at + r) * S, *slope = between.slopes + (at + r) * S;
#pragma omp simd
      for (int64_t i = 0; i < S; ++i) {
        mean[i] = out[i];
        std[i] = softplus(out[S + i]) + least;
        slope[i] = sigmoid(out[S + i]);
        s[i] = mean[i] + std[i] * noise[i];
      }
    }
    deter = of.deters + at * D;
    stoch = of.stochs + at * S;
  }
}

template <class T>
void filter_block_backward(const Filter<T>& of, int64_t index, int64_t first, int64_t rows) {
  const int64_t D = of.deter, S = of.stoch, E = of.embedding;
  const int64_t wide = of.gru_hidden->in_padded, wide_in = of.enter->in_padded;
  const int64_t wide_enter = of.enter->out_padded, wide_read = of.posterior[0].in_padded;
  const int64_t wide_out = of.posterior.last().out_padded;
  float *d, *d_deter, *d_stoch;
  carved([&](Carver& memory) {
    d = memory.take<float>(of.block * of.widest());
    d_deter = memory.take<float>(of.block * wide);
    d_stoch = memory.take<float>(of.block * S);
  });
  std::fill(d_deter, d_deter + rows * wide, 0.0f);
  std::fill(d_stoch, d_stoch + rows * S, 0.0f);
  Carver memory(of.memory);
  const Between<T> between(of, memory);

  for (int64_t t = of.steps - 1; t >= 0; --t) {
    const int64_t at = t * of.rows + first;
    // Through the posterior
    const Gradients<T> d_posterior = of.d_posterior.at(of.posterior, at, index);
    T* d_out = d_posterior.products[of.posterior.count - 1];
    for (int64_t r = 0; r < rows; ++r) {
      T* out = d_out + r * wide_out;
      for (int64_t i = 0; i < S; ++i) {
        const int64_t j = (at + r) * S + i;
        const float d_sample = d_stoch[r * S + i] + of.d_stochs[j];
        out[i] = rounded<T>(d_sample + of.d_means[j]);
        out[S + i] = rounded<T>((d_sample * of.noise[j] + of.d_stds[j]) * between.slopes[j]);
      }
      std::fill(out + 2 * S, out + wide_out, rounded<T>(0.0f));
    }
    backward(of.posterior, rows, between.posterior.at(of.posterior, at), d_posterior, d);
    of.posterior[0].backward(rows, d_posterior.products[0], d);
    for (int64_t r = 0; r < rows; ++r) {
      const float *row = d + r * wide_read, *given = of.d_deters + (at + r) * D;
      for (int64_t i = 0; i < D; ++i) d_deter[r * wide + i] += row[i] + given[i];
      copy_row(row + D, E, of.d_embeddings + (at + r) * E, E);
    }

    // Through the recurrence
    T* d_input = of.d_gru_input + 3 * at * wide;
    T* d_recalled = of.d_gru_hidden + 3 * at * wide;
    gru_backward(*of.gru_input, rows, between.gates + 4 * at * wide, of.recalled + at * wide,
                 d_deter, d_input, d_recalled);
    of.gru_hidden->backward(rows, d_recalled, d_deter, true);
    of.gru_input->backward(rows, d_input, d);
    T* d_enter = of.d_enter + at * wide_enter;
    activate_backward(*of.enter, rows, d, between.enter.at(at, wide_enter),
                      of.entered + at * wide_enter, d_enter,
                      of.d_enter_affine.of_block(index, wide_enter));
    of.enter->backward(rows, d_enter, d);

    // To the states before, where an episode went on
    for (int64_t r = 0; r < rows; ++r) {
      const float keep = of.keep[at + r];
      for (int64_t i = 0; i < S; ++i) d_stoch[r * S + i] = keep * d[r * wide_in + i];
      for (int64_t i = 0; i < whole(wide); ++i) d_deter[r * wide + i] *= keep;
    }
  }
}
