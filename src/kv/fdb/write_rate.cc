#include "kv/fdb/write_rate.h"

#include <algorithm>
#include <chrono>

namespace fdbnbd::kv::fdb {

Duration WriteRate::reserve(MonotonicTime now, uint64_t bytes) {
  bytes_since_ += bytes;
  if (bytes_per_second_ == 0) return Duration::zero();
  next_turn_ = std::max(next_turn_, now - Duration(kBurst));
  const Duration wait = next_turn_ - now;
  const std::chrono::duration<double> takes(static_cast<double>(bytes) / bytes_per_second_);
  next_turn_ += std::chrono::duration_cast<Duration>(takes);
  return std::max(wait, Duration::zero());
}

void WriteRate::on_queue(MonotonicTime now, uint64_t queue_bytes) {
  const std::chrono::duration<double> interval = now - looked_at_;
  const double seconds = std::max(interval.count(), 1e-3);
  const double written = static_cast<double>(bytes_since_) / seconds;
  const double growth = (static_cast<double>(queue_bytes) - static_cast<double>(queue_bytes_)) / seconds;
  growth_ += kSmoothing * (growth - growth_);
  looked_at_ = now;
  bytes_since_ = 0;
  queue_bytes_ = queue_bytes;
  if (queue_bytes < kCalmBytes) {
    bytes_per_second_ *= kGrow;
    if (bytes_per_second_ > kUnbounded || interval >= kForget) bytes_per_second_ = 0;
    return;
  }
  const double wanted_growth =
      (static_cast<double>(kTargetBytes) - static_cast<double>(queue_bytes)) / kHorizon_s;
  if (bytes_per_second_ == 0) {
    // The first bound has to hold: a queue that nothing bounded may be full at the next look.
    growth_ = std::max(growth_, growth);
    bytes_per_second_ = written + (wanted_growth - growth_) / kQueueCost;
  } else {
    bytes_per_second_ =
        std::min(bytes_per_second_, kHeadroom * written) + kGain * (wanted_growth - growth_) / kQueueCost;
  }
  bytes_per_second_ = std::max(bytes_per_second_, kLeast);
}

}  // namespace fdbnbd::kv::fdb
