#include "volume/commit_queue.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"
#include "kv/retry.h"

namespace fdbnbd::volume {

CommitQueue::CommitQueue(kv::Engine& engine, Executor& executor, Fence& fence)
    : engine_(engine),
      executor_(executor),
      fence_(fence),
      batches_limit_(engine.capabilities().commits_in_flight),
      begins_ahead_(engine.capabilities().begins_ahead) {}

CommitQueue::~CommitQueue() {
  ASSERT(is_queue_empty() && batches_count_ == 0);
}

Task<Result<void>> CommitQueue::commit(std::vector<Intent*> intents) {
  Group group(intents.size());
  for (Intent* intent : intents) enqueue(intents.size() == 1 ? small_ : large_, *intent, group);
  co_return co_await group;
}

Task<Result<void>> CommitQueue::commit(Intent& intent) {
  Group group(1);
  enqueue(small_, intent, group);
  co_return co_await group;
}

void CommitQueue::enqueue(Queue& queue, Intent& intent, Group& group) {
  intent.group_ = &group;
  queue.push_back(&intent);
  queued_bytes_ += intent.estimated_bytes;
  schedule_pump();
}

bool CommitQueue::may_start() const {
  if (is_queue_empty() || batches_count_ >= batches_limit_) return false;
  if (queued_bytes_ >= limits::kCommitTargetBytes) return true;
  return batches_count_ < limits::kMaxPartialCommits;
}

// Posted rather than called, so that all requests of one receive are queued before the first batch is cut.
void CommitQueue::schedule_pump() {
  if (pump_posted_ || !may_start()) return;
  pump_posted_ = true;
  executor_.post(pump_);
}

struct CommitQueue::Batch {
  std::vector<Intent*> intents;
  uint64_t bytes = 0;
  uint32_t mutations_count = 0;
};

void CommitQueue::fill(Batch& batch, Queue& queue, uint64_t bytes_limit) {
  for (bool is_first = true; !queue.empty(); is_first = false) {
    Intent& next = *queue.front();
    const uint64_t bytes = batch.bytes + next.estimated_bytes;
    const uint32_t mutations_count = batch.mutations_count + next.mutations_count;
    const bool fits = bytes <= bytes_limit && mutations_count <= limits::kMaxMutationsPerCommit;
    if (!is_first && !fits) return;  // the first goes in any case, so that neither queue starves the other
    batch.intents.push_back(&next);
    batch.bytes = bytes;
    batch.mutations_count = mutations_count;
    queued_bytes_ -= next.estimated_bytes;
    queue.pop_front();
  }
}

void CommitQueue::start_batches() {
  pump_posted_ = false;
  // All are cut before the first one starts: a batch may be done within spawn(), and what its last intent
  // brings about may be the end of this queue, or more intents, for which the pump is posted anew.
  std::vector<Batch> batches;
  while (may_start()) {
    Batch& batch = batches.emplace_back();
    fill(batch, small_, large_.empty() ? limits::kCommitTargetBytes : limits::kCommitTargetBytes / 2);
    fill(batch, large_, limits::kCommitTargetBytes);
    ++batches_count_;
  }
  for (Batch& batch : batches) scope_.spawn(run_batch(std::move(batch.intents)));
}

Task<void> CommitQueue::run_batch(std::vector<Intent*> batch) {
  std::unique_ptr<kv::Transaction> transaction;
  const Result<void> result = co_await commit_batch(batch, transaction);
  --batches_count_;
  schedule_pump();
  finish(batch, result);
  // Behind the replies: the end and the beginning of a transaction may wake a thread of the store, which then
  // takes the processor from this one.
  co_await reschedule(executor_);
  transaction.reset();
  if (begins_ahead_ && is_queue_empty() && !begun_) begun_ = begin();
}

void CommitQueue::finish(const std::vector<Intent*>& intents, const Result<void>& result) {
  for (Intent* intent : intents) intent->is_committed_ = result.has_value();
  for (Intent* intent : intents) intent->group_->finish_one(result);
}

void CommitQueue::turn_back_outdated(std::vector<Intent*>& batch) {
  std::vector<Intent*> outdated;
  std::ranges::copy_if(batch, std::back_inserter(outdated),
                       [this](const Intent* intent) { return is_outdated(*intent); });
  if (outdated.empty()) return;
  std::erase_if(batch, [this](const Intent* intent) { return is_outdated(*intent); });
  finish(outdated, fail(Errc::conflict, "the volume has a new top layer"));
}

std::unique_ptr<kv::Transaction> CommitQueue::begin() {
  std::unique_ptr<kv::Transaction> transaction = engine_.begin(executor_);
  transaction->disable_write_conflicts();
  transaction->add_read_conflict(fence_.conflict_range());
  return transaction;
}

Task<Result<void>> CommitQueue::commit_batch(std::vector<Intent*>& batch,
                                             std::unique_ptr<kv::Transaction>& transaction) {
  for (uint32_t attempt = 1;; ++attempt) {
    turn_back_outdated(batch);
    if (batch.empty()) co_return Result<void>{};
    transaction = begun_ ? std::move(begun_) : begin();
    for (Intent* intent : batch) intent->apply(*transaction);
    // Under load it takes seconds: the version that is proven and the top layer are those of afterwards.
    co_await transaction->await_turn();
    if (std::ranges::any_of(batch, [this](const Intent* intent) { return is_outdated(*intent); })) continue;
    transaction->set_read_version(fence_.version());
    const Result<kv::Version> committed = co_await transaction->commit();
    if (committed) {
      fence_.on_committed(*committed);
      co_return Result<void>{};
    }
    if (committed.error().code == Errc::unknown_result) {
      for (Intent* intent : batch) intent->is_in_doubt_ = true;
    }
    Result<void> recovered = co_await recover(committed.error(), attempt);
    if (recovered) continue;
    // What it changed may be there or not, and nothing that is known here says which.
    const bool is_in_doubt = std::ranges::any_of(batch, &Intent::is_in_doubt_);
    if (is_in_doubt && !fence_.is_lost()) {
      log::error("whether a write has happened is not known, and the store failed: {}",
                 recovered.error().what);
      co_return fence_.give_up();
    }
    co_return recovered;
  }
}

Task<Result<void>> CommitQueue::recover(const Error& error, uint32_t attempt) {
  switch (error.code) {
    case Errc::conflict:
      // Somebody wrote the fence, or the engine was over-cautious: reading it tells.
      co_return co_await fence_.refresh();
    case Errc::unavailable:
      if (attempt == 10) log::warning("the store does not take writes: {}; still trying", error.what);
      co_await sleep_for(executor_, kv::backoff(attempt, random_));
      co_return co_await fence_.refresh();
    case Errc::unknown_result:
      // It may still take effect. The locks are held, so nothing newer can be hurt; behind the barrier it is
      // decided, and doing it again is harmless.
      co_return co_await fence_.barrier();
    default:
      co_return tl::unexpected(error);
  }
}

}  // namespace fdbnbd::volume
