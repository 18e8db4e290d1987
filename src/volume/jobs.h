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

// Background work, in steps of limited size, one job after the other in turns. It goes on after a restart:
// what is left of a layer's bitmaps is what is left to do. On the home executor's thread.
class Jobs {
 public:
  // All outlive it.
  Jobs(RecordReader& records, OpenVolumes& open_volumes)
      : records_(records), home_(records.executor()), keys_(records.keys()), open_volumes_(open_volumes) {}

  // Takes up all jobs in the store that are not known yet.
  Task<Result<void>> resume();
  // The same behind a change that has been made: a failure is logged.
  Task<void> take_up();

  // Resolves when all jobs that are known are done.
  Task<void> wait();
  // Once the open volumes are stopping: resolves when nothing is at work.
  Task<void> join() { co_await scope_.join(); }

 private:
  struct Job {
    JobRecord record;
    uint64_t next_extent = 0;  // of a merge: what is before is done
    MonotonicTime not_before{};
    bool noted_again = false;  // while it was at work
  };

  void note(JobId id, JobRecord job);
  Task<void> run();
  Task<Result<JobOutcome>> turn(JobId id, const JobRecord& job);
  Task<Result<bool>> reclaim_step(kv::Transaction& transaction, JobId id, const JobRecord& job);
  Task<Result<JobOutcome>> merge_turn(JobId id);
  Task<Result<JobOutcome>> merge_as_owner(VolumeId id, LayerId layer, LayerId child, uint64_t& next_extent);

  RecordReader& records_;
  Executor& home_;
  const KeySpace& keys_;
  OpenVolumes& open_volumes_;
  std::map<JobId, Job> jobs_;
  bool is_running_ = false;
  Event changed_;
  TaskScope scope_;
};

}  // namespace fdbnbd::volume
