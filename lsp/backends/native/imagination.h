// Imagination of a block of rows: the policy acts, the RSSM answers (lsp/models/imagination.py), and the
// way back to the policy's weights, or to the plan. Rows do not touch each other, so a block goes through
// all steps before the next one begins.

#pragma once

#include "mlp.h"

// The same fields as `imagination.Arguments` in Python.
template <class T>
struct Imagination {
  int64_t rows, horizon, block;  // block: rows that go together
  int64_t deter, stoch, action, skill, plan_length, skill_length;
  int64_t stop_input_gradient;  // whether none flows into the states that the policy reads
  Mlp<T> policy;  // none: the skill is the action
  const Layer<T> *enter, *gru_input, *gru_hidden;
  Mlp<T> prior;
  double raw_init_std, policy_min_std, min_std;
  const float *start_deter, *start_stoch, *plan, *action_noise;
  const float* latent_noise;  // or, where there is a score, the states that were drawn
  T* feature;      // [horizon + 1, rows, deter + stoch]
  float* actions;  // [horizon, rows, action]
  float* score;    // [rows]: log density of the states that were drawn; otherwise null
  // Of a rollout that is learned from; otherwise null.
  char* memory;           // of what the backward pass needs, `memory_bytes`
  T* inputs[MAX_LAYERS];  // of the policy's layers, [horizon · rows, in_padded]
  const T* d_feature;     // gradients of `feature` and `actions`
  const float* d_actions;
  float* d_plan;         // [rows, plan_length, skill], zeros; null: the policy learns
  const float* d_score;  // the gradient of `score`, [rows]
  float* d_drawn;        // [horizon, rows, stoch]
  Gradients<T> gradients;  // of the policy, where it learns

  bool has_policy() const { return policy.count > 0; }
  int64_t widest() const {
    return std::max({gru_input->out_padded, enter->in_padded, enter->out_padded, prior.widest(),
                     policy.widest()});
  }
};

// What steps leave for the backward pass.
template <class T>
struct Steps {
  Trace<T> policy, prior;
  float *mean, *std_slope;  // tanh(m / 5), and how the std follows its parameter
  Hidden enter;
  T *entered, *gates;
  float* latent_slope;
  float* pull;  // of what was drawn on the prior's mean, where there is a score

  // Room for `rows` rows: of what is learned from, or of one step after the other.
  void carve(const Imagination<T>& of, int64_t rows, Carver& memory, bool learned) {
    if (!learned) policy.carve_inputs(of.policy, rows, memory);
    policy.carve_hidden(of.policy, rows, memory, learned);
    prior.carve_inputs(of.prior, rows, memory);
    prior.carve_hidden(of.prior, rows, memory, learned);
    mean = memory.take<float>(rows * of.action);
    std_slope = memory.take<float>(rows * of.action);
    entered = memory.take<T>(rows * of.enter->out_padded);
    enter = Hidden::carve(rows, of.enter->out_padded, memory, learned);
    gates = learned ? memory.take<T>(4 * rows * of.gru_hidden->in_padded) : nullptr;
    latent_slope = memory.take<float>(rows * of.stoch);
    pull = of.score ? memory.take<float>(rows * of.stoch) : nullptr;
  }

  Steps at(const Imagination<T>& of, int64_t row) const {
    Steps there = *this;
    there.policy = policy.at(of.policy, row);
    there.prior = prior.at(of.prior, row);
    there.mean += row * of.action;
    there.std_slope += row * of.action;
    there.entered += row * of.enter->out_padded;
    there.enter = enter.at(row, of.enter->out_padded);
    there.gates += 4 * row * of.gru_hidden->in_padded;
    there.latent_slope += row * of.stoch;
    if (pull) there.pull += row * of.stoch;
    return there;
  }
};

// Everything that is kept of a rollout, in `of.memory`.
template <class T>
Steps<T> kept(const Imagination<T>& of) {
  Carver memory(of.memory);
  Steps<T> steps;
  steps.carve(of, of.horizon * of.rows, memory, true);
  std::copy(of.inputs, of.inputs + of.policy.count, steps.policy.input);
  return steps;
}

template <class T>
size_t memory_bytes(const Imagination<T>& of) {
  Carver memory(nullptr);
  Steps<T>().carve(of, of.horizon * of.rows, memory, true);
  return memory.used;
}

// Two parameters of each row, side by side in y, each to an array of its own without padding: so
// that the loops after it are long.
inline void part(int64_t rows, int64_t count, const float* y, int64_t width, float* one,
                 float* other) {
  for (int64_t r = 0; r < rows; ++r, y += width) {
    std::copy(y, y + count, one + r * count);
    std::copy(y + count, y + 2 * count, other + r * count);
  }
}

// The policy acts: y holds its outputs, the parameters of a squashed Normal.
template <class T>
void act(const Imagination<T>& of, int64_t rows, const float* y, const float* noise,
         const Steps<T>& step, float* action, T* read) {
  const float shift = float(of.raw_init_std), least = float(of.policy_min_std);
  float *mean = step.mean, *slope = step.std_slope;
  part(rows, of.action, y, of.policy.last().out_padded, mean, slope);
#pragma omp simd
  for (int64_t i = 0; i < rows * of.action; ++i) {
    const float raw = slope[i] + shift;
    mean[i] = hyperbolic_tangent(mean[i] * 0.2f);
    slope[i] = sigmoid(raw);
    action[i] = hyperbolic_tangent(5.0f * mean[i] + (softplus(raw) + least) * noise[i]);
    read[i] = rounded<T>(action[i]);
  }
}

// The RSSM answers: y holds mean and std of the prior, as the head gives them.
template <class T>
void answer(const Imagination<T>& of, int64_t rows, const float* y, const float* noise,
            float* stoch, float* slope, T* read) {
  const float least = float(of.min_std);
  part(rows, of.stoch, y, of.prior.last().out_padded, stoch, slope);
#pragma omp simd
  for (int64_t i = 0; i < rows * of.stoch; ++i) {
    const float raw = slope[i];
    slope[i] = sigmoid(raw) * noise[i];
    stoch[i] += (softplus(raw) + least) * noise[i];
    read[i] = rounded<T>(stoch[i]);
  }
}

// The log density of what was drawn is added to each row's score, and its slopes are kept: with
// respect to the prior's mean and to the parameter of its std. y is as above.
template <class T>
void weigh(const Imagination<T>& of, int64_t rows, const float* y, const float* drawn, float* mean,
           const Steps<T>& step, T* read, float* score) {
  constexpr int64_t few = 8;  // as many floats as can be multiplied within double's range
  const float least = float(of.min_std);
  const int64_t S = of.stoch;
  float *slope = step.latent_slope, *pull = step.pull;
  part(rows, S, y, of.prior.last().out_padded, mean, slope);
#pragma omp simd
  for (int64_t i = 0; i < rows * S; ++i) {
    const float raw = slope[i], std = softplus(raw) + least, normal = (drawn[i] - mean[i]) / std;
    mean[i] = std;  // which is what is left to add up
    pull[i] = normal / std;
    slope[i] = sigmoid(raw) * (normal * normal - 1.0f) / std;
    read[i] = rounded<T>(drawn[i]);
  }
  for (int64_t r = 0; r < rows; ++r) {
    const float *std = mean + r * S, *each = pull + r * S;
    float sum = 0.91893853f * S;  // log(2 pi) / 2
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < S; ++i) sum += 0.5f * each[i] * each[i] * std[i] * std[i];
    for (int64_t i = 0; i < S; i += few) {
      double product = 1.0;
      for (int64_t j = i; j < std::min(i + few, S); ++j) product *= std[j];
      sum += float(std::log(product));
    }
    score[r] -= sum;
  }
}

template <class T>
void imagine_block(const Imagination<T>& of, int64_t first, int64_t rows) {
  const int64_t D = of.deter, S = of.stoch, A = of.action, Z = of.skill, F = D + S;
  const int64_t wide = of.gru_hidden->in_padded, wide_in = of.enter->in_padded;
  const int64_t wide_enter = of.enter->out_padded;
  const auto recur = of.memory ? gru<true, T> : gru<false, T>;
  float *deter, *next, *stoch, *y, *y2;
  T *read_deter, *read_stoch, *read_action, *read_in;  // as products read them
  Steps<T> all;
  carved([&](Carver& memory) {
    deter = memory.take<float>(of.block * wide);
    next = memory.take<float>(of.block * wide);
    stoch = memory.take<float>(of.block * S);
    y = memory.take<float>(of.block * of.widest());
    y2 = memory.take<float>(of.block * of.widest());
    read_deter = memory.take<T>(of.block * wide);
    read_stoch = memory.take<T>(of.block * S);
    read_action = memory.take<T>(of.block * A);
    read_in = memory.take<T>(of.block * wide_in);
    if (!of.memory) all.carve(of, of.block, memory, false);
  });
  if (of.memory) all = kept(of);

  auto write_feature = [&](int64_t t) {
    if (of.score) return;
    T* feature = of.feature + (t * of.rows + first) * F;
    for (int64_t r = 0; r < rows; ++r, feature += F) {
      std::copy(read_deter + r * wide, read_deter + r * wide + D, feature);
      std::copy(read_stoch + r * S, read_stoch + (r + 1) * S, feature + D);
    }
  };
  for (int64_t r = 0; r < rows; ++r)
    copy_row(of.start_deter + (first + r) * D, D, deter + r * wide, wide);
  copy_row(deter, rows * wide, read_deter, rows * wide);
  copy_row(of.start_stoch + first * S, rows * S, read_stoch, rows * S);
  std::fill(read_in, read_in + rows * wide_in, rounded<T>(0.0f));
  write_feature(0);
  if (of.score) std::fill(of.score + first, of.score + first + rows, 0.0f);

  for (int64_t t = 0; t < of.horizon; ++t) {
    const int64_t row = t * of.rows + first;  // the first of this block's at this step
    const Steps<T> step = of.memory ? all.at(of, row) : all;
    const float* skill = of.plan + (first * of.plan_length + t / of.skill_length) * Z;
    float* action = of.actions + row * A;
    if (of.has_policy()) {
      const int64_t width = of.policy[0].in_padded;
      for (int64_t r = 0; r < rows; ++r) {
        T* input = step.policy.input[0] + r * width;
        std::copy(read_deter + r * wide, read_deter + r * wide + D, input);
        std::copy(read_stoch + r * S, read_stoch + (r + 1) * S, input + D);
        copy_row(skill + r * of.plan_length * Z, Z, input + F, width - F);
      }
      forward(of.policy, rows, step.policy, y);
      act(of, rows, y, of.action_noise + row * A, step, action, read_action);
    } else {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t i = 0; i < A; ++i)
          action[r * A + i] = std::clamp(skill[r * of.plan_length * Z + i], -1.0f, 1.0f);
      copy_row(action, rows * A, read_action, rows * A);
    }

    for (int64_t r = 0; r < rows; ++r) {
      T* input = read_in + r * wide_in;
      std::copy(read_stoch + r * S, read_stoch + (r + 1) * S, input);
      std::copy(read_action + r * A, read_action + (r + 1) * A, input + S);
    }
    for_each_tile(rows, [&](int64_t at, int64_t count) {
      T* entered = step.entered + at * wide_enter;
      of.enter->forward(count, read_in + at * wide_in, y);
      activate(*of.enter, count, y, step.enter.at(at, wide_enter), entered);
      of.gru_input->forward(count, entered, y);
      of.gru_hidden->forward(count, read_deter + at * wide, y2);
      recur(*of.gru_input, *of.gru_hidden, count, y, y2, deter + at * wide,
            step.gates + 4 * at * wide, next + at * wide, step.prior.input[0] + at * wide);
    });
    read_deter = step.prior.input[0];
    std::swap(deter, next);
    forward(of.prior, rows, step.prior, y);
    const float* noise = of.latent_noise + row * S;
    if (of.score) weigh(of, rows, y, noise, stoch, step, read_stoch, of.score + first);
    else answer(of, rows, y, noise, stoch, step.latent_slope, read_stoch);
    write_feature(t + 1);
  }
}

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
