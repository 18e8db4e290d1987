#pragma once

#include <atomic>
#include <cstdint>
#include <memory>

#include "async/executor.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// Carries progress from a volume's thread to the home thread, and the wish to stop back.
class ProgressRelay final : public Progress {
 public:
  ProgressRelay(Executor& home, Progress* target) : home_(home), state_(std::make_shared<State>()) {
    state_->target = target;
  }
  // On the home thread; what is still under way finds nobody.
  ~ProgressRelay() { state_->target = nullptr; }
  ProgressRelay(const ProgressRelay&) = delete;
  ProgressRelay& operator=(const ProgressRelay&) = delete;

  void on_progress(uint64_t done_bytes, uint64_t total_bytes) override {
    post(home_, [state = state_, done_bytes, total_bytes] {
      if (state->target == nullptr) return;
      state->target->on_progress(done_bytes, total_bytes);
      state->cancelled.store(state->target->cancelled(), std::memory_order_relaxed);
    });
  }
  bool cancelled() const override { return state_->cancelled.load(std::memory_order_relaxed); }

 private:
  struct State {
    Progress* target = nullptr;  // the home thread's
    std::atomic<bool> cancelled{false};
  };

  Executor& home_;
  std::shared_ptr<State> state_;
};

}  // namespace fdbnbd::volume
