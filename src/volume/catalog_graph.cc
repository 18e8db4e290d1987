#include <fmt/core.h>

#include <map>
#include <set>
#include <utility>

#include "base/endian.h"
#include "volume/catalog.h"
#include "volume/graph_check.h"
#include "volume/layer_check.h"

// `check` of the records: names, volumes, fences, snapshots, layers and jobs must point at each other.

namespace fdbnbd::volume {

namespace {

// What is derived from the records of layers goes first, since the rest relies on it.
constexpr uint32_t kDerivedStage = 0;
constexpr uint32_t kLayersStage = 1;

// The records of one instant, decoded, and what is wrong with them.
class GraphCheck {
 public:
  GraphCheck(const KeySpace& keys, const GraphRows& rows, const std::set<LayerId>& strays)
      : keys_(keys), rows_(rows), strays_(strays) {}

  std::vector<GraphDamage> check() {
    take_names();
    take_trash();
    take_volumes();
    take_fences();
    take_jobs();
    take_snapshots();
    take_layers();
    check_layers();
    check_children();
    check_jobs();
    check_strays();
    return std::move(damage_);
  }

 private:
  const std::vector<kv::KeyValue>& rows(char type) const {
    static const std::vector<kv::KeyValue> kNone;
    const auto found = rows_.find(type);
    return found == rows_.end() ? kNone : found->second;
  }
  void found(std::string volume, std::string what, std::vector<RecordMend> mends = {}, uint32_t stage = 0) {
    damage_.push_back({{std::move(volume), 0, 0, std::move(what)}, std::move(mends), stage});
  }
  // Of a record without which it is not known whom a layer belongs to.
  void found_unknown(std::string volume, std::string what) {
    names_all_layers_ = false;
    found(std::move(volume), std::move(what));
  }
  std::string name_of(VolumeId id) const {
    const auto found = names_.find(id);
    return found == names_.end() ? std::string() : found->second;
  }

  void take_names();
  void take_trash();
  void take_volumes();
  void take_fences();
  void take_jobs();
  void take_snapshots();
  void take_layers();
  void check_layers();
  void check_parent(LayerId id, const LayerRecord& record, const std::string& user);
  bool has_end_below(LayerId id);
  void check_children();
  void check_child(const kv::KeyValue& row, const KeySpace::ChildKey& key);
  void check_jobs();
  void check_strays();

  bool is_named(LayerId id) const { return tops_.contains(id) || snapshots_.contains(id); }
  size_t children_count(LayerId id) const {
    const auto found = children_counts_.find(id);
    return found == children_counts_.end() ? 0 : found->second;
  }
  bool is_needed(LayerId id) const { return is_named(id) || children_counts_.contains(id); }
  RecordMend job_mend(LayerId id, JobKind kind) const {
    return {keys_.job(JobId{id.value}), JobRecord{.kind = kind, .layer = id}.encode()};
  }
  std::vector<RecordMend> give_up(LayerId id, const LayerRecord& record) const;
  std::vector<RecordMend> note_child(LayerId parent, LayerId child) const;

  const KeySpace& keys_;
  const GraphRows& rows_;
  const std::set<LayerId>& strays_;
  std::vector<GraphDamage> damage_;
  // Nothing is missing that may name a layer: what no record names belongs to nobody.
  bool names_all_layers_ = true;
  std::map<VolumeId, std::string> names_;
  std::set<VolumeId> trashed_;
  std::map<LayerId, VolumeId> tops_;
  std::map<LayerId, std::string> snapshots_;  // VOL@SNAP
  std::set<LayerId> jobs_;
  std::map<LayerId, LayerRecord> layers_;  // damaged ones are empty
  std::set<LayerId> damaged_layers_;
  std::map<LayerId, size_t> children_counts_;
  std::map<LayerId, bool> have_end_;  // whether the walk down from it ends
};

void GraphCheck::take_names() {
  for (const kv::KeyValue& row : rows('V')) {
    const std::string name(keys_.name_of(row.key));
    const auto record = NameRecord::decode(row.value);
    if (!record) {
      found_unknown(name, record.error().what);
    } else if (!names_.emplace(record->volume, name).second) {
      found(name, fmt::format("it is the same volume as \"{}\"", names_[record->volume]));
    }
  }
}

// A volume in the trash has a record there instead of a name.
void GraphCheck::take_trash() {
  for (const kv::KeyValue& row : rows('X')) {
    const auto id = keys_.id_of(row.key);
    const auto record = TrashRecord::decode(row.value);
    if (!id || !record) {
      found_unknown("", id ? record.error().what : "a record of the trash with a damaged key");
    } else if (!names_.emplace(VolumeId{*id}, record->name + " (in the trash)").second) {
      found(names_[VolumeId{*id}], "it has a name and is in the trash");
    } else {
      trashed_.insert(VolumeId{*id});
    }
  }
}

void GraphCheck::take_volumes() {
  std::set<VolumeId> with_record;
  for (const kv::KeyValue& row : rows('I')) {
    const auto id = keys_.id_of(row.key);
    if (!id || !names_.contains(VolumeId{*id})) {
      found_unknown("", fmt::format("a volume record (id {:016x}) without a name", id.value_or(0)));
      continue;
    }
    with_record.insert(VolumeId{*id});
    const auto record = VolumeRecord::decode(row.value);
    if (!record) {
      found_unknown(names_[VolumeId{*id}], record.error().what);
    } else if (record->is_trashed != trashed_.contains(VolumeId{*id})) {
      found(names_[VolumeId{*id}], record->is_trashed ? "its record says that it is in the trash"
                                                      : "its record does not say that it is in the trash");
    }
  }
  for (const auto& [id, name] : names_) {
    if (!with_record.contains(id)) found_unknown(name, "its volume record is missing");
  }
}

void GraphCheck::take_fences() {
  std::set<VolumeId> with_fence;
  for (const kv::KeyValue& row : rows('F')) {
    const auto id = keys_.id_of(row.key);
    if (!id || !names_.contains(VolumeId{*id})) {
      found_unknown("", fmt::format("a fence record (id {:016x}) without a volume", id.value_or(0)));
      continue;
    }
    with_fence.insert(VolumeId{*id});
    const auto record = FenceRecord::decode(row.value);
    if (!record) {
      found_unknown(names_[VolumeId{*id}], record.error().what);
    } else if (!tops_.emplace(record->top_layer, VolumeId{*id}).second) {
      found(names_[VolumeId{*id}],
            fmt::format("it writes the same layer as \"{}\"", name_of(tops_[record->top_layer])));
    }
  }
  for (const auto& [id, name] : names_) {
    if (!with_fence.contains(id)) found_unknown(name, "its fence record is missing");
  }
}

void GraphCheck::take_jobs() {
  for (const kv::KeyValue& row : rows('T')) {
    const auto record = JobRecord::decode(row.value);
    if (!record) {
      // Where one is needed, its lack is found next.
      found("", record.error().what, {{row.key, std::nullopt}}, kDerivedStage);
    } else {
      jobs_.insert(record->layer);
    }
  }
}

void GraphCheck::take_snapshots() {
  for (const kv::KeyValue& row : rows('N')) {
    const auto key = keys_.snapshot_of(row.key);
    if (!key || !names_.contains(key->volume)) {
      found_unknown("", "a snapshot record without a volume");
      continue;
    }
    const std::string name = names_[key->volume] + '@' + std::string(key->name);
    const auto record = SnapshotRecord::decode(row.value);
    if (!record) {
      found_unknown(name, record.error().what);
    } else if (tops_.contains(record->layer)) {
      found(name, "its layer is still written");
    } else if (!snapshots_.emplace(record->layer, name).second) {
      found(name, fmt::format("it is the same as \"{}\"", snapshots_[record->layer]));
    }
  }
}

void GraphCheck::take_layers() {
  for (const kv::KeyValue& row : rows('L')) {
    const auto id = keys_.id_of(row.key);
    if (!id) {
      found_unknown("", "a layer record with a damaged key");
      continue;
    }
    const auto record = LayerRecord::decode(row.value);
    if (record) {
      layers_[LayerId{*id}] = *record;
      continue;
    }
    const auto top = tops_.find(LayerId{*id});
    found_unknown(top == tops_.end() ? "" : name_of(top->second), record.error().what);
    damaged_layers_.insert(LayerId{*id});
    layers_[LayerId{*id}] = LayerRecord{};
  }
  for (const auto& [id, record] : layers_) {
    if (record.parent.value != 0) ++children_counts_[record.parent];
  }
  for (const auto& [layer, id] : tops_) {
    if (!layers_.contains(layer)) found(name_of(id), "its layer record is missing");
  }
  for (const auto& [layer, name] : snapshots_) {
    if (!layers_.contains(layer)) found(name, "its layer record is missing");
  }
}

void GraphCheck::check_layers() {
  for (const auto& [id, record] : layers_) {
    const auto top = tops_.find(id);
    const auto snapshot = snapshots_.find(id);
    const std::string user = top != tops_.end()             ? name_of(top->second)
                             : snapshot != snapshots_.end() ? snapshot->second
                                                            : std::string();
    const bool has_job = jobs_.contains(id);
    const auto mended_by = [&](std::vector<RecordMend> mends) {
      return names_all_layers_ ? std::move(mends) : std::vector<RecordMend>{};
    };
    if (is_named(id) && record.state != LayerState::live) {
      found(user, fmt::format("its layer {:016x} is marked as removed", id.value));
    } else if (!is_named(id) && record.state == LayerState::live) {
      found("", fmt::format("layer {:016x} belongs to no volume", id.value), mended_by(give_up(id, record)),
            kLayersStage);
    } else if (record.state == LayerState::deleting && !has_job) {
      const bool is_in_use = children_counts_.contains(id);
      found("", fmt::format("layer {:016x} is to be removed, but no job does it", id.value),
            is_in_use ? std::vector<RecordMend>{} : mended_by({job_mend(id, JobKind::reclaim_layer)}),
            kLayersStage);
    } else if (record.state == LayerState::unnamed && !has_job && children_count(id) < 2) {
      found("", fmt::format("layer {:016x} is to be merged, but no job does it", id.value),
            mended_by({job_mend(id, JobKind::merge_layer)}), kLayersStage);
    }
    check_parent(id, record, user);
  }
}

void GraphCheck::check_parent(LayerId id, const LayerRecord& record, const std::string& user) {
  if (record.parent.value == 0) return;
  const auto parent = layers_.find(record.parent);
  if (parent == layers_.end()) {
    found(user, fmt::format("layer {:016x} stands on layer {:016x}, which is missing", id.value,
                            record.parent.value));
    return;
  }
  if (parent->second.state == LayerState::deleting) {
    found(user, fmt::format("layer {:016x} stands on layer {:016x}, which is being removed", id.value,
                            record.parent.value));
  }
  if (!has_end_below(id)) found(user, fmt::format("the layers below layer {:016x} form a circle", id.value));
}

// Each layer is walked over once, however deep the chains are.
bool GraphCheck::has_end_below(LayerId id) {
  std::set<LayerId> path;
  bool has_end = true;
  for (LayerId at = id; at.value != 0;) {
    if (const auto known = have_end_.find(at); known != have_end_.end()) {
      has_end = known->second;
      break;
    }
    if (!path.insert(at).second) {
      has_end = false;
      break;
    }
    const auto next = layers_.find(at);
    if (next == layers_.end()) break;
    at = next->second.parent;
  }
  for (const LayerId walked : path) have_end_[walked] = has_end;
  return has_end;
}

void GraphCheck::check_children() {
  std::set<std::pair<LayerId, LayerId>> noted;
  for (const kv::KeyValue& row : rows('C')) {
    const auto key = keys_.child_of(row.key);
    if (!key) {
      found("", "a child record with a damaged key");
      continue;
    }
    noted.insert({key->parent, key->child});
    check_child(row, *key);
  }
  for (const auto& [id, record] : layers_) {
    if (record.parent.value != 0 && !noted.contains({record.parent, id})) {
      found("",
            fmt::format("layer {:016x} is not noted as a child of layer {:016x}", id.value,
                        record.parent.value),
            note_child(record.parent, id), kDerivedStage);
    }
  }
}

void GraphCheck::check_child(const kv::KeyValue& row, const KeySpace::ChildKey& key) {
  const auto record = ChildRecord::decode(row.value);
  const auto child = layers_.find(key.child);
  if (child != layers_.end() && child->second.parent == key.parent) {
    if (!record) found("", record.error().what, note_child(key.parent, key.child), kDerivedStage);
    return;
  }
  // A layer whose own record is lost or damaged, but which is somebody's, keeps its parent.
  const bool is_certain = names_all_layers_ && !damaged_layers_.contains(key.child) &&
                          (child != layers_.end() || !is_needed(key.child));
  found("",
        record ? fmt::format("layer {:016x} is noted as a child of layer {:016x}, and is not",
                             key.child.value, key.parent.value)
               : record.error().what,
        is_certain ? std::vector<RecordMend>{{row.key, std::nullopt}} : std::vector<RecordMend>{},
        kDerivedStage);
}

void GraphCheck::check_jobs() {
  for (const LayerId layer : jobs_) {
    if (layers_.contains(layer) || strays_.contains(layer)) continue;
    found("", fmt::format("a job is for layer {:016x}, which does not exist", layer.value),
          {{keys_.job(JobId{layer.value}), std::nullopt}}, kDerivedStage);
  }
}

void GraphCheck::check_strays() {
  for (const LayerId layer : strays_) {
    if (layers_.contains(layer)) continue;
    std::vector<RecordMend> mends;
    if (names_all_layers_ && !is_needed(layer)) {
      LayerRecord record;
      record.state = LayerState::deleting;
      mends = {{keys_.layer(layer), record.encode()}, job_mend(layer, JobKind::reclaim_layer)};
    }
    found("", fmt::format("there are blocks of layer {:016x}, which does not exist", layer.value),
          std::move(mends), kLayersStage);
  }
}

// As where a volume or a snapshot is removed.
std::vector<RecordMend> GraphCheck::give_up(LayerId id, const LayerRecord& record) const {
  LayerRecord given_up = record;
  std::vector<RecordMend> mends{{keys_.usage(id), std::nullopt}};
  if (children_counts_.contains(id)) {
    given_up.state = LayerState::unnamed;
    mends.push_back(job_mend(id, JobKind::merge_layer));
  } else {
    given_up.state = LayerState::deleting;
    given_up.parent = LayerId{};
    mends.push_back(job_mend(id, JobKind::reclaim_layer));
    if (record.parent.value != 0) mends.push_back({keys_.child(record.parent, id), std::nullopt});
    const auto parent = layers_.find(record.parent);
    if (parent != layers_.end() && parent->second.state == LayerState::unnamed)
      mends.push_back(job_mend(record.parent, JobKind::merge_layer));
  }
  mends.push_back({keys_.layer(id), given_up.encode()});
  return mends;
}

std::vector<RecordMend> GraphCheck::note_child(LayerId parent, LayerId child) const {
  const auto record = layers_.find(parent);
  if (record == layers_.end() || damaged_layers_.contains(parent) ||
      record->second.state == LayerState::deleting)
    return {};
  return {{keys_.child(parent, child), ChildRecord{}.encode()}};
}

// The first layer from `layer` on that has rows of this type, and whether it has a record.
struct LayerSight {
  LayerId layer;
  bool has_record = false;
};

Task<Result<std::optional<LayerSight>>> look_for_layer(kv::Transaction& transaction, const KeySpace& keys,
                                                       char type, std::string begin) {
  transaction.set_background();
  const std::string end = keys.type_end(type);
  auto page = co_await transaction.get_range({begin, end}, {.rows_limit = 1}, kv::Isolation::snapshot);
  if (!page) co_return propagate(page);
  if (page->rows.empty()) co_return std::nullopt;
  const std::string& key = page->rows.front().key;
  if (key.size() < keys.prefix().size() + 9)
    co_return fail(Errc::corruption, "the key of a bitmap or a block is damaged");
  const LayerId layer{load_be<uint64_t>(key.data() + keys.prefix().size() + 1)};
  const std::string record_key = keys.layer(layer);
  auto record = co_await transaction.get(record_key, kv::Isolation::snapshot);
  if (!record) co_return propagate(record);
  co_return LayerSight{layer, record->has_value()};
}

}  // namespace

Task<Result<GraphRows>> read_graph(kv::Transaction& transaction, const KeySpace& keys,
                                   kv::Isolation isolation) {
  transaction.set_background();
  GraphRows rows;
  for (const char type : {'V', 'X', 'I', 'F', 'L', 'T', 'N', 'C'}) {
    std::string begin = keys.type_begin(type);
    const std::string end = keys.type_end(type);
    while (true) {  // one transaction, so one instant
      auto page = co_await transaction.get_range({begin, end}, {}, isolation);
      if (!page) co_return propagate(page);
      if (page->rows.empty()) break;
      begin = key_after(page->rows.back().key);
      for (kv::KeyValue& row : page->rows) rows[type].push_back(std::move(row));
      if (!page->more) break;
    }
  }
  co_return rows;
}

Task<Result<std::set<LayerId>>> find_strays(RecordReader& records) {
  std::set<LayerId> strays;
  const KeySpace& keys = records.keys();
  for (const char type : {'B', 'D'}) {
    std::string begin = keys.type_begin(type);
    while (true) {
      auto body = [&](kv::Transaction& transaction) {
        return look_for_layer(transaction, keys, type, begin);
      };
      auto sight = co_await records.transact<std::optional<LayerSight>>(body);
      if (!sight) co_return propagate(sight);
      if (!sight->has_value()) break;
      if (!(*sight)->has_record) strays.insert((*sight)->layer);
      begin = keys.layer_end(type, (*sight)->layer);
    }
  }
  co_return strays;
}

std::vector<GraphDamage> find_graph_damage(const KeySpace& keys, const GraphRows& rows,
                                           const std::set<LayerId>& strays) {
  return GraphCheck(keys, rows, strays).check();
}

Task<Result<void>> Catalog::check_graph(CheckReport& report) {
  ASSIGN_OR_CO_RETURN(const std::set<LayerId> strays, co_await find_strays(records_));
  auto body = [&](kv::Transaction& transaction) {
    return read_graph(transaction, keys_, kv::Isolation::snapshot);
  };
  ASSIGN_OR_CO_RETURN(const GraphRows rows, co_await records_.transact<GraphRows>(body));
  for (GraphDamage& damage : find_graph_damage(keys_, rows, strays))
    add_finding(report, std::move(damage.finding));
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
