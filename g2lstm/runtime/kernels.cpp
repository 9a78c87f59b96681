#include "kernels.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "model files are little-endian");

// What lies between is compiled for more than every processor has; only where it has it, it is called.
#if defined(__clang__)
#define DO_PRAGMA(text) _Pragma(#text)
#define BEGIN_TARGET(names) DO_PRAGMA(clang attribute push(__attribute__((target(names))), apply_to = function))
#define END_TARGET _Pragma("clang attribute pop")
#else
#define DO_PRAGMA(text) _Pragma(#text)
#define BEGIN_TARGET(names) _Pragma("GCC push_options") DO_PRAGMA(GCC target(names))
#define END_TARGET _Pragma("GCC pop_options")
#endif

// Loops over what is held in registers; without it some compilers keep that in memory.
#if defined(__clang__)
#define UNROLLED _Pragma("unroll")
#else
#define UNROLLED _Pragma("GCC unroll 16")
#endif

namespace g2 {
namespace {

typedef int32_t Sums[LANES];  // of the products of a row, for each lane

// The four codes from `codes` on, as one number.
inline __attribute__((always_inline)) int32_t four(const int8_t* codes) {
  int32_t value;
  __builtin_memcpy(&value, codes, 4);
  return value;
}

#if defined(__x86_64__)

BEGIN_TARGET("avx512f,avx512bw,avx512vl,avx512dq,avx512vnni,avx2,fma")
namespace avx512 {
constexpr int MOST_ROWS = 16, GROUP = 16;

// sum += weights * the four codes in each lane; written out, for compilers spend an instruction and a register on the codes
inline __attribute__((always_inline)) void add_products(__m512i& sum, __m512i weights, const int8_t* codes) {
  asm("vpdpbusd %2%{1to16%}, %1, %0" : "+v"(sum) : "v"(weights), "m"(*reinterpret_cast<const int32_t*>(codes)));
}

// x[r / 4] and what lies r % 4 strides behind it are the codes of row r, `next` from four of them to the next four
template <int R, bool NIBBLES>
inline __attribute__((always_inline)) void add_chunk(const uint8_t* data, const int8_t* const* x, size_t stride, int next,
                                                     __m512i* sums) {
  const __m512i weights = _mm512_loadu_si512(data), mask = _mm512_set1_epi8(15);
  const __m512i low = NIBBLES ? _mm512_and_si512(weights, mask) : weights;
  const __m512i high = _mm512_and_si512(_mm512_srli_epi16(weights, 4), mask);
  UNROLLED for (int r = 0; r < R; ++r) {
    const int8_t* codes = x[r / 4] + r % 4 * stride;
    add_products(sums[r], low, codes);
    if (NIBBLES) add_products(sums[r], high, codes + next);
  }
}

// found[r][lane] = the sum of (weight + offset) * code over the columns, `chunks` of 64 bytes of weights
template <int R, bool NIBBLES>
inline __attribute__((always_inline)) void dot(const uint8_t* data, int chunks, const int8_t* x, size_t stride, Sums* found) {
  constexpr int WAYS = R == 1 ? 4 : R == 2 ? 2 : 1;  // sums beside each other, for one alone would wait for itself
  constexpr int GROUPS = (R + 3) / 4, NEXT = R == GROUP ? 4 * GROUP : 4, STEP = NIBBLES ? 2 * NEXT : NEXT;
  if (R == GROUP) stride = 4;
  __m512i sums[WAYS][R];
  UNROLLED for (int way = 0; way < WAYS; ++way)
    UNROLLED for (int r = 0; r < R; ++r) sums[way][r] = _mm512_setzero_si512();
  const int8_t* rows[GROUPS];
  UNROLLED for (int group = 0; group < GROUPS; ++group) rows[group] = x + 4 * group * stride;
  int chunk = 0;
  for (; chunk + WAYS <= chunks; chunk += WAYS)
    UNROLLED for (int way = 0; way < WAYS; ++way) {
      if (R == GROUP) __builtin_prefetch(data + 64 * (size_t)chunks, 0, 2);  // the next block, for products keep memory waiting
      add_chunk<R, NIBBLES>(data, rows, stride, NEXT, sums[way]);
      data += 64;
      UNROLLED for (int group = 0; group < GROUPS; ++group) rows[group] += STEP;
    }
  for (; WAYS > 1 && chunk < chunks; ++chunk) {
    add_chunk<R, NIBBLES>(data, rows, stride, NEXT, sums[0]);
    data += 64;
    UNROLLED for (int group = 0; group < GROUPS; ++group) rows[group] += STEP;
  }
  UNROLLED for (int r = 0; r < R; ++r) {
    UNROLLED for (int way = 1; way < WAYS; ++way) sums[0][r] = _mm512_add_epi32(sums[0][r], sums[way][r]);
    _mm512_store_si512(found[r], sums[0][r]);
  }
}

template <class Floats>
inline __attribute__((always_inline)) Floats fused(Floats a, Floats b, Floats c) {
  return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}

#include "kernels_body.h"
}  // namespace avx512
END_TARGET

BEGIN_TARGET("avx2,fma")
namespace avx2 {
constexpr int MOST_ROWS = 4, GROUP = 1;

// Bytes are widened to 16 bits before they are multiplied: the product of bytes would saturate.
template <int R, bool NIBBLES>
inline __attribute__((always_inline)) void dot(const uint8_t* data, int chunks, const int8_t* x, size_t stride, Sums* found) {
  constexpr int TOGETHER = R < 2 ? R : 2, STEP = NIBBLES ? 8 : 4;  // rows for which there are registers
  for (int from = 0; from < R; from += TOGETHER) {
    __m256i sums[TOGETHER][4];  // two halves of each of four rows
    UNROLLED for (int r = 0; r < TOGETHER; ++r)
      UNROLLED for (int quad = 0; quad < 4; ++quad) sums[r][quad] = _mm256_setzero_si256();
    for (int chunk = 0; chunk < chunks; ++chunk)
      UNROLLED for (int half = 0; half < (NIBBLES ? 2 : 1); ++half) {
        __m256i codes[TOGETHER];
        UNROLLED for (int r = 0; r < TOGETHER; ++r) {
          const int32_t columns = four(x + (from + r) * stride + STEP * (size_t)chunk + 4 * half);
          codes[r] = _mm256_cvtepi8_epi16(_mm_set1_epi32(columns));
        }
        UNROLLED for (int quad = 0; quad < 4; ++quad) {
          __m128i weights = _mm_loadu_si128((const __m128i*)(data + 64 * (size_t)chunk + 16 * quad));
          if (NIBBLES) weights = _mm_and_si128(half ? _mm_srli_epi16(weights, 4) : weights, _mm_set1_epi8(15));
          const __m256i wide = _mm256_cvtepu8_epi16(weights);
          UNROLLED for (int r = 0; r < TOGETHER; ++r)
            sums[r][quad] = _mm256_add_epi32(sums[r][quad], _mm256_madd_epi16(wide, codes[r]));
        }
      }
    UNROLLED for (int r = 0; r < TOGETHER; ++r)
      UNROLLED for (int pair = 0; pair < 2; ++pair) {
        const __m256i both = _mm256_hadd_epi32(sums[r][2 * pair], sums[r][2 * pair + 1]);
        _mm256_store_si256((__m256i*)found[from + r] + pair, _mm256_permute4x64_epi64(both, 0xd8));
      }
  }
}

template <class Floats>
inline __attribute__((always_inline)) Floats fused(Floats a, Floats b, Floats c) {
  return a * b + c;
}

#include "kernels_body.h"
}  // namespace avx2
END_TARGET

bool has_avx512vnni() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("fma");
}
bool has_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

const Kernels AVX512 = {"avx512vnni", has_avx512vnni, avx512::product, avx512::quantize, avx512::gates};
const Kernels AVX2 = {"avx2", has_avx2, avx2::product, avx2::quantize, avx2::gates};

#elif defined(__aarch64__)

namespace neon {
constexpr int MOST_ROWS = 4, GROUP = 1;

template <int R, bool NIBBLES>
inline __attribute__((always_inline)) void dot(const uint8_t* data, int chunks, const int8_t* x, size_t stride, Sums* found) {
  constexpr int STEP = NIBBLES ? 8 : 4, OFFSET = NIBBLES ? 8 : 128;
  int32x4_t sums[R][4];
  UNROLLED for (int r = 0; r < R; ++r)
    UNROLLED for (int quad = 0; quad < 4; ++quad) sums[r][quad] = vdupq_n_s32(0);
  for (int chunk = 0; chunk < chunks; ++chunk)
    UNROLLED for (int half = 0; half < (NIBBLES ? 2 : 1); ++half)
      UNROLLED for (int quad = 0; quad < 4; ++quad) {
        uint8x16_t read = vld1q_u8(data + 64 * (size_t)chunk + 16 * quad);
        if (NIBBLES) read = half ? vshrq_n_u8(read, 4) : vandq_u8(read, vdupq_n_u8(15));
        const int8x16_t weights = vreinterpretq_s8_u8(vsubq_u8(read, vdupq_n_u8(OFFSET)));
        UNROLLED for (int r = 0; r < R; ++r) {
          const int8x16_t codes = vreinterpretq_s8_s32(vdupq_n_s32(four(x + r * stride + STEP * (size_t)chunk + 4 * half)));
#if defined(__ARM_FEATURE_DOTPROD)
          sums[r][quad] = vdotq_s32(sums[r][quad], weights, codes);
#else
          const int32x4_t first = vpaddlq_s16(vmull_s8(vget_low_s8(weights), vget_low_s8(codes)));
          const int32x4_t second = vpaddlq_s16(vmull_s8(vget_high_s8(weights), vget_high_s8(codes)));
          sums[r][quad] = vaddq_s32(sums[r][quad], vpaddq_s32(first, second));
#endif
        }
      }
  UNROLLED for (int r = 0; r < R; ++r) {
    int32_t sum = 0;  // what the callers take away for the offset, which these weights don't have
    for (int column = 0; column < STEP * chunks; ++column) sum += x[r * stride + column];
    UNROLLED for (int quad = 0; quad < 4; ++quad)
      vst1q_s32(found[r] + 4 * quad, vaddq_s32(sums[r][quad], vdupq_n_s32(OFFSET * sum)));
  }
}

template <class Floats>
inline __attribute__((always_inline)) Floats fused(Floats a, Floats b, Floats c) {
  return a * b + c;
}

#include "kernels_body.h"
}  // namespace neon

bool has_neon() { return true; }
const Kernels NEON = {"neon", has_neon, neon::product, neon::quantize, neon::gates};

#endif

namespace plain {
constexpr int MOST_ROWS = 4, GROUP = 1;

template <int R, bool NIBBLES>
inline void dot(const uint8_t* data, int chunks, const int8_t* x, size_t stride, Sums* found) {
  for (int chunk = 0; chunk < chunks; ++chunk, data += 64)
    UNROLLED for (int r = 0; r < R; ++r) {
      const int8_t* codes = x + r * stride + (NIBBLES ? 8 : 4) * (size_t)chunk;
      int32_t sums[LANES];
      for (int lane = 0; lane < LANES; ++lane) {
        int32_t sum = 0;
        for (int j = 0; j < 4; ++j) {
          const int weight = data[4 * lane + j];
          sum += NIBBLES ? (weight & 15) * codes[j] + (weight >> 4) * codes[4 + j] : weight * codes[j];
        }
        sums[lane] = sum;
      }
      for (int lane = 0; lane < LANES; ++lane) found[r][lane] += sums[lane];
    }
}

template <class Floats>
inline Floats fused(Floats a, Floats b, Floats c) {
  return a * b + c;
}

#include "kernels_body.h"
}  // namespace plain

bool always() { return true; }
const Kernels PLAIN = {"plain", always, plain::product, plain::quantize, plain::gates};

}  // namespace

const Kernels* const ALL_KERNELS[] = {
#if defined(__x86_64__)
    &AVX512, &AVX2,
#elif defined(__aarch64__)
    &NEON,
#endif
    &PLAIN, nullptr};

}  // namespace g2
