#include "volume/layer_merge.h"

#include <fmt/core.h>

#include <string>
#include <utility>

#include "volume/layer_edits.h"
#include "volume/merge.h"

namespace fdbnbd::volume {

namespace {

uint32_t blocks_per_step(uint8_t block_shift) {
  return static_cast<uint32_t>(limits::kMergeStepBytes >> block_shift);
}

// Nothing is left of it: what is above now stands on what was below.
void finish_merge_in(kv::Transaction& transaction, const KeySpace& keys, LayerId layer,
                     const LayerRecord& record, LayerId child, LayerRecord child_record) {
  transaction.clear(keys.child(layer, child));
  child_record.parent = record.parent;
  transaction.set(keys.layer(child), child_record.encode());
  if (record.parent.value != 0) {
    transaction.clear(keys.child(record.parent, layer));
    transaction.set(keys.child(record.parent, child), ChildRecord{}.encode());
  }
  const std::string begin = keys.layer_begin('D', layer);
  const std::string end = keys.layer_end('D', layer);
  transaction.clear_range({begin, end});
  transaction.clear(keys.layer(layer));
  transaction.clear(keys.job(JobId{layer.value}));
}

// Whether nothing is left of the extent.
Task<Result<bool>> merge_extent_in(kv::Transaction& transaction, RecordReader& records, LayerId layer,
                                   const LayerRecord& record, const kv::KeyValue& bitmap, MergeStep& step) {
  const KeySpace& keys = records.keys();
  const auto extent_index = keys.extent_of_bitmap(bitmap.key);
  if (!extent_index) co_return fail(Errc::corruption, "a presence bitmap's key is damaged");
  MergeChange change;
  change.target = {.keys = &keys,
                   .striping = record.striping,
                   .parent = layer,
                   .child = step.child,
                   .extent_index = *extent_index};
  ASSIGN_OR_CO_RETURN(change.parent_before, ExtentBits::decode(bitmap.value));
  const std::string child_key = keys.bitmap(step.child, *extent_index);
  auto child_value = co_await transaction.get(child_key, kv::Isolation::serializable);
  if (!child_value) co_return propagate(child_value);
  if (child_value->has_value()) {
    ASSIGN_OR_CO_RETURN(change.child_before, ExtentBits::decode(**child_value));
  }
  change.plan = plan_merge(change.parent_before, change.child_before, blocks_per_step(record.block_shift));
  CO_RETURN_IF_ERROR(co_await read_values(records.engine(), records.executor(), change));
  change.apply(transaction);
  step.next_extent = *extent_index + (change.plan.finishes ? 1 : 0);
  co_return change.plan.finishes;
}

}  // namespace

// One step, or the finding that it cannot be done now. Reads all that it relies on serializably: several
// servers may be at it.
Task<Result<MergeStep>> merge_in(kv::Transaction& transaction, RecordReader& records, LayerId layer,
                                 uint64_t next_extent) {
  transaction.set_background();
  const KeySpace& keys = records.keys();
  MergeStep step;
  ASSIGN_OR_CO_RETURN(const auto record, co_await records.read_layer(transaction, layer));
  if (!record || record->state == LayerState::live) {
    // It may have been done already, so look first: a transaction that changes nothing costs no commit.
    const std::string job_key = keys.job(JobId{layer.value});
    auto job = co_await transaction.get(job_key, kv::Isolation::serializable);
    if (!job) co_return propagate(job);
    if (job->has_value()) transaction.clear(job_key);
    co_return step;
  }
  if (record->state == LayerState::deleting) {
    step.follow_up = JobRecord{.kind = JobKind::reclaim_layer, .layer = layer};
    step.outcome = JobOutcome::more;
    co_return step;
  }
  ASSIGN_OR_CO_RETURN(const std::vector<LayerId> children,
                      co_await records.read_children(transaction, layer));
  if (children.size() > 1) {
    transaction.clear(keys.job(JobId{layer.value}));  // who takes a child away makes a new one
    co_return step;
  }
  if (children.empty()) {
    CO_RETURN_IF_ERROR(co_await drop_top(transaction, keys, layer));
    step.follow_up = JobRecord{.kind = JobKind::reclaim_layer, .layer = layer};
    step.outcome = JobOutcome::more;
    co_return step;
  }
  step.child = children.front();
  ASSIGN_OR_CO_RETURN(const auto child, co_await records.read_layer(transaction, step.child));
  if (!child) {
    co_return fail(Errc::corruption, fmt::format("layer {:016x} is missing above layer {:016x}",
                                                 step.child.value, layer.value));
  }
  if (child->state == LayerState::unnamed) {
    ASSIGN_OR_CO_RETURN(const auto grandchildren, co_await records.read_children(transaction, step.child));
    // It will go first, so that nothing moves twice.
    if (grandchildren.size() <= 1) co_return step.outcome = JobOutcome::blocked, step;
  }
  const std::string begin = keys.layer_begin('B', layer);
  const std::string from = keys.bitmap(layer, next_extent);
  const std::string end = keys.layer_end('B', layer);
  auto page = co_await transaction.get_range({from, end}, {.rows_limit = 2}, kv::Isolation::serializable);
  if (!page) co_return propagate(page);
  bool is_all = next_extent == 0;  // that is left
  if (page->rows.empty() && !is_all) {
    page = co_await transaction.get_range({begin, end}, {.rows_limit = 2}, kv::Isolation::serializable);
    if (!page) co_return propagate(page);
    is_all = true;
  }
  const auto finish = [&] {
    finish_merge_in(transaction, keys, layer, *record, step.child, *child);
    if (record->parent.value == 0) step.stands_alone = child->origin;
    step.outcome = JobOutcome::done;
  };
  step.outcome = JobOutcome::more;
  if (page->rows.empty()) {
    finish();
    co_return step;
  }
  const std::string fence_key = keys.fence(child->origin);
  auto fence_value = co_await transaction.get(fence_key, kv::Isolation::serializable);
  if (!fence_value) co_return propagate(fence_value);
  if (fence_value->has_value()) {
    ASSIGN_OR_CO_RETURN(const FenceRecord fence, FenceRecord::decode(**fence_value));
    if (fence.top_layer == step.child && !fence.is_free()) {
      step.owner = child->origin;
      co_return step;
    }
  }
  ASSIGN_OR_CO_RETURN(
      const bool finishes_extent,
      co_await merge_extent_in(transaction, records, layer, *record, page->rows.front(), step));
  if (finishes_extent && is_all && page->rows.size() == 1 && !page->more) finish();
  co_return step;
}

}  // namespace fdbnbd::volume
