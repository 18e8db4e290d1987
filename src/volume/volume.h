#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "async/event.h"
#include "async/range_lock.h"
#include "async/scope.h"
#include "async/semaphore.h"
#include "base/function.h"
#include "block/export.h"
#include "kv/engine.h"
#include "volume/chain_reader.h"
#include "volume/commit_queue.h"
#include "volume/fence.h"
#include "volume/intents.h"
#include "volume/keys.h"
#include "volume/layer_check.h"
#include "volume/lease.h"
#include "volume/records.h"
#include "volume/store.h"

namespace fdbnbd::volume {

// A volume that this process has open for writing: requests become range locks, bulk reads and commits
// (src/README.md, "The life of a request"). Lives on executor(); all of its data is that thread's, unless it
// says otherwise.
class Volume final : public block::Export {
 public:
  // What open() found out, and what the volume needs of its store.
  struct Environment {
    kv::Engine& engine;
    Executor& executor;
    const KeySpace& keys;
    InstanceId owner;
    // How the volume is taken where several servers share the store. Copied.
    const Ownership& ownership;
    // As LeasePlace::stopping.
    const std::atomic<bool>& stopping;
  };

  // Takes the volume and loads the presence bitmaps of its layers. busy where another server holds it. On the
  // environment's executor, as everything below.
  static Task<Result<std::unique_ptr<Volume>>> open(Environment environment, std::string name,
                                                    VolumeRecord record);

  // No request may be in flight or come. Writes the usage record and gives the ownership up; a failure only
  // costs the next opener time, and is logged.
  Task<void> close();

  Executor& executor() override { return executor_; }
  block::ExportInfo info() const override;
  Task<Result<std::vector<block::ReadSegment>>> read(uint64_t offset_bytes, MutableByteView into) override;
  Task<Result<void>> write(uint64_t offset_bytes, ByteView data, block::WriteOptions options) override;
  Task<Result<void>> flush() override;
  Task<Result<void>> trim(uint64_t offset_bytes, uint64_t length_bytes, block::WriteOptions options) override;
  Task<Result<void>> write_zeroes(uint64_t offset_bytes, uint64_t length_bytes,
                                  block::ZeroOptions options) override;
  Task<Result<void>> cache(uint64_t offset_bytes, uint64_t length_bytes) override;
  Task<Result<std::vector<block::StatusExtent>>> block_status(uint64_t offset_bytes, uint64_t length_bytes,
                                                              uint32_t extents_limit) override;
  Task<Result<std::vector<block::FlaggedExtent>>> topic_status(block::StatusTopic topic,
                                                               uint64_t offset_bytes, uint64_t length_bytes,
                                                               uint32_t extents_limit) override;

  // Online; a shrink waits for the requests in the part that goes. On a failure the size is what it was.
  // invalid where it would be a shrink and that is not allowed.
  Task<Result<void>> resize(uint64_t size_bytes, bool allow_shrink);

  // Bounds what the volume uses from now on; 0: no bound.
  Task<Result<void>> set_quota(uint64_t quota_bytes);

  // One step of moving what `parent` holds into `top`, whose only parent it is: the first extent from
  // `next_extent` on, which is moved on. False where nothing is left or where `top` is not the top any more.
  Task<Result<bool>> merge_parent(LayerId parent, LayerId top, uint64_t& next_extent);

  // Copies all that the volume has from the layers below into its top layer, beside requests. That layer: it
  // needs no parent any more. Nothing where a snapshot was taken meanwhile, since it shares with that one:
  // another round begins with the new top layer. cancelled.
  Task<Result<std::optional<LayerId>>> flatten_round(Progress* progress);

  // The volume is taken from its clients: what they have begun is finished, from then on every request ends
  // with Errc::cancelled, and the volume is let go. close() is still to be called, and not before this is
  // done.
  Task<void> depart();

  // Where the volume is being taken from its clients: resolves once it has been let go, so that this process
  // may open it anew. close() must not be called meanwhile.
  Task<void> wait_until_let_go();

  // A snapshot has been taken. It costs a conflict not to know.
  void note_snapshot();

  // The layer stands alone now. It costs nothing not to know.
  void forget_parents(LayerId top) {
    if (update_top() == top) chain_.forget_parents();
  }

  void set_name(std::string name) { name_ = std::move(name); }

  // Verifies every block that the top layer stores against its checksum and the bitmaps against what is
  // stored, beside requests. Adds to `report`.
  Task<Result<void>> check(CheckReport& report, Progress* progress);

  // Whether the volume is not this process's any more: requests fail, and it has to be opened anew. Any
  // thread.
  bool is_retired() const { return fence_.is_lost() || departed_.load(std::memory_order_relaxed); }

  // Any thread.
  uint64_t used_bytes() const { return used_bytes_.load(std::memory_order_relaxed); }
  uint64_t size_bytes() const override { return size_bytes_.load(std::memory_order_relaxed); }

 private:
  // Blocks [begin, end).
  struct BlockSpan {
    uint64_t begin;
    uint64_t end;
  };

  Volume(Environment environment, std::string name, VolumeRecord record);

  Task<Result<void>> take();
  // Why the volume takes no requests, if it does not.
  Result<void> check_tenure() const;
  // Whether what is in memory of the volume's blocks is true without asking; otherwise check_lease() asks.
  bool may_answer_reads() const { return !is_retired() && (!lease_ || lease_->allows_reads()); }
  Task<Result<void>> check_lease();
  // Before an answer that rests on what is in memory alone: that nothing had to be changed.
  Task<Result<void>> prove_tenure();
  void on_lost();
  void on_handover();
  Task<void> drop_presence();
  Task<void> hand_over();
  // Once departed_ is set.
  Task<void> let_go();
  Task<void> release();
  Task<Result<void>> release_in(kv::Transaction& transaction);
  Task<void> refresh_fence();
  Task<Result<void>> begin_tenure();
  Task<Result<void>> load_layers();

  // A metadata transaction in which `body(transaction, fence)` runs only while the volume is ours. Must be
  // idempotent.
  template <typename Body>
  Task<Result<void>> transact_as_owner(Body& body);
  template <typename Body>
  Task<Result<void>> run_as_owner(kv::Transaction& transaction, Body& body);
  // Runs `attempt(transaction)`, which does something only while the volume is ours, until that is decided.
  template <typename Attempt>
  Task<Result<void>> decide_as_owner(Attempt& attempt);
  // Reads the record once the volume is ours: it may have changed, or gone to the trash, before that.
  Task<Result<void>> reload_record();
  // Changes the stored record, of which others change parts that do not matter here, and then ours.
  Task<Result<void>> change_record(FunctionRef<void(VolumeRecord&)> change);
  Task<Result<void>> change_record_in(kv::Transaction& transaction, FunctionRef<void(VolumeRecord&)> change);

  // Keeps blocks that a write is about to add within the quota until they are counted.
  class QuotaClaim {
   public:
    QuotaClaim(uint64_t& claimed_count, uint64_t count) : claimed_count_(claimed_count), count_(count) {
      claimed_count_ += count_;
    }
    QuotaClaim(const QuotaClaim&) = delete;
    QuotaClaim& operator=(const QuotaClaim&) = delete;
    ~QuotaClaim() { claimed_count_ -= count_; }

   private:
    uint64_t& claimed_count_;
    const uint64_t count_;
  };
  // How many blocks more than now hold data once `data` is written there. With the range lock.
  uint64_t count_added_blocks(uint64_t offset_bytes, ByteView data) const;
  Result<void> check_quota(uint64_t added_blocks_count) const;

  BlockSpan span_of(uint64_t offset_bytes, uint64_t length_bytes) const;
  Result<void> check_inside(uint64_t offset_bytes, uint64_t length_bytes, Errc past_end) const;
  // The top layer, as the fence knows it: a snapshot may have put another one on top.
  LayerId update_top();
  LayerShape shape();
  ExtentView view_of(const ExtentIntent& intent);
  void note_usage();

  // The *_locked functions need the range lock on the blocks they touch.
  Task<Result<std::vector<std::byte>>> read_block_locked(uint64_t block);
  // Blocks that end up all zero get `zero_state`: absent or zero.
  Task<Result<void>> write_locked(uint64_t offset_bytes, ByteView data, BlockState zero_state);
  Task<Result<void>> clear_locked(uint64_t offset_bytes, uint64_t length_bytes, BlockState target);
  // Whole blocks, in steps of limited size.
  Task<Result<void>> clear_blocks_locked(BlockSpan span, BlockState target);
  // Writes zeroes to a part of one block, where the block holds anything.
  Task<Result<void>> zero_part_locked(uint64_t offset_bytes, uint64_t length_bytes, BlockState target);

  Task<Result<void>> clear(uint64_t offset_bytes, uint64_t length_bytes, BlockState target, Errc past_end,
                           bool fua);

  // volume_resize.cc
  Task<Result<void>> set_size(uint64_t size_bytes);
  // Clears what is stored behind the end, if anything is. With resizing_.
  Task<Result<void>> clear_stale();
  uint64_t end_of_stale_turn(uint64_t begin_bytes) const;
  // Goes on with what a server before this one did not finish.
  Task<void> finish_shrink();

  // Prepares the intents and commits those that have something to commit, then takes over their bits. Changes
  // the list.
  Task<Result<void>> commit(std::span<ExtentIntent*> intents);
  // What becomes of a flattening when a snapshot puts another layer on top.
  enum class FlattenStep : uint8_t { more, extent_done, outdated };
  // False where `top` is not the top any more.
  Task<Result<bool>> flatten_into(LayerId top, Progress* progress);
  Task<Result<FlattenStep>> flatten_extent(uint64_t extent_index, LayerId top);
  LayerScan scan_of(LayerId layer);
  Task<Result<void>> check_extents(uint64_t begin_extent, uint64_t end_extent, CheckReport& report);
  Task<Result<void>> check_extents_of(LayerId top, uint64_t begin_extent, uint64_t end_extent,
                                      CheckReport& report);
  Task<Result<void>> check_gap(uint64_t begin_extent, uint64_t end_extent, CheckReport& report);
  std::string display_name() const;

  kv::Engine& engine_;
  Executor& executor_;
  const KeySpace& keys_;
  std::string name_;
  VolumeRecord record_;
  Fence fence_;
  std::optional<Lease> lease_;  // where several servers share the store
  bool is_open_ = false;        // open() has succeeded
  bool closing_ = false;
  // The volume is taken from its clients, for another server or for good: no request is taken any more.
  std::atomic<bool> departed_ = false;  // written by the executor's thread
  bool is_let_go_ = false;              // what departed_ begins has ended
  Event let_go_;
  CommitQueue commits_;
  RangeLock locks_;  // in blocks
  ChainReader chain_;
  Random random_;                            // for back-off
  uint64_t quota_claimed_blocks_count_ = 0;  // by writes under way
  Semaphore admission_{limits::kMaxRequestsPerVolume};
  Semaphore resizing_{1};
  TaskScope tasks_;                      // that end before close() does
  std::atomic<uint64_t> used_bytes_{0};  // written by the executor's thread
  std::atomic<uint64_t> size_bytes_{0};  // the same
};

}  // namespace fdbnbd::volume
