#include "volume/repair.h"

#include <fmt/core.h>

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "volume/block_codec.h"
#include "volume/layer_check.h"
#include "volume/presence.h"
#include "volume/usage_check.h"

namespace fdbnbd::volume {

namespace {

// Of one transaction, so that it stays small.
constexpr size_t kMendsPerTransaction = 300;
constexpr uint32_t kMaxTurns = 1000;  // transactions

Task<Result<void>> clear_if_unchanged(kv::Transaction& transaction, std::string key, std::string value) {
  auto now = co_await transaction.get(key, kv::Isolation::serializable);
  if (!now) co_return propagate(now);
  if (*now == value) transaction.clear(key);
  co_return Result<void>{};
}

template <typename Record>
std::map<uint64_t, Record> decode_by_id(const KeySpace& keys, const GraphRows& graph, char type) {
  std::map<uint64_t, Record> records;
  const auto rows = graph.find(type);
  if (rows == graph.end()) return records;
  for (const kv::KeyValue& row : rows->second) {
    const auto id = keys.id_of(row.key);
    const auto record = Record::decode(row.value);
    if (id && record) records.emplace(*id, *record);
  }
  return records;
}

}  // namespace

void Repair::mended(CheckFinding finding) {
  finding.is_mended = true;
  findings_.push_back(std::move(finding));
}

Task<Result<std::vector<CheckFinding>>> Repair::run() {
  CO_RETURN_IF_ERROR(co_await mend_graph());
  CO_RETURN_IF_ERROR(co_await mend_usage());
  CO_RETURN_IF_ERROR(co_await mend_bitmaps());
  co_return std::move(findings_);
}

// Records

Task<Result<void>> Repair::mend_graph() {
  ASSIGN_OR_CO_RETURN(const std::set<LayerId> strays, co_await find_strays(records_));
  for (uint32_t turn = 0; turn < kMaxTurns; ++turn) {
    auto body = [&](kv::Transaction& transaction) { return mend_graph_in(transaction, strays); };
    ASSIGN_OR_CO_RETURN(const size_t mended_count, co_await records_.transact<size_t>(body));
    if (mended_count == 0) co_return Result<void>{};
  }
  co_return fail(Errc::too_large,
                 "there is more damage in the store's records than one repair mends: run it again");
}

Task<Result<size_t>> Repair::mend_graph_in(kv::Transaction& transaction, const std::set<LayerId>& strays) {
  ASSIGN_OR_CO_RETURN(const GraphRows rows,
                      co_await read_graph(transaction, keys_, kv::Isolation::serializable));
  std::vector<GraphDamage> damage = find_graph_damage(keys_, rows, strays);
  std::erase_if(damage, [](const GraphDamage& one) { return one.mends.empty(); });
  if (damage.empty()) co_return size_t{0};
  const uint32_t stage = std::ranges::min(damage, {}, &GraphDamage::stage).stage;
  size_t mended_count = 0;
  for (GraphDamage& one : damage) {
    if (one.stage != stage || mended_count == kMendsPerTransaction) continue;
    for (const RecordMend& mend : one.mends) {
      if (mend.value) {
        transaction.set(mend.key, *mend.value);
      } else {
        transaction.clear(mend.key);
      }
    }
    // An attempt that failed found the same.
    const bool is_new = std::ranges::none_of(
        findings_, [&](const CheckFinding& known) { return known.what == one.finding.what; });
    if (is_new) mended(std::move(one.finding));
    ++mended_count;
  }
  co_return mended_count;
}

// Usage

Task<Result<void>> Repair::mend_usage() {
  ASSIGN_OR_CO_RETURN(const auto damage, co_await find_usage_damage(records_, nullptr));
  for (const UsageDamage& one : damage) {
    auto body = [&](kv::Transaction& transaction) {
      return clear_if_unchanged(transaction, one.key, one.value);
    };
    CO_RETURN_IF_ERROR(co_await records_.transact<void>(body));
    mended({"", 0, 0, one.what});
  }
  co_return Result<void>{};
}

// Bitmaps

Task<Result<void>> Repair::mend_bitmaps() {
  auto body = [&](kv::Transaction& transaction) {
    return read_graph(transaction, keys_, kv::Isolation::snapshot);
  };
  ASSIGN_OR_CO_RETURN(const GraphRows graph, co_await records_.transact<GraphRows>(body));
  for (const auto& [id, record] : decode_by_id<LayerRecord>(keys_, graph, 'L')) {
    if (record.state == LayerState::deleting) continue;
    Gap gap{LayerId{id}, record, {}};
    const LayerScan scan = scan_of(gap);
    ASSIGN_OR_CO_RETURN(gap.extents, co_await find_extents_without_bitmap(scan));
    if (!gap.extents.empty()) CO_RETURN_IF_ERROR(co_await mend_gap(graph, gap));
  }
  co_return Result<void>{};
}

LayerScan Repair::scan_of(const Gap& gap) const {
  return {.engine = records_.engine(),
          .executor = records_.executor(),
          .keys = keys_,
          .layer = gap.layer,
          .block_shift = gap.record.block_shift,
          .striping = gap.record.striping};
}

Repair::Readers Repair::find_readers(const GraphRows& graph, LayerId layer) const {
  const auto layers = decode_by_id<LayerRecord>(keys_, graph, 'L');
  const auto stands_on_it = [&](LayerId top) {
    for (size_t depth = 0; depth <= layers.size(); ++depth) {
      if (top == layer) return true;
      const auto found = layers.find(top.value);
      if (found == layers.end()) return false;
      top = found->second.parent;
    }
    return false;
  };
  Readers readers;
  for (const auto& [id, record] : layers) {
    if (stands_on_it(LayerId{id})) readers.layers.push_back(LayerId{id});
  }
  for (const auto& [id, fence] : decode_by_id<FenceRecord>(keys_, graph, 'F')) {
    if (stands_on_it(fence.top_layer)) readers.volumes.emplace(VolumeId{id}, "");
  }
  const auto names = graph.find('V');
  if (names != graph.end()) {
    for (const kv::KeyValue& row : names->second) {
      const auto record = NameRecord::decode(row.value);
      if (!record) continue;
      const auto volume = readers.volumes.find(record->volume);
      if (volume != readers.volumes.end()) volume->second = keys_.name_of(row.key);
    }
  }
  readers.has_open_snapshot =
      std::ranges::any_of(readers.layers, [&](LayerId id) { return open_snapshots_.find(id) != nullptr; });
  return readers;
}

// Nobody may have the volumes open that read the layer: they would not see the bitmap.
Task<Result<Repair::Quiet>> Repair::keep_closed(const Readers& readers) {
  if (readers.has_open_snapshot) co_return fail(Errc::busy, "a snapshot is in use by NBD sessions");
  Quiet quiet;
  for (const auto& [id, name] : readers.volumes) {
    ASSIGN_OR_CO_RETURN(OpenVolumes::Reservation reservation, co_await open_volumes_.reserve(id, name));
    quiet.reservations.push_back(std::move(reservation));
    ASSIGN_OR_CO_RETURN(std::optional<Vacancy> vacancy, co_await open_volumes_.claim(id, name));
    if (vacancy) quiet.vacancies.emplace(id, std::move(*vacancy));
  }
  co_return quiet;
}

Task<Result<void>> Repair::mend_gap(const GraphRows& graph, const Gap& gap) {
  const Readers readers = find_readers(graph, gap.layer);
  const std::string owner = readers.volumes.empty() ? "" : readers.volumes.begin()->second;
  const uint64_t extent_bytes = uint64_t{limits::kBlocksPerExtent} << gap.record.block_shift;
  auto quiet = co_await keep_closed(readers);
  if (!quiet) {
    std::string what = fmt::format("{} presence bitmaps are missing, and not mended: {}", gap.extents.size(),
                                   quiet.error().what);
    findings_.push_back({owner, gap.extents.front() * extent_bytes, extent_bytes, std::move(what)});
    co_return Result<void>{};
  }
  for (const uint64_t extent_index : gap.extents) {
    ASSIGN_OR_CO_RETURN(std::optional<std::string> bitmap, co_await derive_bitmap(gap, extent_index));
    if (!bitmap) continue;  // check tells of the blocks
    const GapExtent extent{gap, readers, quiet->vacancies, extent_index, std::move(*bitmap)};
    auto body = [&](kv::Transaction& transaction) { return mend_extent_in(transaction, extent); };
    ASSIGN_OR_CO_RETURN(const bool is_mended, co_await records_.transact<bool>(body));
    findings_.push_back({owner, extent_index * extent_bytes, extent_bytes,
                         is_mended
                             ? "its presence bitmap was missing, and is derived from its blocks"
                             : "its presence bitmap is missing, and cannot be derived: a layer below has "
                               "data there, which zeroes may have hidden",
                         is_mended});
  }
  co_return Result<void>{};
}

// Nothing where a block does not verify.
Task<Result<std::optional<std::string>>> Repair::derive_bitmap(const Gap& gap, uint64_t extent_index) {
  VerifyingSink sink(uint32_t{1} << gap.record.block_shift);
  CO_RETURN_IF_ERROR(co_await scan_extents(scan_of(gap), extent_index, extent_index + 1, sink));
  if (sink.rows.empty()) co_return std::nullopt;
  ExtentBits bits;
  for (const VerifyingSink::Row& row : sink.rows) {
    if (!row.problem.empty()) co_return std::nullopt;
    bits.set_state(static_cast<uint32_t>(row.block % limits::kBlocksPerExtent), BlockState::data);
  }
  co_return bits.encode();
}

// False where zero states may be lost that hid what is below.
Task<Result<bool>> Repair::mend_extent_in(kv::Transaction& transaction, const GapExtent& extent) {
  const std::string bitmap_key = keys_.bitmap(extent.gap.layer, extent.extent_index);
  auto bitmap = co_await transaction.get(bitmap_key, kv::Isolation::serializable);
  if (!bitmap) co_return propagate(bitmap);
  // An attempt with an unknown result had happened, or a merge has brought one.
  if (bitmap->has_value()) co_return **bitmap == extent.bitmap;
  ASSIGN_OR_CO_RETURN(const auto record, co_await records_.read_layer(transaction, extent.gap.layer));
  if (!record || record->state == LayerState::deleting) co_return false;
  for (const auto& [id, vacancy] : extent.vacancies) {
    ASSIGN_OR_CO_RETURN(const auto fence, co_await get_record<FenceRecord>(transaction, keys_.fence(id),
                                                                           kv::Isolation::serializable));
    const std::string& name = extent.readers.volumes.at(id);
    if (!fence) co_return fail(Errc::busy, fmt::format("volume \"{}\" has just been removed", name));
    CO_RETURN_IF_ERROR(co_await check_vacancy(transaction, keys_, id, *fence, vacancy, name));
  }
  ASSIGN_OR_CO_RETURN(const bool is_unsafe,
                      co_await has_data_below(transaction, *record, extent.extent_index));
  if (is_unsafe) co_return false;
  transaction.set(bitmap_key, extent.bitmap);
  for (const LayerId layer : extent.readers.layers) transaction.clear(keys_.usage(layer));
  co_return true;
}

Task<Result<bool>> Repair::has_data_below(kv::Transaction& transaction, LayerRecord record,
                                          uint64_t extent_index) {
  std::set<LayerId> seen;
  while (record.parent.value != 0) {
    const LayerId layer = record.parent;
    if (!seen.insert(layer).second) co_return true;  // the chain bites its tail
    const std::string key = keys_.bitmap(layer, extent_index);
    auto value = co_await transaction.get(key, kv::Isolation::serializable);
    if (!value) co_return propagate(value);
    if (value->has_value()) {
      const auto bits = ExtentBits::decode(**value);
      if (!bits || bits->data_count() > 0) co_return true;
    } else {
      // Its own bitmap may be missing too.
      const std::string begin = keys_.block(layer, record.striping, extent_index * limits::kBlocksPerExtent);
      const std::string end =
          key_after(keys_.block(layer, record.striping, (extent_index + 1) * limits::kBlocksPerExtent - 1));
      auto rows =
          co_await transaction.get_range({begin, end}, {.rows_limit = 1}, kv::Isolation::serializable);
      if (!rows) co_return propagate(rows);
      if (!rows->rows.empty()) co_return true;
    }
    ASSIGN_OR_CO_RETURN(const auto parent, co_await records_.read_layer(transaction, layer));
    if (!parent) co_return true;
    record = *parent;
  }
  co_return false;
}

}  // namespace fdbnbd::volume
