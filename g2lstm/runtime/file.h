// A compressed model as it lies in its file: safetensors, whose metadata holds the tree of g2lstm/training/checkpoint.py.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "json.h"

namespace g2 {

struct Tensor {
  std::string dtype;  // of safetensors: "F32", "BF16", "U8", ...
  std::vector<int64_t> shape;
  const uint8_t* data = nullptr;
  size_t bytes = 0;

  int64_t count() const;
};

// Reads what it is given and keeps no copy of it. Throws Error where it is damaged or something else.
class File {
 public:
  File(const uint8_t* bytes, size_t size);

  Json tree;  // with {"dict": ...} turned into objects
  const Tensor& tensor(const Json& place) const;
  // For entries of which nothing is stored, as where all are alike: throws where a file makes too many out of nothing.
  void take_unstored(size_t entries) const;

 private:
  std::map<std::string, Tensor> tensors;
  mutable size_t unstored;  // entries that it may still have

  void check(const Json& metadata) const;
};

std::vector<uint8_t> read_file(const char* path);

}  // namespace g2
