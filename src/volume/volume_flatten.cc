#include <fmt/core.h>

#include <utility>

#include "base/limits.h"
#include "volume/merge.h"
#include "volume/volume.h"

// Copying what a volume has from the layers below into its top one, beside clients.

namespace fdbnbd::volume {

namespace {

// The copies of one step. The layers that they come from stay as they are.
class FlattenIntent final : public CommitQueue::Intent {
 public:
  FlattenIntent(const MergeChange& change, uint64_t bytes) : change_(change) {
    layer = change.target.child;
    estimated_bytes = bytes;
    mutations_count = static_cast<uint32_t>(change.plan.moved.size()) + 1;
  }

  void apply(kv::Transaction& transaction) override { change_.apply_to_child(transaction); }

 private:
  const MergeChange& change_;
};

}  // namespace

Task<Result<std::optional<LayerId>>> Volume::flatten_round(Progress* progress) {
  CO_RETURN_IF_ERROR(co_await fence_.refresh());
  const LayerId top = update_top();
  ASSIGN_OR_CO_RETURN(const bool finished, co_await flatten_into(top, progress));
  co_return finished ? std::optional(top) : std::nullopt;
}

Task<Result<bool>> Volume::flatten_into(LayerId top, Progress* progress) {
  uint64_t done_blocks = 0;
  for (uint64_t next_extent = 0;;) {
    if (progress != nullptr) {
      if (progress->cancelled()) co_return fail(Errc::cancelled, "stopped");
      progress->on_progress(done_blocks << record_.block_shift, used_bytes());
    }
    std::optional<uint64_t> populated;
    uint32_t data_count = 0;
    chain_.map().for_each_extent(next_extent, UINT64_MAX, [&](uint64_t extent_index, const ExtentBits& bits) {
      populated = extent_index;
      data_count = bits.data_count();
      return false;
    });
    if (!populated) co_return true;
    ASSIGN_OR_CO_RETURN(const FlattenStep step, co_await flatten_extent(*populated, top));
    if (step == FlattenStep::outdated) co_return false;
    const bool is_done = step == FlattenStep::extent_done;
    next_extent = *populated + (is_done ? 1 : 0);
    if (is_done) done_blocks += data_count;
  }
}

Task<Result<Volume::FlattenStep>> Volume::flatten_extent(uint64_t extent_index, LayerId top) {
  const uint64_t first_block = extent_index * limits::kBlocksPerExtent;
  RangeLock::Guard lock(locks_, first_block, first_block + limits::kBlocksPerExtent,
                        RangeLock::Mode::exclusive);
  co_await lock.acquire();
  CO_RETURN_IF_ERROR(check_tenure());
  if (update_top() != top) co_return FlattenStep::outdated;
  const LayerSlot slot = chain_.map().slot_of(top);
  MergeChange change;
  change.target.keys = &keys_;
  change.target.striping = record_.striping;
  change.target.child = top;
  change.target.extent_index = extent_index;
  change.child_before = chain_.map().own_states(extent_index, slot, 0, limits::kBlocksPerExtent);
  change.plan = plan_merge(chain_.map().extent(extent_index), change.child_before,
                           static_cast<uint32_t>(limits::kMergeStepBytes >> record_.block_shift));
  if (change.plan.child_after == change.child_before) co_return FlattenStep::extent_done;
  CO_RETURN_IF_ERROR(
      co_await chain_.read_stored(first_block, change.plan.moved, change.values, display_name()));
  uint64_t bytes = 0;
  for (const auto& value : change.values) bytes += value->size();
  FlattenIntent intent(change, bytes);
  const Result<void> committed = co_await commits_.commit(intent);
  // Then a snapshot was taken.
  if (!committed && committed.error().code == Errc::conflict) co_return FlattenStep::outdated;
  CO_RETURN_IF_ERROR(committed);
  for (uint32_t i = 0; i < limits::kBlocksPerExtent; ++i) {
    if (change.plan.child_after.state(i) != change.child_before.state(i))
      chain_.map().set_owner(first_block + i, slot);
  }
  co_return change.plan.finishes ? FlattenStep::extent_done : FlattenStep::more;
}

}  // namespace fdbnbd::volume
