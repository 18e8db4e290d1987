#pragma once

#include <map>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/random.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/jobs.h"
#include "volume/open_volumes.h"
#include "volume/record_reader.h"
#include "volume/records.h"
#include "volume/snapshot_edits.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// Groups of volumes (GroupRecord); the functions are as the Store's. On the home executor's thread.
class Groups {
 public:
  // All outlive it. `seed` is for ids.
  Groups(RecordReader& records, OpenVolumes& open_volumes, Jobs& jobs, uint64_t seed)
      : records_(records), keys_(records.keys()), open_volumes_(open_volumes), jobs_(jobs), random_(seed) {}

  Task<Result<void>> create(std::string name, std::vector<std::string> volumes);
  Task<Result<void>> remove(std::string name);
  Task<Result<void>> change(std::string name, GroupChange change);
  Task<Result<std::vector<GroupInfo>>> list();
  Task<Result<void>> snapshot(std::string name);
  Task<Result<void>> rollback(std::string name);

 private:
  using Names = std::map<VolumeId, std::string>;

  LayerId new_layer();
  // Of all volumes that have one.
  Task<Result<Names>> read_names();
  Task<Result<GroupRecord>> load(kv::Transaction& transaction, const std::string& name);
  Task<Result<std::vector<VolumeId>>> find_volumes(kv::Transaction& transaction,
                                                   const std::vector<std::string>& names);
  // The members that are there and not in the trash. invalid where there are none.
  Task<Result<std::vector<VolumeId>>> load_members(kv::Transaction& transaction, const std::string& name);
  Task<Result<void>> create_in(kv::Transaction& transaction, const std::string& name,
                               const std::vector<std::string>& volumes);
  Task<Result<void>> remove_in(kv::Transaction& transaction, const std::string& name);
  Task<Result<void>> change_in(kv::Transaction& transaction, const std::string& name,
                               const GroupChange& change);
  Task<Result<std::vector<SnapshotPlan>>> snapshot_in(kv::Transaction& transaction, const SnapshotName& name,
                                                      const Names& names, WallTime created,
                                                      RowConflicts conflicts);
  Task<Result<void>> rollback_in(kv::Transaction& transaction, const SnapshotName& name,
                                 const std::vector<RollbackPlan>& plans);

  RecordReader& records_;
  const KeySpace& keys_;
  OpenVolumes& open_volumes_;
  Jobs& jobs_;
  Random random_;
};

}  // namespace fdbnbd::volume
