// g2.h: what is asked for is checked here, and nothing is thrown further.
#include "g2.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "model.h"

struct g2_model : g2::Model {
  using Model::Model;
};

namespace {

thread_local std::string last_error;
thread_local const char* last_text = "";

// What `work` gives, or `failed` where it throws; a message without memory for it is a shorter one.
template <class Work, class Result>
Result guarded(Result failed, const Work& work) noexcept {
  try {
    return work();
  } catch (const std::bad_alloc&) {
    last_text = "there is too little memory";
  } catch (const std::length_error&) {
    last_text = "there is too little memory";
  } catch (const std::exception& error) {
    try {
      last_error = error.what();
      last_text = last_error.c_str();
    } catch (...) {
      last_text = "there is too little memory";
    }
  }
  return failed;
}

void require(bool right, const char* message) {
  if (!right) throw g2::Error(message);
}

void require_batch(int batch) { require(batch >= 1 && batch <= 1 << 20, "the batch must be from 1 to 1048576 sequences"); }

uint64_t splitmix64(uint64_t value) {
  value += 0x9e3779b97f4a7c15;
  value = (value ^ value >> 30) * 0xbf58476d1ce4e5b9;
  value = (value ^ value >> 27) * 0x94d049bb133111eb;
  return value ^ value >> 31;
}

// In [0, 1).
double uniform(uint64_t seed, uint64_t step) { return (double)(splitmix64(splitmix64(seed) ^ step) >> 11) * 0x1p-53; }

int sample(const float* logits, int n, float temperature, int top_k, uint64_t seed, uint64_t step) {
  require(n >= 1, "there are no logits to draw from");
  require(temperature >= 0 && std::isfinite(temperature), "the temperature must be a number >= 0");
  require(top_k >= 0, "top_k must be a number >= 0");
  for (int word = 0; word < n; ++word) require(std::isfinite(logits[word]), "a logit is not finite");
  const int largest = (int)(std::max_element(logits, logits + n) - logits);
  if (temperature == 0) return largest;
  std::vector<int> kept(n);
  std::iota(kept.begin(), kept.end(), 0);
  if (top_k && top_k < n) {
    std::nth_element(kept.begin(), kept.begin() + top_k, kept.end(), [&](int one, int other) {
      return logits[one] != logits[other] ? logits[one] > logits[other] : one < other;
    });
    kept.resize(top_k);
    std::sort(kept.begin(), kept.end());
  }
  std::vector<double> sums(kept.size());
  double sum = 0;
  for (size_t place = 0; place < kept.size(); ++place)
    sums[place] = sum += std::exp(((double)logits[kept[place]] - logits[largest]) / temperature);
  const double drawn = uniform(seed, step) * sum;
  const size_t place = std::upper_bound(sums.begin(), sums.end(), drawn) - sums.begin();
  return kept[std::min(place, kept.size() - 1)];
}

}  // namespace

const char* g2_last_error(void) { return last_text; }

g2_model* g2_open(const char* path) {
  return guarded((g2_model*)nullptr, [&] {
    require(path, "there is no path");
    try {
      const std::vector<uint8_t> bytes = g2::read_file(path);
      return new g2_model(bytes.data(), bytes.size());
    } catch (const g2::Error& error) {
      throw g2::Error(std::string("can't read ") + path + ": " + error.what());
    }
  });
}

g2_model* g2_open_memory(const void* bytes, size_t size) {
  return guarded((g2_model*)nullptr, [&] {
    require(bytes, "there are no bytes");
    return new g2_model(static_cast<const uint8_t*>(bytes), size);
  });
}

void g2_close(g2_model* model) { delete model; }

int g2_vocabulary(const g2_model* model) { return (int)model->words.size(); }

const char* g2_word(const g2_model* model, int id) {
  return guarded((const char*)nullptr, [&] {
    require(id >= 0 && id < (int)model->words.size(), "there is no word of that number");
    return model->words[id].c_str();
  });
}

int g2_find_word(const g2_model* model, const char* word) {
  return guarded(-1, [&] {
    const auto found = model->numbers.find(word);
    return found == model->numbers.end() ? -1 : found->second;
  });
}

int g2_logits(const g2_model* model) { return model->language ? model->output.outputs() : 0; }

int g2_lstms(const g2_model* model) { return (int)model->lstms.size(); }

int g2_lstm_sizes(const g2_model* model, int lstm, int sizes[5]) {
  return guarded(-1, [&] {
    require(lstm >= 0 && lstm < (int)model->lstms.size(), "there is no LSTM of that number");
    const g2::Lstm& one = model->lstms[lstm];
    const int found[5] = {one.inputs, one.hidden, one.outputs, one.layers, one.ways};
    std::copy(found, found + 5, sizes);
    return 0;
  });
}

int64_t g2_state_floats(const g2_model* model, int batch) {
  return guarded((int64_t)-1, [&] {
    require_batch(batch);
    return model->state_floats(batch);
  });
}

int g2_step(g2_model* model, const int32_t* tokens, int batch, float* state, float* logits) {
  return guarded(-1, [&] {
    require(model->language, "this is no language model: use g2_lstm_run");
    require_batch(batch);
    for (int row = 0; row < batch; ++row)
      require(tokens[row] >= 0 && tokens[row] < model->embedding.outputs(), "a token is no number of a word");
    model->step(tokens, batch, state, logits);
    return 0;
  });
}

int g2_lstm_run(g2_model* model, int lstm, const float* x, int time, int batch, const int32_t* lengths, float* h, float* c,
                float* y) {
  return guarded(-1, [&] {
    require(lstm >= -1 && lstm < (int)model->lstms.size() && !model->lstms.empty(), "there is no LSTM of that number");
    require(lstm >= 0 || model->chained(), "the LSTM modules of this model don't read each other's outputs");
    require((lstm < 0) == !c, "c belongs to one module: for all of them it is NULL, and h the whole state");
    require(time >= 1, "there must be a step at least");
    require_batch(batch);
    require((int64_t)time * batch <= 1 << 28, "these are too many steps for a call");
    model->run(lstm, x, time, batch, lengths, h, c, y);
    return 0;
  });
}

int g2_output(g2_model* model, const float* features, int rows, float* logits) {
  return guarded(-1, [&] {
    require(model->language, "this is no language model: it has no output layer");
    require_batch(rows);
    model->logits(features, rows, logits);
    return 0;
  });
}

int g2_sample(const float* logits, int n, float temperature, int top_k, uint64_t seed, uint64_t step) {
  return guarded(-1, [&] { return sample(logits, n, temperature, top_k, seed, step); });
}

int g2_threads(int count) {
  g2::Runtime& shared = g2::runtime();
  const std::lock_guard<std::mutex> lock(shared.mutex);
  if (count > 0) shared.threads = std::min(count, 256);
  return shared.threads;
}

const char* g2_instructions(const char* name) {
  g2::Runtime& shared = g2::runtime();
  const std::lock_guard<std::mutex> lock(shared.mutex);
  if (!name) return shared.kernels->name;
  for (const g2::Kernels* const* one = g2::ALL_KERNELS; *one; ++one)
    if (!std::strcmp((*one)->name, name) && (*one)->available()) {
      shared.kernels = *one;
      return (*one)->name;
    }
  last_text = "this processor lacks these instructions";
  return nullptr;
}
