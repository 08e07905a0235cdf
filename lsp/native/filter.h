// The filter of the world model over whole sequences (RSSM.scan in lsp/world_model.py), and the way
// back to its weights and to the embeddings. In fp32: this is where the model is learned.

#pragma once

#include "imagination.h"

// The same fields as `filtering.Arguments` in Python. Arrays are time-major, [steps, rows, ...].
struct Filter {
  int64_t rows, steps, block;
  int64_t deter, stoch, action, embedding;
  const Layer<float> *enter, *gru_input, *gru_hidden, *posterior;  // posterior: two layers
  double min_std;
  const float *actions, *embeddings, *keep, *noise;  // keep: 0 where an episode begins
  const float *start_deter, *start_stoch;
  float *deters, *stochs, *means, *stds;  // what is filtered
  // What the backward pass needs: inputs of all layers, and what lies between them.
  float *enter_in, *entered, *recalled, *posterior_in, *posterior_hidden;
  Hidden enter_kept, posterior_kept;
  float *gates, *slopes;
  // Gradients of what is filtered; of the embeddings; of the products, in the layers' own widths.
  const float *d_deters, *d_stochs, *d_means, *d_stds;
  float* d_embeddings;
  float *d_enter, *d_gru_input, *d_gru_hidden, *d_posterior_hidden, *d_posterior;
  Affine d_enter_affine, d_posterior_affine;  // [blocks, out_padded]

  int64_t blocks() const { return (rows + block - 1) / block; }

  int64_t widest() const {
    return std::max({3 * padded(deter), enter->in_padded(), enter->out_padded(),
                     posterior[0].in_padded(), posterior[0].out_padded(),
                     posterior[1].out_padded()});
  }
};

// What is kept of the rows from `row` on.
inline Hidden kept_from(const Hidden& all, int64_t row, int64_t width) {
  return {all.normal + row * width, all.inverse_std + row};
}

inline void filter_block(const Filter& of, int64_t index) {
  const int64_t first = index * of.block, n = std::min(of.block, of.rows - first);
  const int64_t D = of.deter, S = of.stoch, A = of.action, E = of.embedding;
  const int64_t wide_d = padded(D), wide_in = of.enter->in_padded();
  const int64_t wide_enter = of.enter->out_padded();
  const int64_t wide_post = of.posterior[0].in_padded(), wide_hidden = of.posterior[0].out_padded();
  const int64_t wide_out = of.posterior[1].out_padded();
  const float least = float(of.min_std);

  float *y, *y2, *next;
  auto carve = [&](Carver& memory) {
    y = memory.take<float>(of.block * of.widest());
    y2 = memory.take<float>(of.block * of.widest());
    next = memory.take<float>(of.block * wide_d);
  };
  Carver measure(nullptr);
  carve(measure);
  Carver memory(scratch(measure.used));
  carve(memory);

  const float *deter = of.start_deter + first * D, *stoch = of.start_stoch + first * S;
  for (int64_t t = 0; t < of.steps; ++t) {
    const int64_t at = t * of.rows + first;  // the first row of this block at step t
    const float* keep = of.keep + at;
    float *in = of.enter_in + at * wide_in, *before = of.recalled + at * wide_d;
    for (int64_t r = 0; r < n; ++r) {
      const float* action = of.actions + (at + r) * A;
      float* row = in + r * wide_in;
      copy_row(stoch + r * S, S, row, S);
      copy_row(action, A, row + S, wide_in - S);
      copy_row(deter + r * D, D, before + r * wide_d, wide_d);
      #pragma omp simd
      for (int64_t i = 0; i < S + A; ++i) row[i] *= keep[r];
      #pragma omp simd
      for (int64_t i = 0; i < D; ++i) before[r * wide_d + i] *= keep[r];
    }
    of.enter->forward(n, in, y);
    float* entered = of.entered + at * wide_enter;
    activate(*of.enter, n, y, kept_from(of.enter_kept, at, wide_enter), entered);
    of.gru_input->forward(n, entered, y);
    of.gru_hidden->forward(n, before, y2);
    gru(*of.gru_input, *of.gru_hidden, n, y, y2, before, of.gates + 4 * at * wide_d, next);

    float* read = of.posterior_in + at * wide_post;
    for (int64_t r = 0; r < n; ++r) {
      copy_row(next + r * wide_d, D, of.deters + (at + r) * D, D);
      copy_row(next + r * wide_d, D, read + r * wide_post, D);
      copy_row(of.embeddings + (at + r) * E, E, read + r * wide_post + D, wide_post - D);
    }
    float* hidden = of.posterior_hidden + at * wide_hidden;
    of.posterior[0].forward(n, read, y);
    activate(of.posterior[0], n, y, kept_from(of.posterior_kept, at, wide_hidden), hidden);
    const Layer<float>& last = of.posterior[1];
    last.forward(n, hidden, y);
    for (int64_t r = 0; r < n; ++r) {
      const float *out = y + r * wide_out, *noise = of.noise + (at + r) * S;
      float *mean = of.means + (at + r) * S, *std = of.stds + (at + r) * S;
      float *s = of.stochs + (at + r) * S, *slope = of.slopes + (at + r) * S;
      #pragma omp simd
      for (int64_t i = 0; i < S; ++i) {
        const float raw = out[S + i] + last.bias[S + i];
        mean[i] = out[i] + last.bias[i];
        std[i] = softplus(raw) + least;
        slope[i] = sigmoid(raw);
        s[i] = mean[i] + std[i] * noise[i];
      }
    }
    deter = of.deters + at * D;
    stoch = of.stochs + at * S;
  }
}

inline void filter_block_backward(const Filter& of, int64_t index) {
  const int64_t first = index * of.block, n = std::min(of.block, of.rows - first);
  const int64_t D = of.deter, S = of.stoch, E = of.embedding;
  const int64_t wide_d = padded(D), wide_in = of.enter->in_padded();
  const int64_t wide_enter = of.enter->out_padded();
  const int64_t wide_post = of.posterior[0].in_padded(), wide_hidden = of.posterior[0].out_padded();
  const int64_t wide_out = of.posterior[1].out_padded();

  float *d, *d_deter, *d_stoch;
  auto carve = [&](Carver& memory) {
    d = memory.take<float>(of.block * of.widest());
    d_deter = memory.take<float>(of.block * wide_d);
    d_stoch = memory.take<float>(of.block * S);
  };
  Carver measure(nullptr);
  carve(measure);
  Carver memory(scratch(measure.used));
  carve(memory);
  std::fill(d_deter, d_deter + n * wide_d, 0.0f);
  std::fill(d_stoch, d_stoch + n * S, 0.0f);
  for (int64_t t = of.steps - 1; t >= 0; --t) {
    const int64_t at = t * of.rows + first;
    // The posterior
    float* d_out = of.d_posterior + at * wide_out;
    for (int64_t r = 0; r < n; ++r) {
      const float *noise = of.noise + (at + r) * S, *slope = of.slopes + (at + r) * S;
      float* out = d_out + r * wide_out;
      #pragma omp simd
      for (int64_t i = 0; i < S; ++i) {
        const int64_t j = (at + r) * S + i;
        const float d_sample = d_stoch[r * S + i] + of.d_stochs[j];
        out[i] = d_sample + of.d_means[j];
        out[S + i] = (d_sample * noise[i] + of.d_stds[j]) * slope[i];
      }
      std::fill(out + 2 * S, out + wide_out, 0.0f);
    }
    of.posterior[1].backward(n, d_out, d);
    float* d_hidden = of.d_posterior_hidden + at * wide_hidden;
    activate_backward(of.posterior[0], n, d, kept_from(of.posterior_kept, at, wide_hidden),
                      of.posterior_hidden + at * wide_hidden, d_hidden,
                      of.d_posterior_affine.of_block(index, wide_hidden));
    of.posterior[0].backward(n, d_hidden, d);
    for (int64_t r = 0; r < n; ++r) {
      const float *row = d + r * wide_post, *given = of.d_deters + (at + r) * D;
      float* grad = d_deter + r * wide_d;
      #pragma omp simd
      for (int64_t i = 0; i < D; ++i) grad[i] += row[i] + given[i];
      copy_row(row + D, E, of.d_embeddings + (at + r) * E, E);
    }

    // The recurrence
    float *d_input = of.d_gru_input + 3 * at * wide_d, *d_recalled = of.d_gru_hidden + 3 * at * wide_d;
    gru_backward(*of.gru_input, n, of.gates + 4 * at * wide_d, of.recalled + at * wide_d, d_deter,
                 d_input, d_recalled);
    of.gru_hidden->backward(n, d_recalled, d_deter, true);
    of.gru_input->backward(n, d_input, d);
    float* d_enter = of.d_enter + at * wide_enter;
    activate_backward(*of.enter, n, d, kept_from(of.enter_kept, at, wide_enter),
                      of.entered + at * wide_enter, d_enter,
                      of.d_enter_affine.of_block(index, wide_enter));
    of.enter->backward(n, d_enter, d);

    // To the states before, where an episode went on
    for (int64_t r = 0; r < n; ++r) {
      const float keep = of.keep[at + r];
      #pragma omp simd
      for (int64_t i = 0; i < S; ++i) d_stoch[r * S + i] = keep * d[r * wide_in + i];
      #pragma omp simd
      for (int64_t i = 0; i < D; ++i) d_deter[r * wide_d + i] *= keep;
    }
  }
}
