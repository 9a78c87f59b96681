// The recurrence on a CPU: one product and one point-wise pass a step, on weights that are packed once for all steps. And the
// loss of a row of logits with its gradient, which takes much of a small language model's time.
//
// T time, B batch, H hidden units, W units that one vector holds, 16 or 8. Gate blocks in the order i, f, g, o.
// Columns are dealt to threads in blocks of W units. A block's product goes into a scratch that stays in the cache, and the
// point-wise pass reads it there. The recurrence sums in the same order for any number of threads.

#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/native/CPUBlas.h>
#include <ATen/ops/aminmax.h>
#include <ATen/ops/clone.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <ATen/record_function.h>
#include <torch/library.h>

#ifdef __AVX2__
#include <immintrin.h>
#endif

#ifdef __linux__
#include <sys/mman.h>
#endif

#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

namespace {

using at::BFloat16;
using at::Tensor;

#ifdef __AVX512F__
constexpr int64_t W = 16;
#else
constexpr int64_t W = 8;
#endif
typedef float Floats __attribute__((vector_size(4 * W)));
typedef int32_t Ints __attribute__((vector_size(4 * W)));
typedef uint32_t Words __attribute__((vector_size(4 * W)));

// ---- vectors ----

// Arithmetic is the compiler's own on vectors, for any processor; what AVX-512 or AVX2 does better is spelled out beside it.

inline Floats all(float x) { return x - Floats{}; }

#ifdef __AVX512F__

inline Floats load(const float* from, int64_t count) {
  return (Floats)_mm512_maskz_loadu_ps((__mmask16)((1u << count) - 1), from);
}

inline Floats load(const BFloat16* from, int64_t count) {
  const __m256i bits = _mm256_maskz_loadu_epi16((__mmask16)((1u << count) - 1), from);
  return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16);
}

inline void store(float* to, Floats v, int64_t count) {
  _mm512_mask_storeu_ps(to, (__mmask16)((1u << count) - 1), (__m512)v);
}

inline void store_low(BFloat16* to, Words low, int64_t count) {
  _mm256_mask_storeu_epi16(to, (__mmask16)((1u << count) - 1), _mm512_cvtepi32_epi16((__m512i)low));
}

// The constant comes first: of a NaN and a number the second operand is returned.
inline Floats clamp(Floats x, float low, float high) {
  return (Floats)_mm512_min_ps((__m512)all(high), _mm512_max_ps((__m512)all(low), (__m512)x));
}

inline Floats round(Floats x) { return (Floats)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT); }

inline Floats times_power_of_two(Floats x, Floats n) { return (Floats)_mm512_scalef_ps((__m512)x, (__m512)n); }

inline Floats reciprocal(Floats x) {  // of normal numbers: an estimate of 14 bits and a Newton step
  const Floats estimate = (Floats)_mm512_rcp14_ps((__m512)x);
  return estimate * (2.0f - x * estimate);
}

#else

template <typename V, typename S>
inline V load_vector(const S* from, int64_t count) {
  V v{};
  if (count == W) {
    std::memcpy(&v, from, sizeof(V));
  } else {
    std::memcpy(&v, from, count * sizeof(S));
  }
  return v;
}

template <typename V, typename S>
inline void store_vector(S* to, V v, int64_t count) {
  if (count == W) {
    std::memcpy(to, &v, sizeof(V));
  } else {
    std::memcpy(to, &v, count * sizeof(S));
  }
}

typedef uint16_t Shorts __attribute__((vector_size(2 * W)));

inline Floats load(const float* from, int64_t count) { return load_vector<Floats>(from, count); }

inline Floats load(const BFloat16* from, int64_t count) {
  Words bits = __builtin_convertvector(load_vector<Shorts>(from, count), Words) << 16;
  return reinterpret_cast<Floats&>(bits);
}

inline void store(float* to, Floats v, int64_t count) { store_vector(to, v, count); }

inline void store_low(BFloat16* to, Words low, int64_t count) {
  store_vector(to, __builtin_convertvector(low, Shorts), count);
}

inline Floats clamp(Floats x, float low, float high) {  // NaN stays NaN
  x = x < low ? all(low) : x;
  return x > high ? all(high) : x;
}

inline Floats round(Floats x) { return (x + 12582912.0f) - 12582912.0f; }  // 1.5 * 2^23

inline Floats times_power_of_two(Floats x, Floats n) {
  Ints exponent = (__builtin_convertvector(n, Ints) + 127) << 23;
  return x * reinterpret_cast<Floats&>(exponent);
}

inline Floats reciprocal(Floats x) { return 1.0f / x; }

#endif

inline void store(BFloat16* to, Floats v, int64_t count) {  // rounds to nearest, ties to even
#ifdef __AVX512BF16__
  _mm256_mask_storeu_epi16(to, (__mmask16)((1u << count) - 1), (__m256i)_mm512_cvtneps_pbh((__m512)v));
#else
  Words bits = reinterpret_cast<Words&>(v);
  Words rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  store_low(to, (v != v) ? Words{} + 0x7fc0 : rounded, count);
#endif
}

inline Floats exp(Floats x) {
  x = clamp(x, -80.0f, 80.0f);
  Floats n = round(x * 1.44269504f);
  Floats r = x - n * 0.693359375f + n * 2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  return times_power_of_two(p, n);
}

inline Floats sigmoid(Floats x) { return reciprocal(1.0f + exp(-x)); }

inline Floats tanh(Floats x) {
  Words sign = reinterpret_cast<Words&>(x) & 0x80000000u;
  Words magnitude = reinterpret_cast<Words&>(x) & 0x7fffffffu;
  Floats size = reinterpret_cast<Floats&>(magnitude);
  Floats large = 1.0f - 2.0f * reciprocal(exp(2.0f * size) + 1.0f);
  Words signed_large = reinterpret_cast<Words&>(large) | sign;
  Floats z = x * x;
  Floats p = all(-5.70498872745e-3f);
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  Floats small = p * z * x + x;
  return size > 0.625f ? reinterpret_cast<Floats&>(signed_large) : small;
}

// A gate's value, and what the backward pass keeps of it: of one that is cut to 0 or 1 the sigmoid, negative where it is 0.
struct Gate {
  Floats value, kept;
};

// `Usual` is true where no gate is cut and nothing masked: such a pass then has no branch in its midst.
template <bool Usual>
inline Gate gate(Floats a, bool hard) {
  const Floats soft = sigmoid(a);
  if (Usual || !hard) return {soft, soft};
  return {a > 0.0f ? all(1.0f) : soft - soft, a > 0.0f ? soft : -soft};  // NaN stays NaN
}

template <bool Usual>
inline Gate kept_gate(Floats kept, bool hard) {  // the value, and the sigmoid that its derivative is taken of
  if (Usual || !hard) return {kept, kept};
  return {kept > 0.0f ? all(1.0f) : kept - kept, kept > 0.0f ? kept : -kept};
}

inline Floats mixed(Floats share, Floats old, Floats fresh) { return share * old + (1.0f - share) * fresh; }

inline Floats log(Floats x) {  // of normal positive numbers
  Ints bits = reinterpret_cast<Ints&>(x);
  Ints exponent = (bits >> 23) - 126;
  Ints fraction_bits = (bits & 0x007fffff) | 0x3f000000;  // in [0.5, 1)
  Floats m = reinterpret_cast<Floats&>(fraction_bits);
  Ints below = m < 0.707106781f;  // -1 where true
  exponent += below;
  m = (below ? m + m : m) - 1.0f;
  Floats e = __builtin_convertvector(exponent, Floats);
  Floats z = m * m;
  Floats p = all(7.0376836292e-2f);
  p = p * m - 1.1514610310e-1f;
  p = p * m + 1.1676998740e-1f;
  p = p * m - 1.2420140846e-1f;
  p = p * m + 1.4249322787e-1f;
  p = p * m - 1.6668057665e-1f;
  p = p * m + 2.0000714765e-1f;
  p = p * m - 2.4999993993e-1f;
  p = p * m + 3.3333331174e-1f;
  p = p * m * z - 2.12194440e-4f * e - 0.5f * z;
  return m + p + 0.693359375f * e;
}

// ---- noise ----

// What g2lstm/engines/noise.py says: logistic noise from Philox 4x32-10, one counter a unit, word k of it for the k-th gate.
struct Noise {
  uint64_t seed = 0;
  int32_t threshold = 0;  // of 2^30 equally likely values those below it perturb
  float eps = 0;          // times threshold
  int64_t gates[4] = {-1, -1, -1, -1};  // gate block -> word
  int64_t first = 0, total = 0;         // the sequences are those of a batch of `total` from `first` on

  explicit operator bool() const { return threshold > 0; }

  Floats from_word(Words word) const {
    Words shifted = word >> 2;
    Ints u = reinterpret_cast<Ints&>(shifted);
    Floats below = __builtin_convertvector(u, Floats) + 0.5f + eps;
    Floats above = __builtin_convertvector(threshold - u, Floats) - 0.5f + eps;
    Ints perturbed = u < threshold;
    return perturbed ? log(below * reciprocal(perturbed ? above : all(1.0f))) : Floats{};
  }
};

inline void multiply(Words a, uint32_t b, Words& high, Words& low) {
#ifdef __AVX512F__
  const __m512i factor = _mm512_set1_epi64(b), words = (__m512i)a;
  const __m512i even = _mm512_mul_epu32(words, factor), odd = _mm512_mul_epu32(_mm512_srli_epi64(words, 32), factor);
  high = (Words)_mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
  low = (Words)_mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
#elif defined(__AVX2__)
  const __m256i factor = _mm256_set1_epi64x(b), words = (__m256i)a;
  const __m256i even = _mm256_mul_epu32(words, factor), odd = _mm256_mul_epu32(_mm256_srli_epi64(words, 32), factor);
  high = (Words)_mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
  low = (Words)_mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
#else
  typedef uint64_t LongWords __attribute__((vector_size(8 * W)));
  LongWords product = __builtin_convertvector(a, LongWords) * (uint64_t)b;
  high = __builtin_convertvector(product >> 32, Words);
  low = a * b;
#endif
}

inline void philox(uint64_t seed, uint64_t counter, Words words[4]) {
  uint32_t first = (uint32_t)counter;
  Words lane;
  for (int k = 0; k < W; ++k) lane[k] = k;
  Words c0 = first + lane, c1 = Words{} + (uint32_t)(counter >> 32), c2{}, c3{};
  c1 += (c0 < first) ? Words{} + 1 : Words{};
  uint32_t k0 = (uint32_t)seed, k1 = (uint32_t)(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    Words high0, low0, high2, low2;
    multiply(c0, 0xD2511F53u, high0, low0);
    multiply(c2, 0xCD9E8D57u, high2, low2);
    c0 = high2 ^ c1 ^ k0;
    c2 = high0 ^ c3 ^ k1;
    c1 = low2;
    c3 = low0;
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  words[0] = c0, words[1] = c1, words[2] = c2, words[3] = c3;
}

// Asks for the cache lines of a block of columns while the product before it runs: a line a row is too far apart for the
// processor to see them coming.
template <typename S>
void prefetch(const S* first, int64_t rows, int64_t stride) {
  for (int64_t row = 0; row < rows; ++row) {
    __builtin_prefetch(first + row * stride);
    __builtin_prefetch(first + row * stride + W - 1);
  }
}

// ---- masks ----

// What g2lstm/engines/contract.py says of `Masks`: (T, B, H) or (B, H) float32, which may be expanded from fewer numbers.
struct Mask {
  const float* data = nullptr;
  int64_t of_step = 0, of_row = 0;

  explicit Mask(const std::optional<Tensor>& mask) {
    if (!mask) return;
    TORCH_CHECK(mask->size(-1) < 2 || mask->stride(-1) == 1, "the numbers of a mask's row must lie side by side");
    data = mask->const_data_ptr<float>();
    of_step = mask->dim() == 3 ? mask->stride(0) : 0;
    of_row = mask->stride(-2);
  }
  explicit operator bool() const { return data; }
  Floats operator()(int64_t t, int64_t b, int64_t j, int64_t count) const {
    return load(data + t * of_step + b * of_row + j, count);
  }
};

struct Masks {
  Mask h, g, kept_c, kept_h;

  explicit operator bool() const { return h || g || kept_c || kept_h; }

  // Those of a step that change from step to step.
  void prefetch_columns(int64_t t, int64_t j, int64_t rows) const {
    for (const Mask* mask : {&g, &kept_c, &kept_h})
      if (mask->of_step) prefetch(mask->data + t * mask->of_step + j, rows, mask->of_row);
  }
};

// ---- packing ----

// Products read their right factor in panels of 64 or fewer columns, bfloat16 with two neighbouring rows interleaved.
template <typename S>
constexpr int64_t interleave = sizeof(S) == 2 ? 2 : 1;

template <typename S>
struct Panels {
  Tensor storage;
  int64_t rows, columns;
  S* data;

  Panels(int64_t count, int64_t rows, int64_t columns)
      : storage(at::empty({count, rows, columns}, c10::CppTypeToScalarType<S>::value)),
        rows(rows), columns(columns), data(storage.mutable_data_ptr<S>()) {}

  S* panel(int64_t index) const { return data + index * rows * columns; }

  // Where the entries of one column start, in a panel whose rows are walked in steps of `interleave`.
  S* column(int64_t index, int64_t row, int64_t column) const {
    return panel(index) + row * columns + column * interleave<S>;
  }
};

// The weights of W units' four gates, (4H, H) -> ceil(H / W) panels of (H, 4W).
template <typename S>
Panels<S> pack_forward(const float* weight, int64_t H) {
  constexpr int64_t n = interleave<S>;
  const int64_t panels = at::divup(H, W);
  const Panels<S> packed(panels, H, 4 * W);
  at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel)
      for (int64_t k = 0; k < H; k += W)  // a tile of (W, 4W) stays in the cache while it is turned
        for (int64_t column = 0; column < 4 * W; ++column) {
          const int64_t unit = panel * W + column % W;
          const float* row = weight + (column / W * H + unit) * H;
          S* to = packed.column(panel, k, column);
          const int64_t count = std::min(W, H - k);
          for (int64_t kk = 0; kk < count; kk += n, to += n * 4 * W)
            for (int64_t pair = 0; pair < n; ++pair) to[pair] = unit < H ? S(row[k + kk + pair]) : S(0);
        }
  });
  return packed;
}

// (4H, H) -> ceil(H / columns) panels of (4H, columns).
template <typename S>
Panels<S> pack_backward(const float* weight, int64_t H, int64_t columns) {
  constexpr int64_t n = interleave<S>;
  const int64_t panels = at::divup(H, columns);
  const Panels<S> packed(panels, 4 * H, columns);
  at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first = panel * columns, count = std::min(columns, H - first);
      for (int64_t row = 0; row < 4 * H; row += n) {
        S* to = packed.column(panel, row, 0);
        for (int64_t column = 0; column < columns; ++column)
          for (int64_t pair = 0; pair < n; ++pair)
            to[column * n + pair] = column < count ? S(weight[(row + pair) * H + first + column]) : S(0);
      }
    }
  });
  return packed;
}

// Rows of the right factor that one call reads: with 64 columns they stay in the cache for all rows of the left one.
constexpr int64_t PRODUCT_ROWS = 1024;

template <typename S>
void product(int64_t m, const S* left, int64_t ld_left, const Panels<S>& right, int64_t panel, float* out) {
  const int64_t n = right.columns;
  if (m == 0) return;
  for (int64_t k = 0; k < right.rows; k += PRODUCT_ROWS)
    at::native::cpublas::brgemm(
        m, n, std::min(PRODUCT_ROWS, right.rows - k), ld_left, n, n, /*add_C=*/k > 0, left + k, right.panel(panel) + k * n,
        out, /*is_vnni=*/interleave<S> == 2);
}

template <typename S>
void product_done() {
  at::native::cpublas::brgemm_release(interleave<S> == 2);
}

// A tensor whose memory, where it is large and fresh, comes in huge pages: each small one costs a fault when it is first touched.
Tensor empty(at::IntArrayRef size, const at::TensorOptions& options) {
  Tensor tensor = at::empty(size, options);
#ifdef __linux__
  const uintptr_t page = 1 << 21, begin = (uintptr_t)tensor.data_ptr(), end = begin + tensor.nbytes();
  const uintptr_t first = (begin + page - 1) / page * page, last = end / page * page;
  if (last > first) madvise((void*)first, last - first, MADV_HUGEPAGE);
#endif
  return tensor;
}

// ---- the recurrence ----

struct Walk {
  int64_t T;
  bool reverse;
  int64_t step(int64_t k) const { return reverse ? T - 1 - k : k; }
  int64_t before(int64_t t) const { return reverse ? t + 1 : t; }  // slot of the state before step t, of T + 1
  int64_t after(int64_t t) const { return reverse ? t : t + 1; }
};

// How much of a recurrence is point-wise, for a profiler that listens. Products and point-wise passes take turns of microseconds,
// too short for spans of their own: a span without length says the share of the threads' time.
struct Shares {
  const bool heard = at::getStepCallbacksUnlessEmpty(at::RecordScope::USER_SCOPE).has_value();
  std::atomic<int64_t> product{0}, pointwise{0};  // nanoseconds

  ~Shares() {
    if (!heard) return;
    at::RecordFunction said(at::RecordScope::USER_SCOPE);
    said.before("point-wise share " + std::to_string((double)pointwise / std::max<int64_t>(1, product + pointwise)));
  }
};

struct Turn {
  using Clock = std::chrono::steady_clock;
  Shares& shares;
  Clock::time_point begun = shares.heard ? Clock::now() : Clock::time_point{}, turned = begun;

  void to_pointwise() {
    if (shares.heard) turned = Clock::now();
  }

  ~Turn() {
    if (!shares.heard) return;
    shares.product += std::chrono::nanoseconds(turned - begun).count();
    shares.pointwise += std::chrono::nanoseconds(Clock::now() - turned).count();
  }
};

template <typename S, bool Usual>
void forward_loop(
    const Tensor& pre, const Tensor& weight, const Noise& recipe, const std::optional<Tensor>& noise,
    const std::vector<double>& scale, const std::optional<Tensor>& lengths, const std::vector<int64_t>& hard,
    const Masks& masks, bool reverse, Tensor& hidden, Tensor& cell, Tensor* gates) {
  const int64_t T = pre.size(0), B = pre.size(1), H = pre.size(2) / 4, blocks = at::divup(H, W);
  const Panels<S> packed = pack_forward<S>(weight.const_data_ptr<float>(), H);
  const Walk walk{T, reverse};
  const S* pre_data = pre.const_data_ptr<S>();
  S* hidden_data = hidden.data_ptr<S>();
  float* cell_data = cell.data_ptr<float>();
  float* gates_data = gates ? gates->data_ptr<float>() : nullptr;
  const float* noise_data = noise ? noise->const_data_ptr<float>() : nullptr;
  const int64_t noise_width = noise ? noise->size(2) : 0;
  const int64_t* length = lengths ? lengths->const_data_ptr<int64_t>() : nullptr;
  std::vector<float> scratch(at::get_num_threads() * B * 4 * W);
  std::vector<S> read(!Usual && masks.h ? 2 * B * H : 0);  // h of the step before and of this one, as the product reads it
  if (!Usual && masks.h)
    for (int64_t b = 0; b < B; ++b)
      for (int64_t j = 0; j < H; j += W) {
        const int64_t count = std::min(W, H - j);
        const S* h0 = hidden_data + walk.before(walk.step(0)) * B * H;
        store(read.data() + b * H + j, masks.h(0, b, j, count) * load(h0 + b * H + j, count), count);
      }
  Shares shares;

  for (int64_t k = 0; k < T; ++k) {
    const int64_t t = walk.step(k);
    const S* h_before = hidden_data + walk.before(t) * B * H;
    S* h_after = hidden_data + walk.after(t) * B * H;
    const float* c_before = cell_data + (gates ? walk.before(t) : k % 2) * B * H;
    float* c_after = cell_data + (gates ? walk.after(t) : (k + 1) % 2) * B * H;
    const S* read_before = !Usual && masks.h ? read.data() + k % 2 * B * H : h_before;
    S* read_after = read.data() + (k + 1) % 2 * B * H;  // where there is a mask on h
    at::parallel_for(0, blocks, 1, [&](int64_t begin, int64_t end) {
      float* recurrent = scratch.data() + at::get_thread_num() * B * 4 * W;
      for (int64_t block = begin; block < end; ++block) {
        const int64_t j = block * W, count = std::min(W, H - j);
        prefetch(pre_data + t * B * 4 * H + j, B * 4, H);
        prefetch(c_before + j, B, H);
        if (!Usual) masks.prefetch_columns(t, j, B);
        Turn turn{shares};
        product(B, read_before, H, packed, block, recurrent);
        turn.to_pointwise();
        for (int64_t b = 0; b < B; ++b) {
          const int64_t at_unit = b * H + j;
          if (length && t >= length[b]) {
            std::memcpy(h_after + at_unit, h_before + at_unit, count * sizeof(S));
            std::memcpy(c_after + at_unit, c_before + at_unit, count * sizeof(float));
            if (!Usual && masks.h) std::memcpy(read_after + at_unit, read_before + at_unit, count * sizeof(S));
            continue;
          }
          const int64_t row = (t * B + b) * 4 * H + j;
          Words words[4];
          if (recipe) philox(recipe.seed, (uint64_t)((t * recipe.total + recipe.first + b) * H + j), words);
          Floats a[4];
          for (int64_t gate = 0; gate < 4; ++gate) {
            a[gate] = load(pre_data + row + gate * H, count) + load(recurrent + (b * 4 + gate) * W, W);
            if (recipe && recipe.gates[gate] >= 0) a[gate] += recipe.from_word(words[recipe.gates[gate]]);
            if (gate * H < noise_width) a[gate] += load(noise_data + (t * B + b) * noise_width + gate * H + j, count);
            a[gate] *= (float)scale[gate];
          }
          const Gate i = gate<Usual>(a[0], hard[0]), f = gate<Usual>(a[1], hard[1]);
          const Floats g = tanh(a[2]);
          const Gate o = gate<Usual>(a[3], hard[3]);
          const Floats c_old = load(c_before + at_unit, count);
          const Floats masked_g = !Usual && masks.g ? masks.g(t, b, j, count) * g : g;
          const Floats c = f.value * c_old + i.value * masked_g;
          const Floats h = o.value * tanh(c);
          if (Usual) {
            store(c_after + at_unit, c, count);
            store(h_after + at_unit, h, count);
          } else {
            store(c_after + at_unit, masks.kept_c ? mixed(masks.kept_c(t, b, j, count), c_old, c) : c, count);
            const Floats h_new =
                masks.kept_h ? mixed(masks.kept_h(t, b, j, count), load(h_before + at_unit, count), h) : h;
            store(h_after + at_unit, h_new, count);
            if (masks.h) store(read_after + at_unit, masks.h(t, b, j, count) * h_new, count);
          }
          if (gates_data) {
            store(gates_data + row, i.kept, count);
            store(gates_data + row + H, f.kept, count);
            store(gates_data + row + 2 * H, g, count);
            store(gates_data + row + 3 * H, o.kept, count);
          }
        }
      }
      product_done<S>();
    });
  }
}

template <typename S, bool Usual>
void backward_loop(
    const Tensor& weight, const Tensor& gates, const Tensor& cell, const std::optional<Tensor>& grad_hidden,
    const std::vector<double>& scale, const std::optional<Tensor>& lengths, const std::vector<int64_t>& hard,
    const Masks& masks, bool reverse, Tensor& d_pre, Tensor& d_h0, Tensor& d_c) {
  const int64_t T = gates.size(0), B = gates.size(1), H = gates.size(3), blocks = at::divup(H, W);
  const int64_t units = H >= 512 ? 64 / W : W == 8 ? 4 : 1;  // blocks a panel holds; 8 columns alone are too few for a product
  const Panels<S> packed = pack_backward<S>(weight.const_data_ptr<float>(), H, units * W);
  const int64_t panels = at::divup(H, units * W);
  const Walk walk{T, reverse};
  const float* gates_data = gates.const_data_ptr<float>();
  const float* cell_data = cell.const_data_ptr<float>();
  const S* grad_h = grad_hidden ? grad_hidden->const_data_ptr<S>() : nullptr;
  S* d_pre_data = d_pre.data_ptr<S>();
  float* d_c_data = d_c.data_ptr<float>();
  float* d_h0_data = d_h0.data_ptr<float>();
  const int64_t* length = lengths ? lengths->const_data_ptr<int64_t>() : nullptr;
  std::vector<float> scratch(at::get_num_threads() * B * units * W);
  // a finished sequence hands its gradient on to the step before, and so does what zoneout kept
  const bool passes = length || (!Usual && masks.kept_h);
  std::vector<float> passed(passes ? B * H : 0);
  Shares shares;

  for (int64_t k = T - 1; k >= -1; --k) {
    const int64_t t = k >= 0 ? walk.step(k) : -1;
    const int64_t later = k < T - 1 ? walk.step(k + 1) : -1;
    const float* c_before = k >= 0 ? cell_data + walk.before(t) * B * H : nullptr;
    const float* c_after = k >= 0 ? cell_data + walk.after(t) * B * H : nullptr;
    at::parallel_for(0, panels, 1, [&](int64_t begin, int64_t end) {
      float* d_hidden = scratch.data() + at::get_thread_num() * B * units * W;
      for (int64_t panel = begin; panel < end; ++panel) {
        for (int64_t j = panel * units * W; k >= 0 && j < std::min(H, (panel + 1) * units * W); j += W) {
          prefetch(gates_data + t * B * 4 * H + j, B * 4, H);
          prefetch(c_before + j, B, H);
          prefetch(c_after + j, B, H);
          if (grad_h) prefetch(grad_h + t * B * H + j, B, H);
          if (!Usual) masks.prefetch_columns(t, j, B);
        }
        Turn turn{shares};
        if (later >= 0) {
          product(B, d_pre_data + later * B * 4 * H, 4 * H, packed, panel, d_hidden);
        } else {
          std::memset(d_hidden, 0, B * units * W * sizeof(float));
        }
        turn.to_pointwise();
        const int64_t last = std::min(blocks, (panel + 1) * units);
        for (int64_t b = 0; b < B; ++b)
          for (int64_t block = panel * units; block < last; ++block) {
            const int64_t j = block * W, count = std::min(W, H - j), at_unit = b * H + j;
            Floats d_h = load(d_hidden + b * units * W + (block - panel * units) * W, W);
            if (!Usual && masks.h) d_h *= masks.h(t, b, j, count);
            if (passes) d_h += load(passed.data() + at_unit, count);
            if (k < 0) {
              store(d_h0_data + at_unit, d_h, count);
              continue;
            }
            if (grad_h) d_h += load(grad_h + t * B * H + at_unit, count);
            Floats d_cell = load(d_c_data + at_unit, count);
            const int64_t row = (t * B + b) * 4 * H + j;
            if (length && t >= length[b]) {
              store(passed.data() + at_unit, d_h, count);
              store(d_c_data + at_unit, d_cell, count);
              for (int64_t gate = 0; gate < 4; ++gate) store(d_pre_data + row + gate * H, Floats{}, count);
              continue;
            }
            const Gate i = kept_gate<Usual>(load(gates_data + row, count), hard[0]);
            const Gate f = kept_gate<Usual>(load(gates_data + row + H, count), hard[1]);
            const Floats g = load(gates_data + row + 2 * H, count);
            const Gate o = kept_gate<Usual>(load(gates_data + row + 3 * H, count), hard[3]);
            const Floats c_old = load(c_before + at_unit, count);
            Floats c = load(c_after + at_unit, count), masked_g = g, masked_i = i.value, d_kept{}, d_passed{};
            if (!Usual && masks.g) {
              const Floats mask = masks.g(t, b, j, count);
              masked_g *= mask;
              masked_i *= mask;
            }
            if (!Usual && masks.kept_c) {
              c = f.value * c_old + i.value * masked_g;  // before zoneout
              d_kept = d_cell * masks.kept_c(t, b, j, count);
              d_cell -= d_kept;
            }
            if (!Usual && masks.kept_h) {
              d_passed = d_h * masks.kept_h(t, b, j, count);
              d_h -= d_passed;
            }
            const Floats tanh_c = tanh(c);
            d_cell += d_h * o.value * (1.0f - tanh_c * tanh_c);
            const Floats d_i = d_cell * masked_g * i.kept * (1.0f - i.kept) * (float)scale[0];
            const Floats d_f = d_cell * c_old * f.kept * (1.0f - f.kept) * (float)scale[1];
            const Floats d_g = d_cell * masked_i * (1.0f - g * g) * (float)scale[2];
            const Floats d_o = d_h * tanh_c * o.kept * (1.0f - o.kept) * (float)scale[3];
            store(d_pre_data + row, d_i, count);
            store(d_pre_data + row + H, d_f, count);
            store(d_pre_data + row + 2 * H, d_g, count);
            store(d_pre_data + row + 3 * H, d_o, count);
            store(d_c_data + at_unit, Usual ? d_cell * f.value : d_cell * f.value + d_kept, count);
            if (passes) store(passed.data() + at_unit, d_passed, count);
          }
      }
      product_done<S>();
    });
  }
}

// hidden and cell states in T + 1 slots, the initial one among them, and gate values. Without `keep_gates` there are none of
// these, and of the cell states only the last.
std::tuple<Tensor, Tensor, Tensor> forward(
    const Tensor& pre, const Tensor& weight, const Tensor& h0, const Tensor& c0, const std::vector<double>& scale,
    const std::optional<Tensor>& noise, const std::optional<Tensor>& seed, int64_t threshold, double eps,
    const std::vector<int64_t>& words, int64_t first, int64_t total, const std::optional<Tensor>& lengths,
    const std::vector<int64_t>& hard, const std::optional<Tensor>& mask_h, const std::optional<Tensor>& mask_g,
    const std::optional<Tensor>& kept_c, const std::optional<Tensor>& kept_h, bool reverse, bool keep_gates,
    bool reuse_pre) {
  const int64_t T = pre.size(0), B = pre.size(1), H = pre.size(2) / 4;
  Tensor hidden = empty({T + 1, B, H}, pre.options());
  Tensor cell = empty({keep_gates ? T + 1 : 2, B, H}, c0.options());
  hidden[reverse ? T : 0].copy_(h0);
  cell[reverse && keep_gates ? T : 0].copy_(c0);
  // A value of pre is read before the gate value takes its place.
  const bool in_place = keep_gates && reuse_pre && pre.scalar_type() == at::kFloat;
  Tensor gates = in_place ? pre.view({T, B, 4, H}) : empty({keep_gates ? T : 0, B, 4, H}, c0.options());
  Noise recipe;
  recipe.seed = seed ? (uint64_t)seed->item<int64_t>() : 0;
  recipe.threshold = (int32_t)threshold;
  recipe.eps = (float)(eps * threshold);
  for (int64_t gate = 0; gate < 4; ++gate) recipe.gates[gate] = words[gate];
  recipe.first = first;
  recipe.total = total;
  const Masks masks{Mask(mask_h), Mask(mask_g), Mask(kept_c), Mask(kept_h)};
  const bool single = pre.scalar_type() == at::kFloat, usual = !(hard[0] || hard[1] || hard[3] || masks);
  auto run = usual ? (single ? forward_loop<float, true> : forward_loop<BFloat16, true>)
                   : (single ? forward_loop<float, false> : forward_loop<BFloat16, false>);
  run(pre, weight, recipe, noise, scale, lengths, hard, masks, reverse, hidden, cell, keep_gates ? &gates : nullptr);
  return {hidden, keep_gates ? cell : cell.narrow(0, T % 2, 1), gates};
}

std::tuple<Tensor, Tensor, Tensor> backward(
    const Tensor& weight, const Tensor& gates, const Tensor& cell, const std::optional<Tensor>& grad_hidden,
    const std::optional<Tensor>& grad_c, const std::vector<double>& scale, const std::optional<Tensor>& lengths,
    const std::vector<int64_t>& hard, const std::optional<Tensor>& mask_h, const std::optional<Tensor>& mask_g,
    const std::optional<Tensor>& kept_c, const std::optional<Tensor>& kept_h, bool reverse, at::ScalarType dtype) {
  const int64_t T = gates.size(0), B = gates.size(1), H = gates.size(3);
  Tensor d_pre = empty({T, B, 4 * H}, gates.options().dtype(dtype));
  Tensor d_h0 = at::empty({B, H}, gates.options());
  Tensor d_c = grad_c ? grad_c->clone(at::MemoryFormat::Contiguous) : at::zeros({B, H}, gates.options());
  const Masks masks{Mask(mask_h), Mask(mask_g), Mask(kept_c), Mask(kept_h)};
  const bool single = dtype == at::kFloat, usual = !(hard[0] || hard[1] || hard[3] || masks);
  auto run = usual ? (single ? backward_loop<float, true> : backward_loop<BFloat16, true>)
                   : (single ? backward_loop<float, false> : backward_loop<BFloat16, false>);
  run(weight, gates, cell, grad_hidden, scale, lengths, hard, masks, reverse, d_pre, d_h0, d_c);
  return {d_pre, d_h0, d_c};
}

// ---- the output layer's loss ----

inline float sum(Floats v) {
  float total = 0;
  for (int k = 0; k < W; ++k) total += v[k];
  return total;
}

inline float largest(Floats v) {
  float top = v[0];
  for (int k = 1; k < W; ++k) top = v[k] > top || v[k] != v[k] ? v[k] : top;
  return top;
}

// The loss of one row of V logits, `smoothing` of the target's share spread over all words. The logits become the gradient,
// softmax - (1 - smoothing) onehot - smoothing / V, where that is wanted; it is added to `grad_bias` where there is one.
template <typename S>
float row_loss(S* logits, int64_t V, int64_t target, bool gradient, float* grad_bias, float smoothing) {
  const float target_logit = (float)logits[target], everywhere = smoothing / V, low = -std::numeric_limits<float>::infinity();
  Floats top = all(low), total{};
  for (int64_t v = 0; v + W <= V; v += W) {
    const Floats l = load(logits + v, W);
    top = (l > top) | (l != l) ? l : top;
  }
  float maximum = largest(top);
  for (int64_t v = V / W * W; v < V; ++v) maximum = std::max(maximum, (float)logits[v]);
  for (int64_t v = 0; v < V; v += W) {
    const int64_t count = std::min(W, V - v);
    Floats e = exp(load(logits + v, count) - maximum);
    for (int64_t k = count; k < W; ++k) e[k] = 0;  // lanes beyond the row
    total += e;
  }
  const float norm = sum(total), loss = std::log(norm) + maximum;
  Floats logit_sum{};
  for (int64_t v = 0; smoothing > 0 && v < V; v += W) logit_sum += load(logits + v, std::min(W, V - v));
  for (int64_t v = 0; gradient && v < V; v += W) {
    const int64_t count = std::min(W, V - v);
    Floats p = exp(load(logits + v, count) - maximum) * (1.0f / norm) - everywhere;
    if (target >= v && target < v + W) p[target - v] -= 1.0f - smoothing;
    if (grad_bias) store(grad_bias + v, load(grad_bias + v, count) + p, count);
    store(logits + v, p, count);
  }
  return smoothing > 0 ? loss - (1.0f - smoothing) * target_logit - everywhere * sum(logit_sum) : loss - target_logit;
}

template <typename S>
void loss_loop(Tensor& logits, const Tensor& targets, Tensor& losses, bool gradient, const std::optional<Tensor>& grad_bias,
               float smoothing) {
  const int64_t N = logits.size(0), V = logits.size(1), threads = at::get_num_threads();
  const int64_t* target = targets.const_data_ptr<int64_t>();
  std::vector<float> sums(grad_bias ? threads * V : 0);
  at::parallel_for(0, threads, 1, [&](int64_t first, int64_t last) {
    for (int64_t part = first; part < last; ++part)  // each part of the rows has its own sum, whoever computes it
      for (int64_t n = part * N / threads; n < (part + 1) * N / threads; ++n)
        losses.data_ptr<float>()[n] = row_loss(logits.data_ptr<S>() + n * V, V, target[n], gradient,
                                               grad_bias ? sums.data() + part * V : nullptr, smoothing);
  });
  if (grad_bias)
    for (int64_t part = 0; part < threads; ++part)
      for (int64_t v = 0; v < V; ++v) grad_bias->data_ptr<float>()[v] += sums[part * V + v];
}

// Losses (N) of logits (N, V), which become the gradient where one is wanted; its sum over rows is added to grad_bias (V).
Tensor softmax_loss(Tensor logits, const Tensor& targets, bool gradient, std::optional<Tensor> grad_bias, double smoothing) {
  TORCH_CHECK(logits.is_contiguous() && targets.is_contiguous(), "logits and targets must be contiguous");
  const auto [lowest, highest] = targets.numel() ? at::aminmax(targets) : std::make_tuple(targets.sum(), targets.sum());
  TORCH_CHECK_INDEX(
      lowest.item<int64_t>() >= 0 && highest.item<int64_t>() < logits.size(1), "a target is not in [0, ", logits.size(1), ")");
  Tensor losses = at::empty({logits.size(0)}, logits.options().dtype(at::kFloat));
  auto run = logits.scalar_type() == at::kFloat ? loss_loop<float> : loss_loop<BFloat16>;
  run(logits, targets, losses, gradient, grad_bias, (float)smoothing);
  return losses;
}

// A mask of independent entries, `low` with probability p, else `high`: draws of 32 bits. Of 16 counters those of the first word
// come first, then those of the second: the same mask for any W.
Tensor bernoulli(at::IntArrayRef size, const Tensor& seed, double p, double low, double high) {
  Tensor mask = empty(size, at::kFloat);
  const uint64_t key = (uint64_t)seed.item<int64_t>();
  const Words threshold = Words{} + (uint32_t)(p * 4294967296.0);
  const int64_t N = mask.numel();
  float* data = mask.data_ptr<float>();
  constexpr int64_t counters = 16;
  at::parallel_for(0, at::divup(N, 4 * counters), 256, [&](int64_t begin, int64_t end) {
    for (int64_t first = begin * counters; first < end * counters; first += W) {
      Words words[4];
      philox(key, (uint64_t)first, words);
      for (int64_t k = 0, n = first / counters * 4 * counters + first % counters; k < 4 && n < N; ++k, n += counters)
        store(data + n, words[k] < threshold ? all((float)low) : all((float)high), std::min(W, N - n));
    }
  });
  return mask;
}

// The noise alone, (T, B, 4H), for tests.
Tensor draw(int64_t time, int64_t batch, int64_t size, int64_t seed, int64_t threshold, double eps,
            const std::vector<int64_t>& words) {
  Noise recipe;
  recipe.seed = (uint64_t)seed;
  recipe.threshold = (int32_t)threshold;
  recipe.eps = (float)(eps * threshold);
  Tensor noise = at::zeros({time * batch, 4, size}, at::kFloat);
  float* data = noise.data_ptr<float>();
  for (int64_t row = 0; row < time * batch; ++row)
    for (int64_t j = 0; j < size; j += W) {
      Words drawn[4];
      philox(recipe.seed, (uint64_t)(row * size + j), drawn);
      for (int64_t gate = 0; gate < 4; ++gate)
        if (words[gate] >= 0)
          store(data + (row * 4 + gate) * size + j, recipe.from_word(drawn[words[gate]]), std::min(W, size - j));
    }
  return noise.view({time, batch, 4 * size});
}

}  // namespace

TORCH_LIBRARY(g2lstm, library) {
  library.def(
      "forward(Tensor pre, Tensor weight, Tensor h0, Tensor c0, float[] scale, Tensor? noise, Tensor? seed, int threshold,"
      " float eps, int[] words, int first, int total, Tensor? lengths, int[] hard, Tensor? mask_h, Tensor? mask_g,"
      " Tensor? kept_c, Tensor? kept_h, bool reverse, bool keep_gates, bool reuse_pre)"
      " -> (Tensor, Tensor, Tensor)");
  library.def(
      "backward(Tensor weight, Tensor gates, Tensor cell, Tensor? grad_hidden, Tensor? grad_c, float[] scale,"
      " Tensor? lengths, int[] hard, Tensor? mask_h, Tensor? mask_g, Tensor? kept_c, Tensor? kept_h, bool reverse,"
      " ScalarType dtype) -> (Tensor, Tensor, Tensor)");
  library.def(
      "softmax_loss(Tensor(a!) logits, Tensor targets, bool gradient, Tensor(b!)? grad_bias, float smoothing) -> Tensor");
  library.def("bernoulli(SymInt[] size, Tensor seed, float p, float low, float high) -> Tensor");
  library.def("draw(int time, int batch, int size, int seed, int threshold, float eps, int[] words) -> Tensor", &draw);
}

TORCH_LIBRARY_IMPL(g2lstm, CPU, library) {
  library.impl("forward", &forward);
  library.impl("backward", &backward);
  library.impl("softmax_loss", &softmax_loss);
  library.impl("bernoulli", &bernoulli);
}
