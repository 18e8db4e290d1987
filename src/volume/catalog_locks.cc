#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/log.h"
#include "volume/catalog.h"
#include "volume/lease.h"

// Who holds which volume, and taking one away from him.

namespace fdbnbd::volume {

Task<Result<std::vector<LockInfo>>> Catalog::list_locks() {
  ASSIGN_OR_CO_RETURN(const auto names,
                      co_await records_.read_all(keys_.type_begin('V'), keys_.type_end('V')));
  // All are looked at twice, with the time of a sign of life between.
  std::map<std::string, HolderSight> before;
  std::vector<LockInfo> locks;
  for (const bool is_last : {false, true}) {
    bool is_wait_needed = false;
    for (const kv::KeyValue& row : names) {
      std::string name(keys_.name_of(row.key));
      const auto record = NameRecord::decode(row.value);
      if (!record) continue;
      auto sight = co_await look_at_holder(open_volumes_.place_of(record->volume));
      if (!sight && sight.error().code == Errc::not_found) continue;  // removed meanwhile
      if (!sight) co_return propagate(sight);
      if (sight->fence.is_free()) continue;
      const bool is_ours = sight->fence.owner == open_volumes_.owner();
      // Whoever had an embedded store before us is gone.
      if (!is_ours && !engine_.capabilities().shared_between_hosts) continue;
      if (is_last) {
        const auto earlier = before.find(name);
        const bool moved = earlier == before.end() || earlier->second.fence.epoch != sight->fence.epoch ||
                           earlier->second.heartbeat != sight->heartbeat;
        locks.push_back({.volume = std::move(name),
                         .holder = is_ours ? options_.ownership.holder : sight->holder(),
                         .epoch = sight->fence.epoch,
                         .state = is_ours ? LockInfo::State::ours
                                  : moved ? LockInfo::State::alive
                                          : LockInfo::State::silent});
      } else {
        is_wait_needed = is_wait_needed || !is_ours;
        before.emplace(std::move(name), std::move(*sight));
      }
    }
    if (!is_last && is_wait_needed) {
      const Duration beat = options_.ownership.lease_duration / limits::kHeartbeatsPerLease;
      co_await sleep_for(home_, beat + beat / 2);
    }
  }
  co_return locks;
}

Task<Result<std::string>> Catalog::break_lock(std::string name) {
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(name));
  ASSIGN_OR_CO_RETURN(const HolderSight sight, co_await look_at_holder(open_volumes_.place_of(id)));
  if (sight.fence.is_free()) co_return std::string();
  std::string holder =
      sight.fence.owner == open_volumes_.owner() ? options_.ownership.holder : sight.holder();
  auto body = [&](kv::Transaction& transaction) { return break_lock_in(transaction, id, sight.fence); };
  CO_RETURN_IF_ERROR(co_await records_.decide<void>(body));
  log::warning("the lock of volume \"{}\" is broken; {} held it", name, holder);
  co_return holder;
}

Task<Result<void>> Catalog::break_lock_in(kv::Transaction& transaction, VolumeId id,
                                          const FenceRecord& seen) {
  const std::string key = keys_.fence(id);
  auto value = co_await transaction.get(key, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return fail(Errc::not_found, "the volume has been removed");
  ASSIGN_OR_CO_RETURN(FenceRecord fence, FenceRecord::decode(**value));
  if (!fence.same_tenure(seen)) co_return Result<void>();  // that holder has lost it already
  ++fence.epoch;
  fence.owner = {};
  transaction.set(key, fence.encode());
  transaction.clear(keys_.heartbeat(id));
  transaction.clear(keys_.handover(id));
  co_return Result<void>();
}

Task<Result<uint32_t>> Catalog::take_over_held() {
  ASSIGN_OR_CO_RETURN(const auto names,
                      co_await records_.read_all(keys_.type_begin('V'), keys_.type_end('V')));
  uint32_t taken_count = 0;
  TaskScope taking;
  for (const kv::KeyValue& row : names) {
    const auto record = NameRecord::decode(row.value);
    if (record) taking.spawn(take_over_one(std::string(keys_.name_of(row.key)), record->volume, taken_count));
  }
  co_await taking.join();
  if (!taken_over_.empty() && !open_volumes_.stopping())
    home_.start_timer(grace_timer_, limits::kTakeoverGrace);
  co_return taken_count;
}

Task<void> Catalog::take_over_one(std::string name, VolumeId id, uint32_t& taken_count) {
  const auto sight = co_await look_at_holder(open_volumes_.place_of(id));
  if (!sight || sight->fence.is_free() || sight->fence.owner == open_volumes_.owner()) co_return;
  auto held = co_await open_volumes_.hold(id, name);
  if (!held) {
    log::error("volume \"{}\" could not be taken over: {}", name, held.error().what);
    co_return;
  }
  log::info("volume \"{}\" has been taken over from {}", name, sight->holder());
  if (!open_volumes_.stopping()) taken_over_.push_back(std::move(*held));
  ++taken_count;
}

}  // namespace fdbnbd::volume
