#include <benchmark/benchmark.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "async/run_loop.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/bytes.h"
#include "base/random.h"
#include "kv/memory/memory_engine.h"
#include "kv/rocks/rocks_engine.h"
#include "micro/scratch.h"
#include "volume/store.h"

// Requests to a volume as a session makes them, without the network: range locks, commit queue, block codec
// and engine together.

namespace fdbnbd {
namespace {

using volume::Compression;

constexpr uint64_t kVolumeBytes = 64 << 20;
constexpr size_t kFillBytes = 1 << 20;
constexpr unsigned kCompressiblePercent = 50;
constexpr uint64_t kSeed = 1;

enum class Kind { memory, rocks };

struct TestVolume {
  TestVolume(Kind kind, Compression compression) {
    if (kind == Kind::memory) {
      kv::MemoryOptions options;
      options.always_suspend = false;
      engine = bench::require(kv::open_memory_engine(options));
    } else {
      kv::RocksOptions options;
      options.path = directory.path() + "/store";
      engine = bench::require(kv::open_rocks_engine(options));
    }
    loop.run(open(compression));
  }
  ~TestVolume() { loop.run(close()); }

  Task<void> open(Compression compression) {
    volume::Store::Options options;
    options.volume_executors = {&loop};
    store = bench::require(co_await volume::open_store(*engine, loop, options));
    bench::require(co_await store->create("bench", {.size_bytes = kVolumeBytes, .compression = compression}));
    disk = bench::require(co_await store->open(loop, "bench"));
    for (uint64_t offset = 0; offset < kVolumeBytes; offset += kFillBytes) {
      const std::string data = bench::sample_data(kFillBytes, kCompressiblePercent, kSeed + offset);
      bench::require(co_await disk->write(offset, as_bytes(data), {}));
    }
  }

  Task<void> close() {
    disk.reset();
    co_await store->close();
  }

  bench::ScratchDirectory directory;
  RunLoop loop;
  std::unique_ptr<kv::Engine> engine;
  std::unique_ptr<volume::Store> store;
  std::shared_ptr<block::Export> disk;
};

Task<void> write_at(TestVolume& volume, uint64_t offset_bytes, ByteView data) {
  bench::require(co_await volume.disk->write(offset_bytes, data, {}));
}

Task<void> read_at(TestVolume& volume, uint64_t offset_bytes, MutableByteView into) {
  bench::require(co_await volume.disk->read(offset_bytes, into));
}

// range(0) requests in flight of range(1) bytes, at random.
Task<void> write_loop(benchmark::State& state, TestVolume& volume) {
  Random random(kSeed);
  const size_t length_bytes = static_cast<size_t>(state.range(1));
  const std::string data = bench::sample_data(length_bytes, kCompressiblePercent, kSeed);
  TaskScope scope;
  while (state.KeepRunningBatch(state.range(0))) {
    for (int64_t flight = 0; flight < state.range(0); ++flight) {
      scope.spawn(write_at(volume, random.below(kVolumeBytes / length_bytes) * length_bytes, as_bytes(data)));
    }
    co_await scope.join();
  }
  state.SetBytesProcessed(state.iterations() * state.range(1));
}

Task<void> read_loop(benchmark::State& state, TestVolume& volume) {
  Random random(kSeed);
  const size_t length_bytes = static_cast<size_t>(state.range(1));
  std::vector<std::vector<std::byte>> buffers(static_cast<size_t>(state.range(0)),
                                              std::vector<std::byte>(length_bytes));
  TaskScope scope;
  while (state.KeepRunningBatch(state.range(0))) {
    for (auto& buffer : buffers) {
      scope.spawn(read_at(volume, random.below(kVolumeBytes / length_bytes) * length_bytes, buffer));
    }
    co_await scope.join();
  }
  state.SetBytesProcessed(state.iterations() * state.range(1));
}

void volume_write(benchmark::State& state, Kind kind, Compression compression) {
  TestVolume volume(kind, compression);
  volume.loop.run(write_loop(state, volume));
}

void volume_read(benchmark::State& state, Kind kind, Compression compression) {
  TestVolume volume(kind, compression);
  volume.loop.run(read_loop(state, volume));
}

#define VOLUME_ARGUMENTS              \
  Args({1, 4096})                     \
      ->Args({32, 4096})              \
      ->Args({4, 1 << 20})            \
      ->ArgNames({"flight", "bytes"}) \
      ->MeasureProcessCPUTime()       \
      ->UseRealTime()
BENCHMARK_CAPTURE(volume_write, memory, Kind::memory, Compression::none)->VOLUME_ARGUMENTS;
BENCHMARK_CAPTURE(volume_write, rocks, Kind::rocks, Compression::none)->VOLUME_ARGUMENTS;
BENCHMARK_CAPTURE(volume_write, rocks_lz4, Kind::rocks, Compression::lz4)->VOLUME_ARGUMENTS;
BENCHMARK_CAPTURE(volume_read, memory, Kind::memory, Compression::none)->VOLUME_ARGUMENTS;
BENCHMARK_CAPTURE(volume_read, rocks, Kind::rocks, Compression::none)->VOLUME_ARGUMENTS;
BENCHMARK_CAPTURE(volume_read, rocks_lz4, Kind::rocks, Compression::lz4)->VOLUME_ARGUMENTS;

}  // namespace
}  // namespace fdbnbd
