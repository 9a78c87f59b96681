#include "forward.h"

#include <algorithm>
#include <cstring>

namespace g2 {
namespace {

constexpr int CHUNK_ROWS = 256;

size_t padded(int count, int multiple = LANES) { return (size_t)(count + multiple - 1) / multiple * multiple; }

// What falls to one of the threads of `count` pieces of work.
struct Share {
  int from, to;
  Share(int count, int me, int threads)
      : from((int)((int64_t)count * me / threads)), to((int)((int64_t)count * (me + 1) / threads)) {}
};

void make_room(Rows& rows, int count, int columns, bool quantized, Space& space) {
  if (!quantized) return;
  rows.code_stride = padded(columns, 64);
  rows.codes = space.take<int8_t>(count * rows.code_stride);
  rows.scales = space.take<float>(count);
  rows.sums = space.take<int32_t>(count);
}

// Room for what `count` rows of `columns` need before they meet any of the linear maps, gates by gates.
void make_room(Source& source, const std::vector<const Linear*>& maps, int count, Space& space) {
  int columns = 0, ranks[GATES] = {};
  bool codes[GATES] = {};
  for (size_t index = 0; index < maps.size(); ++index) {
    const Linear& map = *maps[index];
    columns = std::max(columns, map.inputs());
    source.quantized |= map.first().whole();
    source.factors |= map.factors;
    if (!map.factors) continue;
    ranks[index % GATES] = std::max(ranks[index % GATES], map.right.rows);
    codes[index % GATES] |= map.last.whole();
  }
  make_room(source.rows, count, columns, source.quantized, space);
  for (int gate = 0; gate < GATES; ++gate) {
    if (!ranks[gate]) continue;
    Rows& middle = source.middle[gate];
    middle.stride = padded(ranks[gate]);
    middle.values = space.take<float>(count * middle.stride);
    make_room(middle, count, ranks[gate], codes[gate], space);
  }
}

// The linear maps of one source that the next stages make: `count` of them over so many rows.
struct Maps {
  const Linear* maps;
  int count;
  Source* source;
  int rows;
};

int right_blocks(const Maps& group) {
  int blocks = 0;
  for (int map = 0; map < group.count; ++map) blocks += group.maps[map].factors ? group.maps[map].right.blocks() : 0;
  return blocks;
}

bool has_factors(const Maps& group) {
  for (int map = 0; map < group.count; ++map)
    if (group.maps[map].factors) return true;
  return false;
}

// From quantised rows to what the last matrices read: the products with right factors, themselves quantised.
void make_middles(const Maps* groups, int count, Team& team, int me, const Kernels& kernels) {
  bool any = false;
  int blocks = 0, rows = 0;
  for (int group = 0; group < count; ++group) {
    any |= has_factors(groups[group]);
    blocks += right_blocks(groups[group]);
    rows += groups[group].rows * groups[group].count;
  }
  if (!any) return;
  Share share(blocks, me, team.size);
  int place = 0;
  for (int group = 0; group < count; ++group)
    for (int map = 0; map < groups[group].count; ++map) {
      const Linear& linear = groups[group].maps[map];
      if (!linear.factors) continue;
      Source& source = *groups[group].source;
      const Rows& middle = source.middle[map];
      for (int block = 0; block < linear.right.blocks(); ++block, ++place)
        if (place >= share.from && place < share.to)
          kernels.product(linear.right, block, source.rows, groups[group].rows,
                          const_cast<float*>(middle.values) + block * LANES, middle.stride, false);
    }
  team.wait();
  share = Share(rows, me, team.size);
  place = 0;
  for (int group = 0; group < count; ++group)
    for (int map = 0; map < groups[group].count; ++map) {
      const Linear& linear = groups[group].maps[map];
      const int from = std::max(share.from - place, 0), to = std::min(share.to - place, groups[group].rows);
      place += groups[group].rows;
      if (!linear.factors || !linear.last.whole()) continue;
      const Rows& middle = groups[group].source->middle[map];
      for (int row = from; row < to; ++row) kernels.quantize(middle, row, groups[group].rows, linear.last.columns);
    }
  team.wait();
}

const Rows& read_by(const Linear& linear, const Source& source, int map) {
  return linear.factors ? source.middle[map] : source.rows;
}

void run_direction(const Lstm& lstm, const Direction& direction, const Pass& pass, bool reverse, size_t y_stride,
                   Buffers& buffers, Team& team, int me, const Kernels& kernels) {
  const int batch = pass.batch, inputs = direction.gates[0][0].inputs(), hidden = lstm.hidden, outputs = lstm.outputs;
  const size_t width = buffers.width, state_width = buffers.state_width;
  const int blocks = (int)(width / LANES);
  const Share mine(blocks, me, team.size);
  Source x = buffers.input, before = buffers.hidden, cell = buffers.cell;  // their arrays are shared, what is set here is not
  x.rows.stride = inputs;
  before.rows.stride = state_width;
  cell.rows.values = buffers.cells;
  cell.rows.stride = width;
  const size_t gate_stride = (size_t)buffers.chunk * batch * width;
  const int chunks = (pass.time + buffers.chunk - 1) / buffers.chunk;
  int now = 0;
  for (int number = 0; number < chunks; ++number) {
    const int start = (reverse ? chunks - 1 - number : number) * buffers.chunk;
    const int steps = std::min(buffers.chunk, pass.time - start), many = steps * batch;
    x.rows.values = pass.x + (size_t)start * batch * inputs;
    for (int step = 0; step < steps; ++step) {
      const int in_chunk = reverse ? steps - 1 - step : step, t = start + in_chunk;
      const bool first = step == 0, very_first = first && number == 0;
      const bool last = step == steps - 1 && number == chunks - 1;
      float *old = buffers.states[now], *fresh = buffers.states[1 - now];
      before.rows.values = old;
      const Share rows((first ? many : 0) + batch, me, team.size);
      for (int row = rows.from; row < rows.to; ++row) {
        if (row < batch) {
          if (very_first) std::memcpy(old + row * state_width, pass.h + (size_t)row * outputs, 4 * (size_t)outputs);
          if (before.quantized) kernels.quantize(before.rows, row, batch, outputs);
        } else if (x.quantized) {
          kernels.quantize(x.rows, row - batch, many, inputs);
        }
      }
      team.wait();
      const Maps groups[2] = {{direction.gates[1], GATES, &before, batch}, {direction.gates[0], GATES, &x, many}};
      make_middles(groups, first ? 2 : 1, team, me, kernels);
      float* const pre = buffers.pre + (size_t)in_chunk * batch * width;
      for (int gate = 0; gate < GATES; ++gate) {
        if (first) {
          const Linear& linear = direction.gates[0][gate];
          for (int block = mine.from; block < mine.to; ++block) {
            float* const all = buffers.pre + gate * gate_stride + block * LANES;
            for (int row = 0; row < many; ++row)
              std::memcpy(all + row * width, direction.bias.data() + gate * width + block * LANES, 4 * LANES);
            kernels.product(linear.last, block, read_by(linear, x, gate), many, all, width, true);
          }
        }
        const Linear& linear = direction.gates[1][gate];
        for (int block = mine.from; block < mine.to; ++block)
          kernels.product(linear.last, block, read_by(linear, before, gate), batch, pre + gate * gate_stride + block * LANES,
                          width, true);
      }
      float* const made = direction.projected ? buffers.cells : fresh;
      const size_t made_width = direction.projected ? width : state_width;
      for (int row = 0; row < batch; ++row) {
        const bool inside = !pass.lengths || t < pass.lengths[row];
        for (int block = mine.from; block < mine.to; ++block) {
          const int unit = block * LANES, count = std::min(LANES, hidden - unit);
          float* const h = made + row * made_width + unit;
          if (inside) kernels.gates(pre + row * width + unit, gate_stride, pass.c + (size_t)row * hidden + unit, h, count);
          else if (!direction.projected) std::memcpy(h, old + row * state_width + unit, 4 * (size_t)count);
        }
      }
      Share own = mine;  // of the new h
      if (direction.projected) {
        team.wait();
        const Share here(batch, me, team.size);
        if (cell.quantized)
          for (int row = here.from; row < here.to; ++row) kernels.quantize(cell.rows, row, batch, hidden);
        team.wait();
        own = Share((int)(state_width / LANES), me, team.size);
        for (int block = own.from; block < own.to; ++block)
          kernels.product(direction.projection.last, block, cell.rows, batch, fresh + block * LANES, state_width, false);
      }
      const int from = own.from * LANES, units = std::min(own.to * LANES, outputs) - from;
      for (int row = 0; row < batch && units > 0; ++row) {
        const bool inside = !pass.lengths || t < pass.lengths[row];
        float* const h = fresh + row * state_width + from;
        float* const y = pass.y + ((size_t)t * batch + row) * y_stride + from;
        if (inside) std::memcpy(y, h, 4 * (size_t)units);
        else std::memset(y, 0, 4 * (size_t)units);
        if (!inside && direction.projected) std::memcpy(h, old + row * state_width + from, 4 * (size_t)units);
        if (last) std::memcpy(pass.h + (size_t)row * outputs + from, h, 4 * (size_t)units);
      }
      team.wait();
      now = 1 - now;
    }
  }
}

}  // namespace

Buffers::Buffers(const Lstm& lstm, int time, int batch, Space& space)
    : batch(batch), chunk(std::min(time, std::max(1, CHUNK_ROWS / batch))), width(padded(lstm.hidden)),
      state_width(padded(lstm.outputs)) {
  std::vector<const Linear*> maps[3];
  for (const Direction& direction : lstm.directions) {
    for (int source = 0; source < 2; ++source)
      for (const Linear& linear : direction.gates[source]) maps[source].push_back(&linear);
    if (direction.projected) maps[2].push_back(&direction.projection);
  }
  make_room(input, maps[0], chunk * batch, space);
  make_room(hidden, maps[1], batch, space);
  make_room(cell, maps[2], batch, space);
  pre = space.take<float>(GATES * (size_t)chunk * batch * width);
  for (float*& state : states) state = space.take<float>(batch * state_width);
  cells = space.take<float>(maps[2].empty() ? 0 : batch * width);
  const bool two = lstm.layers > 1;
  for (float*& one : between) one = space.take<float>(two ? (size_t)time * batch * lstm.ways * lstm.outputs : 0);
}

void run_lstm(const Lstm& lstm, const Pass& pass, Buffers& buffers, Team& team, int me, const Kernels& kernels) {
  Pass one = pass;
  const size_t y_stride = (size_t)lstm.ways * lstm.outputs;
  for (int layer = 0; layer < lstm.layers; ++layer) {
    float* const y = layer == lstm.layers - 1 ? pass.y : buffers.between[layer % 2];
    for (int way = 0; way < lstm.ways; ++way) {
      const size_t index = (size_t)layer * lstm.ways + way;
      one.h = pass.h + index * pass.batch * lstm.outputs;
      one.c = pass.c + index * pass.batch * lstm.hidden;
      one.y = y + way * lstm.outputs;
      run_direction(lstm, lstm.directions[index], one, way == 1, y_stride, buffers, team, me, kernels);
    }
    one.x = y;
  }
}

OutputBuffers::OutputBuffers(const Linear& linear, int rows, Space& space) {
  make_room(source, {&linear}, rows, space);
  rest = space.take<float>((size_t)rows * LANES);
}

void run_output(const Linear& linear, const float* bias, const float* x, int rows, float* y, OutputBuffers& buffers,
                Team& team, int me, const Kernels& kernels) {
  Source source = buffers.source;
  source.rows.values = x;
  source.rows.stride = linear.inputs();
  const Share here(rows, me, team.size);
  if (source.quantized)
    for (int row = here.from; row < here.to; ++row) kernels.quantize(source.rows, row, rows, linear.inputs());
  team.wait();
  const Maps group{&linear, 1, &source, rows};
  make_middles(&group, 1, team, me, kernels);
  const Share mine(linear.last.blocks(), me, team.size);
  const int outputs = linear.outputs();
  for (int block = mine.from; block < mine.to; ++block) {
    const int first = block * LANES, count = std::min(LANES, outputs - first);
    float* const to = count == LANES ? y + first : buffers.rest;
    const size_t stride = count == LANES ? outputs : LANES;
    for (int row = 0; row < rows; ++row) std::memcpy(to + row * stride, bias + first, 4 * (size_t)count);
    kernels.product(linear.last, block, read_by(linear, source, 0), rows, to, stride, true);
    for (int row = 0; row < rows && count < LANES; ++row)
      std::memcpy(y + (size_t)row * outputs + first, to + row * stride, 4 * (size_t)count);
  }
  team.wait();
}

}  // namespace g2
