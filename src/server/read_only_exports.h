#pragma once

#include "block/export.h"

namespace fdbnbd::server {

// The exports of another registry, none of which can be written.
class ReadOnlyExports final : public block::ExportRegistry {
 public:
  // `exports` outlives it, and so do the exports opened.
  explicit ReadOnlyExports(block::ExportRegistry& exports) : exports_(exports) {}

  Task<Result<std::vector<block::ExportListing>>> list(Executor& executor) override;
  Task<Result<std::shared_ptr<block::Export>>> open(Executor& executor, std::string name) override;
  Task<Result<block::ExportInfo>> describe(Executor& executor, std::string name) override;

 private:
  block::ExportRegistry& exports_;
};

}  // namespace fdbnbd::server
