#include "volume/usage_check.h"

#include <fmt/core.h>

#include <optional>
#include <utility>

#include "volume/chain_reader.h"
#include "volume/records.h"

namespace fdbnbd::volume {

namespace {

// What the bitmaps say; nothing where they cannot be read, which is found elsewhere, or nobody reads them.
Task<Result<std::optional<uint64_t>>> count_blocks(RecordReader& records, LayerId layer,
                                                   const LayerRecord& record) {
  ChainReader chain(records.engine(), records.executor(), records.keys(),
                    {record.block_shift, record.striping});
  const Result<void> loaded = co_await chain.load(layer);
  if (!loaded && (loaded.error().code == Errc::corruption || loaded.error().code == Errc::not_found))
    co_return std::nullopt;
  if (!loaded) co_return tl::unexpected(loaded.error());
  co_return chain.map().data_blocks_count();
}

Task<Result<std::optional<UsageDamage>>> check_usage(RecordReader& records, kv::KeyValue row) {
  const auto id = records.keys().id_of(row.key);
  const auto usage = UsageRecord::decode(row.value);
  UsageDamage damage{std::move(row.key), std::move(row.value), {}};
  if (!id || !usage) {
    damage.what = id ? usage.error().what : "a usage record with a damaged key";
    co_return damage;
  }
  const LayerId layer{*id};
  auto read_record = [&](kv::Transaction& transaction) { return records.read_layer(transaction, layer); };
  auto record = co_await records.transact<std::optional<LayerRecord>>(read_record);
  if (!record && record.error().code == Errc::corruption) co_return std::nullopt;
  if (!record) co_return propagate(record);
  if (!*record) {
    damage.what = fmt::format("a usage record of layer {:016x}, which does not exist", *id);
  } else {
    ASSIGN_OR_CO_RETURN(const auto counted, co_await count_blocks(records, layer, **record));
    if (!counted || *counted == usage->data_blocks_count) co_return std::nullopt;
    damage.what = fmt::format("layer {:016x}: its usage record says {} blocks, its bitmaps {}", *id,
                              usage->data_blocks_count, *counted);
  }
  // Whoever opened it meanwhile has taken the record away.
  auto read_again = [&](kv::Transaction& transaction) {
    return transaction.get(damage.key, kv::Isolation::snapshot);
  };
  auto again = co_await records.transact<std::optional<std::string>>(read_again);
  if (!again) co_return propagate(again);
  if (*again != damage.value) co_return std::nullopt;
  co_return damage;
}

}  // namespace

Task<Result<std::vector<UsageDamage>>> find_usage_damage(RecordReader& records, Progress* progress) {
  std::vector<UsageDamage> found;
  const KeySpace& keys = records.keys();
  ASSIGN_OR_CO_RETURN(auto rows, co_await records.read_all(keys.type_begin('U'), keys.type_end('U')));
  for (kv::KeyValue& row : rows) {
    if (progress != nullptr && progress->cancelled()) co_return fail(Errc::cancelled, "stopped");
    ASSIGN_OR_CO_RETURN(auto damage, co_await check_usage(records, std::move(row)));
    if (damage) found.push_back(std::move(*damage));
  }
  co_return found;
}

}  // namespace fdbnbd::volume
