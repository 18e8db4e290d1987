#pragma once

#include <cstddef>
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
// name is free. What is known holds while the volume has the top layer that it had then: whoever makes a
// snapshot gives it another one, with an id that no layer had before. Names that have gone since are no harm,
// so nobody has to tell of them.
class KnownSnapshots {
 public:
  // Whether the volume surely has no snapshot of that name while this is its top layer.
  bool lacks(VolumeId volume, LayerId top, std::string_view name) const;
  // Whether learn() would tell something: not all is known that it may have, and it does not have too many.
  bool is_worth_learning(VolumeId volume, LayerId top) const;

  // Those are all the names that it had while this was its top layer.
  void learn(VolumeId volume, LayerId top, NameSet names);
  // It has more than are worth being kept.
  void give_up(VolumeId volume);
  // The snapshot was taken, which made the one layer from the other the top.
  void add(VolumeId volume, LayerId old_top, LayerId new_top, std::string name);

 private:
  struct Known {
    std::optional<LayerId> top;  // nothing: given up
    NameSet names;
  };
  void forget(VolumeId volume);

  std::map<VolumeId, Known> volumes_;
  size_t names_count_ = 0;  // of all of them, at most limits::kMaxKnownSnapshots
};

}  // namespace fdbnbd::volume
