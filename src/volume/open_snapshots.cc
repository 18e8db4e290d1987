#include "volume/open_snapshots.h"

#include <optional>
#include <utility>

#include "base/assert.h"

namespace fdbnbd::volume {

Task<Result<std::shared_ptr<block::Export>>> OpenSnapshots::open(SnapshotName name) {
  std::optional<FoundSnapshot> found;
  std::optional<VolumeRecords> records;
  while (true) {
    if (open_volumes_.stopping()) co_return fail(Errc::cancelled, "the server is stopping");
    ASSIGN_OR_CO_RETURN(found, co_await records_.find_snapshot(name));
    ASSIGN_OR_CO_RETURN(records, co_await records_.load(found->volume, name.volume));
    const auto opened = open_.find(found->record.layer);
    if (opened == open_.end() || opened->second.disk) break;
    co_await changed_.wait();  // another session opens it
  }
  const LayerId layer = found->record.layer;
  OpenSnapshot& opening = open_[layer];
  ++opening.sessions_count;
  if (!opening.disk) {
    Executor& executor = open_volumes_.next_executor();
    co_await go_to(executor);
    auto disk = co_await SnapshotDisk::open(records_.engine(), executor, records_.keys(), name.full(),
                                            records->volume, found->record);
    co_await go_to(home_);
    if (!disk) {
      open_.erase(layer);
      changed_.notify_all();
      co_return propagate(disk);
    }
    opening.disk = std::move(*disk);
    changed_.notify_all();
  }
  co_return std::shared_ptr<block::Export>(opening.disk.get(), [this, layer](block::Export*) {
    // The last owner may let go on any thread.
    post(home_, [this, layer] { release(layer); });
  });
}

Task<void> OpenSnapshots::wait_until_unused() {
  while (!open_.empty()) co_await changed_.wait();
}

void OpenSnapshots::release(LayerId layer) {
  ASSERT(home_.runs_here());
  OpenSnapshot& opened = open_.at(layer);
  ASSERT(opened.sessions_count > 0);
  if (--opened.sessions_count > 0) return;
  open_.erase(layer);
  changed_.notify_all();
}

}  // namespace fdbnbd::volume
