#pragma once

#include <memory>
#include <string>

#include "base/result.h"
#include "cli/context.h"
#include "cli/transfer.h"
#include "legacy/disk.h"
#include "net/io_loop.h"

namespace fdbnbd::cli {

// A disk of an older server, read from the FoundationDB that its server used.
class LegacySource final : public ByteSource {
 public:
  enum class Layout { py, array };

  // The settings of FoundationDB's client come from the configuration, as for a store. Says in the log what
  // the user has to know of the copy. Errors of opening the cluster and of legacy/disk.h.
  static Result<std::unique_ptr<LegacySource>> open(const Context& context, Layout layout,
                                                    const std::string& cluster_file, const std::string& name);

  uint64_t size_bytes() const { return disk_->size_bytes(); }
  Result<Stretch> next(MutableByteView into) override;

 private:
  LegacySource() = default;

  net::IoLoop loop_;
  std::unique_ptr<kv::Engine> engine_;
  std::unique_ptr<legacy::Disk> disk_;
  uint64_t offset_bytes_ = 0;
  // Whether what comes next may be a long hole, so that its end is worth looking for.
  bool may_be_hole_ = true;
};

}  // namespace fdbnbd::cli
