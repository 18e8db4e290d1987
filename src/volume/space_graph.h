#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "base/result.h"
#include "volume/keys.h"
#include "volume/records.h"

// The graph of layers as it is once all background work is done, for finding out what comes back when
// something is removed.

namespace fdbnbd::volume {

// A layer together with the unnamed ones below it that will be merged into it.
struct SpaceNode {
  std::vector<LayerId> members;  // from the top down: the first that says something of a block counts
  bool is_named = false;         // a volume's or a snapshot's; otherwise it has several children
  std::optional<size_t> parent;
  std::vector<size_t> children;
  // What to see of it: all that is stored, or only of which blocks it says something.
  bool is_measured = false;
};

struct SpaceGraph {
  std::vector<SpaceNode> nodes;  // parents before their children
  std::map<LayerId, size_t> node_of;
};

// The part of the graph that matters for what is seen through `tops`: their chains, and the children of
// these. corruption where a parent is missing or the chain bites its tail.
Result<SpaceGraph> build_space_graph(const std::map<LayerId, LayerRecord>& layers,
                                     const std::vector<LayerId>& tops);

}  // namespace fdbnbd::volume
