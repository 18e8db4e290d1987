#include "cli/load.h"

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/assert.h"
#include "base/random.h"

namespace fdbnbd::cli {

namespace {

// Latencies that are kept: a sample where there are more, every request as likely as another.
constexpr size_t kMaxSamples = 1'000'000;

class LoadRun {
 public:
  LoadRun(LoadConnection& connection, const Load& load, const LoadOptions& options)
      : connection_(connection),
        load_(load),
        options_(options),
        places_count_(connection.size_bytes() / options.request_bytes) {
    ASSERT(places_count_ > 0);
    slots_.resize(options.depth);
    if (!load.writes) return;
    for (Slot& slot : slots_) {
      slot.data.resize(options.request_bytes);
      // Every block compresses to about half, and none is all zeroes.
      for (size_t at = 0; at < slot.data.size(); ++at)
        if (at % 512 < 256) slot.data[at] = static_cast<std::byte>(random_.next());
    }
  }

  Result<LoadFigures> run(ProgressDisplay& display) {
    const MonotonicTime started = system_clock().now();
    const MonotonicTime deadline = started + std::chrono::milliseconds(options_.duration_ms);
    MonotonicTime now = started;
    for (uint32_t slot = 0; slot < options_.depth; ++slot) begin_request(slot, now);
    while (connection_.in_flight_count() > 0) {
      if (interrupted()) return fail(Errc::cancelled, "interrupted");
      ASSIGN_OR_RETURN(const auto ended, connection_.wait());
      now = system_clock().now();
      for (const uint32_t slot : ended) {
        record(now - slots_[slot].started);
        if (now < deadline) begin_request(slot, now);
      }
      display.update(finished_count_ * options_.request_bytes, 0);
    }
    return LoadFigures{.requests_count = finished_count_,
                       .seconds = std::chrono::duration<double>(now - started).count(),
                       .p50_us = percentile(latencies_us_, 50),
                       .p99_us = percentile(latencies_us_, 99)};
  }

 private:
  struct Slot {
    MonotonicTime started;
    std::vector<std::byte> data;  // of a write
  };

  void begin_request(uint32_t slot_index, MonotonicTime now) {
    Slot& slot = slots_[slot_index];
    slot.started = now;
    const uint64_t place = load_.random ? random_.below(places_count_) : next_place_++ % places_count_;
    const uint64_t offset_bytes = place * options_.request_bytes;
    if (!load_.writes) {
      connection_.begin_read(slot_index, offset_bytes, static_cast<uint32_t>(options_.request_bytes));
      return;
    }
    // No two requests write the same bytes.
    const uint64_t stamp = random_.next();
    std::memcpy(slot.data.data(), &stamp, std::min(sizeof stamp, slot.data.size()));
    connection_.begin_write(slot_index, offset_bytes, slot.data);
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

  LoadConnection& connection_;
  const Load load_;
  const LoadOptions options_;
  const uint64_t places_count_;  // where a request may go
  Random random_ = Random::from_entropy();
  std::vector<Slot> slots_;
  uint64_t next_place_ = 0;
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

Result<LoadFigures> run_load(LoadConnection& connection, const Load& load, const LoadOptions& options,
                             ProgressDisplay& display) {
  return LoadRun(connection, load, options).run(display);
}

}  // namespace fdbnbd::cli
