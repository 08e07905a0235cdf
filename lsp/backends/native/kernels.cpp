// What Python calls.

#include "filter.h"
#include "imagination_backward.h"
#include "mlp.h"
#include "weights.h"

// A kernel on all blocks of rows; on the way back it is told which block it has.
template <class Of>
void all_blocks(const Of& of, void (*work)(const Of&, int64_t first, int64_t rows)) {
  for_each_block(of.rows, of.block,
                 [&](int64_t, int64_t first, int64_t rows) { work(of, first, rows); });
}
template <class Of>
void all_blocks(const Of& of, void (*work)(const Of&, int64_t index, int64_t first, int64_t rows)) {
  for_each_block(of.rows, of.block, [&](int64_t index, int64_t first, int64_t rows) {
    work(of, index, first, rows);
  });
}

#define FOR_EACH_PRECISION(T, NAME)                                                             \
  bool can_multiply_##NAME() { return can_multiply<T>(); }                                      \
  void pack_##NAME(const Layer<T>* layer) { layer->pack(); }                                    \
  void weight_gradient_##NAME(const Layer<T>* layer, int64_t rows, const T* read,               \
                              const T* products, float* weight, float* bias) {                  \
    weight_gradient(*layer, rows, read, products, weight, bias);                                \
  }                                                                                             \
  int64_t mlp_bytes_##NAME(const Pass<T>* of) { return pass_bytes(*of); }                       \
  void mlp_##NAME(const Pass<T>* of) { all_blocks(*of, run_block<T>); }                         \
  void mlp_backward_##NAME(const Pass<T>* of) { all_blocks(*of, run_block_backward<T>); }       \
  int64_t imagine_bytes_##NAME(const Imagination<T>* of) { return memory_bytes(*of); }          \
  void imagine_##NAME(const Imagination<T>* of) { all_blocks(*of, imagine_block<T>); }          \
  void imagine_backward_##NAME(const Imagination<T>* of) {                                      \
    all_blocks(*of, imagine_block_backward<T>);                                                 \
  }                                                                                             \
  int64_t filter_bytes_##NAME(const Filter<T>* of) { return filter_memory(*of); }               \
  void filter_##NAME(const Filter<T>* of) { all_blocks(*of, filter_block<T>); }                 \
  void filter_backward_##NAME(const Filter<T>* of) {                                            \
    all_blocks(*of, filter_block_backward<T>);                                                  \
  }

extern "C" {
FOR_EACH_PRECISION(float, float32)
FOR_EACH_PRECISION(bf16, bfloat16)
}
