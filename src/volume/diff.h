#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "async/executor.h"
#include "async/task.h"
#include "base/random.h"
#include "base/result.h"
#include "block/export.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/store.h"

// What differs between two points of one volume, told from the layers' bitmaps alone: no block is read, and
// nobody needs to have the volume open.
//
// A block differs where one of the points has a layer of its own, which the other does not stand on, that
// says something of it. So every byte that differs is covered; a block that was written with what it held
// before is told too, and where one point is not an ancestor of the other (after a rollback), what changed on
// either side since the layer that both stand on. Where they share none (after `flatten`), all that either
// has.

namespace fdbnbd::volume {

struct DiffPoints {
  VolumeId volume;
  std::optional<std::string> from;  // a snapshot; without it, nothing at all
  std::optional<std::string> to;    // a snapshot; without it, the volume as it is
};

struct DiffSpan {
  uint64_t begin_bytes = 0;
  uint64_t end_bytes = UINT64_MAX;  // what is behind the end of `to` has nothing
};

// Compares the beginning of `span`, at least one extent of it, at one instant. A merge that goes on beside it
// changes nothing in what is told. not_found where a snapshot or the volume is not there (any more);
// corruption. Gives at most `ranges_limit` (> 0) ranges. On the executor's thread.
Task<Result<DiffPage>> compare_points(kv::Engine& engine, Executor& executor, const KeySpace& keys,
                                      DiffPoints points, DiffSpan span, uint32_t ranges_limit);

// As block::Export::topic_status() for changed_since: `points.from` is the snapshot, the range lies inside
// `points.to`. invalid where that has shrunk meanwhile.
Task<Result<std::vector<block::FlaggedExtent>>> changed_status(kv::Engine& engine, Executor& executor,
                                                               const KeySpace& keys, DiffPoints points,
                                                               DiffSpan span, uint32_t extents_limit);

// Puts the page that follows behind `whole`.
void append_page(DiffPage& whole, DiffPage next);

}  // namespace fdbnbd::volume
