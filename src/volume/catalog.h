#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "async/event.h"
#include "async/scope.h"
#include "base/random.h"
#include "kv/engine.h"
#include "kv/retry.h"
#include "volume/fence.h"
#include "volume/keys.h"
#include "volume/records.h"
#include "volume/snapshot_disk.h"
#include "volume/store.h"
#include "volume/volume.h"

namespace fdbnbd::volume {

// The Store: records in the engine, and the volumes that are open in this process. All data is the home
// executor's thread's.
class Catalog final : public Store {
 public:
  Catalog(kv::Engine& engine, Executor& home, Options options);
  ~Catalog() override;

  // Reads or writes the store's header and takes up the jobs that were under way.
  Task<Result<void>> start();

  void stop_opening() override { stopping_ = true; }
  Task<void> close() override;
  Task<Result<VolumeInfo>> create(std::string name, CreateOptions options) override;
  Task<Result<std::vector<VolumeInfo>>> list_volumes() override;
  Task<Result<VolumeInfo>> info(std::string name) override;
  Task<Result<VolumeInfo>> resize(std::string name, uint64_t size_bytes, bool allow_shrink) override;
  Task<Result<void>> remove(std::string name, bool with_snapshots) override;
  Task<Result<void>> rename(std::string name, std::string new_name) override;
  Task<Result<void>> snapshot(std::vector<std::string> names) override;
  Task<Result<VolumeInfo>> rollback(std::string snapshot_name) override;
  Task<Result<VolumeInfo>> clone(std::string snapshot_name, std::string new_name) override;
  Task<Result<VolumeInfo>> flatten(std::string name, Progress* progress) override;
  Task<Result<VolumeInfo>> copy(std::string source, std::string new_name, Progress* progress) override;
  Task<Result<VolumeUsage>> usage(std::string name, Progress* progress) override;
  Task<Result<CheckReport>> check(std::optional<std::string> name, Progress* progress) override;
  Task<Result<std::vector<LockInfo>>> list_locks() override;
  Task<Result<std::string>> break_lock(std::string name) override;
  Task<Result<uint32_t>> take_over_held() override;
  Task<void> wait_for_reclaim() override;

  Task<Result<std::vector<block::ExportListing>>> list(Executor& executor) override;
  Task<Result<std::shared_ptr<block::Export>>> open(Executor& executor, std::string name) override;
  Task<Result<block::ExportInfo>> describe(Executor& executor, std::string name) override;

 private:
  // A volume that is open here, or about to be. Owned by open_ and by those who hold it: one that was lost to
  // another server leaves open_ and stays until they let it go.
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

  // A snapshot that is open here, or about to be.
  struct OpenSnapshot {
    std::unique_ptr<SnapshotDisk> disk;  // null while it is being opened
    uint32_t sessions_count = 0;
  };

  // The records of one volume.
  struct Records {
    VolumeRecord volume;
    FenceRecord fence;
  };

  // Keeps a volume open for a verb: gives it back when it ends.
  class Hold {
   public:
    // `opened` counts the holder already.
    Hold(Catalog& catalog, std::shared_ptr<OpenVolume> opened)
        : catalog_(&catalog), opened_(std::move(opened)) {}
    Hold(Hold&& other) noexcept = default;
    Hold& operator=(Hold&&) = delete;
    // Whoever wants the volume for itself waits for the job.
    void mark_as_job() {
      is_job_ = true;
      ++opened_->jobs_count;
    }
    ~Hold() {
      if (!opened_) return;
      if (is_job_) --opened_->jobs_count;
      catalog_->release(std::move(opened_), false);
    }
    Volume& volume() const { return *opened_->volume; }
    Executor& executor() const { return *opened_->executor; }
    const std::shared_ptr<OpenVolume>& opened() const { return opened_; }

   private:
    Catalog* catalog_;
    std::shared_ptr<OpenVolume> opened_;
    bool is_job_ = false;
  };

  // Nobody has the volume open here, nor can while this lives.
  class Reservation {
   public:
    Reservation(Catalog& catalog, VolumeId id)
        : catalog_(&catalog), reserved_(std::make_shared<OpenVolume>()) {
      reserved_->id = id;
      reserved_->closing = true;
      catalog.open_[id] = reserved_;
    }
    Reservation(Reservation&& other) noexcept = default;
    Reservation& operator=(Reservation&&) = delete;
    ~Reservation() {
      if (reserved_) catalog_->forget(*reserved_);
    }

   private:
    Catalog* catalog_;
    std::shared_ptr<OpenVolume> reserved_;
  };

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

  // catalog_open.cc
  Task<Result<Hold>> hold(std::string name);
  Task<Result<Hold>> hold_id(VolumeId id, std::string name);
  Task<Result<std::unique_ptr<Volume>>> open_volume(Executor& executor, std::string name,
                                                    VolumeRecord record);
  // The volume as it is open here, if it is.
  std::shared_ptr<OpenVolume> find_open(VolumeId id) const;
  void forget(const OpenVolume& opened);
  void release(std::shared_ptr<OpenVolume> opened, bool session);
  Task<void> close_when_unused(std::shared_ptr<OpenVolume> opened);
  Task<void> go_to(Executor& executor);
  // busy where sessions or verbs use it.
  Task<Result<Reservation>> reserve(VolumeId id, std::string name);

  // catalog_locks.cc
  LeasePlace place_of(VolumeId id) { return {engine_, home_, keys_, id, owner_, stopping_}; }
  Task<Result<std::optional<LockInfo>>> describe_lock(std::string name, VolumeId id);
  Task<Result<void>> break_lock_in(kv::Transaction& transaction, VolumeId id,
                                   std::optional<uint64_t>& broken_epoch);
  Task<void> take_over_one(std::string name, VolumeId id, uint32_t& taken_count);
  // Before a change to a volume that is not open here: the tenure in which nobody else is at work on it.
  Task<Result<std::optional<FenceRecord>>> claim(VolumeId id, std::string name);

  // catalog.cc
  Task<Result<std::string>> resolve(std::string name);
  Task<Result<VolumeId>> find(kv::Transaction& transaction, const std::string& name);
  Task<Result<VolumeId>> find(const std::string& name);
  Task<Result<Records>> load(kv::Transaction& transaction, VolumeId id, const std::string& name);
  Task<Result<Records>> load(VolumeId id, const std::string& name);
  Task<Result<VolumeInfo>> describe_volume(std::string name, const Records& records,
                                           std::vector<SnapshotInfo> snapshots);
  // Of what is seen through `top`, which nobody has open here.
  Task<Result<uint64_t>> count_data_blocks(LayerId top, const VolumeRecord& volume);
  Task<Result<std::vector<kv::KeyValue>>> read_all(std::string begin, std::string end);
  uint64_t new_id();

  Task<Result<void>> create_in(kv::Transaction& transaction, const std::string& name,
                               const VolumeRecord& record, LayerId layer);
  Task<Result<void>> remove_volume(std::string name, bool with_snapshots);
  Task<Result<void>> remove_in(kv::Transaction& transaction, const std::string& name, bool with_snapshots,
                               std::optional<VolumeId>& id, const std::optional<FenceRecord>& claimed);
  Task<Result<void>> rename_in(kv::Transaction& transaction, const std::string& name,
                               const std::string& new_name, std::optional<VolumeId>& id);
  Task<Result<void>> check_header();
  Task<Result<void>> check_header_in(kv::Transaction& transaction, const StoreHeader& ours);

  // catalog_snapshots.cc
  using Values = std::vector<std::optional<std::string>>;
  // Reads many keys at once, serializably.
  Task<Result<Values>> read_points(kv::Transaction& transaction, const std::vector<std::string>& keys);
  struct SnapshotRow {
    std::string name;
    SnapshotRecord record;
  };
  // In the order in which they were taken.
  Task<Result<std::vector<SnapshotRow>>> read_snapshots(kv::Transaction& transaction, VolumeId id,
                                                        const std::string& name);
  Task<Result<std::map<VolumeId, std::vector<SnapshotInfo>>>> read_all_snapshots();
  struct FoundSnapshot {
    VolumeId volume;
    SnapshotRecord record;
  };
  Task<Result<FoundSnapshot>> find_snapshot(kv::Transaction& transaction, const SnapshotName& name);
  Task<Result<FoundSnapshot>> find_snapshot(const SnapshotName& name);
  struct SnapshotPlan {
    SnapshotName name;
    LayerId new_top;
  };
  Task<Result<void>> snapshot_in(kv::Transaction& transaction, const std::vector<SnapshotPlan>& plans,
                                 WallTime created);
  Task<Result<void>> clone_in(kv::Transaction& transaction, const SnapshotName& snapshot,
                              const std::string& new_name, VolumeId id, LayerId top, WallTime created);
  Task<Result<void>> rollback_in(kv::Transaction& transaction, const SnapshotName& snapshot, LayerId new_top,
                                 const std::optional<FenceRecord>& claimed);
  Task<Result<void>> remove_snapshot(SnapshotName name);
  Task<Result<void>> remove_snapshot_in(kv::Transaction& transaction, const SnapshotName& name,
                                        std::optional<LayerId>& layer);
  Task<Result<void>> drop_snapshots_in(kv::Transaction& transaction,
                                       const std::vector<SnapshotRow>& snapshots, VolumeId id);
  // Puts a new layer on top of `parent`; 0: on nothing.
  void add_layer(kv::Transaction& transaction, LayerId layer, LayerId parent, const VolumeRecord& volume);
  // Gives a volume's top layer up: it is cleared in the background. What is below loses a child.
  Task<Result<void>> drop_top(kv::Transaction& transaction, LayerId top);
  Task<Result<VolumeInfo>> describe_snapshot(SnapshotName name);
  Task<Result<std::shared_ptr<block::Export>>> open_snapshot(SnapshotName name);
  void release_snapshot(LayerId layer);

  // jobs.cc
  // Takes up all jobs in the store that are not known yet.
  Task<Result<void>> resume_jobs();
  // The same behind a change that has been made: a failure is logged.
  Task<void> take_up_jobs();
  void note_job(JobId id, JobRecord job);
  Task<void> run_jobs();
  enum class JobOutcome : uint8_t { more, blocked, done };
  Task<Result<JobOutcome>> job_turn(JobId id, const JobRecord& job);
  Task<Result<bool>> reclaim_step(kv::Transaction& transaction, JobId id, const JobRecord& job);

  // catalog_flatten.cc
  Task<Result<void>> cut_loose_in(kv::Transaction& transaction, VolumeId id, LayerId top);
  Task<Result<VolumeInfo>> copy_snapshot(std::string snapshot_name, std::string new_name, Progress* progress);

  // catalog_merge.cc
  struct MergeStep {
    JobOutcome outcome = JobOutcome::done;
    uint64_t next_extent = 0;
    std::optional<JobRecord> follow_up;  // what the job is now
    LayerId child;
    std::optional<VolumeId> owner;         // has to do it itself: the child is its top layer, and it is open
    std::optional<VolumeId> stands_alone;  // the child, which was made for this one, has no parent any more
  };
  Task<Result<JobOutcome>> merge_turn(JobId id);
  Task<Result<MergeStep>> merge_in(kv::Transaction& transaction, LayerId layer, uint64_t next_extent);
  Task<Result<MergeStep>> merge_extent_in(kv::Transaction& transaction, LayerId layer,
                                          const LayerRecord& record, const kv::KeyValue& bitmap,
                                          MergeStep step);
  void finish_merge_in(kv::Transaction& transaction, LayerId layer, const LayerRecord& record, LayerId child,
                       LayerRecord child_record);
  Task<Result<JobOutcome>> merge_as_owner(VolumeId id, LayerId layer, LayerId child, uint64_t& next_extent);
  Task<Result<std::string>> name_of(VolumeId id);
  void forget_parents(VolumeId id, LayerId top);
  Task<Result<std::optional<LayerRecord>>> read_layer(kv::Transaction& transaction, LayerId layer);
  Task<Result<std::vector<LayerId>>> read_children(kv::Transaction& transaction, LayerId layer);

  // catalog_check.cc
  Task<Result<void>> check_volume(const std::string& name, CheckReport& report, Progress* progress);
  // The layers that nobody writes.
  Task<Result<void>> check_layers_of(const std::string& name, CheckReport& report, Progress* progress);
  using Layers = std::map<LayerId, std::string>;  // with the names of those that they are for
  Task<Result<Layers>> find_layers(kv::Transaction& transaction, const std::string& name);
  Task<Result<void>> check_all_layers(CheckReport& report, Progress* progress);
  Task<Result<void>> check_frozen(const Layers& layers, CheckReport& report, Progress* progress);

  // catalog_graph.cc
  // The rows of the records about volumes, by their type.
  using Graph = std::map<char, std::vector<kv::KeyValue>>;
  Task<Result<Graph>> read_graph(kv::Transaction& transaction);
  Task<Result<void>> check_graph(CheckReport& report);

  // Runs an idempotent transaction, or one that only reads, until it is decided.
  template <typename T, typename Body>
  Task<Result<T>> transact(Body& body) {
    while (true) {
      Result<T> result = co_await kv::transact<T>(engine_, home_, random_, body);
      if (result || result.error().code != Errc::unknown_result) co_return result;
    }
  }

  kv::Engine& engine_;
  Executor& home_;
  const Options options_;
  const KeySpace keys_;
  Random random_;
  InstanceId owner_{};
  std::map<VolumeId, std::shared_ptr<OpenVolume>> open_;
  size_t volumes_count_ = 0;      // open here, those that have left open_ too
  std::vector<Hold> taken_over_;  // kept until their clients come
  class GraceTimer final : public TimerWork {
   public:
    explicit GraceTimer(Catalog& catalog) : catalog_(catalog) {}
    void run() noexcept override { catalog_.taken_over_.clear(); }

   private:
    Catalog& catalog_;
  };
  GraceTimer grace_timer_{*this};
  std::map<LayerId, OpenSnapshot> open_snapshots_;
  Event open_changed_;  // a volume or snapshot was opened, closed or failed to open
  size_t next_executor_ = 0;
  // Those that were taken as the options say. Once lost again they are waited for: two servers that both take
  // would take from each other for ever.
  std::set<VolumeId> taken_once_;
  std::atomic<bool> stopping_ = false;  // written on the thread of home
  struct Job {
    JobRecord record;
    uint64_t next_extent = 0;  // of a merge: what is before is done
    MonotonicTime not_before{};
    bool noted_again = false;  // while it was at work
  };
  std::map<JobId, Job> jobs_;
  bool jobs_run_ = false;
  Event jobs_changed_;
  TaskScope scope_;
};

}  // namespace fdbnbd::volume
