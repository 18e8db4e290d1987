#include <benchmark/benchmark.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "base/bytes.h"
#include "micro/scratch.h"
#include "volume/block_codec.h"

namespace fdbnbd::volume {
namespace {

constexpr unsigned kCompressiblePercent = 50;
constexpr uint64_t kSeed = 1;
constexpr uint64_t kBlockIndex = 7;

// range(0): bytes of a block.
void block_encode(benchmark::State& state, Compression compression) {
  const std::string block =
      bench::sample_data(static_cast<size_t>(state.range(0)), kCompressiblePercent, kSeed);
  std::string value;
  for ([[maybe_unused]] auto unused : state) {
    value.clear();
    append_block_value(value, as_bytes(block), kBlockIndex, compression);
    benchmark::DoNotOptimize(value.data());
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
  state.counters["stored"] = static_cast<double>(value.size());
}

void block_decode(benchmark::State& state, Compression compression) {
  const std::string original =
      bench::sample_data(static_cast<size_t>(state.range(0)), kCompressiblePercent, kSeed);
  std::string value;
  append_block_value(value, as_bytes(original), kBlockIndex, compression);
  std::vector<std::byte> block(original.size());
  for ([[maybe_unused]] auto unused : state) bench::require(decode_block_value(value, kBlockIndex, block));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

#define BLOCK_ARGUMENTS Arg(4096)->Arg(65536)
BENCHMARK_CAPTURE(block_encode, none, Compression::none)->BLOCK_ARGUMENTS;
BENCHMARK_CAPTURE(block_encode, lz4, Compression::lz4)->BLOCK_ARGUMENTS;
BENCHMARK_CAPTURE(block_encode, zstd, Compression::zstd)->BLOCK_ARGUMENTS;
BENCHMARK_CAPTURE(block_decode, none, Compression::none)->BLOCK_ARGUMENTS;
BENCHMARK_CAPTURE(block_decode, lz4, Compression::lz4)->BLOCK_ARGUMENTS;
BENCHMARK_CAPTURE(block_decode, zstd, Compression::zstd)->BLOCK_ARGUMENTS;

// What every write does first: zero blocks are not stored.
void zero_test(benchmark::State& state) {
  const std::string block(static_cast<size_t>(state.range(0)), '\0');
  for ([[maybe_unused]] auto unused : state) benchmark::DoNotOptimize(is_all_zero(as_bytes(block)));
  state.SetBytesProcessed(state.iterations() * state.range(0));
}
BENCHMARK(zero_test)->BLOCK_ARGUMENTS;

}  // namespace
}  // namespace fdbnbd::volume
