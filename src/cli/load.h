#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "cli/load_connection.h"
#include "cli/progress.h"

namespace fdbnbd::cli {

// A load on a volume, for `bench`.
struct Load {
  bool writes = false;
  bool random = false;
};

// "read", "randread", "write", "randwrite".
std::string load_name(const Load& load);
Result<Load> parse_load(std::string_view name);

struct LoadOptions {
  uint64_t request_bytes = 4096;
  uint32_t depth = 32;
  uint32_t duration_ms = 5000;
};

struct LoadFigures {
  uint64_t requests_count = 0;
  double seconds = 0;
  double p50_us = 0;
  double p99_us = 0;

  double iops() const { return seconds > 0 ? static_cast<double>(requests_count) / seconds : 0; }
};

// Keeps `depth` requests in flight for the duration. The volume is at least one request long, and the
// connection has `depth` slots.
Result<LoadFigures> run_load(LoadConnection& connection, const Load& load, const LoadOptions& options,
                             ProgressDisplay& display);

// The value below which `per_hundred` of a hundred are; sorts `values`. 0 where there are none.
double percentile(std::vector<uint32_t>& values, double per_hundred);

}  // namespace fdbnbd::cli
