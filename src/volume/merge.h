#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "async/task.h"
#include "base/result.h"
#include "kv/engine.h"
#include "volume/keys.h"
#include "volume/presence.h"

// Moving what a layer holds into its only child, so that the layer can go (docs/format.md, "Layers"). What is
// left of its bitmaps is what is left to do.

namespace fdbnbd::volume {

// What one step does to one extent.
struct MergePlan {
  std::vector<uint32_t> moved;  // blocks of the extent whose values go to the child
  ExtentBits parent_after;
  ExtentBits child_after;
  bool finishes = false;  // the parent has nothing left in the extent
};

// Where the child has a state of its own it hides the parent's, which is dropped with the step that finishes
// the extent. At most `moved_limit` blocks move in one step. Pure.
MergePlan plan_merge(const ExtentBits& parent, const ExtentBits& child, uint32_t moved_limit);

struct MergeTarget {
  const KeySpace* keys = nullptr;
  Striping striping;
  LayerId parent;
  LayerId child;
  uint64_t extent_index = 0;
};

// A step with all that it needs, to be put into a transaction, several times if need be.
struct MergeChange {
  MergeTarget target;
  ExtentBits parent_before;
  ExtentBits child_before;
  MergePlan plan;
  std::vector<std::optional<std::string>> values;  // of plan.moved, as stored

  void apply(kv::Transaction& transaction) const;
  // What becomes of the child alone.
  void apply_to_child(kv::Transaction& transaction) const;
};

// Keeps the values of single keys, each in its place.
class ValuesSink final : public kv::RowSink {
 public:
  explicit ValuesSink(std::vector<std::optional<std::string>>& values) : values_(values) {}

  void on_range_row(size_t, std::string_view, std::string_view) override {}
  void on_unreadable_range_row(size_t, std::string_view) override {}
  void on_point_row(size_t point_index, std::string_view value) override { values_[point_index] = value; }
  void on_unreadable_point(size_t) override {}

 private:
  std::vector<std::optional<std::string>>& values_;
};

// Fills in the values. A block that the store does not have or cannot read moves without one: reading it is
// an error before and after.
Task<Result<void>> read_values(kv::Engine& engine, Executor& executor, MergeChange& change);

}  // namespace fdbnbd::volume
