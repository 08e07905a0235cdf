// The way back through an imagination, to the policy's weights, or to the plan.

#pragma once

#include "imagination.h"

// Gradients of `feature` and `actions`, or of `score`, back to the policy's layers, or to the plan, and
// to what was drawn where that was given. The world model is frozen, and nothing flows into the states
// that a rollout starts from.
template <class T>
void imagine_block_backward(const Imagination<T>& of, int64_t index, int64_t first, int64_t rows) {
  const int64_t D = of.deter, S = of.stoch, A = of.action, Z = of.skill, F = D + S;
  const int64_t wide = of.gru_hidden->in_padded, wide_in = of.enter->in_padded;
  const int64_t wide_enter = of.enter->out_padded, wide_prior = of.prior.last().out_padded;
  float *d_deter, *d_stoch, *d, *d_entered;
  T *dy, *du, *start;
  carved([&](Carver& memory) {
    d_deter = memory.take<float>(of.block * wide);
    d_stoch = memory.take<float>(of.block * S);
    d = memory.take<float>(of.block * of.widest());
    d_entered = memory.take<float>(of.block * wide_enter);
    dy = memory.take<T>(of.block * of.widest());
    du = memory.take<T>(of.block * of.widest());
    start = memory.take<T>(of.block * wide);
  });
  for (int64_t r = 0; r < rows; ++r)
    copy_row(of.start_deter + (first + r) * D, D, start + r * wide, wide);
  std::fill(d_deter, d_deter + rows * wide, 0.0f);
  std::fill(d_stoch, d_stoch + rows * S, 0.0f);
  const Gradients<T> frozen = Gradients<T>::unwanted(of.prior, dy, du);
  const Steps<T> all = kept(of);

  for (int64_t t = of.horizon - 1; t >= 0; --t) {
    const int64_t row = t * of.rows + first;
    const Steps<T> step = all.at(of, row);
    const T* d_feature = of.d_feature + (row + of.rows) * F;
    for (int64_t r = 0; r < rows && !of.score; ++r, d_feature += F) {
#pragma omp simd
      for (int64_t i = 0; i < D; ++i) d_deter[r * wide + i] += to_float(d_feature[i]);
#pragma omp simd
      for (int64_t i = 0; i < S; ++i) d_stoch[r * S + i] += to_float(d_feature[D + i]);
    }

    // Through the prior
    for (int64_t r = 0; r < rows; ++r) {
      const float *grad = d_stoch + r * S, *slope = step.latent_slope + r * S;
      T* out = frozen.products[of.prior.count - 1] + r * wide_prior;
      if (of.score) {
        const float given = of.d_score[first + r], *pull = step.pull + r * S;
        float* d_drawn = of.d_drawn + (row + r) * S;
        for (int64_t i = 0; i < S; ++i) d_drawn[i] = grad[i] - given * pull[i];
        for (int64_t i = 0; i < S; ++i) out[i] = rounded<T>(given * pull[i]);
        for (int64_t i = 0; i < S; ++i) out[S + i] = rounded<T>(given * slope[i]);
      } else {
        for (int64_t i = 0; i < S; ++i) out[i] = rounded<T>(grad[i]);
        for (int64_t i = 0; i < S; ++i) out[S + i] = rounded<T>(grad[i] * slope[i]);
      }
      std::fill(out + 2 * S, out + wide_prior, rounded<T>(0.0f));
    }
    backward(of.prior, rows, step.prior, frozen, d);
    of.prior[0].backward(rows, frozen.products[0], d_deter, true);

    // Through the recurrence, to the states before, which the prior read then, and the action
    const T* before = t ? all.at(of, row - of.rows).prior.input[0] : start;
    for_each_tile(rows, [&](int64_t at, int64_t count) {
      float *of_deter = d_deter + at * wide, *of_input = d + at * wide_in;
      gru_backward(*of.gru_input, count, step.gates + 4 * at * wide, before + at * wide,
                   of_deter, dy, du);
      of.gru_hidden->backward(count, du, of_deter, true);
      of.gru_input->backward(count, dy, d_entered);
      activate_backward(*of.enter, count, d_entered, step.enter.at(at, wide_enter),
                        step.entered + at * wide_enter, dy);
      of.enter->backward(count, dy, of_input);
    });

    // Through the policy, or to the action that was planned
    const int64_t held = (first * of.plan_length + t / of.skill_length) * Z;
    const int64_t plan = of.plan_length * Z;
    float* d_skill = of.d_plan ? of.d_plan + held : nullptr;
    if (!of.has_policy()) {
      for (int64_t r = 0; r < rows; ++r) {
        const float *d_in = d + r * wide_in, *given = of.d_actions + (row + r) * A;
        const float* skill = of.plan + held + r * plan;
        std::copy(d_in, d_in + S, d_stoch + r * S);
        for (int64_t i = 0; i < A; ++i)
          if (std::abs(skill[i]) <= 1.0f) d_skill[r * plan + i] += d_in[S + i] + given[i];
      }
      continue;
    }
    const Gradients<T> learned = of.d_plan ? Gradients<T>::unwanted(of.policy, dy, du)
                                           : of.gradients.at(of.policy, row, index);
    const int64_t wide_out = of.policy.last().out_padded;
    for (int64_t r = 0; r < rows; ++r) {
      const float* d_in = d + r * wide_in;
      std::copy(d_in, d_in + S, d_stoch + r * S);
      const float *a = of.actions + (row + r) * A, *noise = of.action_noise + (row + r) * A;
      const float *given = of.d_actions + (row + r) * A;
      const float *mean = step.mean + r * A, *slope = step.std_slope + r * A;
      T* out = learned.products[of.policy.count - 1] + r * wide_out;
      for (int64_t i = 0; i < A; ++i) {
        const float inner = (d_in[S + i] + given[i]) * (1.0f - a[i] * a[i]);
        out[i] = rounded<T>(inner * (1.0f - mean[i] * mean[i]));
        out[A + i] = rounded<T>(inner * noise[i] * slope[i]);
      }
      std::fill(out + 2 * A, out + wide_out, rounded<T>(0.0f));
    }
    backward(of.policy, rows, step.policy, learned, d);
    if (of.stop_input_gradient && !of.d_plan) continue;
    of.policy[0].backward(rows, learned.products[0], d);
    const int64_t width = of.policy[0].in_padded;
    for (int64_t r = 0; r < rows; ++r) {
#pragma omp simd
      for (int64_t i = 0; i < D; ++i) d_deter[r * wide + i] += d[r * width + i];
#pragma omp simd
      for (int64_t i = 0; i < S; ++i) d_stoch[r * S + i] += d[r * width + D + i];
      if (!of.d_plan) continue;
      for (int64_t i = 0; i < Z; ++i) d_skill[r * plan + i] += d[r * width + F + i];
    }
  }
}
