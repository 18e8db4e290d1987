#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "async/task.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/record_reader.h"
#include "volume/store.h"

// Whether the records of a store (names, volumes, fences, snapshots, layers, jobs) fit together, and which
// changes of records surely mend what does not.

namespace fdbnbd::volume {

// The rows of the records about volumes, by their type.
using GraphRows = std::map<char, std::vector<kv::KeyValue>>;

// All of one instant: the transaction's version.
Task<Result<GraphRows>> read_graph(kv::Transaction& transaction, const KeySpace& keys,
                                   kv::Isolation isolation);

// Layers that have bitmaps or blocks but no record.
Task<Result<std::set<LayerId>>> find_strays(RecordReader& records);

// A record's new value; none: it goes.
struct RecordMend {
  std::string key;
  std::optional<std::string> value;
};

struct GraphDamage {
  CheckFinding finding;
  std::vector<RecordMend> mends;  // none: it cannot be mended, or not without a doubt
  // Mends of a higher stage are for a store that needs none of a lower stage.
  uint32_t stage = 0;
};

std::vector<GraphDamage> find_graph_damage(const KeySpace& keys, const GraphRows& rows,
                                           const std::set<LayerId>& strays);

}  // namespace fdbnbd::volume
