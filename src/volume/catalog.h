#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/random.h"
#include "kv/engine.h"
#include "volume/check_progress.h"
#include "volume/diff_import.h"
#include "volume/groups.h"
#include "volume/jobs.h"
#include "volume/keys.h"
#include "volume/layer_check.h"
#include "volume/open_snapshots.h"
#include "volume/open_volumes.h"
#include "volume/record_reader.h"
#include "volume/records.h"
#include "volume/snapshot_edits.h"
#include "volume/store.h"
#include "volume/trash.h"

namespace fdbnbd::volume {

// The Store: the verbs, over the records (RecordReader), the disks that are open in this process
// (OpenVolumes, OpenSnapshots), background work (Jobs), the trash (Trash) and
// groups (Groups). All data is the home executor's
// thread's.
class Catalog final : public Store {
 public:
  Catalog(kv::Engine& engine, Executor& home, Options options);
  ~Catalog() override;

  // Reads or writes the store's header and takes up the jobs that were under way.
  Task<Result<void>> start();

  void stop_opening() override { open_volumes_.stop(); }
  Task<void> close() override;
  Task<Result<VolumeInfo>> create(std::string name, CreateOptions options) override;
  Task<Result<std::vector<VolumeInfo>>> list_volumes() override;
  Task<Result<VolumeInfo>> info(std::string name) override;
  Task<Result<VolumeInfo>> resize(std::string name, uint64_t size_bytes, bool allow_shrink) override;
  void set_trash_retention(Duration retention) override { trash_.set_retention(retention); }
  Task<Result<std::optional<TrashEntry>>> remove(std::string name, RemoveOptions options) override;
  Task<Result<std::vector<TrashEntry>>> list_trash() override { return trash_.list(); }
  Task<Result<VolumeInfo>> restore(std::string name_or_id, std::string new_name) override;
  Task<Result<void>> purge(std::optional<std::string> name_or_id) override;
  Task<Result<VolumeInfo>> change_labels(std::string name, LabelChange change) override;
  Task<Result<VolumeInfo>> set_quota(std::string name, uint64_t quota_bytes) override;
  Task<Result<void>> rename(std::string name, std::string new_name) override;
  Task<Result<void>> snapshot(std::vector<std::string> names, std::optional<WallTime> created) override;
  Task<Result<VolumeInfo>> rollback(std::string snapshot_name, bool disconnect) override;
  Task<Result<VolumeInfo>> clone(std::string snapshot_name, std::string new_name) override;
  Task<Result<VolumeInfo>> flatten(std::string name, Progress* progress) override;
  Task<Result<VolumeInfo>> copy(std::string source, std::string new_name, Progress* progress) override;
  Task<Result<void>> create_group(std::string name, std::vector<std::string> volumes) override {
    return groups_.create(std::move(name), std::move(volumes));
  }
  Task<Result<void>> remove_group(std::string name) override { return groups_.remove(std::move(name)); }
  Task<Result<void>> change_group(std::string name, GroupChange change) override {
    return groups_.change(std::move(name), std::move(change));
  }
  Task<Result<std::vector<GroupInfo>>> list_groups() override { return groups_.list(); }
  Task<Result<void>> snapshot_group(std::string name) override { return groups_.snapshot(std::move(name)); }
  Task<Result<void>> rollback_group(std::string name) override { return groups_.rollback(std::move(name)); }
  Task<Result<DiffPage>> diff(std::string name, std::optional<std::string> from, uint64_t begin_bytes,
                              Progress* progress) override;
  Task<Result<VolumeInfo>> begin_import(DiffImport import) override;
  Task<Result<VolumeInfo>> finish_import(DiffImport import) override;
  Task<Result<VolumeUsage>> usage(std::string name, Progress* progress) override;
  Task<Result<CheckReport>> check(std::optional<std::string> name, Progress* progress) override;
  Task<Result<CheckReport>> repair(Progress* progress) override;
  Task<Result<std::vector<LockInfo>>> list_locks() override;
  Task<Result<std::string>> break_lock(std::string name) override;
  Task<Result<uint32_t>> take_over_held() override;
  Task<void> wait_for_reclaim() override { return jobs_.wait(); }

  Task<Result<std::vector<block::ExportListing>>> list(Executor& executor) override;
  Task<Result<std::shared_ptr<block::Export>>> open(Executor& executor, std::string name) override;
  Task<Result<block::ExportInfo>> describe(Executor& executor, std::string name) override;

 private:
  // catalog_locks.cc
  Task<Result<void>> break_lock_in(kv::Transaction& transaction, VolumeId id, const FenceRecord& seen);
  Task<void> take_over_one(std::string name, VolumeId id, uint32_t& taken_count);

  // catalog.cc
  // Keeps the volume open while it is worked on.
  Task<Result<OpenVolumes::Hold>> hold(std::string name);
  Task<Result<std::string>> resolve(std::string name);
  Task<Result<VolumeInfo>> describe_volume(std::string name, const VolumeRecords& records,
                                           std::vector<SnapshotInfo> snapshots);
  uint64_t new_id();

  Task<Result<void>> create_in(kv::Transaction& transaction, const std::string& name,
                               const VolumeRecord& record, LayerId layer);
  Task<Result<VolumeId>> rename_in(kv::Transaction& transaction, const std::string& name,
                                   const std::string& new_name);
  Task<Result<void>> check_header();
  Task<Result<void>> check_header_in(kv::Transaction& transaction, const StoreHeader& ours);

  // catalog_open.cc
  Task<Result<void>> list_snapshots(VolumeId id, SnapshotName but, std::vector<std::string>& names);

  // catalog_snapshots.cc
  Task<Result<std::vector<SnapshotPlan>>> identify(kv::Transaction& transaction,
                                                   std::vector<SnapshotPlan> plans, RowConflicts conflicts);
  Task<Result<std::vector<SnapshotPlan>>> snapshot_in(kv::Transaction& transaction,
                                                      std::vector<SnapshotPlan> plans, WallTime created);
  Task<Result<std::vector<SnapshotPlan>>> snapshot_guessed(kv::Transaction& transaction,
                                                           std::vector<SnapshotPlan> plans, WallTime created);
  ClonePlan plan_clone(std::string name);
  Task<Result<void>> clone_in(kv::Transaction& transaction, const SnapshotName& snapshot,
                              const ClonePlan& plan);
  Task<Result<void>> remove_snapshot(SnapshotName name);
  Task<Result<void>> remove_snapshot_in(kv::Transaction& transaction, const SnapshotName& name);
  Task<Result<VolumeInfo>> describe_snapshot(SnapshotName name);

  // catalog_backup.cc
  Task<Result<VolumeInfo>> prepare_partial(DiffImport import, VolumeInfo partial, uint64_t quota_bytes);
  // Of a volume that is reserved here.
  Task<Result<QuietVolume>> make_quiet(VolumeId id, std::string name);

  // catalog_flatten.cc
  Task<Result<bool>> cut_loose_in(kv::Transaction& transaction, VolumeId id, LayerId top);
  // A clone of a volume as it is.
  Task<Result<VolumeInfo>> clone_as_it_is(std::string source, std::string new_name);

  // catalog_check.cc
  using Layers = std::map<LayerId, std::string>;   // with the names of those that they are for
  using LayerSizes = std::map<LayerId, uint64_t>;  // bytes of their blocks
  // Nothing where the layer is gone or going, or its record is damaged.
  Task<Result<std::optional<LayerScan>>> scan_of(LayerId layer);
  // Tells the progress to expect them all.
  Task<Result<LayerSizes>> measure(std::vector<LayerId> layers, CheckProgress& progress);
  Task<Result<std::vector<LayerId>>> layers_of(const std::string& name);
  Task<Result<OpenVolumes::Hold>> hold_for_check(const std::string& name, LayerId& top);
  Task<Result<void>> check_volume(const std::string& name, LayerSizes& sizes, CheckReport& report,
                                  CheckProgress& progress);
  // The layers that nobody writes.
  Task<Result<void>> check_layers_of(const std::string& name, LayerSizes& sizes, CheckReport& report,
                                     CheckProgress& progress);
  Task<Result<Layers>> find_layers(kv::Transaction& transaction, const std::string& name);
  Task<Result<void>> check_all_layers(LayerSizes& sizes, CheckReport& report, CheckProgress& progress);
  Task<Result<void>> check_frozen(const Layers& layers, LayerSizes& sizes, CheckReport& report,
                                  CheckProgress& progress);

  // catalog_graph.cc
  Task<Result<void>> check_graph(CheckReport& report);

  class GraceTimer final : public TimerWork {
   public:
    explicit GraceTimer(Catalog& catalog) : catalog_(catalog) {}
    void run() noexcept override { catalog_.taken_over_.clear(); }

   private:
    Catalog& catalog_;
  };

  kv::Engine& engine_;
  Executor& home_;
  const Options options_;
  const KeySpace keys_;
  Random random_;
  RecordReader records_;
  OpenVolumes open_volumes_;
  OpenSnapshots open_snapshots_;
  Jobs jobs_;
  Trash trash_;
  Groups groups_;
  // What the names of the last snapshots' volumes stood for: a guess, which the transaction proves.
  std::map<std::string, VolumeId> ids_seen_;
  std::vector<OpenVolumes::Hold> taken_over_;  // kept until their clients come
  GraceTimer grace_timer_{*this};
};

}  // namespace fdbnbd::volume
