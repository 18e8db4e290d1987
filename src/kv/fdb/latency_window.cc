#include "kv/fdb/latency_window.h"

#include <algorithm>

namespace fdbnbd::kv::fdb {

void LatencyWindow::on_done(MonotonicTime started_at, MonotonicTime ended_at, uint32_t outstanding_count) {
  const Duration took = ended_at - started_at;
  if (took > bounds_.slow) {
    shrink(started_at, ended_at);
  } else if (took <= bounds_.quick && outstanding_count >= size()) {
    size_ = std::min<double>(size_ + 1 / size_, bounds_.most);
  }
}

void LatencyWindow::shrink(MonotonicTime started_at, MonotonicTime ended_at) {
  if (started_at < shrunk_at_) return;
  shrunk_at_ = ended_at;
  size_ = std::max<double>(size_ / 2, bounds_.least);
}

}  // namespace fdbnbd::kv::fdb
