#include "volume/merge.h"

namespace fdbnbd::volume {

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

void MergeChange::apply_to_child(kv::Transaction& transaction) const {
  const uint64_t first_block = target.extent_index * ExtentBits::kBlocks;
  for (size_t i = 0; i < plan.moved.size(); ++i) {
    if (values[i])
      transaction.set(target.keys->block(target.child, target.striping, first_block + plan.moved[i]),
                      *values[i]);
  }
  const std::string set_in_child = ExtentBits::or_operand(child_before, plan.child_after);
  if (!set_in_child.empty())
    transaction.bit_or(target.keys->bitmap(target.child, target.extent_index), set_in_child);
}

void MergeChange::apply(kv::Transaction& transaction) const {
  apply_to_child(transaction);
  const uint64_t first_block = target.extent_index * ExtentBits::kBlocks;
  const std::string bitmap = target.keys->bitmap(target.parent, target.extent_index);
  if (!plan.finishes) {
    for (const uint32_t block : plan.moved)
      transaction.clear(target.keys->block(target.parent, target.striping, first_block + block));
    const std::string cleared = ExtentBits::and_operand(parent_before, plan.parent_after);
    if (!cleared.empty()) transaction.bit_and(bitmap, cleared);
    return;
  }
  transaction.clear(bitmap);
  if (parent_before.data_count() == 0) return;
  const std::string begin = target.keys->block(target.parent, target.striping, first_block);
  const std::string end =
      key_after(target.keys->block(target.parent, target.striping, first_block + ExtentBits::kBlocks - 1));
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
