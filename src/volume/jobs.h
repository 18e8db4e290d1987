#pragma once

#include <cstdint>
#include <map>

#include "async/event.h"
#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/clock.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/layer_merge.h"
#include "volume/open_volumes.h"
#include "volume/record_reader.h"
#include "volume/records.h"

namespace fdbnbd::volume {

// Background work, in steps of limited size: jobs have turns one after the other, in a store that several
// servers share limits::kJobsAtOnceInSharedStore of them at a time. It goes on after a restart:
// what is left of a layer's bitmaps is what is left to do. Where the store refuses a step it is tried again
// later, less and less often; what is damaged is left until the next start. Several servers may be at one
// job: each step is one transaction that proves all that it relies on. On the home executor's thread.
class Jobs final : private TimerWork {
 public:
  // All outlive it. `first_turn` is drawn at random, so that several servers do not begin with the same job.
  Jobs(RecordReader& records, OpenVolumes& open_volumes, uint64_t first_turn);

  // Where several servers share the store: every limits::kJobScanInterval takes up what others have left.
  void start_scanning();

  // Takes up all jobs in the store that are not known yet.
  Task<Result<void>> resume();
  // The same behind a change that has been made: a failure is logged.
  Task<void> take_up();

  // Resolves when all jobs that are known are done, or left until the next start.
  Task<void> wait();
  // Once the open volumes are stopping: resolves when nothing is at work.
  Task<void> join();

 private:
  struct Job {
    JobRecord record;
    uint64_t next_extent = 0;  // of a merge: what is before is done
    MonotonicTime not_before{};
    bool is_at_work = false;
    bool noted_again = false;     // meanwhile
    uint32_t setbacks_count = 0;  // turns in a row that could not go on
    bool is_given_up = false;     // until the next start
  };

  void run() noexcept override;
  Task<void> scan();
  void note(JobId id, JobRecord job);
  bool has_work() const;
  // The next one in turn that can go on; end() where all wait.
  std::map<JobId, Job>::iterator next_due();
  // One more, where there is something for it to do.
  void start_worker();
  Task<void> work();
  Task<bool> work_at(JobId id);
  void set_back(Job& job);
  Task<Result<JobOutcome>> turn(JobId id, const JobRecord& job);
  Task<Result<bool>> reclaim_step(kv::Transaction& transaction, JobId id, const JobRecord& job);
  Task<Result<JobOutcome>> merge_turn(JobId id);
  Task<Result<JobOutcome>> merge_as_owner(VolumeId id, LayerId layer, LayerId child, uint64_t& next_extent);

  RecordReader& records_;
  Executor& home_;
  const KeySpace& keys_;
  OpenVolumes& open_volumes_;
  std::map<JobId, Job> jobs_;
  JobId last_turn_;
  const uint32_t most_workers_;
  uint32_t workers_count_ = 0;
  uint32_t idle_workers_count_ = 0;  // of these: wait until a job can go on
  bool is_scanning_ = false;
  Event changed_;
  TaskScope scope_;
};

}  // namespace fdbnbd::volume
