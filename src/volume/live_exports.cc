#include "volume/live_exports.h"

#include <utility>

#include "base/assert.h"
#include "volume/open_volumes.h"

namespace fdbnbd::volume {

LiveExports::LiveExports(kv::Engine& engine, Executor& home, Store& store, const Store::Options& options)
    : engine_(engine),
      home_(home),
      store_(store),
      executors_(options.volume_executors),
      keys_(options.key_prefix),
      random_(options.seed != 0 ? Random(options.seed) : Random::from_entropy()),
      records_(engine, home, keys_, random_.next()) {
  ASSERT(!executors_.empty());
}

Task<Result<std::vector<block::ExportListing>>> LiveExports::list(Executor& executor) {
  return store_.list(executor);
}

Task<Result<block::ExportInfo>> LiveExports::describe(Executor& executor, std::string name) {
  ASSIGN_OR_CO_RETURN(block::ExportInfo info, co_await store_.describe(executor, std::move(name)));
  info.read_only = true;
  if (!is_snapshot_name(info.name)) {
    // LiveView has no topic_status().
    info.has_depth = false;
    info.snapshots.clear();
  }
  co_return info;
}

Task<Result<std::shared_ptr<block::Export>>> LiveExports::open(Executor& executor, std::string name) {
  ASSERT(&executor == &home_);
  // Nobody writes a snapshot, so that nobody has to own it.
  if (is_snapshot_name(name)) co_return co_await store_.open(executor, std::move(name));
  // The name may be empty, for the only volume.
  ASSIGN_OR_CO_RETURN(const block::ExportInfo info, co_await store_.describe(executor, std::move(name)));
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(info.name));
  ASSIGN_OR_CO_RETURN(const VolumeRecords found, co_await records_.load(id, info.name));
  std::shared_ptr<LiveView> view = view_of(found.volume, info.name);
  co_await go_to(view->executor());
  auto looked = co_await view->refresh();
  co_await go_to(home_);
  if (!looked) co_return propagate(looked);
  co_return std::shared_ptr<block::Export>(std::move(view));
}

std::shared_ptr<LiveView> LiveExports::view_of(const VolumeRecord& volume, std::string name) {
  std::erase_if(views_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<LiveView>& known = views_[volume.id];
  if (std::shared_ptr<LiveView> view = known.lock()) return view;
  Executor& executor = *executors_[next_executor_++ % executors_.size()];
  auto view = std::make_shared<LiveView>(engine_, executor, keys_, std::move(name), volume);
  known = view;
  return view;
}

}  // namespace fdbnbd::volume
