#pragma once

#include <algorithm>
#include <cstdint>

#include "volume/store.h"

namespace fdbnbd::volume {

// The progress of work that has several parts, one after the other, as one: what parts report adds up to
// what was expected of all.
class CheckProgress final : public Progress {
 public:
  // `whole` may be null, and outlives it.
  explicit CheckProgress(Progress* whole) : whole_(whole) {}

  void expect(uint64_t bytes) { total_bytes_ += bytes; }

  // What is reported from now on is about a part that was expected to have `bytes`.
  void begin_part(uint64_t bytes) {
    before_bytes_ += part_bytes_;
    part_bytes_ = bytes;
    on_progress(0, bytes);
  }

  void on_progress(uint64_t done_bytes, uint64_t /*total_bytes*/) override {
    if (whole_ != nullptr)
      whole_->on_progress(before_bytes_ + std::min(done_bytes, part_bytes_), total_bytes_);
  }
  bool cancelled() const override { return whole_ != nullptr && whole_->cancelled(); }

 private:
  Progress* whole_;
  uint64_t total_bytes_ = 0;
  uint64_t before_bytes_ = 0;
  uint64_t part_bytes_ = 0;
};

}  // namespace fdbnbd::volume
