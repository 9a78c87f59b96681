// The kernels of one set of instructions: included by kernels.cpp in a namespace of its own, after `dot`.
// No function of the standard library is used here: a copy of it could end up being used where instructions are missing.

typedef float Floats __attribute__((vector_size(64), aligned(4), may_alias));
typedef int32_t Ints __attribute__((vector_size(64), aligned(4), may_alias));
typedef uint16_t Halves __attribute__((vector_size(32), aligned(2), may_alias));
typedef int8_t Bytes __attribute__((vector_size(16), aligned(1), may_alias));

#define INLINE static inline __attribute__((always_inline))

INLINE Floats all(float value) { return value - Floats{}; }  // x - 0 is x; x + 0 is not where x is -0, and costs an addition

INLINE Floats choose(Ints mask, Floats yes, Floats no) { return (Floats)(((Ints)yes & mask) | ((Ints)no & ~mask)); }

// To the nearest whole number, halves to even, for |x| < 2^22: as a float, and as a number.
constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23
INLINE Ints to_int(Floats x) { return (Ints)(x + MAGIC) - (Ints)all(MAGIC); }

// Relative error below 2e-7 for |x| <= 87, the argument cut to that; not a number stays so.
INLINE Floats exponential(Floats x) {
  x = choose(x > all(87.0f), all(87.0f), x);
  x = choose(x < all(-87.0f), all(-87.0f), x);
  const Floats n = (x * 1.44269504f + MAGIC) - MAGIC;
  const Floats r = (x - n * 0.693359375f) - n * -2.12194440e-4f;
  Floats p = all(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = (p * r) * r + r + 1.0f;
  return p * (Floats)((to_int(n) + 127) << 23);  // a product, for which not a number stays so whatever its bits
}

INLINE Floats sigmoid(Floats x) { return 1.0f / (1.0f + exponential(-x)); }
INLINE Floats tangent(Floats x) { return 2.0f * sigmoid(2.0f * x) - 1.0f; }

INLINE Floats part(const float* from, int count) {
  float values[LANES] = {};
  for (int lane = 0; lane < count; ++lane) values[lane] = from[lane];
  return *(const Floats*)values;
}

INLINE void put_part(float* to, Floats values, int count) {
  for (int lane = 0; lane < count; ++lane) to[lane] = values[lane];
}

static void gates(const float* pre, size_t gate_stride, float* c, float* h, int count) {
  const Floats* const whole = (const Floats*)c;
  const Floats before = count == LANES ? *whole : part(c, count);
  const Floats i = sigmoid(*(const Floats*)pre), f = sigmoid(*(const Floats*)(pre + gate_stride));
  const Floats g = tangent(*(const Floats*)(pre + 2 * gate_stride)), o = sigmoid(*(const Floats*)(pre + 3 * gate_stride));
  const Floats after = f * before + i * g, out = o * tangent(after);
  if (count == LANES) {
    *(Floats*)c = after;
    *(Floats*)h = out;
  } else {
    put_part(c, after, count);
    put_part(h, out, count);
  }
}

static_assert(GROUP == 1 || GROUP == MOST_ROWS, "a tile of rows is a group of them");

static void quantize(const Rows& rows, int row, int row_count, int count) {
  const bool together = row < row_count / GROUP * GROUP;
  const float* x = rows.values + row * rows.stride;
  int8_t* codes = rows.codes + (together ? row / GROUP * GROUP * rows.code_stride + row % GROUP * 4 : row * rows.code_stride);
  const int full = count / LANES * LANES;
  Floats largest = {}, poison = {};
  const Ints positive = Ints{} + 0x7fffffff;
  for (int j = 0; j < count; j += LANES) {
    const Floats value = j < full ? *(const Floats*)(x + j) : part(x + j, count - j);
    const Floats size = (Floats)((Ints)value & positive);
    largest = choose(size > largest, size, largest);
    poison += value * 0.0f;
  }
  float most = 0, bad = 0;
  for (int lane = 0; lane < LANES; ++lane) {
    most = largest[lane] > most ? largest[lane] : most;
    bad += poison[lane];
  }
  const float inverse = most > 1e-30f ? 127.0f / most : 0.0f;
  Ints total = {};
  for (size_t j = 0; j < rows.code_stride; j += LANES) {
    Ints code = {};
    if ((int)j < count) code = to_int(((int)j < full ? *(const Floats*)(x + j) : part(x + j, count - (int)j)) * inverse);
    total += code;
    const Bytes bytes = __builtin_convertvector(code, Bytes);
    if (GROUP > 1 && together)
      for (int k = 0; k < LANES; k += 4) __builtin_memcpy(codes + (j + k) * GROUP, (const char*)&bytes + k, 4);
    else
      *(Bytes*)(codes + j) = bytes;
  }
  int32_t all_codes = 0;
  for (int lane = 0; lane < LANES; ++lane) all_codes += total[lane];
  rows.sums[row] = all_codes;
  rows.scales[row] = most / 127.0f + bad;
}

template <int R>
INLINE void finish(const Sums* found, int offset, const Matrix& matrix, int block, const Rows& x, int row, float* out,
                   size_t stride, bool add) {
  const Floats scales = *(const Floats*)(matrix.scales + block * LANES);
  UNROLLED for (int r = 0; r < R; ++r) {
    const Ints exact = *(const Ints*)found[r] - offset * x.sums[row + r];
    Floats value = __builtin_convertvector(exact, Floats) * (scales * x.scales[row + r]);
    Floats* const place = (Floats*)(out + (row + r) * stride);
    *place = add ? *place + value : value;
  }
}

template <int R, bool NIBBLES>
static void whole_tile(const Matrix& matrix, int block, const Rows& x, int row, float* out, size_t stride, bool add) {
  alignas(64) Sums found[R] = {};
  const uint8_t* data = matrix.data + block * matrix.block_bytes;
  dot<R, NIBBLES>(data, (int)(matrix.block_bytes / 64), x.codes + row * x.code_stride, x.code_stride, found);
  finish<R>(found, NIBBLES ? 8 : 128, matrix, block, x, row, out, stride, add);
}

INLINE Floats column(const float* data, int k) { return *(const Floats*)(data + (size_t)k * LANES); }
INLINE Floats column(const uint16_t* data, int k) {
  return (Floats)(__builtin_convertvector(*(const Halves*)(data + (size_t)k * LANES), Ints) << 16);
}

template <int R, class Number>
static void float_tile(const Matrix& matrix, int block, const Rows& x, int row, float* out, size_t stride, bool add) {
  constexpr int WAYS = R == 1 ? 4 : R == 2 ? 2 : 1;  // sums beside each other, for one alone would wait for itself
  const Number* data = (const Number*)(matrix.data + block * matrix.block_bytes);
  Floats sums[R][WAYS] = {};
  const float* rows[(R + 3) / 4];
  UNROLLED for (int group = 0; group < (R + 3) / 4; ++group) rows[group] = x.values + (row + 4 * group) * x.stride;
  int k = 0;
  for (; k + WAYS <= matrix.columns; k += WAYS)
    UNROLLED for (int way = 0; way < WAYS; ++way) {
      const Floats weights = column(data, k + way);
      UNROLLED for (int r = 0; r < R; ++r)
        sums[r][way] = fused(weights, all(rows[r / 4][r % 4 * x.stride + k + way]), sums[r][way]);
    }
  for (; WAYS > 1 && k < matrix.columns; ++k)
    UNROLLED for (int r = 0; r < R; ++r) sums[r][0] = fused(column(data, k), all(rows[r / 4][r % 4 * x.stride + k]), sums[r][0]);
  UNROLLED for (int r = 0; r < R; ++r) {
    Floats value = sums[r][0];
    UNROLLED for (int way = 1; way < WAYS; ++way) value += sums[r][way];
    Floats* const place = (Floats*)(out + (row + r) * stride);
    *place = add ? *place + value : value;
  }
}

template <int R>
INLINE void tile(const Matrix& matrix, int block, const Rows& x, int row, float* out, size_t stride, bool add) {
  switch (matrix.kind) {
    case Kind::int8: return whole_tile<R, false>(matrix, block, x, row, out, stride, add);
    case Kind::int4: return whole_tile<R, true>(matrix, block, x, row, out, stride, add);
    case Kind::bf16: return float_tile<R, uint16_t>(matrix, block, x, row, out, stride, add);
    case Kind::float32: return float_tile<R, float>(matrix, block, x, row, out, stride, add);
  }
}

static void product(const Matrix& matrix, int block, const Rows& x, int rows, float* out, size_t stride, bool add) {
  int row = 0;
  for (; row + MOST_ROWS <= rows; row += MOST_ROWS) tile<MOST_ROWS>(matrix, block, x, row, out, stride, add);
  for (; row + 4 <= rows; row += 4) tile<4>(matrix, block, x, row, out, stride, add);
  for (; row + 2 <= rows; row += 2) tile<2>(matrix, block, x, row, out, stride, add);
  for (; row < rows; ++row) tile<1>(matrix, block, x, row, out, stride, add);
}

#undef INLINE
