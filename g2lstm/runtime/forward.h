// The forward pass of an LSTM module and of an output layer, run by all threads of a team together.
#pragma once

#include "model.h"

namespace g2 {

// Arrays of a call, handed out of one piece of memory.
class Space {
 public:
  explicit Space(uint8_t* memory) : next(memory) {}

  template <class Number>
  Number* take(size_t count) {
    uint8_t* result = next;
    next += (count * sizeof(Number) + 63) / 64 * 64;
    return reinterpret_cast<Number*>(result);
  }

  uint8_t* end() const { return next; }

 private:
  uint8_t* next;
};

// What x is multiplied with in four places, or one, and room for it: as whole numbers, and behind the right factors.
struct Source {
  Rows rows;
  Rows middle[GATES];
  bool quantized = false;
  bool factors = false;
};

// Room for the passes of one module over chunks of some steps; the same for all of its layers.
struct Buffers {
  int batch, chunk;           // sequences, and steps whose input products are made together
  size_t width;               // H up to a multiple of 16
  size_t state_width;         // P up to a multiple of 16
  Source input, hidden, cell;  // of a step or several, of h, and of what a projection reads
  float* pre;                 // (4, chunk * B, width)
  float* states[2];           // (B, state_width) h before and after a step
  float* cells;               // (B, width) o * tanh(c), where it is projected
  float* between[2];          // (T * B, ways * P) outputs of a layer

  Buffers(const Lstm& lstm, int time, int batch, Space& space);
};

struct Pass {
  const float* x;  // (T, B, D)
  int time, batch;
  const int32_t* lengths;  // (B) or null
  float *h, *c;            // (L, B, P), (L, B, H)
  float* y;                // (T, B, ways * P)
};

void run_lstm(const Lstm& lstm, const Pass& pass, Buffers& buffers, Team& team, int me, const Kernels& kernels);

// Room for a linear layer that reads N rows.
struct OutputBuffers {
  Source source;
  float* rest;  // (N, 16)

  OutputBuffers(const Linear& linear, int rows, Space& space);
};

void run_output(const Linear& linear, const float* bias, const float* x, int rows, float* y, OutputBuffers& buffers,
                Team& team, int me, const Kernels& kernels);

}  // namespace g2
