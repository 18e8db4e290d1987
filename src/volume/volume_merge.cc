#include "kv/retry.h"
#include "volume/merge.h"
#include "volume/volume.h"

// Merging an unnamed parent into the top layer, beside clients.

namespace fdbnbd::volume {

namespace {

class MergeIntent final : public CommitQueue::Intent {
 public:
  explicit MergeIntent(const MergeChange& change, uint64_t bytes) : change_(change) {
    layer = change.target.child;
    estimated_bytes = bytes;
    mutations_count = static_cast<uint32_t>(2 * change.plan.moved.size()) + 3;
  }

  void apply(kv::Transaction& transaction) override { change_.apply(transaction); }

 private:
  const MergeChange& change_;
};

}  // namespace

Task<Result<bool>> Volume::merge_parent(LayerId parent, LayerId top, uint64_t& next_extent) {
  MergeChange change;
  change.target = {.keys = &keys_, .striping = record_.striping, .parent = parent, .child = top};
  {
    const std::unique_ptr<kv::Transaction> transaction = engine_.begin(executor_);
    const std::string begin = keys_.bitmap(parent, next_extent);
    const std::string end = keys_.layer_end('B', parent);
    auto page = co_await transaction->get_range({begin, end}, {.rows_limit = 1}, kv::Isolation::snapshot);
    if (!page && kv::is_retryable(page.error().code)) co_return true;
    if (!page) co_return propagate(page);
    if (page->rows.empty()) co_return false;
    const auto extent_index = keys_.extent_of_bitmap(page->rows.front().key);
    if (!extent_index) co_return fail(Errc::corruption, "a presence bitmap's key is damaged");
    change.target.extent_index = *extent_index;
    // Nobody else changes it while this process owns the volume.
    ASSIGN_OR_CO_RETURN(change.parent_before, ExtentBits::decode(page->rows.front().value));
  }
  const uint64_t first_block = change.target.extent_index * limits::kBlocksPerExtent;
  RangeLock::Guard lock(locks_, first_block, first_block + limits::kBlocksPerExtent,
                        RangeLock::Mode::exclusive);
  co_await lock.acquire();
  CO_RETURN_IF_ERROR(check_tenure());
  // A snapshot may have put it on top since the last write.
  if (update_top() != top) CO_RETURN_IF_ERROR(co_await fence_.refresh());
  // Where the top was cut loose, nothing of its former parent may come up any more.
  if (update_top() != top || !chain_.has_parents()) co_return false;
  const LayerSlot slot = chain_.map().slot_of(top);
  change.child_before =
      chain_.map().own_states(change.target.extent_index, slot, 0, limits::kBlocksPerExtent);
  change.plan = plan_merge(change.parent_before, change.child_before,
                           static_cast<uint32_t>(limits::kMergeStepBytes >> record_.block_shift));
  CO_RETURN_IF_ERROR(co_await read_values(engine_, executor_, change));
  uint64_t bytes = 0;
  for (const auto& value : change.values) bytes += value ? value->size() : 0;
  MergeIntent intent(change, bytes);
  const Result<void> committed = co_await commits_.commit(intent);
  if (!committed && committed.error().code == Errc::conflict) co_return false;  // a snapshot was taken
  CO_RETURN_IF_ERROR(committed);
  for (uint32_t i = 0; i < limits::kBlocksPerExtent; ++i) {
    if (change.plan.child_after.state(i) != change.child_before.state(i))
      chain_.map().set_owner(first_block + i, slot);
  }
  if (change.plan.finishes) next_extent = change.target.extent_index + 1;
  co_return true;
}

}  // namespace fdbnbd::volume
