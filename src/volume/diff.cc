#include "volume/diff.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <map>
#include <set>
#include <utility>

#include "base/limits.h"
#include "kv/retry.h"
#include "volume/chain_reader.h"
#include "volume/presence.h"
#include "volume/record_reader.h"
#include "volume/records.h"

namespace fdbnbd::volume {

namespace {

constexpr uint32_t kBlocks = ExtentBits::kBlocks;

bool reads_as_zero(BlockState state) {
  return state != BlockState::data;
}

// Lets `own` decide where nothing above has.
void underlay(ExtentBits& above, const ExtentBits& own) {
  for (uint32_t block = 0; block < kBlocks;) {
    const uint32_t count = own.run_length(block, kBlocks - block);
    if (const BlockState state = own.state(block); state != BlockState::absent) {
      for (uint32_t i = block; i < block + count; ++i) {
        if (above.state(i) == BlockState::absent) above.set_state(i, state);
      }
    }
    block += count;
  }
}

// One extent, as the layers say that only one of the points has.
struct ExtentDiff {
  ExtentBits from;
  ExtentBits to;

  // Whether what `to` reads as is only told by layers that both have.
  bool is_undecided() const {
    for (uint32_t block = 0; block < kBlocks; ++block) {
      if (to.state(block) == BlockState::absent && from.state(block) != BlockState::absent) return true;
    }
    return false;
  }
};

struct Point {
  std::vector<ChainLayer> chain;  // from the top down; empty: nothing at all
  uint64_t size_bytes = 0;
};

// One attempt, as of the transaction's version.
class Comparison {
 public:
  Comparison(kv::Transaction& transaction, const KeySpace& keys, const DiffPoints& points, DiffSpan span,
             uint32_t ranges_limit)
      : transaction_(transaction), keys_(keys), points_(points), span_(span), ranges_limit_(ranges_limit) {}

  Task<Result<DiffPage>> run() {
    CO_RETURN_IF_ERROR(co_await find_points());
    page_.end_bytes = std::min(span_.end_bytes, page_.to_size_bytes);
    if (span_.begin_bytes >= page_.end_bytes) co_return std::move(page_);
    begin_extent_ = extent_of(span_.begin_bytes);
    end_extent_ = extent_of(page_.end_bytes - 1) + 1;
    CO_RETURN_IF_ERROR(co_await read_own_layers());
    CO_RETURN_IF_ERROR(co_await decide());
    page_.end_bytes = std::min(page_.end_bytes, (end_extent_ * kBlocks) << block_shift_);
    for (const auto& [extent_index, extent] : extents_) {
      if (!tell(extent_index, extent)) break;
    }
    co_return std::move(page_);
  }

 private:
  enum class Side : uint8_t { from, to };

  uint64_t extent_of(uint64_t offset_bytes) const { return (offset_bytes >> block_shift_) / kBlocks; }

  Task<Result<void>> find_points() {
    auto volume = co_await get<VolumeRecord>(keys_.volume(points_.volume));
    if (!volume) co_return propagate(volume);
    if (!*volume) co_return fail(Errc::not_found, "the volume has been removed");
    block_shift_ = (*volume)->block_shift;
    page_.block_bytes = (*volume)->block_bytes();
    auto to = co_await find_point(points_.to, (*volume)->size_bytes);
    if (!to) co_return propagate(to);
    Point from;
    if (points_.from) {
      auto found = co_await find_point(points_.from, 0);
      if (!found) co_return propagate(found);
      from = std::move(*found);
    }
    page_.from_size_bytes = from.size_bytes;
    page_.to_size_bytes = to->size_bytes;
    share_out(std::move(from.chain), std::move(to->chain));
    co_return Result<void>{};
  }

  // Without a name, the volume's own top.
  Task<Result<Point>> find_point(const std::optional<std::string>& name, uint64_t volume_size_bytes) {
    LayerId top;
    uint64_t size_bytes = volume_size_bytes;
    if (name) {
      auto record = co_await get<SnapshotRecord>(keys_.snapshot(points_.volume, *name));
      if (!record) co_return propagate(record);
      if (!*record) co_return fail(Errc::not_found, fmt::format("there is no snapshot \"{}\"", *name));
      top = (*record)->layer;
      size_bytes = (*record)->size_bytes;
    } else {
      auto fence = co_await get<FenceRecord>(keys_.fence(points_.volume));
      if (!fence) co_return propagate(fence);
      if (!*fence) co_return fail(Errc::not_found, "the volume has been removed");
      top = (*fence)->top_layer;
    }
    auto chain = co_await read_chain(transaction_, keys_, top);
    if (!chain) {
      const Errc code = chain.error().code == Errc::not_found ? Errc::corruption : chain.error().code;
      co_return fail(code, chain.error().what);
    }
    co_return Point{std::move(*chain), size_bytes};
  }

  void share_out(std::vector<ChainLayer> from, std::vector<ChainLayer> to) {
    while (!from.empty() && !to.empty() && from.back().id == to.back().id) {
      shared_.push_back(to.back().id);
      from.pop_back();
      to.pop_back();
    }
    std::ranges::reverse(shared_);
    for (const ChainLayer& layer : from) own_.emplace_back(layer.id, Side::from);
    for (const ChainLayer& layer : to) own_.emplace_back(layer.id, Side::to);
  }

  // The page ends where the first of the layers' answers does.
  Task<Result<void>> read_own_layers() {
    const auto layers_count = static_cast<uint32_t>(std::max<size_t>(1, own_.size()));
    const uint32_t rows_limit = std::max<uint32_t>(1, limits::kDiffBitmapsPerPage / layers_count);
    for (const auto& [layer, side] : own_) {
      const std::string begin = keys_.bitmap(layer, begin_extent_);
      const std::string end = key_after(keys_.bitmap(layer, end_extent_ - 1));
      auto rows =
          co_await transaction_.get_range({begin, end}, {.rows_limit = rows_limit}, kv::Isolation::snapshot);
      if (!rows) co_return propagate(rows);
      for (const kv::KeyValue& row : rows->rows) {
        ASSIGN_OR_CO_RETURN(const uint64_t extent_index, extent_of_row(row));
        ASSIGN_OR_CO_RETURN(const ExtentBits own, ExtentBits::decode(row.value));
        ExtentDiff& extent = extents_[extent_index];
        underlay(side == Side::from ? extent.from : extent.to, own);
        if (rows->more && &row == &rows->rows.back()) end_extent_ = extent_index + 1;
      }
      extents_.erase(extents_.lower_bound(end_extent_), extents_.end());
    }
    co_return Result<void>{};
  }

  // Looks into the shared layers where they decide what `to` reads as.
  Task<Result<void>> decide() {
    std::vector<uint64_t> undecided;
    for (const auto& [extent_index, extent] : extents_) {
      if (!extent.is_undecided()) continue;
      if (undecided.size() == limits::kDiffLookUpsPerPage) {
        end_extent_ = extent_index;
        break;
      }
      undecided.push_back(extent_index);
    }
    extents_.erase(extents_.lower_bound(end_extent_), extents_.end());
    for (const uint64_t extent_index : undecided) {
      ExtentDiff& extent = extents_.at(extent_index);
      ExtentBits to = extent.to;
      for (const LayerId layer : shared_) {
        const std::string key = keys_.bitmap(layer, extent_index);
        auto value = co_await transaction_.get(key, kv::Isolation::snapshot);
        if (!value) co_return propagate(value);
        if (!value->has_value()) continue;
        ASSIGN_OR_CO_RETURN(const ExtentBits own, ExtentBits::decode(**value));
        underlay(to, own);
      }
      // Where neither point has said anything, they agree whatever the shared layers say.
      for (uint32_t block = 0; block < kBlocks; ++block) {
        if (extent.from.state(block) == BlockState::absent) continue;
        const BlockState state = to.state(block);
        extent.to.set_state(block, state == BlockState::absent ? BlockState::hole : state);
      }
    }
    co_return Result<void>{};
  }

  // False where there is no room for more.
  bool tell(uint64_t extent_index, const ExtentDiff& extent) {
    for (uint32_t block = 0; block < kBlocks;) {
      const uint32_t count = std::min(extent.from.run_length(block, kBlocks - block),
                                      extent.to.run_length(block, kBlocks - block));
      const BlockState from = extent.from.state(block);
      const BlockState to = extent.to.state(block);
      const bool is_untouched = from == BlockState::absent && to == BlockState::absent;
      // Without layers of its own, `from` reads as the shared ones do, which may be data.
      const bool from_is_zero = reads_as_zero(from) && (from != BlockState::absent || shared_.empty());
      if (!is_untouched && !(from_is_zero && reads_as_zero(to))) {
        const uint64_t begin_bytes = (extent_index * kBlocks + block) << block_shift_;
        const uint64_t end_bytes = begin_bytes + (uint64_t{count} << block_shift_);
        if (!add(begin_bytes, end_bytes, reads_as_zero(to) ? DiffKind::zero : DiffKind::data)) return false;
      }
      block += count;
    }
    return true;
  }

  bool add(uint64_t begin_bytes, uint64_t end_bytes, DiffKind kind) {
    begin_bytes = std::max(begin_bytes, span_.begin_bytes);
    end_bytes = std::min(end_bytes, page_.end_bytes);
    if (begin_bytes >= end_bytes) return true;
    auto& ranges = page_.ranges;
    if (!ranges.empty() && ranges.back().kind == kind &&
        ranges.back().offset_bytes + ranges.back().length_bytes == begin_bytes) {
      ranges.back().length_bytes += end_bytes - begin_bytes;
      return true;
    }
    if (ranges.size() >= ranges_limit_) {
      page_.end_bytes = begin_bytes;
      return false;
    }
    ranges.push_back({begin_bytes, end_bytes - begin_bytes, kind});
    return true;
  }

  Result<uint64_t> extent_of_row(const kv::KeyValue& row) const {
    const auto extent_index = keys_.extent_of_bitmap(row.key);
    if (!extent_index) return fail(Errc::corruption, "a bitmap's key is damaged");
    return *extent_index;
  }

  template <typename Record>
  Task<Result<std::optional<Record>>> get(std::string key) {
    return get_record<Record>(transaction_, std::move(key), kv::Isolation::snapshot);
  }

  kv::Transaction& transaction_;
  const KeySpace& keys_;
  const DiffPoints& points_;
  const DiffSpan span_;
  const uint32_t ranges_limit_;
  uint8_t block_shift_ = 0;
  std::vector<std::pair<LayerId, Side>> own_;  // that one of the points has, each from its top down
  std::vector<LayerId> shared_;                // from the top down
  uint64_t begin_extent_ = 0;
  uint64_t end_extent_ = 0;
  std::map<uint64_t, ExtentDiff> extents_;
  DiffPage page_;
};

Task<Result<DiffPage>> compare_in(kv::Transaction& transaction, const KeySpace& keys,
                                  const DiffPoints& points, DiffSpan span, uint32_t ranges_limit) {
  Comparison comparison(transaction, keys, points, span, ranges_limit);
  co_return co_await comparison.run();
}

}  // namespace

std::string_view diff_kind_name(DiffKind kind) {
  return kind == DiffKind::data ? "data" : "zero";
}

void append_page(DiffPage& whole, DiffPage next) {
  std::vector<DiffRange> ranges = std::move(whole.ranges);
  whole = std::move(next);
  size_t joined_count = 0;
  if (!ranges.empty() && !whole.ranges.empty()) {
    DiffRange& last = ranges.back();
    const DiffRange& first = whole.ranges.front();
    if (last.kind == first.kind && last.offset_bytes + last.length_bytes == first.offset_bytes) {
      last.length_bytes += first.length_bytes;
      joined_count = 1;
    }
  }
  ranges.insert(ranges.end(), whole.ranges.begin() + static_cast<ptrdiff_t>(joined_count),
                whole.ranges.end());
  whole.ranges = std::move(ranges);
}

Task<Result<DiffPage>> compare_points(kv::Engine& engine, Executor& executor, const KeySpace& keys,
                                      DiffPoints points, DiffSpan span, uint32_t ranges_limit) {
  Random random(span.begin_bytes);
  auto body = [&](kv::Transaction& transaction) {
    return compare_in(transaction, keys, points, span, ranges_limit);
  };
  co_return co_await kv::transact<DiffPage>(engine, executor, random, body);
}

Task<Result<std::vector<block::FlaggedExtent>>> changed_status(kv::Engine& engine, Executor& executor,
                                                               const KeySpace& keys, DiffPoints points,
                                                               DiffSpan span, uint32_t extents_limit) {
  const uint64_t begin_bytes = span.begin_bytes;
  auto page = co_await compare_points(engine, executor, keys, std::move(points), span, extents_limit);
  if (!page) co_return propagate(page);
  if (page->end_bytes <= begin_bytes) co_return fail(Errc::invalid, "the range lies behind the end");
  std::vector<block::FlaggedExtent> extents;
  uint64_t told_bytes = begin_bytes;
  const auto add = [&](uint64_t end_bytes, uint32_t flags) {
    if (end_bytes == told_bytes) return;
    if (extents.empty() || extents.back().flags != flags) extents.push_back({0, flags});
    extents.back().length_bytes += end_bytes - told_bytes;
    told_bytes = end_bytes;
  };
  for (const DiffRange& range : page->ranges) {
    add(range.offset_bytes, 0);
    add(range.offset_bytes + range.length_bytes, 1);
  }
  add(page->end_bytes, 0);
  if (extents.size() > extents_limit) extents.resize(extents_limit);
  co_return extents;
}

}  // namespace fdbnbd::volume
