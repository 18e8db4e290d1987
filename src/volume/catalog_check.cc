#include <fmt/core.h>

#include <map>
#include <utility>

#include "volume/catalog.h"
#include "volume/progress_relay.h"
#include "volume/repair.h"
#include "volume/space_usage.h"
#include "volume/usage_check.h"

// `check` and `du` over one volume or the store.

namespace fdbnbd::volume {

Task<Result<VolumeUsage>> Catalog::usage(std::string name, Progress* progress) {
  return measure_space(records_, std::move(name), progress);
}

Task<Result<CheckReport>> Catalog::check(std::optional<std::string> name, Progress* progress) {
  CheckReport report;
  CheckProgress whole(progress);
  LayerSizes sizes;
  if (name) {
    // What is damaged there is found later.
    const auto layers = co_await layers_of(*name);
    if (layers && progress != nullptr) {
      ASSIGN_OR_CO_RETURN(sizes, co_await measure(*layers, whole));
    }
    CO_RETURN_IF_ERROR(co_await check_volume(*name, sizes, report, whole));
    CO_RETURN_IF_ERROR(co_await check_layers_of(*name, sizes, report, whole));
    co_return report;
  }
  CO_RETURN_IF_ERROR(co_await check_graph(report));
  ASSIGN_OR_CO_RETURN(const auto usage_damage, co_await find_usage_damage(records_, progress));
  for (const UsageDamage& damage : usage_damage) add_finding(report, {"", 0, 0, damage.what});
  if (progress != nullptr) {
    std::vector<LayerId> layers;
    ASSIGN_OR_CO_RETURN(const auto rows,
                        co_await records_.read_all(keys_.type_begin('L'), keys_.type_end('L')));
    for (const kv::KeyValue& row : rows) {
      if (const auto id = keys_.id_of(row.key)) layers.push_back(LayerId{*id});
    }
    ASSIGN_OR_CO_RETURN(sizes, co_await measure(std::move(layers), whole));
  }
  ASSIGN_OR_CO_RETURN(const auto names,
                      co_await records_.read_all(keys_.type_begin('V'), keys_.type_end('V')));
  for (const kv::KeyValue& row : names) {
    const std::string volume_name(keys_.name_of(row.key));
    const Result<void> checked = co_await check_volume(volume_name, sizes, report, whole);
    if (!checked && checked.error().code != Errc::not_found) co_return tl::unexpected(checked.error());
  }
  CO_RETURN_IF_ERROR(co_await check_all_layers(sizes, report, whole));
  co_return report;
}

Task<Result<std::optional<LayerScan>>> Catalog::scan_of(LayerId layer) {
  auto body = [&](kv::Transaction& transaction) { return records_.read_layer(transaction, layer); };
  auto record = co_await records_.transact<std::optional<LayerRecord>>(body);
  if (!record && record.error().code != Errc::corruption) co_return propagate(record);
  if (!record || !*record || (*record)->state == LayerState::deleting) co_return std::nullopt;
  co_return LayerScan{.engine = engine_,
                      .executor = home_,
                      .keys = keys_,
                      .layer = layer,
                      .block_shift = (*record)->block_shift,
                      .striping = (*record)->striping};
}

Task<Result<Catalog::LayerSizes>> Catalog::measure(std::vector<LayerId> layers, CheckProgress& progress) {
  LayerSizes sizes;
  for (const LayerId layer : layers) {
    if (progress.cancelled()) co_return fail(Errc::cancelled, "stopped");
    ASSIGN_OR_CO_RETURN(const auto scan, co_await scan_of(layer));
    if (!scan || sizes.contains(layer)) continue;
    ASSIGN_OR_CO_RETURN(const uint64_t blocks_count, co_await count_layer_blocks(*scan));
    sizes[layer] = blocks_count << scan->block_shift;
    progress.expect(sizes[layer]);
  }
  co_return sizes;
}

Task<Result<std::vector<LayerId>>> Catalog::layers_of(const std::string& name) {
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(name));
  ASSIGN_OR_CO_RETURN(const VolumeRecords records, co_await records_.load(id, name));
  auto body = [&](kv::Transaction& transaction) { return find_layers(transaction, name); };
  ASSIGN_OR_CO_RETURN(const Layers frozen, co_await records_.transact<Layers>(body));
  std::vector<LayerId> layers{records.fence.top_layer};
  for (const auto& [layer, owner] : frozen) layers.push_back(layer);
  co_return layers;
}

Task<Result<CheckReport>> Catalog::repair(Progress* progress) {
  Repair repair(records_, open_volumes_, open_snapshots_);
  ASSIGN_OR_CO_RETURN(const auto findings, co_await repair.run());
  co_await jobs_.take_up();
  ASSIGN_OR_CO_RETURN(CheckReport report, co_await check(std::nullopt, progress));
  for (const CheckFinding& finding : findings) {
    report.mended_count += finding.is_mended ? 1 : 0;
    add_finding(report, finding);
  }
  co_return report;
}

Task<Result<OpenVolumes::Hold>> Catalog::hold_for_check(const std::string& name, LayerId& top) {
  ASSIGN_OR_CO_RETURN(const VolumeId id, co_await records_.find(name));
  ASSIGN_OR_CO_RETURN(const VolumeRecords records, co_await records_.load(id, name));
  top = records.fence.top_layer;
  co_return co_await open_volumes_.hold_if_free(id, name);
}

// Damage is a finding; that the check itself cannot go on is a failure.
Task<Result<void>> Catalog::check_volume(const std::string& name, LayerSizes& sizes, CheckReport& report,
                                         CheckProgress& progress) {
  LayerId top{};
  auto held = co_await hold_for_check(name, top);
  progress.begin_part(sizes[top]);
  if (!held) {
    const Errc code = held.error().code;
    if (code == Errc::busy && engine_.capabilities().shared_between_hosts) {
      ++report.volumes_count;
      ASSIGN_OR_CO_RETURN(const auto scan, co_await scan_of(top));
      if (!scan) co_return Result<void>{};
      co_return co_await check_written_layer(*scan, name, report, &progress);
    }
    if (code != Errc::corruption && code != Errc::newer_format) co_return propagate(held);
    add_finding(report, {name, 0, 0, held.error().what});
    co_return Result<void>{};
  }
  ProgressRelay relay(home_, &progress);
  co_await go_to(held->executor());
  const Result<void> checked = co_await held->volume().check(report, &relay);
  co_await go_to(home_);
  co_return checked;
}

// Of a volume's chain and of its snapshots' chains, but for the top one.
Task<Result<Catalog::Layers>> Catalog::find_layers(kv::Transaction& transaction, const std::string& name) {
  Layers layers;
  auto id = co_await records_.find(transaction, name);
  if (!id) co_return propagate(id);
  ASSIGN_OR_CO_RETURN(const VolumeRecords records, co_await records_.load(transaction, *id, name));
  ASSIGN_OR_CO_RETURN(const auto snapshots, co_await records_.read_snapshots(transaction, *id, name));
  std::vector<LayerId> tops{records.fence.top_layer};
  for (const SnapshotRow& snapshot : snapshots) tops.push_back(snapshot.record.layer);
  for (const LayerId top : tops) {
    auto chain = co_await read_chain(transaction, keys_, top);
    if (!chain) co_return propagate(chain);
    for (const ChainLayer& layer : *chain) {
      if (layer.id != records.fence.top_layer) layers.try_emplace(layer.id, name);
    }
  }
  for (const SnapshotRow& snapshot : snapshots) layers[snapshot.record.layer] = name + '@' + snapshot.name;
  co_return layers;
}

Task<Result<void>> Catalog::check_layers_of(const std::string& name, LayerSizes& sizes, CheckReport& report,
                                            CheckProgress& progress) {
  auto body = [&](kv::Transaction& transaction) { return find_layers(transaction, name); };
  auto layers = co_await records_.transact<Layers>(body);
  if (!layers && layers.error().code == Errc::corruption) {
    add_finding(report, {name, 0, 0, layers.error().what});
    co_return Result<void>{};
  }
  if (!layers) co_return propagate(layers);
  co_return co_await check_frozen(*layers, sizes, report, progress);
}

Task<Result<void>> Catalog::check_all_layers(LayerSizes& sizes, CheckReport& report,
                                             CheckProgress& progress) {
  Layers layers;
  ASSIGN_OR_CO_RETURN(const auto rows,
                      co_await records_.read_all(keys_.type_begin('L'), keys_.type_end('L')));
  ASSIGN_OR_CO_RETURN(const auto names,
                      co_await records_.read_all(keys_.type_begin('V'), keys_.type_end('V')));
  ASSIGN_OR_CO_RETURN(const auto fences,
                      co_await records_.read_all(keys_.type_begin('F'), keys_.type_end('F')));
  ASSIGN_OR_CO_RETURN(const auto snapshots,
                      co_await records_.read_all(keys_.type_begin('N'), keys_.type_end('N')));
  for (const kv::KeyValue& row : rows) {
    const auto id = keys_.id_of(row.key);
    const auto record = LayerRecord::decode(row.value);
    // One that is deleting loses blocks and bitmaps in another order.
    if (id && record && record->state != LayerState::deleting) layers[LayerId{*id}] = "";
  }
  ASSIGN_OR_CO_RETURN(const auto trash,
                      co_await records_.read_all(keys_.type_begin('X'), keys_.type_end('X')));
  std::map<VolumeId, std::string> trashed;
  for (const kv::KeyValue& row : trash) {
    const auto id = keys_.id_of(row.key);
    const auto record = TrashRecord::decode(row.value);
    if (id && record) trashed[VolumeId{*id}] = record->name + " (in the trash)";
  }
  for (const kv::KeyValue& row : fences) {
    const auto id = keys_.id_of(row.key);
    const auto record = FenceRecord::decode(row.value);
    if (!id || !record) continue;
    const auto in_trash = trashed.find(VolumeId{*id});
    if (in_trash == trashed.end()) {
      layers.erase(record->top_layer);  // clients write it: check_volume() has read it
    } else if (const auto layer = layers.find(record->top_layer); layer != layers.end()) {
      layer->second = in_trash->second;
    }
  }
  std::map<VolumeId, std::string> name_of_id = trashed;
  for (const kv::KeyValue& row : names) {
    const auto record = NameRecord::decode(row.value);
    if (record) name_of_id[record->volume] = keys_.name_of(row.key);
  }
  for (const kv::KeyValue& row : snapshots) {
    const auto key = keys_.snapshot_of(row.key);
    const auto record = SnapshotRecord::decode(row.value);
    if (!key || !record) continue;
    const auto layer = layers.find(record->layer);
    if (layer != layers.end()) layer->second = name_of_id[key->volume] + '@' + std::string(key->name);
  }
  co_return co_await check_frozen(layers, sizes, report, progress);
}

Task<Result<void>> Catalog::check_frozen(const Layers& layers, LayerSizes& sizes, CheckReport& report,
                                         CheckProgress& progress) {
  for (const auto& [layer, owner] : layers) {
    // Gone or merged meanwhile; damage of records is the graph's.
    ASSIGN_OR_CO_RETURN(const auto scan, co_await scan_of(layer));
    if (!scan) continue;
    progress.begin_part(sizes[layer]);
    CO_RETURN_IF_ERROR(co_await check_frozen_layer(*scan, owner, report, &progress));
  }
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
