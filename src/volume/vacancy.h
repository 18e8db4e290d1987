#pragma once

#include <optional>
#include <string>

#include "async/task.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/records.h"

namespace fdbnbd::volume {

// That nobody serves a volume of a shared store, as a look at its holder has found (lease.h
// wait_for_holder). It may be over by the time it is made use of; the transaction that does so proves it.
struct Vacancy {
  FenceRecord tenure;
  // Where there is a holder that was silent for the lease time: its last sign of life. After another one it
  // serves the volume again, in the same tenure.
  bool is_of_silent_holder = false;
  std::optional<HeartbeatRecord> last_heartbeat;
};

// Whether its holder, if there is one, has been silent since, also when the transaction commits.
Task<Result<bool>> is_still_silent(kv::Transaction& transaction, const KeySpace& keys, VolumeId volume,
                                   const Vacancy& vacancy);

// busy where it is over. `fence` is the volume's, which the transaction has read serializably.
Task<Result<void>> check_vacancy(kv::Transaction& transaction, const KeySpace& keys, VolumeId volume,
                                 const FenceRecord& fence, const Vacancy& vacancy, const std::string& name);

}  // namespace fdbnbd::volume
