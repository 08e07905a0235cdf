// The filter of the world model over whole sequences (RSSM.scan in lsp/world_model.py), and the way
// back to its weights and to the embeddings. In fp32: this is where the model is learned.

#pragma once

#include "mlp.h"

// The same fields as `filtering.Arguments` in Python. Arrays are time-major, [steps, rows, ...].
struct Filter {
  int64_t rows, steps, block;
  int64_t deter, stoch, action, embedding;
  const Layer<float> *enter, *gru_input, *gru_hidden;
  Mlp<float> posterior;
  double min_std;
  const float *actions, *embeddings, *keep, *noise;  // keep: 0 where an episode begins
  const float *start_deter, *start_stoch;
  float *deters, *stochs, *means, *stds;  // what is filtered
  // What the backward pass needs: what layers read, and in `memory` (`filter_bytes`) the rest.
  float *enter_in, *entered, *recalled, *posterior_in[MAX_LAYERS];
  char* memory;
  // Gradients of what is filtered; of the embeddings; of the products.
  const float *d_deters, *d_stochs, *d_means, *d_stds;
  float *d_embeddings, *d_enter, *d_gru_input, *d_gru_hidden;
  Affine d_enter_affine;  // [blocks, out_padded]
  Gradients<float> d_posterior;

  int64_t widest() const {
    return std::max({gru_input->out_padded, enter->in_padded, enter->out_padded,
                     posterior.widest()});
  }
};

// What lies between what layers read.
struct Between {
  Hidden enter;
  Trace<float> posterior;
  float *gates, *slopes;

  Between(const Filter& of, Carver& memory) {
    const int64_t rows = of.steps * of.rows;
    enter = Hidden::carve(rows, of.enter->out_padded, memory, true);
    std::copy(of.posterior_in, of.posterior_in + of.posterior.count, posterior.input);
    posterior.carve_hidden(of.posterior, rows, memory, true);
    gates = memory.take<float>(4 * rows * of.gru_hidden->in_padded);
    slopes = memory.take<float>(rows * of.stoch);
  }
};

inline size_t filter_memory(const Filter& of) {
  Carver memory(nullptr);
  Between(of, memory);
  return memory.used;
}

inline void filter_block(const Filter& of, int64_t first, int64_t rows) {
  const int64_t D = of.deter, S = of.stoch, A = of.action, E = of.embedding;
  const int64_t wide = of.gru_hidden->in_padded, wide_in = of.enter->in_padded;
  const int64_t wide_enter = of.enter->out_padded, wide_read = of.posterior[0].in_padded;
  const int64_t wide_out = of.posterior.last().out_padded;
  const float least = float(of.min_std);
  float *y, *y2, *next, *again;
  carved([&](Carver& memory) {
    y = memory.take<float>(of.block * of.widest());
    y2 = memory.take<float>(of.block * of.widest());
    next = memory.take<float>(of.block * wide);
    again = memory.take<float>(of.block * wide);
  });
  Carver memory(of.memory);
  const Between between(of, memory);

  const float *deter = of.start_deter + first * D, *stoch = of.start_stoch + first * S;
  for (int64_t t = 0; t < of.steps; ++t) {
    const int64_t at = t * of.rows + first;  // the first row of this block at step t
    float *in = of.enter_in + at * wide_in, *before = of.recalled + at * wide;
    for (int64_t r = 0; r < rows; ++r) {
      const float keep = of.keep[at + r];
      float *row = in + r * wide_in, *h = before + r * wide;
      copy_row(stoch + r * S, S, row, S);
      copy_row(of.actions + (at + r) * A, A, row + S, wide_in - S);
      copy_row(deter + r * D, D, h, wide);
      for (int64_t i = 0; i < whole(wide_in); ++i) row[i] *= keep;
      for (int64_t i = 0; i < whole(wide); ++i) h[i] *= keep;
    }
    float* entered = of.entered + at * wide_enter;
    of.enter->forward(rows, in, y);
    activate(*of.enter, rows, y, between.enter.at(at, wide_enter), entered);
    of.gru_input->forward(rows, entered, y);
    of.gru_hidden->forward(rows, before, y2);
    gru<true>(*of.gru_input, *of.gru_hidden, rows, y, y2, before, between.gates + 4 * at * wide, next,
        again);

    const Trace<float> posterior = between.posterior.at(of.posterior, at);
    for (int64_t r = 0; r < rows; ++r) {
      float* row = posterior.input[0] + r * wide_read;
      copy_row(next + r * wide, D, of.deters + (at + r) * D, D);
      copy_row(next + r * wide, D, row, D);
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

inline void filter_block_backward(const Filter& of, int64_t index, int64_t first, int64_t rows) {
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
  const Between between(of, memory);

  for (int64_t t = of.steps - 1; t >= 0; --t) {
    const int64_t at = t * of.rows + first;
    // Through the posterior
    const Gradients<float> d_posterior = of.d_posterior.at(of.posterior, at, index);
    float* d_out = d_posterior.products[of.posterior.count - 1];
    for (int64_t r = 0; r < rows; ++r) {
      float* out = d_out + r * wide_out;
      for (int64_t i = 0; i < S; ++i) {
        const int64_t j = (at + r) * S + i;
        const float d_sample = d_stoch[r * S + i] + of.d_stochs[j];
        out[i] = d_sample + of.d_means[j];
        out[S + i] = (d_sample * of.noise[j] + of.d_stds[j]) * between.slopes[j];
      }
      std::fill(out + 2 * S, out + wide_out, 0.0f);
    }
    backward(of.posterior, rows, between.posterior.at(of.posterior, at), d_posterior, d);
    of.posterior[0].backward(rows, d_posterior.products[0], d);
    for (int64_t r = 0; r < rows; ++r) {
      const float *row = d + r * wide_read, *given = of.d_deters + (at + r) * D;
      for (int64_t i = 0; i < D; ++i) d_deter[r * wide + i] += row[i] + given[i];
      copy_row(row + D, E, of.d_embeddings + (at + r) * E, E);
    }

    // Through the recurrence
    float* d_input = of.d_gru_input + 3 * at * wide;
    float* d_recalled = of.d_gru_hidden + 3 * at * wide;
    gru_backward(*of.gru_input, rows, between.gates + 4 * at * wide, of.recalled + at * wide,
                 d_deter, d_input, d_recalled);
    of.gru_hidden->backward(rows, d_recalled, d_deter, true);
    of.gru_input->backward(rows, d_input, d);
    float* d_enter = of.d_enter + at * wide_enter;
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
