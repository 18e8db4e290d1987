#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "async/event.h"
#include "control/service.h"
#include "volume/store.h"

namespace fdbnbd::control {

// A store that remembers names and sizes, and lets a test hold its long work open.
class FakeStore final : public volume::Store {
 public:
  std::map<std::string, volume::VolumeInfo> volumes;
  std::map<std::string, volume::VolumeInfo> trash;
  std::map<std::string, volume::GroupInfo> groups;
  std::vector<volume::CheckFinding> findings;
  // While set, check() reports progress and waits, until it is cancelled or let go.
  bool hold_check = false;
  Event check_changed;  // notified when check() has begun to wait, and by the test when it may look again
  bool check_waits = false;
  bool check_was_cancelled = false;

  void stop_opening() override {}
  void set_trash_retention(Duration /*retention*/) override {}
  Task<void> close() override { co_return; }
  Task<Result<volume::VolumeInfo>> create(std::string name, volume::CreateOptions options) override;
  Task<Result<std::vector<volume::VolumeInfo>>> list_volumes() override;
  Task<Result<volume::VolumeInfo>> info(std::string name) override;
  Task<Result<volume::VolumeInfo>> resize(std::string name, uint64_t size_bytes, bool allow_shrink) override;
  Task<Result<std::optional<volume::TrashEntry>>> remove(std::string name,
                                                         volume::RemoveOptions options) override;
  Task<Result<std::vector<volume::TrashEntry>>> list_trash() override;
  Task<Result<volume::VolumeInfo>> restore(std::string name_or_id, std::string new_name) override;
  Task<Result<void>> purge(std::optional<std::string> name_or_id) override;
  Task<Result<volume::VolumeInfo>> change_labels(std::string name, volume::LabelChange change) override;
  Task<Result<volume::VolumeInfo>> set_quota(std::string name, uint64_t quota_bytes) override;
  Task<Result<void>> snapshot(std::vector<std::string> names, std::optional<WallTime> created) override;
  Task<Result<volume::VolumeInfo>> rollback(std::string snapshot_name, bool disconnect) override;
  Task<Result<volume::VolumeInfo>> clone(std::string snapshot_name, std::string new_name) override;
  Task<Result<volume::VolumeInfo>> flatten(std::string name, volume::Progress* progress) override;
  Task<Result<volume::VolumeInfo>> copy(std::string source, std::string new_name,
                                        volume::Progress* progress) override;
  Task<Result<void>> rename(std::string name, std::string new_name) override;
  Task<Result<void>> create_group(std::string name, std::vector<std::string> members) override;
  Task<Result<void>> remove_group(std::string name) override;
  Task<Result<void>> change_group(std::string name, volume::GroupChange change) override;
  Task<Result<std::vector<volume::GroupInfo>>> list_groups() override;
  Task<Result<void>> snapshot_group(std::string name) override;
  Task<Result<void>> rollback_group(std::string name) override;
  Task<Result<volume::DiffPage>> diff(std::string name, std::optional<std::string> from, uint64_t begin_bytes,
                                      volume::Progress* progress) override;
  Task<Result<volume::VolumeInfo>> begin_import(volume::DiffImport import) override;
  Task<Result<volume::VolumeInfo>> finish_import(volume::DiffImport import) override;
  Task<Result<volume::VolumeUsage>> usage(std::string name, volume::Progress* progress) override;
  Task<Result<volume::CheckReport>> check(std::optional<std::string> name,
                                          volume::Progress* progress) override;
  Task<Result<volume::CheckReport>> repair(volume::Progress* progress) override;
  Task<Result<std::vector<volume::LockInfo>>> list_locks() override;
  Task<Result<std::string>> break_lock(std::string name) override;
  Task<Result<uint32_t>> take_over_held() override { co_return 0U; }
  Task<void> wait_for_reclaim() override { co_return; }

  Task<Result<std::vector<block::ExportListing>>> list(Executor& executor) override;
  Task<Result<std::shared_ptr<block::Export>>> open(Executor& executor, std::string name) override;
  Task<Result<block::ExportInfo>> describe(Executor& executor, std::string name) override;
};

class FakeStatus final : public StatusSource {
 public:
  StatusReply status() override;
};

}  // namespace fdbnbd::control
