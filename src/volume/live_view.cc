#include "volume/live_view.h"

#include <fmt/core.h>

#include <algorithm>
#include <optional>
#include <ranges>
#include <utility>

#include "base/checked_math.h"
#include "base/limits.h"
#include "kv/retry.h"
#include "kv/snapshot_read.h"
#include "volume/chain_queries.h"
#include "volume/chain_reader.h"

namespace fdbnbd::volume {

namespace {

tl::unexpected<Error> read_only() {
  return fail(Errc::read_only, "the server serves its volumes read-only");
}

// Keeps all rows.
class RowsSink final : public kv::RowSink {
 public:
  explicit RowsSink(const kv::BulkRead& request)
      : points(request.points.size()), ranges(request.ranges.size()) {}

  std::vector<std::optional<std::string>> points;
  std::vector<std::vector<kv::KeyValue>> ranges;

  void on_range_row(size_t range_index, std::string_view key, std::string_view value) override {
    ranges[range_index].push_back({std::string(key), std::string(value)});
  }
  void on_point_row(size_t point_index, std::string_view value) override { points[point_index] = value; }
  // A read at one version fails instead.
  void on_unreadable_range_row(size_t, std::string_view) override {}
  void on_unreadable_point(size_t) override {}
};

}  // namespace

struct LiveView::Records {
  struct Layer {
    LayerId id;
    std::optional<LayerRecord> record;
    std::vector<kv::KeyValue> bitmaps;  // of the range's extents
  };

  FenceRecord fence;
  VolumeRecord volume;
  std::vector<Layer> layers;  // of the chain that was asked for
};

LiveView::LiveView(kv::Engine& engine, Executor& executor, const KeySpace& keys, std::string name,
                   const VolumeRecord& volume)
    : engine_(engine),
      executor_(executor),
      keys_(keys),
      name_(std::move(name)),
      id_(volume.id),
      block_shift_(volume.block_shift),
      striping_(volume.striping),
      random_(volume.id.value),
      size_bytes_(volume.size_bytes) {}

std::string LiveView::display_name() const {
  return fmt::format("volume \"{}\"", name_);
}

block::ExportInfo LiveView::info() const {
  block::ExportInfo info;
  info.name = name_;
  info.size_bytes = size_bytes();
  info.preferred_block_bytes = uint32_t{1} << block_shift_;
  info.max_payload_bytes = limits::kMaxPayloadBytes;
  info.read_only = true;
  return info;
}

void LiveView::note_size(kv::Version version, uint64_t size_bytes) {
  // Several requests may be under way, and an older one may end last.
  if (version < newest_version_) return;
  newest_version_ = version;
  size_bytes_.store(size_bytes, std::memory_order_relaxed);
}

Result<void> LiveView::check_range(Range range, uint64_t size_bytes) const {
  if (range_fits(range.offset_bytes, range.length_bytes, size_bytes)) return {};
  return fail(Errc::invalid, fmt::format("{} bytes at {} are not inside {} of {} bytes", range.length_bytes,
                                         range.offset_bytes, display_name(), size_bytes));
}

// One bulk read for all that is known to be wanted.
Task<Result<LiveView::Records>> LiveView::fetch(kv::Transaction& transaction, std::vector<LayerId> chain,
                                                Range range) {
  std::vector<std::string> points{keys_.fence(id_), keys_.volume(id_)};
  std::vector<std::string> begins;
  std::vector<std::string> ends;
  const uint64_t extent_bytes = limits::kBlocksPerExtent << block_shift_;
  for (const LayerId layer : chain) {
    points.push_back(keys_.layer(layer));
    if (range.length_bytes == 0) continue;
    begins.push_back(keys_.bitmap(layer, range.offset_bytes / extent_bytes));
    ends.push_back(
        key_after(keys_.bitmap(layer, (range.offset_bytes + range.length_bytes - 1) / extent_bytes)));
  }
  kv::BulkRead request;
  request.points.assign(points.begin(), points.end());
  for (size_t i = 0; i < begins.size(); ++i) request.ranges.push_back({begins[i], ends[i]});
  RowsSink rows(request);
  CO_RETURN_IF_ERROR(co_await kv::read_in_snapshot(transaction, request, rows));
  if (!rows.points[0] || !rows.points[1])
    co_return fail(Errc::not_found, fmt::format("{} has been removed", display_name()));
  Records records;
  ASSIGN_OR_CO_RETURN(records.fence, FenceRecord::decode(*rows.points[0]));
  ASSIGN_OR_CO_RETURN(records.volume, VolumeRecord::decode(*rows.points[1]));
  if (records.volume.is_trashed)
    co_return fail(Errc::not_found, fmt::format("{} has been removed", display_name()));
  for (size_t i = 0; i < chain.size(); ++i) {
    Records::Layer layer{.id = chain[i], .record = {}, .bitmaps = {}};
    if (rows.points[2 + i]) {
      ASSIGN_OR_CO_RETURN(layer.record, LayerRecord::decode(*rows.points[2 + i]));
    }
    if (!rows.ranges.empty()) layer.bitmaps = std::move(rows.ranges[i]);
    records.layers.push_back(std::move(layer));
  }
  co_return records;
}

bool LiveView::is_complete(const Records& records) {
  LayerId next = records.fence.top_layer;
  for (const Records::Layer& layer : records.layers) {
    if (layer.id != next || !layer.record) return false;
    next = layer.record->parent;
  }
  return next.value == 0;
}

Result<ChainMap> LiveView::map_of(const Records& records) const {
  ChainMap map;
  for (const Records::Layer& layer : std::views::reverse(records.layers)) {
    if (layer.record->block_shift != block_shift_ ||
        layer.record->striping.stripes_count != striping_.stripes_count) {
      return fail(Errc::corruption, fmt::format("{}: its layer {:016x} has another shape than it",
                                                display_name(), layer.id.value));
    }
    const LayerSlot slot = map.slot_of(layer.id);
    for (const kv::KeyValue& row : layer.bitmaps) {
      const auto extent_index = keys_.extent_of_bitmap(row.key);
      const auto bits = ExtentBits::decode(row.value);
      if (!extent_index || !bits) {
        return fail(Errc::corruption,
                    fmt::format("{}: {}", display_name(),
                                extent_index ? bits.error().what : "a bitmap's key is damaged"));
      }
      map.overlay(*extent_index, *bits, slot);
    }
  }
  return map;
}

Task<Result<ChainMap>> LiveView::look(kv::Transaction& transaction, Range range) {
  ASSIGN_OR_CO_RETURN(const kv::Version version, co_await transaction.read_version());
  ASSIGN_OR_CO_RETURN(Records records, co_await fetch(transaction, chain_, range));
  note_size(version, records.volume.size_bytes);
  CO_RETURN_IF_ERROR(check_range(range, records.volume.size_bytes));
  if (!is_complete(records)) {
    // The chain is another one than it was the last time.
    auto layers = co_await read_chain(transaction, keys_, records.fence.top_layer);
    if (!layers && kv::is_retryable(layers.error().code)) co_return propagate(layers);
    if (!layers) co_return fail(Errc::corruption, fmt::format("{}: {}", display_name(), layers.error().what));
    std::vector<LayerId> chain;
    for (const ChainLayer& layer : *layers) chain.push_back(layer.id);
    chain_ = chain;
    ASSIGN_OR_CO_RETURN(records, co_await fetch(transaction, std::move(chain), range));
  }
  co_return map_of(records);
}

Task<Result<void>> LiveView::refresh() {
  auto body = [this](kv::Transaction& transaction) { return look(transaction, {}); };
  auto looked = co_await kv::transact<ChainMap>(engine_, executor_, random_, body);
  if (!looked) co_return propagate(looked);
  co_return Result<void>{};
}

Task<Result<std::vector<block::ReadSegment>>> LiveView::read(uint64_t offset_bytes, MutableByteView into) {
  std::vector<block::ReadSegment> segments;
  for (uint64_t done_bytes = 0; done_bytes < into.size();) {
    const uint64_t from = offset_bytes + done_bytes;
    const uint64_t piece_end = round_down(from, limits::kLiveViewPieceBytes) + limits::kLiveViewPieceBytes;
    const uint64_t length = std::min(piece_end - from, into.size() - done_bytes);
    ASSIGN_OR_CO_RETURN(const auto piece, co_await read_piece(from, into.subspan(done_bytes, length)));
    for (const block::ReadSegment& segment : piece) {
      if (!segments.empty() && segments.back().is_hole == segment.is_hole) {
        segments.back().length_bytes += segment.length_bytes;
      } else {
        segments.push_back(segment);
      }
    }
    done_bytes += length;
  }
  co_return segments;
}

Task<Result<std::vector<block::ReadSegment>>> LiveView::read_piece(uint64_t offset_bytes,
                                                                   MutableByteView into) {
  auto body = [&](kv::Transaction& transaction) { return read_in(transaction, offset_bytes, into); };
  co_return co_await kv::transact<std::vector<block::ReadSegment>>(engine_, executor_, random_, body);
}

Task<Result<std::vector<block::ReadSegment>>> LiveView::read_in(kv::Transaction& transaction,
                                                                uint64_t offset_bytes, MutableByteView into) {
  ASSIGN_OR_CO_RETURN(const ChainMap map, co_await look(transaction, {offset_bytes, into.size()}));
  BlockReader reader(keys_, striping_, uint32_t{1} << block_shift_, offset_bytes, into);
  std::vector<block::ReadSegment> segments = plan_read(map, block_shift_, offset_bytes, into.size(), reader);
  if (reader.empty()) co_return segments;
  const auto read_rows = [&](const kv::BulkRead& request, kv::RowSink& sink) {
    return kv::read_in_snapshot(transaction, request, sink);
  };
  ASSIGN_OR_CO_RETURN(const auto failure,
                      co_await reader.run(engine_.capabilities().range_reply_bytes, read_rows));
  if (failure) {
    co_return fail(failure->error.code,
                   fmt::format("{}, offset {}: block {} cannot be read: {}", display_name(),
                               failure->block << block_shift_, failure->block, failure->error.what));
  }
  co_return segments;
}

Task<Result<std::vector<block::StatusExtent>>> LiveView::block_status(uint64_t offset_bytes,
                                                                      uint64_t length_bytes,
                                                                      uint32_t extents_limit) {
  const uint64_t extent_bytes = limits::kBlocksPerExtent << block_shift_;
  const uint64_t end_bytes =
      round_down(offset_bytes, extent_bytes) + limits::kLiveViewStatusExtents * extent_bytes;
  const Range range{offset_bytes, std::min(length_bytes, end_bytes - offset_bytes)};
  auto body = [this, range](kv::Transaction& transaction) { return look(transaction, range); };
  ASSIGN_OR_CO_RETURN(const ChainMap map, co_await kv::transact<ChainMap>(engine_, executor_, random_, body));
  co_return block_status_of(map, block_shift_, range.offset_bytes, range.length_bytes, extents_limit);
}

Task<Result<void>> LiveView::write(uint64_t /*offset_bytes*/, ByteView /*data*/,
                                   block::WriteOptions /*options*/) {
  co_return read_only();
}

Task<Result<void>> LiveView::flush() {
  co_return Result<void>{};
}

Task<Result<void>> LiveView::trim(uint64_t /*offset_bytes*/, uint64_t /*length_bytes*/,
                                  block::WriteOptions /*options*/) {
  co_return read_only();
}

Task<Result<void>> LiveView::write_zeroes(uint64_t /*offset_bytes*/, uint64_t /*length_bytes*/,
                                          block::ZeroOptions /*options*/) {
  co_return read_only();
}

Task<Result<void>> LiveView::cache(uint64_t offset_bytes, uint64_t length_bytes) {
  co_return check_range({offset_bytes, length_bytes}, size_bytes());
}

}  // namespace fdbnbd::volume
