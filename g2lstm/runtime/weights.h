// Weights in the form they run in, made of the forms they are stored in.
#pragma once

#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "file.h"
#include "kernels.h"

namespace g2 {

// Memory for weights, zeroed, in large pages where the system has them.
class Storage {
 public:
  uint8_t* take(size_t bytes);

 private:
  struct Free {
    void operator()(void* memory) const { std::free(memory); }
  };
  std::vector<std::unique_ptr<uint8_t, Free>> chunks;
  size_t used = 0, size = 0;
};

// x W^T: one matrix, or that of the left factor after that of the right one.
struct Linear {
  bool factors = false;
  Matrix right, last;

  const Matrix& first() const { return factors ? right : last; }
  int inputs() const { return first().columns; }
  int outputs() const { return last.rows; }
};

// Codes with at most 255 values that are multiples of one number are whole numbers, other codes and sparse matrices floats.
Linear read_linear(const File& file, const Json& form, Storage& storage);

// Any form as floats: all entries, row by row.
std::vector<float> read_floats(const File& file, const Json& form);

// A row of a matrix.
void copy_row(const Matrix& matrix, int row, float* to);

}  // namespace g2
