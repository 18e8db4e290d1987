#pragma once

#include <optional>
#include <string>
#include <vector>

#include "async/executor.h"
#include "async/scope.h"
#include "async/task.h"
#include "base/clock.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/jobs.h"
#include "volume/open_snapshots.h"
#include "volume/open_volumes.h"
#include "volume/record_reader.h"
#include "volume/records.h"
#include "volume/store.h"
#include "volume/vacancy.h"

namespace fdbnbd::volume {

// Where removed volumes go (docs/format.md, "Trash"). A volume in the trash has its records but for the name,
// and nobody can open it. Whoever has the store purges what has been there for long enough; where several
// servers share it, each entry is purged by the transaction of one. On the home executor's thread.
class Trash final : private TimerWork {
 public:
  // All outlive it. `retention` 0: volumes are removed at once.
  Trash(RecordReader& records, OpenVolumes& open_volumes, OpenSnapshots& open_snapshots, Jobs& jobs,
        Duration retention);

  // Purges in the background from now on, until close().
  void start();
  Task<void> close();

  // For volumes that are removed from now on.
  void set_retention(Duration retention) { retention_ = retention; }

  // Removes a volume, by way of the trash or at once; as Store::remove.
  Task<Result<std::optional<TrashEntry>>> remove(std::string name, RemoveOptions options);
  Task<Result<std::vector<TrashEntry>>> list();
  // The name that the volume has now.
  Task<Result<std::string>> restore(std::string name_or_id, std::string new_name);
  Task<Result<void>> purge(std::optional<std::string> name_or_id);

 private:
  struct Row {
    VolumeId id;
    TrashRecord record;
  };
  struct Removal {
    std::string name;
    VolumeId id;  // reserved
    RemoveOptions options;
    std::optional<Vacancy> claimed;  // that no other server has the volume open
    WallTime trashed{};
    WallTime expires{};
  };
  struct Removed {
    uint64_t snapshots_count = 0;
  };

  void run() noexcept override;
  // Unless the trash is looked at earlier anyhow.
  void look_in(Duration delay);
  Task<void> look();
  // When the next one expires, where there is one.
  Task<Result<std::optional<WallTime>>> purge_expired();

  Task<Result<Removed>> remove_in(kv::Transaction& transaction, const Removal& removal);
  Result<void> check_snapshots(const Removal& removal, const std::vector<SnapshotRow>& snapshots) const;
  void put_in(kv::Transaction& transaction, VolumeRecords records, const Removal& removal);
  Task<Result<void>> destroy_in(kv::Transaction& transaction, const VolumeRecords& records,
                                const std::vector<SnapshotRow>& snapshots);
  Task<Result<void>> restore_in(kv::Transaction& transaction, Row row, const std::string& new_name);
  // not_found where that entry of the trash is gone.
  Task<Result<void>> purge_one(Row row);
  Task<Result<bool>> purge_step(kv::Transaction& transaction, const Row& row);

  // In the order in which they came.
  Task<Result<std::vector<Row>>> read_rows();
  Task<Result<Row>> find(std::string name_or_id);
  Task<Result<TrashEntry>> describe(Row row, uint64_t snapshots_count);

  RecordReader& records_;
  Executor& home_;
  const KeySpace& keys_;
  OpenVolumes& open_volumes_;
  OpenSnapshots& open_snapshots_;
  Jobs& jobs_;
  Duration retention_;
  bool is_looking_ = false;
  std::optional<MonotonicTime> next_look_;  // while the timer runs
  TaskScope scope_;
};

}  // namespace fdbnbd::volume
