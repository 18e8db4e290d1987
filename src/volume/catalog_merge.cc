#include <fmt/core.h>

#include <utility>

#include "volume/catalog.h"
#include "volume/merge.h"

// What becomes of the layers of removed snapshots: cleared, where nothing is above them; merged into the
// layer above, where there is one; left, where there are several.

namespace fdbnbd::volume {

namespace {

uint32_t blocks_per_step(uint8_t block_shift) {
  return static_cast<uint32_t>(limits::kMergeStepBytes >> block_shift);
}

}  // namespace

Task<Result<Catalog::JobOutcome>> Catalog::merge_turn(JobId id) {
  Job& job = jobs_.at(id);
  const LayerId layer = job.record.layer;
  auto body = [&](kv::Transaction& transaction) { return merge_in(transaction, layer, job.next_extent); };
  auto step = co_await transact<MergeStep>(body);
  if (!step) co_return propagate(step);
  if (step->owner) co_return co_await merge_as_owner(*step->owner, layer, step->child, job.next_extent);
  job.next_extent = step->next_extent;
  if (step->follow_up) job.record = *step->follow_up;
  if (step->stands_alone) forget_parents(*step->stands_alone, step->child);
  if (step->outcome == JobOutcome::done || step->follow_up) co_await take_up_jobs();
  co_return step->outcome;
}

// One step, or the finding that it cannot be done now. Reads all that it relies on serializably: several
// servers may be at it.
Task<Result<Catalog::MergeStep>> Catalog::merge_in(kv::Transaction& transaction, LayerId layer,
                                                   uint64_t next_extent) {
  transaction.set_background();
  MergeStep step;
  ASSIGN_OR_CO_RETURN(const auto record, co_await read_layer(transaction, layer));
  if (!record || record->state == LayerState::live) {
    transaction.clear(keys_.job(JobId{layer.value}));
    co_return step;
  }
  if (record->state == LayerState::deleting) {
    step.follow_up = JobRecord{.kind = JobKind::reclaim_layer, .layer = layer};
    step.outcome = JobOutcome::more;
    co_return step;
  }
  ASSIGN_OR_CO_RETURN(const std::vector<LayerId> children, co_await read_children(transaction, layer));
  if (children.size() > 1) {
    transaction.clear(keys_.job(JobId{layer.value}));  // who takes a child away makes a new one
    co_return step;
  }
  if (children.empty()) {
    CO_RETURN_IF_ERROR(co_await drop_top(transaction, layer));
    step.follow_up = JobRecord{.kind = JobKind::reclaim_layer, .layer = layer};
    step.outcome = JobOutcome::more;
    co_return step;
  }
  step.child = children.front();
  ASSIGN_OR_CO_RETURN(const auto child, co_await read_layer(transaction, step.child));
  if (!child) {
    co_return fail(Errc::corruption, fmt::format("layer {:016x} is missing above layer {:016x}",
                                                 step.child.value, layer.value));
  }
  if (child->state == LayerState::unnamed) {
    ASSIGN_OR_CO_RETURN(const auto grandchildren, co_await read_children(transaction, step.child));
    // It will go first, so that nothing moves twice.
    if (grandchildren.size() <= 1) co_return step.outcome = JobOutcome::blocked, step;
  }
  const std::string from = keys_.bitmap(layer, next_extent);
  const std::string end = keys_.layer_end('B', layer);
  auto page = co_await transaction.get_range({from, end}, {.rows_limit = 1}, kv::Isolation::serializable);
  if (!page) co_return propagate(page);
  step.outcome = JobOutcome::more;
  if (page->rows.empty()) {
    if (next_extent != 0) co_return step;  // once more from the beginning, to be sure
    finish_merge_in(transaction, layer, *record, step.child, *child);
    if (record->parent.value == 0) step.stands_alone = child->origin;
    step.outcome = JobOutcome::done;
    co_return step;
  }
  const std::string fence_key = keys_.fence(child->origin);
  auto fence_value = co_await transaction.get(fence_key, kv::Isolation::serializable);
  if (!fence_value) co_return propagate(fence_value);
  if (fence_value->has_value()) {
    ASSIGN_OR_CO_RETURN(const FenceRecord fence, FenceRecord::decode(**fence_value));
    if (fence.top_layer == step.child && !fence.is_free()) {
      step.owner = child->origin;
      co_return step;
    }
  }
  co_return co_await merge_extent_in(transaction, layer, *record, page->rows.front(), step);
}

Task<Result<Catalog::MergeStep>> Catalog::merge_extent_in(kv::Transaction& transaction, LayerId layer,
                                                          const LayerRecord& record,
                                                          const kv::KeyValue& bitmap, MergeStep step) {
  const auto extent_index = keys_.extent_of_bitmap(bitmap.key);
  if (!extent_index) co_return fail(Errc::corruption, "a presence bitmap's key is damaged");
  MergeChange change;
  change.target = {.keys = &keys_,
                   .striping = record.striping,
                   .parent = layer,
                   .child = step.child,
                   .extent_index = *extent_index};
  ASSIGN_OR_CO_RETURN(change.parent_before, ExtentBits::decode(bitmap.value));
  const std::string child_key = keys_.bitmap(step.child, *extent_index);
  auto child_value = co_await transaction.get(child_key, kv::Isolation::serializable);
  if (!child_value) co_return propagate(child_value);
  if (child_value->has_value()) {
    ASSIGN_OR_CO_RETURN(change.child_before, ExtentBits::decode(**child_value));
  }
  change.plan = plan_merge(change.parent_before, change.child_before, blocks_per_step(record.block_shift));
  CO_RETURN_IF_ERROR(co_await read_values(engine_, home_, change));
  change.apply(transaction);
  step.next_extent = *extent_index + (change.plan.finishes ? 1 : 0);
  co_return step;
}

// Nothing is left of it: what is above now stands on what was below.
void Catalog::finish_merge_in(kv::Transaction& transaction, LayerId layer, const LayerRecord& record,
                              LayerId child, LayerRecord child_record) {
  transaction.clear(keys_.child(layer, child));
  child_record.parent = record.parent;
  transaction.set(keys_.layer(child), child_record.encode());
  if (record.parent.value != 0) {
    transaction.clear(keys_.child(record.parent, layer));
    transaction.set(keys_.child(record.parent, child), ChildRecord{}.encode());
  }
  const std::string begin = keys_.layer_begin('D', layer);
  const std::string end = keys_.layer_end('D', layer);
  transaction.clear_range({begin, end});
  transaction.clear(keys_.layer(layer));
  transaction.clear(keys_.job(JobId{layer.value}));
}

// The child is the top layer of a volume that is open, so clients may write it: the volume does it itself.
Task<Result<Catalog::JobOutcome>> Catalog::merge_as_owner(VolumeId id, LayerId layer, LayerId child,
                                                          uint64_t& next_extent) {
  ASSIGN_OR_CO_RETURN(std::string name, co_await name_of(id));
  auto held = co_await hold_id(id, std::move(name));
  if (!held) co_return JobOutcome::blocked;  // open on another server, or going away
  held->mark_as_job();
  co_await go_to(held->executor());
  Result<bool> moved = false;
  for (uint32_t i = 0; i < limits::kMergeStepsPerTurn; ++i) {
    const MonotonicTime started = held->executor().clock().now();
    moved = co_await held->volume().merge_parent(layer, child, next_extent);
    if (!moved || !*moved || held->opened()->is_wanted.load(std::memory_order_relaxed)) break;
    const Duration took = held->executor().clock().now() - started;
    co_await sleep_for(held->executor(), std::min<Duration>(took, limits::kMaxJobPause));
  }
  co_await go_to(home_);
  if (!moved && (moved.error().code == Errc::fenced || moved.error().code == Errc::cancelled))
    co_return JobOutcome::blocked;
  if (!moved) co_return propagate(moved);
  if (!*moved) next_extent = 0;
  co_return JobOutcome::more;
}

// As it is open here, or found by its record; empty where it has none.
Task<Result<std::string>> Catalog::name_of(VolumeId id) {
  ASSIGN_OR_CO_RETURN(const auto rows, co_await read_all(keys_.type_begin('V'), keys_.type_end('V')));
  for (const kv::KeyValue& row : rows) {
    const auto record = NameRecord::decode(row.value);
    if (record && record->volume == id) co_return std::string(keys_.name_of(row.key));
  }
  co_return std::string();
}

void Catalog::forget_parents(VolumeId id, LayerId top) {
  const auto opened = find_open(id);
  if (!opened || !opened->volume || opened->closing) return;
  post(*opened->executor, [opened, top] {
    if (opened->volume) opened->volume->forget_parents(top);
  });
}

Task<Result<std::optional<LayerRecord>>> Catalog::read_layer(kv::Transaction& transaction, LayerId layer) {
  const std::string key = keys_.layer(layer);
  auto value = co_await transaction.get(key, kv::Isolation::serializable);
  if (!value) co_return propagate(value);
  if (!value->has_value()) co_return std::nullopt;
  ASSIGN_OR_CO_RETURN(const LayerRecord record, LayerRecord::decode(**value));
  co_return record;
}

// At most two, which is enough to know.
Task<Result<std::vector<LayerId>>> Catalog::read_children(kv::Transaction& transaction, LayerId layer) {
  const std::string begin = keys_.children_begin(layer);
  const std::string end = keys_.children_end(layer);
  auto page = co_await transaction.get_range({begin, end}, {.rows_limit = 2}, kv::Isolation::serializable);
  if (!page) co_return propagate(page);
  std::vector<LayerId> children;
  for (const kv::KeyValue& row : page->rows) {
    const auto key = keys_.child_of(row.key);
    if (!key) co_return fail(Errc::corruption, "the key of a child record is damaged");
    children.push_back(key->child);
  }
  co_return children;
}

}  // namespace fdbnbd::volume
