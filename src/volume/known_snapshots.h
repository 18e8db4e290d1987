#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "volume/keys.h"

namespace fdbnbd::volume {

using NameSet = std::set<std::string, std::less<>>;

// Names of snapshots that volumes have, so that taking one of many volumes need not ask for each whether the
// name is free. What is known holds while the volume's fence record has the barrier that it had then: whoever
// makes a snapshot raises it. Names that have gone since are no harm, so nobody has to tell of them.
class KnownSnapshots {
 public:
  // Whether the volume surely has no snapshot of that name while its fence has this barrier.
  bool lacks(VolumeId volume, uint64_t barrier, std::string_view name) const;
  // Whether learn() would tell something: not all is known that it may have, and it does not have too many.
  bool is_worth_learning(VolumeId volume, uint64_t barrier) const;

  // Those are all the names that it had at this barrier.
  void learn(VolumeId volume, uint64_t barrier, NameSet names);
  // It has more than are worth being kept.
  void give_up(VolumeId volume);
  // The snapshot was taken, which raised the barrier to this.
  void add(VolumeId volume, uint64_t barrier, std::string name);

 private:
  struct Known {
    std::optional<uint64_t> barrier;  // nothing: given up
    NameSet names;
  };
  void forget(VolumeId volume);

  std::map<VolumeId, Known> volumes_;
  size_t names_count_ = 0;  // of all of them, at most limits::kMaxKnownSnapshots
};

}  // namespace fdbnbd::volume
