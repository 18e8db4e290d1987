#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "async/event.h"
#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/result.h"
#include "volume/keys.h"
#include "volume/lease.h"
#include "volume/record_reader.h"
#include "volume/records.h"
#include "volume/store.h"
#include "volume/volume.h"

namespace fdbnbd::volume {

// Continues on the executor's thread.
Task<void> go_to(Executor& executor);

// A volume that is open here, or about to be. Owned by OpenVolumes and by those who hold it: one that was
// lost to another server leaves OpenVolumes and stays until they let it go.
struct OpenVolume {
  VolumeId id;
  std::unique_ptr<Volume> volume;  // null while it is being opened
  Executor* executor = nullptr;
  bool closing = false;
  uint32_t holders_count = 0;          // sessions and verbs at work on it
  uint32_t sessions_count = 0;         // of these: sessions
  uint32_t jobs_count = 0;             // of these: background jobs
  std::atomic<bool> is_wanted{false};  // jobs let go soon
};

// The volumes that are open in this process, for whom, and when they are let go. On the home executor's
// thread.
class OpenVolumes {
 public:
  // Keeps a volume open for a verb: gives it back when it ends.
  class Hold {
   public:
    // `opened` counts the holder already, as a job where it is one.
    Hold(OpenVolumes& volumes, std::shared_ptr<OpenVolume> opened, bool is_job)
        : volumes_(&volumes), opened_(std::move(opened)), is_job_(is_job) {}
    Hold(Hold&& other) noexcept = default;
    Hold& operator=(Hold&&) = delete;
    ~Hold() {
      if (!opened_) return;
      if (is_job_) --opened_->jobs_count;
      volumes_->release(std::move(opened_), false);
    }
    Volume& volume() const { return *opened_->volume; }
    Executor& executor() const { return *opened_->executor; }
    const std::shared_ptr<OpenVolume>& opened() const { return opened_; }

   private:
    OpenVolumes* volumes_;
    std::shared_ptr<OpenVolume> opened_;
    bool is_job_;
  };

  // Nobody has the volume open here, nor can while this lives.
  class Reservation {
   public:
    Reservation(OpenVolumes& volumes, VolumeId id)
        : volumes_(&volumes), reserved_(std::make_shared<OpenVolume>()) {
      reserved_->id = id;
      reserved_->closing = true;
      volumes.open_[id] = reserved_;
    }
    Reservation(Reservation&& other) noexcept = default;
    Reservation& operator=(Reservation&&) = delete;
    ~Reservation() {
      if (reserved_) volumes_->forget(*reserved_);
    }

   private:
    OpenVolumes* volumes_;
    std::shared_ptr<OpenVolume> reserved_;
  };

  // `records` and what `executors` points to outlive it; volumes are dealt out to `executors`, which is not
  // empty. `owner` is this process.
  OpenVolumes(RecordReader& records, std::vector<Executor*> executors, Ownership ownership, InstanceId owner);

  // No volume is opened any more, nor waited for: cancelled.
  void stop() { stopping_ = true; }
  bool stopping() const { return stopping_; }
  // Stops, and resolves when everybody has let go.
  Task<void> close();

  // Opens the volume if need be. `name` is for messages. busy where another server holds it.
  Task<Result<Hold>> hold(VolumeId id, std::string name) {
    return hold_with(id, std::move(name), ownership_.takeover, false);
  }
  // The same, but never takes it from a server that is alive, however this process comes by its volumes.
  Task<Result<Hold>> hold_if_free(VolumeId id, std::string name) {
    return hold_with(id, std::move(name), Takeover::when_free, false);
  }
  // As hold_if_free, for background work: whoever wants the volume for itself waits for that, also while the
  // volume is being opened, and the work looks at is_wanted.
  Task<Result<Hold>> hold_for_job(VolumeId id, std::string name) {
    return hold_with(id, std::move(name), Takeover::when_free, true);
  }
  // busy where verbs use it, or sessions. With `disconnect` sessions do not count: what they have begun is
  // finished, then they end at their next request, so that clients who connect anew get the volume when the
  // reservation is gone.
  Task<Result<Reservation>> reserve(VolumeId id, std::string name, bool disconnect = false);
  // Before a change to a volume that is reserved here: that nobody else serves it, for check_vacancy() in the
  // change's transaction. busy where another server holds it; nothing in a store that only this process has.
  Task<Result<std::optional<Vacancy>>> claim(VolumeId id, std::string name);
  // An export of what is held; it ends the session when it goes, on any thread.
  std::shared_ptr<block::Export> make_session(const Hold& held);

  // The volume as it is open here, if it is.
  std::shared_ptr<OpenVolume> find(VolumeId id) const;
  // A snapshot of the volume has been taken: its writes need not find out by a conflict.
  void note_snapshot(VolumeId id);
  // The top layer of the volume stands alone now.
  void forget_parents(VolumeId id, LayerId top);

  const InstanceId& owner() const { return owner_; }
  LeasePlace place_of(VolumeId id) { return {engine_, home_, keys_, id, owner_, stopping_}; }
  // The one for the next disk that is opened.
  Executor& next_executor() { return *executors_[next_executor_++ % executors_.size()]; }

 private:
  Task<Result<Hold>> hold_with(VolumeId id, std::string name, Takeover takeover, bool is_job);
  Task<Result<std::unique_ptr<Volume>>> open(Executor& executor, std::string name, VolumeRecord record,
                                             Takeover takeover);
  Task<void> take_from_sessions(Hold held);
  void forget(const OpenVolume& opened);
  void release(std::shared_ptr<OpenVolume> opened, bool session);
  Task<void> close_when_unused(std::shared_ptr<OpenVolume> opened);

  RecordReader& records_;
  kv::Engine& engine_;
  Executor& home_;
  const KeySpace& keys_;
  const std::vector<Executor*> executors_;
  const Ownership ownership_;
  const InstanceId owner_;
  std::atomic<bool> stopping_ = false;  // written on the thread of home
  std::map<VolumeId, std::shared_ptr<OpenVolume>> open_;
  size_t volumes_count_ = 0;  // open here, those that have left open_ too
  Event changed_;             // a volume was opened, closed or failed to open
  size_t next_executor_ = 0;
  // Those that were taken as the options say. Once lost again they are waited for: two servers that both take
  // would take from each other for ever.
  std::set<VolumeId> taken_once_;
  TaskScope scope_;
};

}  // namespace fdbnbd::volume
