#include <fmt/core.h>

#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "volume/catalog.h"
#include "volume/progress_relay.h"

// Volumes that share nothing with others: flatten and copy.

namespace fdbnbd::volume {

Task<Result<VolumeInfo>> Catalog::flatten(std::string name, Progress* progress) {
  {
    ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(name));
    ASSIGN_OR_CO_RETURN(const OpenVolumes::Hold held, co_await open_volumes_.hold(id, name));
    ProgressRelay relay(home_, progress);
    bool is_loose = false;
    for (uint32_t round = 0; !is_loose; ++round) {
      if (round == limits::kMaxFlattenRounds)
        co_return fail(Errc::busy, fmt::format("snapshots of volume \"{}\" keep coming: try again", name));
      co_await go_to(held.executor());
      auto top = co_await held.volume().flatten_round(&relay);
      co_await go_to(home_);
      if (!top) co_return propagate(top);
      if (!*top) continue;
      const LayerId layer = **top;
      auto body = [&](kv::Transaction& transaction) { return cut_loose_in(transaction, id, layer); };
      ASSIGN_OR_CO_RETURN(is_loose, co_await records_.decide<bool>(body));
      if (is_loose) open_volumes_.forget_parents(id, layer);
    }
  }
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_await jobs_.take_up();
  co_return co_await info(std::move(name));
}

// All that is seen of the volume is in its top layer: it needs no parent. False where a snapshot has put
// another layer on top.
Task<Result<bool>> Catalog::cut_loose_in(kv::Transaction& transaction, VolumeId id, LayerId top) {
  const std::string fence_key = keys_.fence(id);
  auto value = co_await transaction.get(fence_key, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return fail(Errc::not_found, "the volume has been removed");
  ASSIGN_OR_CO_RETURN(const FenceRecord fence, FenceRecord::decode(**value));
  if (fence.top_layer != top) co_return false;
  ASSIGN_OR_CO_RETURN(auto record, co_await records_.read_layer(transaction, top));
  if (!record) co_return fail(Errc::corruption, "the record of the volume's layer is missing");
  const LayerId parent = std::exchange(record->parent, LayerId{});
  if (parent.value == 0) co_return true;
  transaction.set(keys_.layer(top), record->encode());
  transaction.clear(keys_.child(parent, top));
  ASSIGN_OR_CO_RETURN(const auto parent_record, co_await records_.read_layer(transaction, parent));
  if (parent_record && parent_record->state == LayerState::unnamed) {
    // It may have waited for having one child less.
    transaction.set(keys_.job(JobId{parent.value}),
                    JobRecord{.kind = JobKind::merge_layer, .layer = parent}.encode());
  }
  co_return true;
}

Task<Result<VolumeInfo>> Catalog::copy(std::string source, std::string new_name, Progress* progress) {
  ASSIGN_OR_CO_RETURN(
      const VolumeInfo cloned,
      co_await (is_snapshot_name(source) ? clone(source, new_name) : clone_as_it_is(source, new_name)));
  auto flattened = co_await flatten(new_name, progress);
  if (flattened) co_return flattened;
  // Half a copy is none.
  const auto removed = co_await remove(new_name, {.now = true, .id = cloned.id});
  if (!removed) log::warning("volume \"{}\", half a copy, is left: {}", new_name, removed.error().what);
  co_return flattened;
}

Task<Result<VolumeInfo>> Catalog::clone_as_it_is(std::string source, std::string new_name) {
  CO_RETURN_IF_ERROR(check_volume_name(new_name));
  const ClonePlan plan = plan_clone(new_name);
  const LayerId source_top{new_id()};
  auto body = [&](kv::Transaction& transaction) {
    return clone_volume(transaction, records_, source, source_top, plan);
  };
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.decide<VolumeId>(body));
  open_volumes_.note_snapshot(id);
  CO_RETURN_IF_ERROR(co_await engine_.sync(home_));
  co_return co_await info(std::move(new_name));
}

}  // namespace fdbnbd::volume
