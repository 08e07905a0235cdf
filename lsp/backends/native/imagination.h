// Imagination of a block of rows: the policy acts, the RSSM answers (lsp/models/imagination.py), and
// heads judge what comes. Rows do not touch each other, so a block goes through all steps before
// the next one begins.

#pragma once

#include "mlp.h"

constexpr int64_t MAX_HEADS = 4;

// The same fields as `imagination.Arguments` in Python.
template <class T>
struct Imagination {
  int64_t rows, horizon, block;  // block: rows that go together
  // Row i follows start i % starts with noise i % noises. What is learned from has its own of both.
  int64_t starts, noises;
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
  const Mlp<T>* heads;  // whose only output is all that is wanted of the states; otherwise none
  int64_t num_heads;
  float* judged;  // [heads, horizon, rows]
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
    int64_t width = std::max({gru_input->out_padded, enter->in_padded, enter->out_padded,
                              prior.widest(), policy.widest()});
    for (int64_t h = 0; h < num_heads; ++h) width = std::max(width, heads[h].widest());
    return width;
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

// Numbers of a block's rows at one step, of [steps, count, width]: where they are, or copied to
// `room` where more rows share them than lie beside each other.
template <class T>
const float* shared_rows(const Imagination<T>& of, const float* from, int64_t t, int64_t count,
                         int64_t width, int64_t first, int64_t rows, float* room) {
  from += t * count * width;
  if (count == of.rows) return from + first * width;
  for (int64_t r = 0; r < rows;) {
    const int64_t at = (first + r) % count, many = std::min(rows - r, count - at);
    std::copy(from + at * width, from + (at + many) * width, room + r * width);
    r += many;
  }
  return room;
}

// Each head on states that its `read` holds, [rows, in_padded]: its output to `judged`.
template <class T>
void judge(const Imagination<T>& of, int64_t rows, int64_t row, T* read, const Trace<T>* traces,
           float* y) {
  for (int64_t h = 0; h < of.num_heads; ++h) {
    Trace<T> trace = traces[h];
    trace.input[0] = read;
    forward(of.heads[h], rows, trace, y);
    float* judged = of.judged + h * of.horizon * of.rows + row;
    for (int64_t r = 0; r < rows; ++r) judged[r] = y[r * of.heads[h].last().out_padded];
  }
}

template <class T>
void imagine_block(const Imagination<T>& of, int64_t first, int64_t rows) {
  const int64_t D = of.deter, S = of.stoch, A = of.action, Z = of.skill, F = D + S;
  const int64_t wide = of.gru_hidden->in_padded, wide_in = of.enter->in_padded;
  const int64_t wide_enter = of.enter->out_padded;
  const auto recur = of.memory ? gru<true, T> : gru<false, T>;
  float *deter, *next, *stoch, *y, *y2;
  float *action_noise, *latent_noise;
  T *read_deter, *read_stoch, *read_action, *read_in, *read_state;  // as products read them
  Steps<T> all;
  Trace<T> heads[MAX_HEADS];
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
    action_noise = memory.take<float>(of.block * A);
    latent_noise = memory.take<float>(of.block * S);
    if (!of.memory) all.carve(of, of.block, memory, false);
    if (of.heads) read_state = memory.take<T>(of.block * of.heads[0][0].in_padded);
    for (int64_t h = 0; h < of.num_heads; ++h) heads[h].carve(of.heads[h], of.block, memory);
  });
  if (of.memory) all = kept(of);

  // States without what is between their parts, to rows that are `width` apart.
  auto write_states = [&](T* to, int64_t width) {
    for (int64_t r = 0; r < rows; ++r, to += width) {
      std::copy(read_deter + r * wide, read_deter + r * wide + D, to);
      std::copy(read_stoch + r * S, read_stoch + (r + 1) * S, to + D);
    }
  };
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t start = (first + r) % of.starts;
    copy_row(of.start_deter + start * D, D, deter + r * wide, wide);
    copy_row(of.start_stoch + start * S, S, read_stoch + r * S, S);
  }
  copy_row(deter, rows * wide, read_deter, rows * wide);
  std::fill(read_in, read_in + rows * wide_in, rounded<T>(0.0f));
  if (of.heads)
    std::fill(read_state, read_state + rows * of.heads[0][0].in_padded, rounded<T>(0.0f));
  if (of.feature) write_states(of.feature + first * F, F);
  if (of.score) std::fill(of.score + first, of.score + first + rows, 0.0f);

  for (int64_t t = 0; t < of.horizon; ++t) {
    const int64_t row = t * of.rows + first;  // the first of this block's at this step
    const Steps<T> step = of.memory ? all.at(of, row) : all;
    const float* skill = of.plan + (first * of.plan_length + t / of.skill_length) * Z;
    float* action = of.actions + row * A;
    if (of.has_policy()) {
      const int64_t width = of.policy[0].in_padded;
      T* input = step.policy.input[0];
      write_states(input, width);
      for (int64_t r = 0; r < rows; ++r)
        copy_row(skill + r * of.plan_length * Z, Z, input + r * width + F, width - F);
      forward(of.policy, rows, step.policy, y);
      const float* noise =
          shared_rows(of, of.action_noise, t, of.noises, A, first, rows, action_noise);
      act(of, rows, y, noise, step, action, read_action);
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
    const float* noise =
        shared_rows(of, of.latent_noise, t, of.noises, S, first, rows, latent_noise);
    if (of.score) weigh(of, rows, y, noise, stoch, step, read_stoch, of.score + first);
    else answer(of, rows, y, noise, stoch, step.latent_slope, read_stoch);
    if (of.feature) write_states(of.feature + (row + of.rows) * F, F);
    if (!of.heads) continue;
    write_states(read_state, of.heads[0][0].in_padded);
    judge(of, rows, row, read_state, heads, y);
  }
}
