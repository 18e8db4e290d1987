#include "volume/jobs.h"

#include <algorithm>
#include <utility>

#include "async/executor.h"
#include "base/limits.h"
#include "base/log.h"
#include "kv/retry.h"
#include "volume/layer_merge.h"

namespace fdbnbd::volume {

namespace {

// One step clears the blocks of so many extents: 16 GiB at 4 KiB blocks.
constexpr uint32_t kExtentsPerStep = 4096;

// Whether the store may do later what it has refused.
bool is_passing(Errc code) {
  return kv::is_retryable(code) || code == Errc::no_space || code == Errc::busy || code == Errc::cancelled ||
         code == Errc::timeout || code == Errc::too_large;
}

}  // namespace

Jobs::Jobs(RecordReader& records, OpenVolumes& open_volumes, uint64_t first_turn)
    : records_(records),
      home_(records.executor()),
      keys_(records.keys()),
      open_volumes_(open_volumes),
      last_turn_{first_turn},
      most_workers_(records.engine().capabilities().shared_between_hosts ? limits::kJobsAtOnceInSharedStore
                                                                         : 1) {}

Task<Result<void>> Jobs::resume() {
  ASSIGN_OR_CO_RETURN(const auto rows,
                      co_await records_.read_all(keys_.type_begin('T'), keys_.type_end('T')));
  for (const kv::KeyValue& row : rows) {
    const auto id = keys_.id_of(row.key);
    const auto job = JobRecord::decode(row.value);
    if (!id || !job) {
      log::error("a background job's record is damaged ({}); run fdb-nbd check",
                 job ? "its key" : job.error().what);
      continue;
    }
    note(JobId{*id}, *job);
  }
  co_return Result<void>{};
}

Task<void> Jobs::take_up() {
  const Result<void> resumed = co_await resume();
  if (!resumed) log::warning("background jobs wait for the next start: {}", resumed.error().what);
}

void Jobs::start_scanning() {
  home_.start_timer(*this, limits::kJobScanInterval);
}

void Jobs::run() noexcept {
  if (open_volumes_.stopping()) return;
  if (!is_scanning_) scope_.spawn(scan());
  home_.start_timer(*this, limits::kJobScanInterval);
}

Task<void> Jobs::scan() {
  is_scanning_ = true;
  const Result<void> resumed = co_await resume();
  if (!resumed) log::debug("looking for background jobs of other servers: {}", resumed.error().what);
  is_scanning_ = false;
}

Task<void> Jobs::join() {
  home_.cancel_timer(*this);
  co_await scope_.join();
}

void Jobs::note(JobId id, JobRecord job) {
  const auto [known, is_new] = jobs_.try_emplace(id, Job{.record = job});
  if (!is_new) {
    known->second.noted_again = true;
    known->second.record = job;
  }
  start_worker();
}

bool Jobs::has_work() const {
  return std::ranges::any_of(jobs_, [](const auto& entry) { return !entry.second.is_given_up; });
}

std::map<JobId, Jobs::Job>::iterator Jobs::next_due() {
  const auto is_due = [now = home_.clock().now()](const auto& entry) {
    const Job& job = entry.second;
    return !job.is_at_work && !job.is_given_up && job.not_before <= now;
  };
  const auto behind_last = jobs_.upper_bound(last_turn_);
  const auto next = std::find_if(behind_last, jobs_.end(), is_due);
  if (next != jobs_.end()) return next;
  const auto first = std::find_if(jobs_.begin(), behind_last, is_due);
  return first == behind_last ? jobs_.end() : first;
}

void Jobs::start_worker() {
  if (workers_count_ == most_workers_ || open_volumes_.stopping()) return;
  // One of them waits for what cannot go on yet.
  if (workers_count_ == 0 ? !has_work() : next_due() == jobs_.end()) return;
  ++workers_count_;
  scope_.spawn(work());
}

Task<void> Jobs::work() {
  co_await reschedule(home_);
  while (has_work() && !open_volumes_.stopping()) {
    const auto due = next_due();
    if (due == jobs_.end()) {
      if (idle_workers_count_ > 0) break;
      ++idle_workers_count_;
      co_await sleep_for(home_, limits::kJobRetryDelay);
      --idle_workers_count_;
      continue;
    }
    const MonotonicTime started = home_.clock().now();
    last_turn_ = due->first;
    const bool moved_on = co_await work_at(due->first);
    if (!moved_on) continue;
    changed_.notify_all();
    co_await sleep_for(home_, std::min<Duration>(home_.clock().now() - started, limits::kMaxJobPause));
  }
  --workers_count_;
  changed_.notify_all();
}

// One turn; false where it could not go on.
Task<bool> Jobs::work_at(JobId id) {
  Job& job = jobs_.at(id);
  job.noted_again = false;
  job.is_at_work = true;
  start_worker();
  const Result<JobOutcome> outcome = co_await turn(id, job.record);
  job.is_at_work = false;
  if (!outcome && is_passing(outcome.error().code)) {
    if (job.setbacks_count == 0)
      log::warning("reclaiming the space of what was removed has to wait: {}", outcome.error().what);
    set_back(job);
    co_return false;
  }
  if (!outcome) {
    log::warning("reclaiming the space of what was removed stopped until the next start: {}",
                 outcome.error().what);
    job.is_given_up = true;
    co_return true;
  }
  if (*outcome == JobOutcome::blocked) {
    set_back(job);
    co_return false;
  }
  job.setbacks_count = 0;
  if (*outcome != JobOutcome::done) co_return true;
  if (!job.noted_again) jobs_.erase(id);
  // Others may have waited for it.
  for (auto& [other_id, other] : jobs_) {
    other.not_before = {};
    other.setbacks_count = 0;
  }
  co_return true;
}

void Jobs::set_back(Job& job) {
  const uint32_t doublings = std::min<uint32_t>(job.setbacks_count++, 10);
  const Duration delay = Duration(limits::kJobRetryDelay) * (1 << doublings);
  job.not_before = home_.clock().now() + std::min<Duration>(delay, limits::kMaxJobRetryDelay);
}

Task<Result<JobOutcome>> Jobs::turn(JobId id, const JobRecord& job) {
  if (job.kind == JobKind::merge_layer) co_return co_await merge_turn(id);
  auto body = [&](kv::Transaction& transaction) { return reclaim_step(transaction, id, job); };
  auto finished = co_await records_.transact<bool>(body);
  if (!finished) co_return propagate(finished);
  co_return *finished ? JobOutcome::done : JobOutcome::more;
}

// Whether nothing is left of the layer.
Task<Result<bool>> Jobs::reclaim_step(kv::Transaction& transaction, JobId id, const JobRecord& job) {
  transaction.set_background();
  const std::string begin = keys_.layer_begin('B', job.layer);
  const std::string end = keys_.layer_end('B', job.layer);
  auto page =
      co_await transaction.get_range({begin, end}, {.rows_limit = kExtentsPerStep}, kv::Isolation::snapshot);
  if (!page) co_return propagate(page);
  if (page->rows.empty()) {
    const std::string blocks_begin = keys_.layer_begin('D', job.layer);
    const std::string blocks_end = keys_.layer_end('D', job.layer);
    transaction.clear_range({blocks_begin, blocks_end});
    transaction.clear(keys_.layer(job.layer));
    transaction.clear(keys_.job(id));
    co_return true;
  }
  const std::string layer_key = keys_.layer(job.layer);
  auto layer = co_await transaction.get(layer_key, kv::Isolation::snapshot);
  if (!layer) co_return propagate(layer);
  uint32_t stripes_count = 256;  // without its record: all that can be
  if (layer->has_value()) {
    if (const auto record = LayerRecord::decode(**layer)) stripes_count = record->striping.stripes_count;
  }
  const auto first_extent = keys_.extent_of_bitmap(page->rows.front().key);
  const auto last_extent = keys_.extent_of_bitmap(page->rows.back().key);
  if (!first_extent || !last_extent) co_return fail(Errc::corruption, "a presence bitmap's key is damaged");
  for (uint32_t stripe = 0; stripe < stripes_count; ++stripe) {
    const std::string from = keys_.stripe_block(job.layer, stripe, *first_extent * limits::kBlocksPerExtent);
    const std::string to =
        keys_.stripe_block(job.layer, stripe, (*last_extent + 1) * limits::kBlocksPerExtent);
    transaction.clear_range({from, to});
  }
  transaction.clear_range({begin, key_after(page->rows.back().key)});
  co_return false;
}

Task<Result<JobOutcome>> Jobs::merge_turn(JobId id) {
  Job& job = jobs_.at(id);
  const LayerId layer = job.record.layer;
  auto body = [&](kv::Transaction& transaction) {
    return merge_in(transaction, records_, layer, job.next_extent);
  };
  auto step = co_await records_.transact<MergeStep>(body);
  if (!step) co_return propagate(step);
  if (step->owner) co_return co_await merge_as_owner(*step->owner, layer, step->child, job.next_extent);
  job.next_extent = step->next_extent;
  if (step->follow_up) job.record = *step->follow_up;
  if (step->stands_alone) open_volumes_.forget_parents(*step->stands_alone, step->child);
  if (step->follow_up) co_await take_up();  // what is below has lost a child, which may make it a job
  co_return step->outcome;
}

// The child is the top layer of a volume that is open, so clients may write it: the volume does it itself.
Task<Result<JobOutcome>> Jobs::merge_as_owner(VolumeId id, LayerId layer, LayerId child,
                                              uint64_t& next_extent) {
  ASSIGN_OR_CO_RETURN(std::string name, co_await records_.name_of(id));
  auto held = co_await open_volumes_.hold_for_job(id, std::move(name));
  if (!held) co_return JobOutcome::blocked;  // open on another server, which does it, or going away
  co_await go_to(held->executor());
  Result<bool> moved = false;
  for (uint32_t i = 0; i < limits::kMergeStepsPerTurn; ++i) {
    const MonotonicTime started = held->executor().clock().now();
    moved = co_await held->volume().merge_parent(layer, child, next_extent);
    if (!moved || !*moved || held->opened()->is_wanted.load(std::memory_order_relaxed)) break;
    const Duration took = held->executor().clock().now() - started;
    co_await sleep_for(held->executor(), std::min<Duration>(took, limits::kMaxJobPause));
  }
  co_await go_to(home_);
  if (!moved && (moved.error().code == Errc::fenced || moved.error().code == Errc::cancelled))
    co_return JobOutcome::blocked;
  if (!moved) co_return propagate(moved);
  if (!*moved) next_extent = 0;
  co_return JobOutcome::more;
}

Task<void> Jobs::wait() {
  while (workers_count_ > 0 && has_work()) co_await changed_.wait();
}

}  // namespace fdbnbd::volume
