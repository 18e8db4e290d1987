#include "volume/commit_queue.h"

#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "kv/retry.h"

namespace fdbnbd::volume {

CommitQueue::CommitQueue(kv::Engine& engine, Executor& executor, Fence& fence)
    : engine_(engine),
      executor_(executor),
      fence_(fence),
      batches_limit_(engine.capabilities().commits_in_flight) {}

Task<Result<void>> CommitQueue::commit(std::vector<Intent*> intents) {
  Group group(intents.size());
  for (Intent* intent : intents) enqueue(*intent, group);
  co_return co_await group;
}

Task<Result<void>> CommitQueue::commit(Intent& intent) {
  Group group(1);
  enqueue(intent, group);
  co_return co_await group;
}

void CommitQueue::enqueue(Intent& intent, Group& group) {
  intent.group_ = &group;
  queue_.push_back(&intent);
  schedule_pump();
}

// Posted rather than called, so that all requests of one receive are queued before the first batch is cut.
void CommitQueue::schedule_pump() {
  if (pump_posted_ || batches_count_ >= batches_limit_) return;
  pump_posted_ = true;
  executor_.post(pump_);
}

void CommitQueue::start_batches() {
  pump_posted_ = false;
  while (!queue_.empty() && batches_count_ < batches_limit_) {
    std::vector<Intent*> batch;
    uint64_t batch_bytes = 0;
    uint32_t mutations_count = 0;
    while (!queue_.empty()) {
      Intent& next = *queue_.front();
      batch_bytes += next.estimated_bytes;
      mutations_count += next.mutations_count;
      if (!batch.empty() &&
          (batch_bytes > limits::kCommitTargetBytes || mutations_count > limits::kMaxMutationsPerCommit)) {
        break;
      }
      batch.push_back(&next);
      queue_.pop_front();
    }
    ++batches_count_;
    scope_.spawn(run_batch(std::move(batch)));
  }
}

Task<void> CommitQueue::run_batch(std::vector<Intent*> batch) {
  const Result<void> result = co_await commit_batch(batch);
  --batches_count_;
  if (!queue_.empty()) schedule_pump();
  for (Intent* intent : batch) intent->is_committed_ = result.has_value();
  for (Intent* intent : batch) intent->group_->finish_one(result);
}

Task<Result<void>> CommitQueue::commit_batch(const std::vector<Intent*>& batch) {
  for (uint32_t attempt = 1;; ++attempt) {
    const std::unique_ptr<kv::Transaction> transaction = engine_.begin(executor_);
    transaction->disable_write_conflicts();
    transaction->set_read_version(fence_.version());
    transaction->add_read_conflict(fence_.conflict_range());
    for (Intent* intent : batch) intent->apply(*transaction);
    const Result<kv::Version> committed = co_await transaction->commit();
    if (committed) {
      fence_.on_committed(*committed);
      co_return Result<void>{};
    }
    switch (committed.error().code) {
      case Errc::conflict:
        // Somebody wrote the fence, or the engine was over-cautious: reading it tells.
        CO_RETURN_IF_ERROR(co_await fence_.refresh());
        break;
      case Errc::unavailable:
        if (attempt == 10)
          log::warning("the store does not take writes: {}; still trying", committed.error().what);
        co_await sleep_for(executor_, kv::backoff(attempt, random_));
        CO_RETURN_IF_ERROR(co_await fence_.refresh());
        break;
      case Errc::unknown_result:
        // It may still take effect. The locks are held, so nothing newer can be hurt; behind the barrier it
        // is decided, and doing it again is harmless.
        CO_RETURN_IF_ERROR(co_await fence_.barrier());
        break;
      default:
        co_return tl::unexpected(committed.error());
    }
  }
}

}  // namespace fdbnbd::volume
