// Products of rows with a block of 16 rows of a matrix, and what surrounds them, for each set of instructions.
//
// N rows, M columns. Weights are kept so that a product needs no sum across lanes: lane l of a vector belongs to row l.
#pragma once

#include <cstddef>
#include <cstdint>

namespace g2 {

constexpr int LANES = 16;

// int8: 4 columns of 16 rows in 64 bytes, each weight + 128. int4: 8 columns in 64 bytes, weight + 8, the first four in the
// low halves. Floats: a column of 16 rows after the other.
enum class Kind { int8, int4, bf16, float32 };

struct Matrix {
  Kind kind = Kind::float32;
  int rows = 0, columns = 0;
  const uint8_t* data = nullptr;
  size_t block_bytes = 0;         // of 16 rows
  const float* scales = nullptr;  // of the rows, of whole numbers only

  int blocks() const { return (rows + LANES - 1) / LANES; }
  bool whole() const { return kind == Kind::int8 || kind == Kind::int4; }
};

// Rows (N, M) that a matrix is multiplied with, and the same as whole numbers: values ~ scales * codes. Where kernels
// take 16 rows at a time, the codes of such a group lie together: four of its first row, four of the next, ..., four more of
// the first; those of the rows left over lie row after row.
struct Rows {
  const float* values = nullptr;
  size_t stride = 0;  // floats from row to row
  int8_t* codes = nullptr;
  size_t code_stride = 0;  // a multiple of 64, zeros behind the last column
  float* scales = nullptr;
  int32_t* sums = nullptr;  // of a row's codes
};

struct Kernels {
  const char* name;
  bool (*available)();
  // out (rows, 16) at `stride` = products of the rows with the block; with `add` they are added to what stands there
  void (*product)(const Matrix& matrix, int block, const Rows& x, int rows, float* out, size_t stride, bool add);
  // of one of the rows: codes = x / scale to the nearest, scale = max |x| / 127; not a number where x has something that is
  // none
  void (*quantize)(const Rows& rows, int row, int row_count, int columns);
  // count <= 16 units of an LSTM: pre-activations i, f, g, o at `gate_stride` -> c, and o * tanh(c)
  void (*gates)(const float* pre, size_t gate_stride, float* c, float* h, int count);
};

extern const Kernels* const ALL_KERNELS[];  // the best first, ended by nullptr

}  // namespace g2
