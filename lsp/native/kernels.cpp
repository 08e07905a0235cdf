// What Python calls.

#include "filter.h"
#include "heads.h"
#include "imagination.h"

namespace {

template <class T>
void pack(Layer<T>* layers, int64_t count) {
  for (int64_t i = 0; i < count; ++i) layers[i].pack();
}

// Every block on one thread, always the same share of them.
template <class Work>
void for_each_block(int64_t blocks, Work work) {
#pragma omp parallel
  {
    FlushDenormals flushing;
#pragma omp for schedule(static)
    for (int64_t index = 0; index < blocks; ++index) work(index);
    at::native::cpublas::brgemm_release(true);
  }
}

template <class T>
void imagine(const Imagination<T>* of) {
  for_each_block(of->blocks(), [of](int64_t index) { imagine_block(Block<T>(*of, index)); });
}

template <class T>
void imagine_backward(const Imagination<T>* of) {
  for_each_block(of->blocks(),
                 [of](int64_t index) { imagine_block_backward(Block<T>(*of, index)); });
}

template <class T>
void judge(const Heads<T>* of) {
  const int64_t blocks = (of->rows + of->block - 1) / of->block;
  for_each_block(blocks, [of](int64_t index) { judge_block(*of, index); });
}

}  // namespace

#define FOR_EACH_PRECISION(T, NAME)                                                          \
  void pack_##NAME(Layer<T>* layers, int64_t count) { pack(layers, count); }                 \
  int64_t trace_bytes_##NAME(const Imagination<T>* of) { return trace_bytes(*of); }          \
  void imagine_##NAME(const Imagination<T>* of) { imagine(of); }                             \
  void imagine_backward_##NAME(const Imagination<T>* of) { imagine_backward(of); }           \
  void judge_##NAME(const Heads<T>* of) { judge(of); }

extern "C" {
FOR_EACH_PRECISION(float, float32)
FOR_EACH_PRECISION(bf16, bfloat16)

void filter_forward(const Filter* of) {
  for_each_block(of->blocks(), [of](int64_t index) { filter_block(*of, index); });
}
void filter_backward(const Filter* of) {
  for_each_block(of->blocks(), [of](int64_t index) { filter_block_backward(*of, index); });
}
}
