#include "kv/fdb/write_rate.h"

#include <algorithm>
#include <chrono>

namespace fdbnbd::kv::fdb {

namespace {

double seconds(Duration duration) {
  return std::chrono::duration<double>(duration).count();
}

constexpr auto kTargetBytes = static_cast<double>(limits::kFdbStorageQueueBytes);

}  // namespace

void WriteRate::History::add(MonotonicTime now, uint64_t bytes) {
  const int64_t number = now.time_since_epoch() / kStep;
  Step& step = steps_[static_cast<size_t>(number % kStepsCount)];
  if (step.number != number) step = {number, 0};
  step.bytes += bytes;
}

double WriteRate::History::bytes_before(MonotonicTime end, Duration length) const {
  const int64_t last = end.time_since_epoch() / kStep;
  const int64_t first = last - length / kStep;
  uint64_t bytes = 0;
  for (const Step& step : steps_)
    if (step.number > first && step.number <= last) bytes += step.bytes;
  return static_cast<double>(bytes);
}

Duration WriteRate::reserve(MonotonicTime now, uint64_t bytes) {
  is_bound_ = is_bound_ && now - looked_at_ < kForget;
  const Duration turn = wait(now);
  if (is_bound_) {
    next_turn_ = std::max(next_turn_, now - Duration(kBurst));
    const std::chrono::duration<double> takes(static_cast<double>(bytes) / bytes_per_second(now));
    next_turn_ += std::chrono::duration_cast<Duration>(takes);
  }
  written_.add(now, bytes);
  return turn;
}

Duration WriteRate::wait(MonotonicTime now) const {
  if (!is_bound_ || now - looked_at_ >= kForget) return Duration::zero();
  return std::max(next_turn_ - now, Duration::zero());
}

double WriteRate::bytes_per_second(MonotonicTime now) const {
  if (!is_bound_) return 0;
  const double in_queue = (kTargetBytes - backlog_bytes_) / cost_;
  const double lasting = in_queue / seconds(kKept);
  const double missing = in_queue - written_.bytes_before(now, kKept);
  return std::max(lasting + missing / seconds(kHorizon), kLeast);
}

void WriteRate::on_queue(MonotonicTime now, const Queue& queue) {
  looked_at_ = now;
  is_bound_ = queue.bytes >= kShortQueueBytes;
  if (!is_bound_) return;
  const auto queue_bytes = static_cast<double>(queue.bytes);
  const double written = std::max(written_.bytes_before(now - kDelay, kKept), 1e6);
  // Where all of it is older than that, all waits for the disk.
  const double waiting_share = queue.age > kKept ? 1 - seconds(kKept) / seconds(queue.age) : 0;
  backlog_bytes_ = queue_bytes * waiting_share;
  cost_ = std::clamp((queue_bytes - backlog_bytes_) / written, kLeastCost, kMostCost);
  backlog_bytes_ = std::min(std::max(backlog_bytes_, queue_bytes - cost_ * written), kTargetBytes);
}

}  // namespace fdbnbd::kv::fdb
