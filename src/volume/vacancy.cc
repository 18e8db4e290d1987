#include "volume/vacancy.h"

#include <fmt/core.h>

#include "volume/record_reader.h"

namespace fdbnbd::volume {

Task<Result<bool>> is_still_silent(kv::Transaction& transaction, const KeySpace& keys, VolumeId volume,
                                   const Vacancy& vacancy) {
  if (!vacancy.is_of_silent_holder) co_return true;
  ASSIGN_OR_CO_RETURN(
      const auto heartbeat,
      co_await get_record<HeartbeatRecord>(transaction, keys.heartbeat(volume), kv::Isolation::serializable));
  co_return heartbeat == vacancy.last_heartbeat;
}

Task<Result<void>> check_vacancy(kv::Transaction& transaction, const KeySpace& keys, VolumeId volume,
                                 const FenceRecord& fence, const Vacancy& vacancy, const std::string& name) {
  if (!fence.same_tenure(vacancy.tenure))
    co_return fail(Errc::busy, fmt::format("volume \"{}\" has just been opened by another server", name));
  ASSIGN_OR_CO_RETURN(const bool is_silent, co_await is_still_silent(transaction, keys, volume, vacancy));
  if (!is_silent)
    co_return fail(Errc::busy, fmt::format("volume \"{}\" is served by another server, which was silent and "
                                           "goes on",
                                           name));
  co_return Result<void>();
}

}  // namespace fdbnbd::volume
