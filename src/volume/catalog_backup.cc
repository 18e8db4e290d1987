#include <fmt/core.h>

#include <algorithm>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "volume/catalog.h"
#include "volume/diff.h"
#include "volume/diff_import.h"

// What differs between the points of a volume, and bringing a volume to another point.

namespace fdbnbd::volume {

Task<Result<DiffPage>> Catalog::diff(std::string name, std::optional<std::string> from, uint64_t begin_bytes,
                                     Progress* progress) {
  DiffPoints points;
  points.from = std::move(from);
  if (is_snapshot_name(name)) {
    ASSIGN_OR_CO_RETURN(SnapshotName parsed, parse_snapshot_name(name));
    points.to = std::move(parsed.snapshot);
    name = std::move(parsed.volume);
  }
  ASSIGN_OR_CO_RETURN(points.volume, co_await records_.find(name));
  DiffPage whole;
  whole.end_bytes = begin_bytes;
  while (true) {
    if (progress != nullptr && progress->cancelled()) co_return fail(Errc::cancelled, "stopped");
    const auto room = static_cast<uint32_t>(limits::kMaxDiffRanges - whole.ranges.size());
    auto page =
        co_await compare_points(engine_, home_, keys_, points, {.begin_bytes = whole.end_bytes}, room);
    if (!page) {
      co_return fail(page.error().code, fmt::format("volume \"{}\": {}", name, page.error().what));
    }
    append_page(whole, std::move(*page));
    if (whole.end_bytes >= whole.to_size_bytes || whole.ranges.size() >= limits::kMaxDiffRanges) break;
    if (progress != nullptr) progress->on_progress(whole.end_bytes, whole.to_size_bytes);
  }
  co_return whole;
}

Task<Result<VolumeInfo>> Catalog::begin_import(DiffImport import) {
  CO_RETURN_IF_ERROR(check_volume_name(import.volume));
  if (import.to) CO_RETURN_IF_ERROR(check_volume_name(import.to->name));
  if (!import.from) {
    auto existing = co_await records_.find(import.volume);
    if (existing) co_return fail(Errc::exists, fmt::format("volume \"{}\" exists already", import.volume));
    if (existing.error().code != Errc::not_found) co_return propagate(existing);
    co_return co_await create(import.partial, import.options);
  }
  CO_RETURN_IF_ERROR(check_volume_name(import.partial));
  auto find_base = [&](kv::Transaction& transaction) {
    return find_import_base(transaction, records_, import);
  };
  ASSIGN_OR_CO_RETURN(const ImportBase base, co_await records_.transact<ImportBase>(find_base));
  const SnapshotName begins_at{.volume = import.volume, .snapshot = base.snapshot.name};
  ASSIGN_OR_CO_RETURN(const VolumeInfo partial, co_await clone(begins_at.full(), import.partial));
  auto prepared = co_await prepare_partial(import, partial, base.records.volume.quota_bytes);
  if (prepared) co_return prepared;
  const auto removed = co_await remove(import.partial, {.now = true, .id = partial.id});
  if (!removed) log::warning("volume \"{}\" is left: {}", import.partial, removed.error().what);
  co_return prepared;
}

// What is written may be more than what is left in the end, since the stream may have zeroes behind it: more
// by at most what the volume uses now. What counts is checked in the end.
Task<Result<VolumeInfo>> Catalog::prepare_partial(DiffImport import, VolumeInfo partial,
                                                  uint64_t quota_bytes) {
  if (quota_bytes != 0) {
    const uint64_t bound_bytes = quota_bytes + std::min(partial.used_bytes, UINT64_MAX - quota_bytes);
    CO_RETURN_IF_ERROR(co_await set_quota(import.partial, bound_bytes));
  }
  if (partial.size_bytes == import.options.size_bytes) co_return co_await info(import.partial);
  co_return co_await resize(import.partial, import.options.size_bytes, true);
}

Task<Result<QuietVolume>> Catalog::make_quiet(VolumeId id, std::string name) {
  ASSIGN_OR_CO_RETURN(const auto claimed, co_await open_volumes_.claim(id, name));
  co_return co_await volume::make_quiet(records_, id, std::move(name), claimed);
}

Task<Result<VolumeInfo>> Catalog::finish_import(DiffImport import) {
  ASSIGN_OR_CO_RETURN(const VolumeId partial_id, co_await records_.find(import.partial));
  if (import.partial_id != 0 && partial_id.value != import.partial_id) {
    co_return fail(Errc::conflict, fmt::format("volume \"{}\" is not the one that this import has begun with",
                                               import.partial));
  }
  std::map<VolumeId, std::string> taking_part{{partial_id, import.partial}};
  VolumeId id;
  if (import.from) {
    ASSIGN_OR_CO_RETURN(id, co_await records_.find(import.volume));
    taking_part.emplace(id, import.volume);
  }
  {
    // In the order of the ids, as whoever else reserves several, so that no two wait for each other's.
    std::vector<OpenVolumes::Reservation> reservations;
    for (const auto& [one, name] : taking_part) {
      ASSIGN_OR_CO_RETURN(OpenVolumes::Reservation reservation, co_await open_volumes_.reserve(one, name));
      reservations.push_back(std::move(reservation));
    }
    ImportEnd end;
    end.new_top = LayerId{new_id()};
    end.created = home_.clock().wall_now();
    ASSIGN_OR_CO_RETURN(end.partial, co_await make_quiet(partial_id, import.partial));
    if (import.from) {
      ASSIGN_OR_CO_RETURN(end.volume, co_await make_quiet(id, import.volume));
    }
    auto body = [&](kv::Transaction& transaction) {
      return volume::finish_import(transaction, records_, import, end);
    };
    CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  }
  co_await jobs_.take_up();
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_return co_await info(import.volume);
}

}  // namespace fdbnbd::volume
