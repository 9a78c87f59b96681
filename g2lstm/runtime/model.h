// A model that runs: its LSTM modules, and of a language model the embedding, the output layer and the vocabulary.
#pragma once

#include <string>
#include <unordered_map>
#include <vector>

#include "pool.h"
#include "weights.h"

namespace g2 {

constexpr int GATES = 4;  // i, f, g, o

// A layer in one direction.
struct Direction {
  Linear gates[2][GATES];  // of the input, of the hidden state
  std::vector<float> bias;  // (4, H up to a multiple of 16)
  bool projected = false;
  Linear projection;
};

struct Lstm {
  int inputs = 0, hidden = 0, outputs = 0;  // D, H, P
  int layers = 0, ways = 1;
  std::vector<Direction> directions;  // of the first layer, of the second, ...

  int64_t state_floats(int batch) const { return (int64_t)directions.size() * batch * (outputs + hidden); }
};

struct Plan;

class Model {
 public:
  Model(const uint8_t* bytes, size_t size);
  ~Model();

  std::vector<Lstm> lstms;
  bool language = false;
  Linear embedding, output;  // `output` is the embedding where they share the weight
  std::vector<float> output_bias;
  std::vector<std::string> words;
  std::unordered_map<std::string, int> numbers;

  // Whether each LSTM module reads what the one before gives.
  bool chained() const;
  int64_t state_floats(int batch) const;

  void step(const int32_t* tokens, int batch, float* state, float* logits);
  void run(int lstm, const float* x, int time, int batch, const int32_t* lengths, float* h, float* c, float* y);
  void logits(const float* features, int rows, float* result);

 private:
  Storage storage;
  std::vector<std::unique_ptr<Plan>> plans;  // of the last call of each kind, for the next one of the same sizes

  void read_language(const File& file, const Json& forms);
  Plan& planned(size_t from, size_t to, int time, int batch, bool words);
};

// Threads and instructions in use, and the lock that a call holds.
struct Runtime {
  Pool* pool = new Pool;
  int threads = 1;
  const Kernels* kernels = nullptr;
  std::mutex mutex;

  Runtime();
};
Runtime& runtime();

}  // namespace g2
