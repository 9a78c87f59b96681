#include "model.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "forward.h"

#if defined(__linux__)
#include <pthread.h>
#include <sched.h>
#endif

namespace g2 {
namespace {

const char* const BLOCK_OF_BIAS = "a bias has a wrong size";

const Json& form_of(const Json& forms, const std::string& name, int block, int blocks) {
  const Json& found = forms.at(name.c_str(), Json::list);
  if ((int)found.items.size() != blocks) throw Error("its description has a wrong number of blocks for " + name);
  return found.items[block];
}

Direction read_direction(const File& file, const Json& forms, const std::string& prefix, const std::string& end,
                         const Lstm& lstm, int inputs, bool biased, Storage& storage) {
  Direction direction;
  const size_t width = (size_t)(lstm.hidden + LANES - 1) / LANES * LANES;
  direction.bias.resize(GATES * width);
  const char* const matrices[2] = {"weight_ih", "weight_hh"};
  for (int source = 0; source < 2; ++source)
    for (int gate = 0; gate < GATES; ++gate) {
      Linear& linear = direction.gates[source][gate];
      linear = read_linear(file, form_of(forms, prefix + matrices[source] + end, gate, GATES), storage);
      if (linear.inputs() != (source ? lstm.outputs : inputs) || linear.outputs() != lstm.hidden)
        throw Error("a weight of " + prefix + matrices[source] + end + " has a wrong size");
    }
  for (const char* name : {"bias_ih", "bias_hh"})
    for (int gate = 0; biased && gate < GATES; ++gate) {
      const std::vector<float> values = read_floats(file, form_of(forms, prefix + name + end, gate, GATES));
      if ((int)values.size() != lstm.hidden) throw Error(BLOCK_OF_BIAS);
      for (int unit = 0; unit < lstm.hidden; ++unit) direction.bias[gate * width + unit] += values[unit];
    }
  direction.projected = lstm.outputs != lstm.hidden || forms.find((prefix + "weight_hr" + end).c_str());
  if (direction.projected) {
    direction.projection = read_linear(file, form_of(forms, prefix + "weight_hr" + end, 0, 1), storage);
    const Linear& projection = direction.projection;
    if (projection.factors || projection.inputs() != lstm.hidden || projection.outputs() != lstm.outputs)
      throw Error("a projection has a wrong size");
  }
  return direction;
}

Lstm read_lstm(const File& file, const Json& forms, const std::string& name, const Json& options, Storage& storage) {
  Lstm lstm;
  lstm.inputs = options.size_at("input_size");
  lstm.hidden = options.size_at("hidden_size");
  const int projection = options.size_at("proj_size");
  lstm.outputs = projection ? projection : lstm.hidden;
  lstm.layers = options.size_at("num_layers");
  lstm.ways = options.is_set("bidirectional") ? 2 : 1;
  if (!lstm.inputs || !lstm.hidden || !lstm.layers) throw Error("an LSTM has a size of 0");
  for (int layer = 0; layer < lstm.layers; ++layer)
    for (int way = 0; way < lstm.ways; ++way)
      lstm.directions.push_back(read_direction(file, forms, name.empty() ? name : name + ".",
                                               "_l" + std::to_string(layer) + (way ? "_reverse" : ""), lstm,
                                               layer ? lstm.ways * lstm.outputs : lstm.inputs, options.is_set("bias"), storage));
  return lstm;
}

}  // namespace

Model::Model(const uint8_t* bytes, size_t size) {
  const File file(bytes, size);
  const Json &forms = file.tree.at("forms", Json::object), &named = file.tree.at("lstms", Json::object);
  for (size_t index = 0; index < named.keys.size(); ++index)
    lstms.push_back(read_lstm(file, forms, named.keys[index], named.items[index], storage));
  language = file.tree.at("kind", Json::text).string == "language_model";
  if (language) {
    read_language(file, forms);
    if (lstms.empty() || !chained() || embedding.outputs() < 1 || embedding.inputs() != lstms[0].inputs ||
        output.inputs() != lstms.back().outputs * lstms.back().ways || (int)output_bias.size() != output.outputs())
      throw Error("the layers of the language model don't fit");
  }
  const Json* files = file.tree.at("notes", Json::object).find("files");
  const Json* text = files ? files->find("vocabulary.json") : nullptr;
  if (!text) return;
  const Json vocabulary = JsonReader(text->string.data(), text->string.data() + text->string.size()).all();
  for (const Json& word : vocabulary.at("tokens", Json::list).items) {
    numbers.emplace(word.string, (int)words.size());
    words.push_back(word.string);
  }
  if (language && (int)words.size() != output.outputs()) throw Error("its vocabulary has another size than its output layer");
}

void Model::read_language(const File& file, const Json& forms) {
  embedding = read_linear(file, form_of(forms, "embedding.weight", 0, 1), storage);
  const bool own = forms.find("output_weight");
  output = own ? read_linear(file, form_of(forms, "output_weight", 0, 1), storage) : embedding;
  output_bias = read_floats(file, form_of(forms, "output_bias", 0, 1));
  if (embedding.factors) throw Error("an embedding of low rank is not known here");
}

bool Model::chained() const {
  for (size_t index = 1; index < lstms.size(); ++index)
    if (lstms[index].inputs != lstms[index - 1].ways * lstms[index - 1].outputs) return false;
  return true;
}

int64_t Model::state_floats(int batch) const {
  int64_t floats = 0;
  for (const Lstm& lstm : lstms) floats += lstm.state_floats(batch);
  return floats;
}

// Room for calls of one kind: modules from one on, and of a language model what is before and behind them.
struct Plan {
  size_t from, to;
  int time, batch;
  bool words;
  std::vector<uint8_t> memory;
  std::vector<Buffers> buffers;           // of each module; they run one after the other, in the same place
  float* between[2] = {nullptr, nullptr};  // outputs of a module
  float* embedded = nullptr;
  std::vector<OutputBuffers> output;

  Plan(const Model& model, size_t from, size_t to, int time, int batch, bool words)
      : from(from), to(to), time(time), batch(batch), words(words) {
    const size_t bytes = lay_out(model, nullptr);
    memory.resize(bytes + 64);
    buffers.clear();
    output.clear();
    lay_out(model, memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64));
  }

 private:
  size_t lay_out(const Model& model, uint8_t* start) {
    uint8_t* end = start;
    size_t widest = 0;
    for (size_t index = from; index < to; ++index) {
      Space own(start);
      buffers.emplace_back(model.lstms[index], time, batch, own);
      end = std::max(end, own.end());
      widest = std::max(widest, (size_t)model.lstms[index].ways * model.lstms[index].outputs);
    }
    Space rest(end);
    for (float*& one : between) one = rest.take<float>(to - from > 1 || words ? (size_t)time * batch * widest : 0);
    if (words) {
      embedded = rest.take<float>((size_t)batch * model.embedding.inputs());
      output.emplace_back(model.output, batch, rest);
    }
    return rest.end() - start;
  }
};

Model::~Model() = default;

Plan& Model::planned(size_t from, size_t to, int time, int batch, bool words) {
  for (size_t index = 0; index < plans.size(); ++index) {
    const Plan& one = *plans[index];
    if (one.from != from || one.to != to || one.words != words) continue;
    if (one.time == time && one.batch == batch) return *plans[index];
    plans.erase(plans.begin() + index);
    break;
  }
  plans.push_back(std::make_unique<Plan>(*this, from, to, time, batch, words));
  return *plans.back();
}

void Model::run(int lstm, const float* x, int time, int batch, const int32_t* lengths, float* h, float* c, float* y) {
  Runtime& shared = runtime();
  const std::lock_guard<std::mutex> lock(shared.mutex);
  const size_t from = lstm < 0 ? 0 : lstm, to = lstm < 0 ? lstms.size() : lstm + 1;
  Plan& room = planned(from, to, time, batch, false);
  Team team;
  team.size = shared.threads;
  shared.pool->run(team, [&](int me) {
    const float* input = x;
    float* state = h;
    for (size_t index = from; index < to; ++index) {
      float* const own_c = lstm < 0 ? state + lstms[index].directions.size() * batch * lstms[index].outputs : c;
      float* const out = index + 1 == to ? y : room.between[index % 2];
      const Pass pass{input, time, batch, lengths, state, own_c, out};
      run_lstm(lstms[index], pass, room.buffers[index - from], team, me, *shared.kernels);
      state += lstms[index].state_floats(batch);
      input = out;
    }
  });
}

void Model::step(const int32_t* tokens, int batch, float* state, float* result) {
  Runtime& shared = runtime();
  const std::lock_guard<std::mutex> lock(shared.mutex);
  Plan& room = planned(0, lstms.size(), 1, batch, true);
  for (int row = 0; row < batch; ++row)
    copy_row(embedding.last, tokens[row], room.embedded + (size_t)row * embedding.inputs());
  Team team;
  team.size = shared.threads;
  shared.pool->run(team, [&](int me) {
    const float* input = room.embedded;
    float* own = state;
    for (size_t index = 0; index < lstms.size(); ++index) {
      float* const out = room.between[index % 2];
      float* const c = own + lstms[index].directions.size() * batch * lstms[index].outputs;
      run_lstm(lstms[index], {input, 1, batch, nullptr, own, c, out}, room.buffers[index], team, me, *shared.kernels);
      own += lstms[index].state_floats(batch);
      input = out;
    }
    if (result) run_output(output, output_bias.data(), input, batch, result, room.output[0], team, me, *shared.kernels);
  });
}

void Model::logits(const float* features, int rows, float* result) {
  Runtime& shared = runtime();
  const std::lock_guard<std::mutex> lock(shared.mutex);
  Plan& room = planned(0, 0, 0, rows, true);
  Team team;
  team.size = shared.threads;
  shared.pool->run(team, [&](int me) {
    run_output(output, output_bias.data(), features, rows, result, room.output[0], team, me, *shared.kernels);
  });
}

Runtime::Runtime() {
  for (const Kernels* const* one = ALL_KERNELS; !kernels; ++one)
    if ((*one)->available()) kernels = *one;
  threads = std::max(1u, std::thread::hardware_concurrency());
#if defined(__linux__)
  cpu_set_t allowed;
  if (!sched_getaffinity(0, sizeof allowed, &allowed)) threads = std::max(1, CPU_COUNT(&allowed));
  pthread_atfork([] { runtime().mutex.lock(); }, [] { runtime().mutex.unlock(); },
                 [] {
                   runtime().pool = new Pool;  // the threads of the other one are not here
                   runtime().mutex.unlock();
                 });
#endif
}

Runtime& runtime() {
  static Runtime* const only = new Runtime;  // never destroyed: threads may still wait when the process ends
  return *only;
}

}  // namespace g2
