// Imagination of a block of rows: the policy acts, the RSSM answers (lsp/imagination.py), and the
// way back to the policy's weights. Rows do not touch each other, so a block goes through all steps
// before the next one begins.

#pragma once

#include <algorithm>

#include "layers.h"
#include "memory.h"

constexpr int MAX_LAYERS = 16;

// The same fields as `imagination.Arguments` in Python.
template <class T>
struct Imagination {
  int64_t rows, horizon, block;  // block: rows that stay together
  int64_t deter, stoch, action, skill, plan_length, skill_length;
  int64_t policy_layers;  // 0: the skill is the action
  const Layer<T> *policy, *enter, *gru_input, *gru_hidden, *prior;  // prior: two layers
  double raw_init_std, policy_min_std, min_std;
  const float *start_deter, *start_stoch, *plan, *action_noise, *latent_noise;
  T* feature;     // [horizon + 1, rows, deter + stoch]
  float* actions;  // [horizon, rows, action]
  // Of a rollout that is learned from; otherwise null.
  char* trace;  // what the backward pass needs, `trace_bytes` for each step of each block
  T* inputs[MAX_LAYERS];          // of the policy's layers, [horizon, rows, in_padded]
  const T* d_feature;             // gradients of `feature` and `actions`
  const float* d_actions;
  T* d_outputs[MAX_LAYERS];       // of the policy's products, [horizon, rows, out_padded]
  Affine d_affine[MAX_LAYERS];    // [blocks, out_padded] each

  int64_t blocks() const { return (rows + block - 1) / block; }
};

// What one step of one block leaves for the backward pass.
template <class T>
struct Step {
  T* input[MAX_LAYERS];        // of the policy's layers
  Hidden policy[MAX_LAYERS];
  float *mean, *std_slope;     // tanh(m / 5), and how the std follows its parameter
  Hidden enter, prior;
  T *entered, *prior_out;
  float *gates, *deter, *latent_slope;

  Step(const Imagination<T>& of, Carver& memory, bool own_inputs) {
    const int64_t n = of.block;
    for (int64_t l = 0; l < of.policy_layers; ++l) {
      if (own_inputs) input[l] = memory.take<T>(n * of.policy[l].in_padded());
      policy[l] = hidden(of.policy[l], n, memory);
    }
    mean = memory.take<float>(n * padded(of.action));
    std_slope = memory.take<float>(n * padded(of.action));
    enter = hidden(*of.enter, n, memory);
    entered = memory.take<T>(n * of.enter->out_padded());
    gates = memory.take<float>(4 * n * padded(of.deter));
    deter = memory.take<float>(n * padded(of.deter));
    prior = hidden(of.prior[0], n, memory);
    prior_out = memory.take<T>(n * of.prior[0].out_padded());
    latent_slope = memory.take<float>(n * padded(of.stoch));
  }

  static Hidden hidden(const Layer<T>& layer, int64_t rows, Carver& memory) {
    return {memory.take<float>(rows * layer.out_padded()), memory.take<float>(rows)};
  }
};

template <class T>
size_t trace_bytes(const Imagination<T>& of) {
  Carver memory(nullptr);
  Step<T>(of, memory, false);
  return memory.used;
}

// The widest output of any layer, gates of the GRU among them.
template <class T>
int64_t widest(const Imagination<T>& of) {
  int64_t width = std::max(padded(of.deter) * 3, padded(of.deter + of.stoch + of.skill));
  width = std::max({width, of.enter->out_padded(), of.enter->in_padded()});
  for (int l = 0; l < 2; ++l) width = std::max(width, of.prior[l].out_padded());
  for (int64_t l = 0; l < of.policy_layers; ++l) width = std::max(width, of.policy[l].out_padded());
  return width;
}

// Which rows a block has, and where its steps are kept.
template <class T>
struct Block {
  const Imagination<T>& of;
  int64_t index, first, rows;

  Block(const Imagination<T>& of, int64_t index)
      : of(of), index(index), first(index * of.block), rows(std::min(of.block, of.rows - first)) {}

  // The first row of this block at step t, of an array [steps, all rows].
  int64_t at(int64_t t) const { return t * of.rows + first; }

  Step<T> step(int64_t t) const {
    Carver memory(of.trace + (t * of.blocks() + index) * trace_bytes(of));
    Step<T> step(of, memory, false);
    for (int64_t l = 0; l < of.policy_layers; ++l)
      step.input[l] = of.inputs[l] + at(t) * of.policy[l].in_padded();
    return step;
  }
};

template <class T>
void imagine_block(const Block<T>& block) {
  const Imagination<T>& of = block.of;
  const int64_t n = block.rows, D = of.deter, S = of.stoch, A = of.action, Z = of.skill;
  const int64_t F = D + S, wide_d = padded(D), wide_s = padded(S);

  Carver measure(nullptr);
  auto carve = [&](Carver& memory, float*& deter, float*& next, float*& stoch, float*& y,
                   float*& y2, T*& x) {
    deter = memory.take<float>(of.block * wide_d);
    next = memory.take<float>(of.block * wide_d);
    stoch = memory.take<float>(of.block * wide_s);
    y = memory.take<float>(of.block * widest(of));
    y2 = memory.take<float>(of.block * widest(of));
    x = memory.take<T>(of.block * widest(of));
  };
  float *deter, *next, *stoch, *y, *y2;
  T* x;
  carve(measure, deter, next, stoch, y, y2, x);
  Step<T> measured(of, measure, true);
  Carver memory(scratch(measure.used));
  carve(memory, deter, next, stoch, y, y2, x);
  const Step<T> forgotten(of, memory, true);

  auto write_feature = [&](int64_t t) {
    for (int64_t r = 0; r < n; ++r) {
      T* feature = of.feature + (block.at(t) + r) * F;
      copy_row(deter + r * wide_d, D, feature, D);
      copy_row(stoch + r * wide_s, S, feature + D, S);
    }
  };
  for (int64_t r = 0; r < n; ++r) {
    copy_row(of.start_deter + (block.first + r) * D, D, deter + r * wide_d, wide_d);
    copy_row(of.start_stoch + (block.first + r) * S, S, stoch + r * wide_s, wide_s);
  }
  write_feature(0);

  for (int64_t t = 0; t < of.horizon; ++t) {
    const Step<T> step = of.trace ? block.step(t) : forgotten;
    const float* skill = of.plan + (block.first * of.plan_length + t / of.skill_length) * Z;
    const int64_t skill_stride = of.plan_length * Z;
    float* action = of.actions + block.at(t) * A;

    // The policy acts
    const int64_t L = of.policy_layers;
    if (L == 0) {
      for (int64_t r = 0; r < n; ++r)
        #pragma omp simd
        for (int64_t i = 0; i < A; ++i) {
          const float a = skill[r * skill_stride + i];
          action[r * A + i] = a < -1.0f ? -1.0f : a > 1.0f ? 1.0f : a;
        }
    } else {
      const int64_t width = of.policy[0].in_padded();
      for (int64_t r = 0; r < n; ++r) {
        T* row = step.input[0] + r * width;
        copy_row(deter + r * wide_d, D, row, D);
        copy_row(stoch + r * wide_s, S, row + D, S);
        copy_row(skill + r * skill_stride, Z, row + F, width - F);
      }
      for (int64_t l = 0; l + 1 < L; ++l) {
        of.policy[l].forward(n, step.input[l], y);
        activate(of.policy[l], n, y, step.policy[l], step.input[l + 1]);
      }
      const Layer<T>& last = of.policy[L - 1];
      last.forward(n, step.input[L - 1], y);
      const int64_t wide = last.out_padded(), wide_a = padded(A);
      const float shift = float(of.raw_init_std), least = float(of.policy_min_std);
      for (int64_t r = 0; r < n; ++r) {
        const float* out = y + r * wide;
        const float* noise = of.action_noise + (block.at(t) + r) * A;
        float *mean = step.mean + r * wide_a, *slope = step.std_slope + r * wide_a;
        float* a = action + r * A;
        #pragma omp simd
        for (int64_t i = 0; i < A; ++i) {
          const float raw = out[A + i] + last.bias[A + i] + shift;
          mean[i] = hyperbolic_tangent((out[i] + last.bias[i]) * 0.2f);
          slope[i] = sigmoid(raw);
          a[i] = hyperbolic_tangent(5.0f * mean[i] + (softplus(raw) + least) * noise[i]);
        }
      }
    }

    // The RSSM answers
    const int64_t wide_in = of.enter->in_padded();
    for (int64_t r = 0; r < n; ++r) {
      copy_row(stoch + r * wide_s, S, x + r * wide_in, S);
      copy_row(action + r * A, A, x + r * wide_in + S, wide_in - S);
    }
    of.enter->forward(n, x, y);
    activate(*of.enter, n, y, step.enter, step.entered);
    of.gru_input->forward(n, step.entered, y);
    for (int64_t r = 0; r < n; ++r)
      copy_row(deter + r * wide_d, D, x + r * wide_d, wide_d);
    of.gru_hidden->forward(n, x, y2);
    std::copy(deter, deter + n * wide_d, step.deter);
    gru(*of.gru_input, *of.gru_hidden, n, y, y2, step.deter, step.gates, next);
    std::swap(deter, next);

    for (int64_t r = 0; r < n; ++r)
      copy_row(deter + r * wide_d, D, x + r * wide_d, wide_d);
    of.prior[0].forward(n, x, y);
    activate(of.prior[0], n, y, step.prior, step.prior_out);
    const Layer<T>& last = of.prior[1];
    last.forward(n, step.prior_out, y);
    const int64_t wide = last.out_padded();
    const float least = float(of.min_std);
    for (int64_t r = 0; r < n; ++r) {
      const float* out = y + r * wide;
      const float* noise = of.latent_noise + (block.at(t) + r) * S;
      float *s = stoch + r * wide_s, *slope = step.latent_slope + r * wide_s;
      #pragma omp simd
      for (int64_t i = 0; i < S; ++i) {
        const float raw = out[S + i] + last.bias[S + i];
        slope[i] = sigmoid(raw) * noise[i];
        s[i] = out[i] + last.bias[i] + (softplus(raw) + least) * noise[i];
      }
    }
    write_feature(t + 1);
  }
}

// Gradients of `feature` and `actions` back to the policy's layers. The world model is frozen, and
// nothing flows into the states that a rollout starts from.
template <class T>
void imagine_block_backward(const Block<T>& block) {
  const Imagination<T>& of = block.of;
  const int64_t n = block.rows, D = of.deter, S = of.stoch, A = of.action;
  const int64_t F = D + S, wide_d = padded(D), wide_s = padded(S), wide_a = padded(A);
  const int64_t L = of.policy_layers;

  float *d_deter, *d_stoch, *d_action, *d, *d2;
  T *dy, *du;
  auto carve = [&](Carver& memory) {
    d_deter = memory.take<float>(of.block * wide_d);
    d_stoch = memory.take<float>(of.block * wide_s);
    d_action = memory.take<float>(of.block * wide_a);
    d = memory.take<float>(of.block * widest(of));
    d2 = memory.take<float>(of.block * widest(of));
    dy = memory.take<T>(of.block * widest(of));
    du = memory.take<T>(of.block * widest(of));
  };
  Carver measure(nullptr);
  carve(measure);
  Carver memory(scratch(measure.used));
  carve(memory);
  std::fill(d_deter, d_deter + n * wide_d, 0.0f);
  std::fill(d_stoch, d_stoch + n * wide_s, 0.0f);

  for (int64_t t = of.horizon - 1; t >= 0; --t) {
    const Step<T> step = block.step(t);
    for (int64_t r = 0; r < n; ++r) {
      const T* feature = of.d_feature + (block.at(t + 1) + r) * F;
      #pragma omp simd
      for (int64_t i = 0; i < D; ++i) d_deter[r * wide_d + i] += to_float(feature[i]);
      #pragma omp simd
      for (int64_t i = 0; i < S; ++i) d_stoch[r * wide_s + i] += to_float(feature[D + i]);
    }

    // Through the prior
    const int64_t wide = of.prior[1].out_padded();
    for (int64_t r = 0; r < n; ++r) {
      const float *grad = d_stoch + r * wide_s, *slope = step.latent_slope + r * wide_s;
      T* out = dy + r * wide;
      #pragma omp simd
      for (int64_t i = 0; i < S; ++i) {
        out[i] = rounded<T>(grad[i]);
        out[S + i] = rounded<T>(grad[i] * slope[i]);
      }
      #pragma omp simd
      for (int64_t i = 2 * S; i < wide; ++i) out[i] = rounded<T>(0.0f);
    }
    of.prior[1].backward(n, dy, d);
    activate_backward(of.prior[0], n, d, step.prior, step.prior_out, dy);
    of.prior[0].backward(n, dy, d_deter, true);

    // Through the recurrence, to the states before and the action
    gru_backward(*of.gru_input, n, step.gates, step.deter, d_deter, dy, du);
    of.gru_hidden->backward(n, du, d_deter, true);
    of.gru_input->backward(n, dy, d);
    activate_backward(*of.enter, n, d, step.enter, step.entered, dy);
    of.enter->backward(n, dy, d);
    const int64_t wide_in = of.enter->in_padded();
    for (int64_t r = 0; r < n; ++r) {
      #pragma omp simd
      for (int64_t i = 0; i < S; ++i) d_stoch[r * wide_s + i] = d[r * wide_in + i];
      #pragma omp simd
      for (int64_t i = 0; i < A; ++i)
        d_action[r * wide_a + i] =
            d[r * wide_in + S + i] + of.d_actions[(block.at(t) + r) * A + i];
    }

    // Through the policy
    const Layer<T>& last = of.policy[L - 1];
    T* d_out = of.d_outputs[L - 1] + block.at(t) * last.out_padded();
    for (int64_t r = 0; r < n; ++r) {
      const float* a = of.actions + (block.at(t) + r) * A;
      const float* noise = of.action_noise + (block.at(t) + r) * A;
      const float *mean = step.mean + r * wide_a, *slope = step.std_slope + r * wide_a;
      float* out = d + r * last.out_padded();
      #pragma omp simd
      for (int64_t i = 0; i < A; ++i) {
        const float inner = d_action[r * wide_a + i] * (1.0f - a[i] * a[i]);
        out[i] = inner * (1.0f - mean[i] * mean[i]);
        out[A + i] = inner * noise[i] * slope[i];
      }
      copy_row(out, 2 * A, d_out + r * last.out_padded(), last.out_padded());
    }
    last.backward(n, d_out, d);
    for (int64_t l = L - 2; l >= 0; --l) {
      const Layer<T>& layer = of.policy[l];
      const Affine learned = of.d_affine[l].of_block(block.index, layer.out_padded());
      d_out = of.d_outputs[l] + block.at(t) * layer.out_padded();
      activate_backward(layer, n, d, step.policy[l], step.input[l + 1], d_out, learned);
      layer.backward(n, d_out, d2);
      std::swap(d, d2);
    }
    const int64_t width = of.policy[0].in_padded();
    for (int64_t r = 0; r < n; ++r) {
      #pragma omp simd
      for (int64_t i = 0; i < D; ++i) d_deter[r * wide_d + i] += d[r * width + i];
      #pragma omp simd
      for (int64_t i = 0; i < S; ++i) d_stoch[r * wide_s + i] += d[r * width + D + i];
    }
  }
}
