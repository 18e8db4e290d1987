#include "volume/merge.h"

namespace fdbnbd::volume {

namespace {

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

}  // namespace

MergePlan plan_merge(const ExtentBits& parent, const ExtentBits& child, uint32_t moved_limit) {
  MergePlan plan;
  plan.parent_after = parent;
  plan.child_after = child;
  plan.finishes = true;
  for (uint32_t i = 0; i < ExtentBits::kBlocks; ++i) {
    const BlockState state = parent.state(i);
    if (state == BlockState::absent || child.state(i) != BlockState::absent) continue;
    if (state == BlockState::data) {
      if (plan.moved.size() == moved_limit) {
        plan.finishes = false;
        break;
      }
      plan.moved.push_back(i);
    }
    plan.child_after.set_state(i, state);
    plan.parent_after.set_state(i, BlockState::absent);
  }
  if (plan.finishes) plan.parent_after = ExtentBits{};
  return plan;
}

void MergeChange::apply(kv::Transaction& transaction) const {
  const uint64_t first_block = target.extent_index * ExtentBits::kBlocks;
  const auto key_of = [&](LayerId layer, uint32_t in_extent) {
    return target.keys->block(layer, target.striping, first_block + in_extent);
  };
  for (size_t i = 0; i < plan.moved.size(); ++i) {
    if (values[i]) transaction.set(key_of(target.child, plan.moved[i]), *values[i]);
    if (!plan.finishes) transaction.clear(key_of(target.parent, plan.moved[i]));
  }
  const std::string child_bitmap = target.keys->bitmap(target.child, target.extent_index);
  const std::string set_in_child = ExtentBits::or_operand(child_before, plan.child_after);
  if (!set_in_child.empty()) transaction.bit_or(child_bitmap, set_in_child);
  const std::string parent_bitmap = target.keys->bitmap(target.parent, target.extent_index);
  if (!plan.finishes) {
    const std::string cleared_in_parent = ExtentBits::and_operand(parent_before, plan.parent_after);
    if (!cleared_in_parent.empty()) transaction.bit_and(parent_bitmap, cleared_in_parent);
    return;
  }
  transaction.clear(parent_bitmap);
  if (parent_before.data_count() == 0) return;
  const std::string begin = key_of(target.parent, 0);
  const std::string end = key_after(key_of(target.parent, ExtentBits::kBlocks - 1));
  transaction.clear_range({begin, end});
}

Task<Result<void>> read_values(kv::Engine& engine, Executor& executor, MergeChange& change) {
  change.values.assign(change.plan.moved.size(), std::nullopt);
  if (change.plan.moved.empty()) co_return Result<void>{};
  const MergeTarget& target = change.target;
  std::vector<std::string> keys;
  keys.reserve(change.plan.moved.size());
  for (const uint32_t in_extent : change.plan.moved) {
    keys.push_back(target.keys->block(target.parent, target.striping,
                                      target.extent_index * ExtentBits::kBlocks + in_extent));
  }
  kv::BulkRead request;
  request.points.assign(keys.begin(), keys.end());
  request.background = true;
  ValuesSink sink(change.values);
  co_return co_await engine.read(executor, request, sink);
}

}  // namespace fdbnbd::volume
