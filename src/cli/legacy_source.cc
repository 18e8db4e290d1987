#include "cli/legacy_source.h"

#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "server/open_engine.h"

namespace fdbnbd::cli {

Result<std::unique_ptr<LegacySource>> LegacySource::open(const Context& context, Layout layout,
                                                         const std::string& cluster_file,
                                                         const std::string& name) {
  ASSIGN_OR_RETURN(const config::Config file, context.config());
  ASSIGN_OR_RETURN(const config::StoreUrl destination, context.store(file));
  server::ServerOptions options;
  options.store.kind = config::StoreUrl::Kind::fdb;
  options.store.path = cluster_file;
  // The same as for the store that is imported into: a process has one set.
  options.fdb = Context::fdb_client(file, destination);
  std::unique_ptr<LegacySource> source(new LegacySource);
  ASSIGN_OR_RETURN(source->engine_, server::open_engine(options));
  if (layout == Layout::py) {
    ASSIGN_OR_RETURN(source->disk_,
                     source->loop_.run(legacy::open_py_disk(*source->engine_, source->loop_, name)));
  } else {
    const WallTime now = system_clock().wall_now();
    ASSIGN_OR_RETURN(source->disk_,
                     source->loop_.run(legacy::open_array_disk(*source->engine_, source->loop_, name, now)));
  }
  if (const std::string warning = source->disk_->warning(); !warning.empty()) log::warning("{}", warning);
  return source;
}

Result<ByteSource::Stretch> LegacySource::next(MutableByteView into) {
  RETURN_IF_ERROR(check_interrupt());
  const uint64_t left_bytes = disk_->size_bytes() - offset_bytes_;
  if (left_bytes == 0) return Stretch{};
  if (std::exchange(may_be_hole_, false)) {
    ASSIGN_OR_RETURN(const uint64_t data, loop_.run(disk_->find_data(loop_, offset_bytes_)));
    const Stretch hole{.length_bytes = data - offset_bytes_, .is_hole = true};
    offset_bytes_ = data;
    if (hole.length_bytes > 0) return hole;
  }
  const MutableByteView piece = into.first(std::min<uint64_t>(into.size(), left_bytes));
  ASSIGN_OR_RETURN(const bool any_stored, loop_.run(disk_->read(loop_, offset_bytes_, piece)));
  offset_bytes_ += piece.size();
  may_be_hole_ = !any_stored;
  return Stretch{.length_bytes = piece.size(), .is_hole = !any_stored};
}

}  // namespace fdbnbd::cli
