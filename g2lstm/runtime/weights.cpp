#include "weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace g2 {
namespace {

constexpr int MOST_WHOLE = 65536;  // columns whose sum, of products up to 255 * 127, is in 32 bits
constexpr size_t PAGE = size_t(2) << 20, CHUNK = size_t(32) << 20;

// Rows and columns of a form that is no pair of factors, and its entries: whole numbers times a scale a row, or floats.
struct Values {
  int rows = 0, columns = 0;
  bool whole = false, bf16 = false;
  std::vector<int8_t> numbers;
  std::vector<float> scales, floats;
};

const float* floats_of(const Tensor& tensor, size_t count) {
  if (tensor.dtype != "F32" || tensor.bytes != 4 * count) throw Error("a tensor is not what its description says");
  return reinterpret_cast<const float*>(tensor.data);
}

std::vector<float> copied(const Tensor& tensor, size_t count) {
  const float* from = floats_of(tensor, count);  // checked before there is room for them
  std::vector<float> result(count);
  if (count) std::memcpy(result.data(), from, 4 * count);
  return result;
}

void set_shape(Values& values, const std::vector<double>& sizes) {
  double sides[2] = {1, 1};
  if (sizes.size() > 2) throw Error("it has weights of more than two dimensions");
  for (size_t place = 0; place < sizes.size(); ++place) sides[2 - sizes.size() + place] = sizes[place];
  for (double side : sides)
    if (!(side >= 1 && side < 1 << 28)) throw Error("a tensor has a wrong shape");
  values.rows = (int)sides[0];
  values.columns = (int)sides[1];
}

std::vector<double> shape_of(const Json& form) {
  std::vector<double> sizes;
  for (const Json& size : form.at("shape", Json::list).items) sizes.push_back(size.value);
  return sizes;
}

// As `unpack` in g2lstm/compression/forms.py.
std::vector<uint16_t> unpacked(const Tensor& packed, int levels, size_t count) {
  int width = 0, digits = 1;
  while ((levels - 1) >> width) ++width;
  int together = 0;
  for (size_t product = std::max(levels, 2); product <= 256; product *= std::max(levels, 2)) ++together;
  if (together * width > 8) {
    digits = together;
    width = 8;
  }
  const size_t groups = (count + digits - 1) / digits;
  if (packed.dtype != "U8" || packed.bytes != (groups * width + 7) / 8) throw Error("its codes have a wrong size");
  std::vector<uint16_t> codes(count);
  for (size_t group = 0; group < groups; ++group) {
    const size_t bit = group * width;
    uint32_t value = 0;
    for (size_t byte = 0; byte < 3 && bit / 8 + byte < packed.bytes; ++byte) value |= packed.data[bit / 8 + byte] << 8 * byte;
    value = value >> bit % 8 & ((1u << width) - 1);
    for (size_t index = group * digits; index < std::min(count, (group + 1) * digits); ++index, value /= levels) {
      codes[index] = value % levels;
      if (digits == 1 && value >= (uint32_t)levels) throw Error("it has a code without a value");
    }
  }
  return codes;
}

// The number of which all values are multiples, -127 to 127 times; 0 where there is none.
float step_of(const std::vector<float>& values) {
  for (float value : values)
    if (!std::isfinite(value)) return 0;
  float step = 0;
  for (size_t one = 0; one < values.size(); ++one)
    for (float size : {std::fabs(values[one]), one ? std::fabs(values[one] - values[one - 1]) : 0.0f})
      if (size > 0 && (step == 0 || size < step)) step = size;
  if (step == 0) return 1;
  for (int more = 1; more <= 2; ++more) {  // a difference of two is less exact than a value
    float largest = 0;
    for (float value : values) largest = std::max(largest, std::fabs(value));
    step = largest / std::round(largest / step);
  }
  for (float value : values) {
    const float times = std::round(value / step);
    if (!(std::fabs(times) <= 127 && std::fabs(times * step - value) <= 1e-6f * std::fabs(value))) return 0;
  }
  return step;
}

Values read_codes(const File& file, const Json& form) {
  Values values;
  set_shape(values, shape_of(form));
  const size_t count = (size_t)values.rows * values.columns;
  const int levels = form.size_at("levels");
  if (levels < 1 || levels > 65536) throw Error("its codes have a wrong number of values");
  const Tensor& packed = file.tensor(form.at("packed", Json::object));
  if (levels == 1) file.take_unstored(count);
  if (const Json* place = form.find("scales")) {
    if (levels > 255) throw Error("its codes have a wrong number of values");
    values.scales = copied(file.tensor(*place), values.rows);
    values.whole = true;
    const int half = levels / 2;
    if (levels > 128) {  // a byte each
      if (packed.dtype != "U8" || packed.bytes != count) throw Error("its codes have a wrong size");
      values.numbers.resize(count);
      for (size_t index = 0; index < count; ++index) values.numbers[index] = (int8_t)(packed.data[index] - half);
      for (size_t index = 0; index < count; ++index)
        if (packed.data[index] >= levels) throw Error("it has a code without a value");
    } else {
      const std::vector<uint16_t> codes = unpacked(packed, levels, count);
      values.numbers.resize(count);
      for (size_t index = 0; index < count; ++index) values.numbers[index] = (int8_t)(codes[index] - half);
    }
    return values;
  }
  const std::vector<float> codebook = copied(file.tensor(form.at("codebook", Json::object)), levels);
  const std::vector<uint16_t> codes = unpacked(packed, levels, count);
  const float step = levels <= 255 ? step_of(codebook) : 0;
  values.whole = step > 0;
  if (values.whole) {
    values.scales.assign(values.rows, step);
    values.numbers.resize(count);
    for (size_t index = 0; index < count; ++index) values.numbers[index] = (int8_t)std::round(codebook[codes[index]] / step);
  } else {
    values.floats.resize(count);
    for (size_t index = 0; index < count; ++index) values.floats[index] = codebook[codes[index]];
  }
  return values;
}

Values read_values(const File& file, const Json& form) {
  const std::string& kind = form.at("form", Json::text).string;
  if (kind == "codes") return read_codes(file, form);
  Values values;
  const Tensor& stored = file.tensor(form.at("values", Json::object));
  if (kind == "dense") {
    set_shape(values, std::vector<double>(stored.shape.begin(), stored.shape.end()));
    const size_t count = (size_t)values.rows * values.columns;
    values.bf16 = stored.dtype == "BF16";
    if (!values.bf16) {
      values.floats = copied(stored, count);
    } else {
      values.floats.resize(count);
      for (size_t index = 0; index < count; ++index) {
        const uint32_t bits = stored.data[2 * index] << 16 | (uint32_t)stored.data[2 * index + 1] << 24;
        std::memcpy(&values.floats[index], &bits, 4);
      }
    }
  } else if (kind == "sparse") {
    set_shape(values, shape_of(form));
    const size_t all = (size_t)values.rows * values.columns;
    const std::vector<uint16_t> there = unpacked(file.tensor(form.at("mask", Json::object)), 2, all);
    values.floats.resize(all);
    size_t count = 0;
    for (uint16_t bit : there) count += bit;
    const std::vector<float> kept = copied(stored, count);
    for (size_t index = 0, next = 0; index < there.size(); ++index)
      if (there[index]) values.floats[index] = kept[next++];
  } else {
    throw Error("it has a form that is not known here: " + kind.substr(0, 20));
  }
  return values;
}

void make_floats(Values& values) {
  if (!values.whole) return;
  values.floats.resize(values.numbers.size());
  for (size_t index = 0; index < values.floats.size(); ++index)
    values.floats[index] = values.scales[index / values.columns] * values.numbers[index];
  values.whole = false;
}

Matrix packed(Values values, Storage& storage) {
  if (values.columns > MOST_WHOLE) make_floats(values);
  Matrix result;
  result.rows = values.rows;
  result.columns = values.columns;
  bool small = true;
  for (int8_t number : values.numbers) small = small && number >= -7 && number <= 7;
  result.kind = !values.whole ? values.bf16 ? Kind::bf16 : Kind::float32 : small ? Kind::int4 : Kind::int8;
  const int step = result.kind == Kind::int8 ? 4 : result.kind == Kind::int4 ? 8 : 1;
  const size_t chunks = (values.columns + step - 1) / step;
  const size_t chunk_bytes = result.kind == Kind::bf16 ? 32 : 64;
  result.block_bytes = chunks * chunk_bytes;
  uint8_t* data = storage.take(result.blocks() * result.block_bytes);
  result.data = data;
  if (result.whole()) {
    float* scales = reinterpret_cast<float*>(storage.take(4 * LANES * result.blocks()));
    if (values.rows) std::memcpy(scales, values.scales.data(), 4 * (size_t)values.rows);
    result.scales = scales;
    std::memset(data, result.kind == Kind::int8 ? 128 : 8 | 8 << 4, result.blocks() * result.block_bytes);
  }
  for (int row = 0; row < values.rows; ++row) {
    uint8_t* block = data + row / LANES * result.block_bytes;
    const int lane = row % LANES;
    const size_t start = (size_t)row * values.columns;
    if (result.whole()) {
      const int8_t* numbers = values.numbers.data() + start;
      for (int column = 0; column < values.columns; ++column) {
        uint8_t& byte = block[column / step * 64 + 4 * lane + column % 4];
        if (step == 4) byte = (uint8_t)(numbers[column] + 128);
        else if (column % 8 < 4) byte = (uint8_t)((byte & 0xf0) | (numbers[column] + 8));
        else byte = (uint8_t)((byte & 0x0f) | (numbers[column] + 8) << 4);
      }
    } else {
      for (int column = 0; column < values.columns; ++column) {
        const float value = values.floats[start + column];
        if (values.bf16) std::memcpy(block + 32 * (size_t)column + 2 * lane, (const char*)&value + 2, 2);
        else std::memcpy(block + 64 * (size_t)column + 4 * lane, &value, 4);
      }
    }
  }
  return result;
}

}  // namespace

uint8_t* Storage::take(size_t bytes) {
  bytes = (bytes + 63) / 64 * 64;
  if (used + bytes > size) {
    size = (std::max(bytes, CHUNK) + PAGE - 1) / PAGE * PAGE;
    used = 0;
    void* memory = nullptr;
    if (posix_memalign(&memory, PAGE, size)) throw std::bad_alloc();
#if defined(__linux__)
    madvise(memory, size, MADV_HUGEPAGE);
#endif
    chunks.emplace_back(static_cast<uint8_t*>(memory));
  }
  uint8_t* result = chunks.empty() ? nullptr : chunks.back().get() + used;
  if (bytes) std::memset(result, 0, bytes);
  used += bytes;
  return result;
}

Linear read_linear(const File& file, const Json& form, Storage& storage) {
  Linear result;
  result.factors = form.at("form", Json::text).string == "factors";
  if (!result.factors) {
    result.last = packed(read_values(file, form), storage);
    return result;
  }
  result.right = packed(read_values(file, form.at("right", Json::object)), storage);
  result.last = packed(read_values(file, form.at("left", Json::object)), storage);
  if (result.right.rows != result.last.columns) throw Error("two factors don't fit");
  return result;
}

std::vector<float> read_floats(const File& file, const Json& form) {
  if (form.at("form", Json::text).string == "factors") throw Error("it has factors where there should be none");
  Values values = read_values(file, form);
  make_floats(values);
  return std::move(values.floats);
}

void copy_row(const Matrix& matrix, int row, float* to) {
  const uint8_t* block = matrix.data + row / LANES * matrix.block_bytes;
  const int lane = row % LANES;
  for (int column = 0; column < matrix.columns; ++column) {
    uint32_t bits = 0;
    switch (matrix.kind) {
      case Kind::int8:
        to[column] = matrix.scales[row] * (block[column / 4 * 64 + 4 * lane + column % 4] - 128);
        break;
      case Kind::int4:
        to[column] = matrix.scales[row] * ((block[column / 8 * 64 + 4 * lane + column % 4] >> (column % 8 < 4 ? 0 : 4) & 15) - 8);
        break;
      case Kind::bf16:
        bits = block[32 * (size_t)column + 2 * lane] << 16 | (uint32_t)block[32 * (size_t)column + 2 * lane + 1] << 24;
        std::memcpy(to + column, &bits, 4);
        break;
      case Kind::float32: std::memcpy(to + column, block + 64 * (size_t)column + 4 * lane, 4);
    }
  }
}

}  // namespace g2
