#include "volume/space_usage.h"

#include <fmt/core.h>

#include <algorithm>
#include <array>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "volume/keys.h"
#include "volume/presence.h"
#include "volume/space_graph.h"

namespace fdbnbd::volume {

namespace {

constexpr uint32_t kBlocks = limits::kBlocksPerExtent;
// Bitmaps read ahead of each layer, and extents whose blocks one read asks for.
constexpr uint32_t kBitmapsPerPage = 256;
constexpr size_t kExtentsPerRead = 16;

using Sizes = std::array<uint32_t, kBlocks>;

// What one layer stores of one extent.
struct LayerExtent {
  ExtentBits bits;
  std::unique_ptr<Sizes> sizes;  // of its data as stored; where it is measured and has any
};

// The bitmaps of one layer, in the order of the extents.
class BitmapCursor {
 public:
  BitmapCursor(RecordReader& records, LayerId layer) : records_(&records), layer_(layer) {}

  LayerId layer() const { return layer_; }
  // Reads on where nothing is left in memory.
  Task<Result<void>> fill();
  // The extent of the next bitmap, where there is one.
  std::optional<uint64_t> next_extent() const {
    return next_ < rows_.size() ? std::optional(rows_[next_].first) : std::nullopt;
  }
  ExtentBits take() { return rows_[next_++].second; }

 private:
  RecordReader* records_;
  LayerId layer_;
  std::vector<std::pair<uint64_t, ExtentBits>> rows_;
  size_t next_ = 0;
  uint64_t from_extent_ = 0;
  bool is_at_end_ = false;
};

Task<Result<void>> BitmapCursor::fill() {
  if (next_ < rows_.size() || is_at_end_) co_return Result<void>{};
  const KeySpace& keys = records_->keys();
  const std::string begin = keys.bitmap(layer_, from_extent_);
  const std::string end = keys.layer_end('B', layer_);
  auto body = [&](kv::Transaction& transaction) {
    transaction.set_background();
    return transaction.get_range({begin, end}, {.rows_limit = kBitmapsPerPage}, kv::Isolation::snapshot);
  };
  ASSIGN_OR_CO_RETURN(const kv::RangeResult page, co_await records_->transact<kv::RangeResult>(body));
  rows_.clear();
  next_ = 0;
  for (const kv::KeyValue& row : page.rows) {
    const auto extent_index = keys.extent_of_bitmap(row.key);
    if (!extent_index) co_return fail(Errc::corruption, "a presence bitmap's key is damaged");
    ASSIGN_OR_CO_RETURN(const ExtentBits bits, ExtentBits::decode(row.value));
    rows_.emplace_back(*extent_index, bits);
    from_extent_ = *extent_index + 1;
  }
  is_at_end_ = rows_.empty();
  co_return Result<void>{};
}

// Notes how much each row takes.
class SizesSink final : public kv::RowSink {
 public:
  // One for each range.
  std::vector<Sizes*> sizes;

  void on_range_row(size_t range_index, std::string_view key, std::string_view value) override {
    (*sizes[range_index])[KeySpace::block_of(key) % kBlocks] =
        static_cast<uint32_t>(key.size() + value.size());
  }
  void on_unreadable_range_row(size_t range_index, std::string_view key) override {
    (*sizes[range_index])[KeySpace::block_of(key) % kBlocks] = static_cast<uint32_t>(key.size());
  }
  void on_point_row(size_t, std::string_view) override {}
  void on_unreadable_point(size_t) override {}
};

// One extent, of all nodes of the graph.
class ExtentTally {
 public:
  ExtentTally(const SpaceGraph& graph, const std::map<LayerId, LayerExtent>& layers)
      : graph_(graph), own_(graph.nodes.size()), views_(graph.nodes.size()) {
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      take_own(i, layers);
      see(i);
    }
  }

  void add_to(SpaceUsage& usage, size_t node, uint8_t block_shift) const;

 private:
  // What a node says, or what is seen through it, of each block.
  struct Blocks {
    std::array<BlockState, kBlocks> states{};
    Sizes sizes{};
    uint64_t data_count = 0;
    uint64_t bytes = 0;
  };

  void take_own(size_t node, const std::map<LayerId, LayerExtent>& layers);
  void see(size_t node);
  // What the node stores of blocks of which the child above it says something, and of these what `through`
  // reads.
  uint64_t hidden_bytes(size_t node, size_t child) const;
  uint64_t hidden_bytes_seen_through(size_t node, size_t child, size_t through) const;

  const SpaceGraph& graph_;
  std::vector<std::shared_ptr<Blocks>> own_;          // null: nothing
  std::vector<std::shared_ptr<const Blocks>> views_;  // null: nothing
};

void ExtentTally::take_own(size_t node, const std::map<LayerId, LayerExtent>& layers) {
  for (const LayerId member : graph_.nodes[node].members) {
    const auto found = layers.find(member);
    if (found == layers.end()) continue;
    if (!own_[node]) own_[node] = std::make_shared<Blocks>();
    Blocks& own = *own_[node];
    for (uint32_t block = 0; block < kBlocks; ++block) {
      const BlockState state = found->second.bits.state(block);
      if (own.states[block] != BlockState::absent || state == BlockState::absent) continue;
      own.states[block] = state;
      if (state != BlockState::data) continue;
      own.sizes[block] = found->second.sizes ? (*found->second.sizes)[block] : 0;
      own.bytes += own.sizes[block];
    }
  }
}

void ExtentTally::see(size_t node) {
  if (!graph_.nodes[node].is_measured) return;
  const auto parent = graph_.nodes[node].parent;
  if (!own_[node]) {
    if (parent) views_[node] = views_[*parent];
    return;
  }
  const auto view = std::make_shared<Blocks>();
  if (parent && views_[*parent]) *view = *views_[*parent];
  for (uint32_t block = 0; block < kBlocks; ++block) {
    const BlockState state = own_[node]->states[block];
    if (state == BlockState::absent) continue;
    if (view->states[block] == BlockState::data) --view->data_count;
    view->bytes -= view->sizes[block];
    view->states[block] = state;
    view->sizes[block] = own_[node]->sizes[block];
    view->bytes += view->sizes[block];
    if (state == BlockState::data) ++view->data_count;
  }
  views_[node] = view;
}

uint64_t ExtentTally::hidden_bytes(size_t node, size_t child) const {
  uint64_t bytes = 0;
  if (!own_[node] || !own_[child]) return bytes;
  for (uint32_t block = 0; block < kBlocks; ++block) {
    if (own_[child]->states[block] != BlockState::absent) bytes += own_[node]->sizes[block];
  }
  return bytes;
}

uint64_t ExtentTally::hidden_bytes_seen_through(size_t node, size_t child, size_t through) const {
  uint64_t bytes = 0;
  if (!own_[node] || !own_[child]) return bytes;
  for (uint32_t block = 0; block < kBlocks; ++block) {
    const bool is_seen = !own_[through] || own_[through]->states[block] == BlockState::absent;
    if (is_seen && own_[child]->states[block] != BlockState::absent) bytes += own_[node]->sizes[block];
  }
  return bytes;
}

// What comes back when the name of the node goes (docs/format.md, "Layers"): without children it is cleared;
// into its only child it is merged, which drops what that hides; with several it stays. Where it was one of
// two children of an unnamed layer, that is merged into the other one.
void ExtentTally::add_to(SpaceUsage& usage, size_t node, uint8_t block_shift) const {
  uint64_t unique_bytes = 0;
  uint64_t unique_seen_bytes = 0;
  const SpaceNode& one = graph_.nodes[node];
  if (one.children.size() == 1) {
    unique_bytes = unique_seen_bytes = hidden_bytes(node, one.children.front());
  } else if (one.children.empty()) {
    unique_bytes = unique_seen_bytes = own_[node] ? own_[node]->bytes : 0;
    if (one.parent && !graph_.nodes[*one.parent].is_named && graph_.nodes[*one.parent].children.size() == 2) {
      const std::vector<size_t>& both = graph_.nodes[*one.parent].children;
      const size_t other = both.front() == node ? both.back() : both.front();
      unique_bytes += hidden_bytes(*one.parent, other);
      unique_seen_bytes += hidden_bytes_seen_through(*one.parent, other, node);
    }
  }
  usage.unique_bytes += unique_bytes;
  if (!views_[node]) return;
  usage.used_bytes += views_[node]->data_count << block_shift;
  usage.stored_bytes += views_[node]->bytes;
  usage.shared_bytes += views_[node]->bytes - unique_seen_bytes;
}

// What is measured, and how it is stored.
struct Subject {
  VolumeRecords volume;
  std::vector<SnapshotRow> snapshots;
  std::map<LayerId, LayerRecord> layers;  // of the whole store
};

Task<Result<Subject>> read_subject(kv::Transaction& transaction, RecordReader& records,
                                   const std::string& name) {
  transaction.set_background();
  Subject subject;
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records.find(transaction, name));
  ASSIGN_OR_CO_RETURN(subject.volume, co_await records.load(transaction, id, name));
  ASSIGN_OR_CO_RETURN(subject.snapshots, co_await records.read_snapshots(transaction, id, name));
  std::string begin = records.keys().type_begin('L');
  const std::string end = records.keys().type_end('L');
  while (true) {
    auto page = co_await transaction.get_range({begin, end}, {}, kv::Isolation::snapshot);
    if (!page) co_return propagate(page);
    for (const kv::KeyValue& row : page->rows) {
      const auto layer = records.keys().id_of(row.key);
      const auto record = LayerRecord::decode(row.value);
      if (layer && record) subject.layers[LayerId{*layer}] = *record;  // damage is for check
    }
    if (!page->more || page->rows.empty()) break;
    begin = key_after(page->rows.back().key);
  }
  co_return subject;
}

class Measurement {
 public:
  Measurement(RecordReader& records, Subject subject, SpaceGraph graph)
      : records_(records), subject_(std::move(subject)), graph_(std::move(graph)) {
    for (const SpaceNode& node : graph_.nodes) {
      for (const LayerId member : node.members) {
        cursors_.emplace_back(records_, member);
        is_measured_.push_back(node.is_measured);
      }
    }
    usage_.size_bytes = subject_.volume.volume.size_bytes;
    for (const SnapshotRow& snapshot : subject_.snapshots)
      usage_.snapshots.push_back({.name = snapshot.name, .space = {}});
  }

  Task<Result<VolumeUsage>> run(Progress* progress);

 private:
  using Extents = std::map<uint64_t, std::map<LayerId, LayerExtent>>;

  // The bitmaps of the next extents of which a measured layer says something; none where nothing is left.
  Task<Result<Extents>> next_extents();
  Task<Result<void>> read_sizes(Extents& extents);
  void tally(const Extents& extents);
  size_t node_of(LayerId layer) const { return graph_.node_of.at(layer); }

  RecordReader& records_;
  const Subject subject_;
  const SpaceGraph graph_;
  std::vector<BitmapCursor> cursors_;
  std::vector<bool> is_measured_;  // for each cursor
  VolumeUsage usage_;
};

Task<Result<VolumeUsage>> Measurement::run(Progress* progress) {
  const uint8_t block_shift = subject_.volume.volume.block_shift;
  while (true) {
    ASSIGN_OR_CO_RETURN(Extents extents, co_await next_extents());
    if (extents.empty()) break;
    CO_RETURN_IF_ERROR(co_await read_sizes(extents));
    tally(extents);
    if (progress == nullptr) continue;
    if (progress->cancelled()) co_return fail(Errc::cancelled, "stopped");
    const uint64_t done_bytes = ((extents.rbegin()->first + 1) * kBlocks) << block_shift;
    progress->on_progress(std::min(done_bytes, usage_.size_bytes), usage_.size_bytes);
  }
  co_return std::move(usage_);
}

Task<Result<Measurement::Extents>> Measurement::next_extents() {
  Extents extents;
  while (extents.size() < kExtentsPerRead) {
    std::optional<uint64_t> next;
    for (size_t i = 0; i < cursors_.size(); ++i) {
      CO_RETURN_IF_ERROR(co_await cursors_[i].fill());
      const auto extent_index = cursors_[i].next_extent();
      if (is_measured_[i] && extent_index) next = std::min(next.value_or(*extent_index), *extent_index);
    }
    if (!next) break;
    auto& layers = extents[*next];
    for (BitmapCursor& cursor : cursors_) {
      while (cursor.next_extent() && *cursor.next_extent() <= *next) {
        const bool is_this = *cursor.next_extent() == *next;
        const ExtentBits bits = cursor.take();
        if (is_this) layers[cursor.layer()].bits = bits;
        CO_RETURN_IF_ERROR(co_await cursor.fill());
      }
    }
  }
  co_return extents;
}

Task<Result<void>> Measurement::read_sizes(Extents& extents) {
  const KeySpace& keys = records_.keys();
  std::vector<std::pair<std::string, std::string>> bounds;
  SizesSink sink;
  for (auto& [extent_index, layers] : extents) {
    for (auto& [layer, extent] : layers) {
      if (!graph_.nodes[node_of(layer)].is_measured || extent.bits.data_count() == 0) continue;
      extent.sizes = std::make_unique<Sizes>();
      sink.sizes.push_back(extent.sizes.get());
      const Striping striping = subject_.layers.at(layer).striping;
      const uint64_t first_block = extent_index * kBlocks;
      bounds.emplace_back(keys.block(layer, striping, first_block),
                          key_after(keys.block(layer, striping, first_block + kBlocks - 1)));
    }
  }
  kv::BulkRead request;
  request.background = true;
  for (const auto& [begin, end] : bounds) request.ranges.push_back({begin, end});
  if (request.ranges.empty()) co_return Result<void>{};
  co_return co_await records_.engine().read(records_.executor(), request, sink);
}

void Measurement::tally(const Extents& extents) {
  const uint8_t block_shift = subject_.volume.volume.block_shift;
  for (const auto& [extent_index, layers] : extents) {
    const ExtentTally extent(graph_, layers);
    extent.add_to(usage_.space, node_of(subject_.volume.fence.top_layer), block_shift);
    for (size_t i = 0; i < subject_.snapshots.size(); ++i)
      extent.add_to(usage_.snapshots[i].space, node_of(subject_.snapshots[i].record.layer), block_shift);
  }
}

}  // namespace

Task<Result<VolumeUsage>> measure_space(RecordReader& records, std::string name, Progress* progress) {
  auto body = [&](kv::Transaction& transaction) { return read_subject(transaction, records, name); };
  ASSIGN_OR_CO_RETURN(Subject subject, co_await records.transact<Subject>(body));
  std::vector<LayerId> tops{subject.volume.fence.top_layer};
  for (const SnapshotRow& snapshot : subject.snapshots) tops.push_back(snapshot.record.layer);
  ASSIGN_OR_CO_RETURN(SpaceGraph graph, build_space_graph(subject.layers, tops));
  Measurement measurement(records, std::move(subject), std::move(graph));
  ASSIGN_OR_CO_RETURN(VolumeUsage usage, co_await measurement.run(progress));
  usage.name = std::move(name);
  co_return usage;
}

}  // namespace fdbnbd::volume
