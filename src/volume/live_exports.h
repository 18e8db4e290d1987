#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/random.h"
#include "block/export.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/live_view.h"
#include "volume/record_reader.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// All volumes and snapshots of a store that several servers share, to be read while others write them: no
// volume is taken.
class LiveExports final : public block::ExportRegistry {
 public:
  // `store` is over `engine` with `options`; both outlive this, and this outlives the exports opened. All
  // calls on the thread of `home`, the store's.
  LiveExports(kv::Engine& engine, Executor& home, Store& store, const Store::Options& options);

  Task<Result<std::vector<block::ExportListing>>> list(Executor& executor) override;
  Task<Result<std::shared_ptr<block::Export>>> open(Executor& executor, std::string name) override;
  Task<Result<block::ExportInfo>> describe(Executor& executor, std::string name) override;

 private:
  // The one that other sessions use, so that all of them learn of a new size together; else a new one.
  std::shared_ptr<LiveView> view_of(const VolumeRecord& volume, std::string name);

  kv::Engine& engine_;
  Executor& home_;
  Store& store_;
  const std::vector<Executor*> executors_;
  const KeySpace keys_;
  Random random_;
  RecordReader records_;
  size_t next_executor_ = 0;
  std::map<VolumeId, std::weak_ptr<LiveView>> views_;
};

}  // namespace fdbnbd::volume
