#include "cli/load.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <utility>

#include "base/assert.h"
#include "base/random.h"

namespace fdbnbd::cli {

namespace {

// Latencies that are kept: a sample where there are more, every request as likely as another.
constexpr size_t kMaxSamples = 1'000'000;

class LoadRun {
 public:
  LoadRun(NbdDisk& disk, const Load& load, const LoadOptions& options)
      : disk_(disk), load_(load), options_(options), slots_count_(disk.size_bytes() / options.request_bytes) {
    ASSERT(slots_count_ > 0);
    for (uint32_t i = 0; i < options.depth; ++i) {
      std::vector<std::byte> buffer(options.request_bytes);
      // Every block compresses to about half, and none is all zeroes.
      for (size_t at = 0; at < buffer.size(); ++at)
        if (at % 512 < 256) buffer[at] = static_cast<std::byte>(random_.next());
      free_.push_back(std::move(buffer));
    }
  }

  Result<LoadFigures> run(ProgressDisplay& display) {
    const MonotonicTime started = system_clock().now();
    const auto duration = std::chrono::milliseconds(options_.duration_ms);
    MonotonicTime now = started;
    while (now - started < duration) {
      if (interrupted()) return fail(Errc::cancelled, "interrupted");
      while (!free_.empty()) RETURN_IF_ERROR(begin_request());
      RETURN_IF_ERROR(disk_.wait_below(options_.depth));
      now = system_clock().now();
      display.update(finished_count_ * options_.request_bytes, 0);
    }
    RETURN_IF_ERROR(disk_.wait_below(1));
    now = system_clock().now();
    return LoadFigures{.requests_count = finished_count_,
                       .seconds = std::chrono::duration<double>(now - started).count(),
                       .p50_us = percentile(latencies_us_, 50),
                       .p99_us = percentile(latencies_us_, 99)};
  }

 private:
  Result<void> begin_request() {
    const uint64_t slot = load_.random ? random_.below(slots_count_) : next_slot_++ % slots_count_;
    auto buffer = std::make_shared<std::vector<std::byte>>(std::move(free_.back()));
    free_.pop_back();
    auto on_done = [this, buffer, started = system_clock().now()](bool /*succeeded*/) {
      record(system_clock().now() - started);
      free_.push_back(std::move(*buffer));
    };
    const uint64_t offset_bytes = slot * options_.request_bytes;
    if (!load_.writes) return disk_.begin_read(offset_bytes, *buffer, std::move(on_done));
    // No two requests write the same bytes.
    const uint64_t stamp = random_.next();
    std::copy_n(reinterpret_cast<const std::byte*>(&stamp), std::min(sizeof(stamp), buffer->size()),
                buffer->data());
    return disk_.begin_write(offset_bytes, *buffer, std::move(on_done));
  }

  void record(Duration latency) {
    const auto us = static_cast<uint32_t>(std::min<int64_t>(
        std::chrono::duration_cast<std::chrono::microseconds>(latency).count(), UINT32_MAX));
    ++finished_count_;
    if (latencies_us_.size() < kMaxSamples) {
      latencies_us_.push_back(us);
    } else if (const uint64_t at = random_.below(finished_count_); at < kMaxSamples) {
      latencies_us_[at] = us;
    }
  }

  NbdDisk& disk_;
  const Load load_;
  const LoadOptions options_;
  const uint64_t slots_count_;
  Random random_ = Random::from_entropy();
  std::vector<std::vector<std::byte>> free_;
  uint64_t next_slot_ = 0;
  uint64_t finished_count_ = 0;
  std::vector<uint32_t> latencies_us_;
};

}  // namespace

std::string load_name(const Load& load) {
  return std::string(load.random ? "rand" : "") + (load.writes ? "write" : "read");
}

Result<Load> parse_load(std::string_view name) {
  for (const Load load : {Load{}, Load{.writes = false, .random = true},
                          Load{.writes = true, .random = false}, Load{.writes = true, .random = true}}) {
    if (load_name(load) == name) return load;
  }
  return fail(Errc::invalid, fmt::format("\"{}\" is no load: use read, randread, write or randwrite", name));
}

double percentile(std::vector<uint32_t>& values, double per_hundred) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(per_hundred / 100 * static_cast<double>(values.size()));
  return values[std::clamp<size_t>(static_cast<size_t>(rank), 1, values.size()) - 1];
}

Result<LoadFigures> run_load(NbdDisk& disk, const Load& load, const LoadOptions& options,
                             ProgressDisplay& display) {
  return LoadRun(disk, load, options).run(display);
}

}  // namespace fdbnbd::cli
