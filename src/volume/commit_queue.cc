#include "volume/commit_queue.h"

#include <algorithm>
#include <iterator>
#include <span>
#include <utility>

#include "base/assert.h"
#include "base/limits.h"
#include "base/log.h"
#include "kv/retry.h"

namespace fdbnbd::volume {

namespace {

// What overlaps with other commits is at least one in so many of the requests that are under way.
constexpr size_t kOverlapDivisor = 8;

}  // namespace

CommitQueue::CommitQueue(kv::Engine& engine, Executor& executor, Fence& fence)
    : engine_(engine),
      executor_(executor),
      fence_(fence),
      batches_limit_(engine.capabilities().commits_in_flight),
      gather_limit_(engine.capabilities().gather_wait) {}

CommitQueue::~CommitQueue() {
  ASSERT(is_queue_empty() && batches_count_ == 0 && gather_ == Gather::no);
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
  if (expected_count_ > 0) --expected_count_;
  schedule_pump();
}

bool CommitQueue::may_start() const {
  if (is_queue_empty() || batches_count_ >= batches_limit_) return false;
  if (queued_bytes_ >= limits::kCommitTargetBytes) return true;
  return batches_count_ < limits::kMaxPartialCommits && !is_more_likely();
}

bool CommitQueue::is_more_likely() const {
  if (gather_limit_ == Duration::zero() || gather_ == Gather::waited) return false;
  const uint64_t elsewhere_count = in_flight_count_ + expected_count_;
  const bool is_worth_a_commit =
      queued_count() >= limits::kMinIntentsToOverlap && kOverlapDivisor * queued_count() >= elsewhere_count;
  return elsewhere_count > 0 && !is_worth_a_commit;
}

void CommitQueue::start_gathering() {
  if (is_queue_empty() || gather_ != Gather::no || !is_more_likely()) return;
  gather_ = Gather::waiting;
  // Small beside what a commit takes, so that little is lost where nothing more comes.
  executor_.start_timer(gathering_, std::min(gather_limit_, commit_took_ / 4));
}

void CommitQueue::stop_gathering() {
  if (gather_ == Gather::waiting) executor_.cancel_timer(gathering_);
  gather_ = Gather::no;
}

void CommitQueue::on_gathered() {
  gather_ = Gather::waited;
  expected_count_ = 0;
  schedule_pump();
}

void CommitQueue::extend_draft() {
  while (draft_.intents_count < small_.size() && queued_bytes_ < limits::kCommitTargetBytes) {
    if (!draft_.transaction) draft_.transaction = begin();
    small_[draft_.intents_count++]->apply(*draft_.transaction);
  }
}

// Posted rather than called, so that all requests of one receive are queued before the first batch is cut.
void CommitQueue::schedule_pump() {
  if (pump_posted_) return;
  if (!may_start()) {
    start_gathering();
    if (gather_ == Gather::waiting) extend_draft();
    return;
  }
  pump_posted_ = true;
  executor_.post(pump_);
}

struct CommitQueue::Batch {
  std::vector<Intent*> intents;
  Draft draft;  // of the first of them
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
    // Where it has more than the batch, it is of no use.
    Draft draft = std::exchange(draft_, {});
    if (draft.intents_count <= batch.intents.size()) batch.draft = std::move(draft);
    fill(batch, large_, limits::kCommitTargetBytes);
    ++batches_count_;
    in_flight_count_ += batch.intents.size();
  }
  stop_gathering();
  start_gathering();  // for what is left
  for (Batch& batch : batches) scope_.spawn(run_batch(std::move(batch.intents), std::move(batch.draft)));
}

Task<void> CommitQueue::run_batch(std::vector<Intent*> batch, Draft draft) {
  const size_t intents_count = batch.size();
  const MonotonicTime started_at = executor_.clock().now();
  std::unique_ptr<kv::Transaction> transaction;
  const Result<void> result = co_await commit_batch(batch, std::move(draft), transaction);
  commit_took_ = executor_.clock().now() - started_at;
  --batches_count_;
  in_flight_count_ -= intents_count;
  expected_count_ += batch.size();
  schedule_pump();
  finish(batch, result);
  // Behind the replies: the end and the beginning of a transaction may wake a thread of the store, which then
  // takes the processor from this one.
  co_await reschedule(executor_);
  transaction.reset();
  if (gather_limit_ != Duration::zero() && is_queue_empty() && !draft_.transaction)
    draft_.transaction = begin();
}

void CommitQueue::finish(const std::vector<Intent*>& intents, const Result<void>& result) {
  for (Intent* intent : intents) intent->is_committed_ = result.has_value();
  for (Intent* intent : intents) intent->group_->finish_one(result);
}

void CommitQueue::turn_back_outdated(std::vector<Intent*>& batch) {
  const LayerId top = fence_.record().top_layer;
  std::vector<Intent*> outdated;
  std::ranges::copy_if(batch, std::back_inserter(outdated),
                       [&](const Intent* intent) { return intent->layer != top; });
  if (outdated.empty()) return;
  std::erase_if(batch, [&](const Intent* intent) { return intent->layer != top; });
  finish(outdated, fail(Errc::conflict, "the volume has a new top layer"));
}

std::unique_ptr<kv::Transaction> CommitQueue::begin() {
  std::unique_ptr<kv::Transaction> transaction = engine_.begin(executor_);
  transaction->disable_write_conflicts();
  transaction->add_read_conflict(fence_.conflict_range());
  return transaction;
}

Task<Result<void>> CommitQueue::commit_batch(std::vector<Intent*>& batch, Draft draft,
                                             std::unique_ptr<kv::Transaction>& transaction) {
  for (uint32_t attempt = 1;; ++attempt) {
    const size_t intents_count = batch.size();
    turn_back_outdated(batch);
    if (batch.empty()) co_return Result<void>{};
    // It has changes of those that are not in the batch any more.
    if (batch.size() < intents_count) draft = {};
    const size_t in_draft_count = draft.transaction ? draft.intents_count : 0;
    transaction = draft.transaction ? std::move(draft.transaction) : begin();
    for (Intent* intent : std::span(batch).subspan(in_draft_count)) intent->apply(*transaction);
    transaction->set_read_version(fence_.version());
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
