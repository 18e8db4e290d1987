#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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

  Task<void> close() override;
  Task<Result<VolumeInfo>> create(std::string name, CreateOptions options) override;
  Task<Result<std::vector<VolumeInfo>>> list_volumes() override;
  Task<Result<VolumeInfo>> info(std::string name) override;
  Task<Result<VolumeInfo>> resize(std::string name, uint64_t size_bytes, bool allow_shrink) override;
  Task<Result<void>> remove(std::string name) override;
  Task<Result<void>> rename(std::string name, std::string new_name) override;
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
    uint32_t holders_count = 0;   // sessions and verbs at work on it
    uint32_t sessions_count = 0;  // of these: sessions
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
    ~Hold() {
      if (opened_) catalog_->release(std::move(opened_), false);
    }
    Volume& volume() const { return *opened_->volume; }
    Executor& executor() const { return *opened_->executor; }
    const std::shared_ptr<OpenVolume>& opened() const { return opened_; }

   private:
    Catalog* catalog_;
    std::shared_ptr<OpenVolume> opened_;
  };

  class ProgressRelay;

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

  // catalog_locks.cc
  LeasePlace place_of(VolumeId id) { return {engine_, home_, keys_, id, owner_}; }
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
  Task<Result<VolumeInfo>> describe_volume(std::string name, const Records& records);
  Task<Result<uint64_t>> count_data_blocks(const Records& records);
  Task<Result<std::vector<kv::KeyValue>>> read_all(std::string begin, std::string end);
  uint64_t new_id();

  Task<Result<void>> create_in(kv::Transaction& transaction, const std::string& name,
                               const VolumeRecord& record, LayerId layer);
  Task<Result<void>> remove_in(kv::Transaction& transaction, const std::string& name,
                               std::optional<VolumeId>& id, const std::optional<FenceRecord>& claimed,
                               JobId job, LayerId& layer);
  Task<Result<void>> rename_in(kv::Transaction& transaction, const std::string& name,
                               const std::string& new_name, std::optional<VolumeId>& id);
  Task<Result<void>> check_header();
  Task<Result<void>> check_header_in(kv::Transaction& transaction, const StoreHeader& ours);

  // reclaim.cc
  Task<Result<void>> resume_jobs();
  Task<void> reclaim(JobId id, JobRecord job);
  Task<Result<bool>> reclaim_step(kv::Transaction& transaction, JobId id, const JobRecord& job);

  // catalog_check.cc
  Task<Result<void>> check_volume(const std::string& name, CheckReport& report, Progress* progress);
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
  Event open_changed_;  // a volume was opened, closed or failed to open
  size_t next_executor_ = 0;
  bool stopping_ = false;
  size_t jobs_count_ = 0;
  Event jobs_changed_;
  TaskScope scope_;
};

}  // namespace fdbnbd::volume
