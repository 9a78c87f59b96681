#include "file.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

namespace g2 {
namespace {

const char* const FORMAT = "g2lstm-model-2";

struct Crc32 {
  uint32_t value = 0xffffffff;

  void add(const void* from, size_t size) {
    static const auto* const table = tables();
    const uint8_t* bytes = static_cast<const uint8_t*>(from);
    for (; size >= 8; size -= 8, bytes += 8) {  // eight bytes at a time (Kounavis and Berry 2005)
      uint64_t word;
      std::memcpy(&word, bytes, 8);
      word ^= value;
      value = 0;
      for (int byte = 0; byte < 8; ++byte) value ^= table[7 - byte][word >> 8 * byte & 255];
    }
    for (; size; --size) value = value >> 8 ^ table[0][(value ^ *bytes++) & 255];
  }

  void add(const std::string& text) { add(text.data(), text.size()); }

  std::string text() const {
    char digits[9];
    std::snprintf(digits, sizeof digits, "%08x", ~value);
    return digits;
  }

 private:
  using Table = uint32_t[256];
  static const Table* tables() {
    static Table all[8];
    for (uint32_t byte = 0; byte < 256; ++byte) {
      uint32_t rest = byte;
      for (int bit = 0; bit < 8; ++bit) rest = rest >> 1 ^ (rest & 1 ? 0xedb88320 : 0);
      all[0][byte] = rest;
    }
    for (int step = 1; step < 8; ++step)
      for (int byte = 0; byte < 256; ++byte)
        all[step][byte] = all[step - 1][byte] >> 8 ^ all[0][all[step - 1][byte] & 255];
    return all;
  }
};

struct Dtype {
  const char *name, *torch;
  size_t bytes;
};
const Dtype DTYPES[] = {{"F32", "float32", 4}, {"BF16", "bfloat16", 2}, {"U8", "uint8", 1}, {"I64", "int64", 8},
                        {"F64", "float64", 8}, {"F16", "float16", 2},   {"I8", "int8", 1},  {"I32", "int32", 4},
                        {"I16", "int16", 2},   {"BOOL", "bool", 1}};

const Dtype& dtype(const std::string& name) {
  for (const Dtype& known : DTYPES)
    if (name == known.name) return known;
  throw Error("it has a tensor of " + name.substr(0, 20));
}

// The tree without the pairs that dicts are written as; {"tensor": name} stays.
Json plain(const Json& packed) {
  Json result = packed;
  const Json* pairs = packed.type == Json::object ? packed.find("dict") : nullptr;
  if (pairs) {
    result.keys.clear();
    result.items.clear();
    for (const Json& pair : pairs->items) {
      if (pair.items.size() != 2) throw Error("its description has a key without a value");
      result.keys.push_back(pair.items[0].string);
      result.items.push_back(plain(pair.items[1]));
    }
  } else if (packed.type == Json::list) {
    for (Json& item : result.items) item = plain(item);
  }
  return result;
}

}  // namespace

int64_t Tensor::count() const {
  int64_t result = 1;
  for (int64_t size : shape) {
    if (size < 0 || (size && result > INT64_MAX / 8 / size)) throw Error("a tensor has a wrong shape");
    result *= size;
  }
  return result;
}

File::File(const uint8_t* bytes, size_t size) : unstored(8 * size + (1 << 24)) {
  uint64_t length = 0;
  if (size >= 8) std::memcpy(&length, bytes, 8);
  if (size < 8 || length > size - 8) throw Error("it is cut off or no such file");
  const char* text = reinterpret_cast<const char*>(bytes) + 8;
  const Json header = JsonReader(text, text + length).all();
  const Json& metadata = header.at("__metadata__", Json::object);
  const Json* format = metadata.find("format");
  if (!format || format->string != FORMAT) throw Error("it is not a compressed model of this project");
  const uint8_t* data = bytes + 8 + length;
  const size_t held = size - 8 - length;
  size_t used = 0;
  for (size_t index = 0; index < header.keys.size(); ++index) {
    if (header.keys[index] == "__metadata__") continue;
    const Json& entry = header.items[index];
    const auto& offsets = entry.at("data_offsets", Json::list).items;
    Tensor tensor;
    tensor.dtype = entry.at("dtype", Json::text).string;
    for (const Json& one : entry.at("shape", Json::list).items)
      tensor.shape.push_back(one.value >= 0 && one.value < 1e15 ? (int64_t)one.value : -1);
    const double from = offsets.size() == 2 ? offsets[0].value : -1, to = offsets.size() == 2 ? offsets[1].value : -1;
    if (!(from >= 0 && from <= to && to <= (double)held)) throw Error("it is cut off");
    tensor.data = data + (size_t)from;
    tensor.bytes = (size_t)to - (size_t)from;
    if ((size_t)tensor.count() * dtype(tensor.dtype).bytes != tensor.bytes) throw Error("a tensor has a wrong shape");
    used += tensor.bytes;
    tensors[header.keys[index]] = tensor;
  }
  if (used != held) throw Error("it is cut off or has bytes too many");
  check(metadata);
  const std::string& description = metadata.at("tree", Json::text).string;
  tree = plain(JsonReader(description.data(), description.data() + description.size()).all());
}

void File::check(const Json& metadata) const {
  Crc32 checksum;
  checksum.add(metadata.at("tree", Json::text).string);
  for (const auto& [name, tensor] : tensors) {
    std::string about = name + " torch." + dtype(tensor.dtype).torch + " (";
    for (size_t index = 0; index < tensor.shape.size(); ++index)
      about += (index ? ", " : "") + std::to_string(tensor.shape[index]);
    checksum.add(about + (tensor.shape.size() == 1 ? ",)" : ")"));
    checksum.add(tensor.data, tensor.bytes);
  }
  if (checksum.text() != metadata.at("checksum", Json::text).string) throw Error("its checksum is wrong");
}

const Tensor& File::tensor(const Json& place) const {
  const auto found = tensors.find(place.at("tensor", Json::text).string);
  if (found == tensors.end()) throw Error("its description names a tensor that is not there");
  return found->second;
}

void File::take_unstored(size_t entries) const {
  if (entries > unstored) throw Error("it has more weights than its bytes can mean");
  unstored -= entries;
}

std::vector<uint8_t> read_file(const char* path) {
  struct Close {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  errno = 0;
  const std::unique_ptr<std::FILE, Close> file(std::fopen(path, "rb"));
  if (!file) throw Error(std::strerror(errno));
  std::vector<uint8_t> bytes(1);
  if (std::fread(bytes.data(), 1, 1, file.get()) != 1 && errno) throw Error(std::strerror(errno));  // as of a folder
  if (std::fseek(file.get(), 0, SEEK_END)) throw Error(std::strerror(errno));
  const long size = std::ftell(file.get());
  if (size < 0 || std::fseek(file.get(), 0, SEEK_SET)) throw Error(std::strerror(errno));
  bytes.resize(size);
  if (size && std::fread(bytes.data(), 1, size, file.get()) != (size_t)size) throw Error("it can't be read whole");
  return bytes;
}

}  // namespace g2
