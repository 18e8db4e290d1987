#include <fmt/core.h>

#include <map>
#include <set>
#include <utility>

#include "volume/catalog.h"

// `check` of the records: names, volumes, fences, snapshots, layers and jobs must point at each other.

namespace fdbnbd::volume {

namespace {

using Rows = std::map<char, std::vector<kv::KeyValue>>;

// The records of one instant, decoded, and what is wrong with them.
class GraphCheck {
 public:
  GraphCheck(const KeySpace& keys, const Rows& rows, CheckReport& report)
      : keys_(keys), rows_(rows), report_(report) {}

  void check() {
    take_names();
    take_trash();
    take_volumes();
    take_fences();
    take_jobs();
    take_snapshots();
    take_layers();
    check_layers();
    check_children();
  }

 private:
  const std::vector<kv::KeyValue>& rows(char type) const {
    static const std::vector<kv::KeyValue> kNone;
    const auto found = rows_.find(type);
    return found == rows_.end() ? kNone : found->second;
  }
  void found(std::string volume, std::string what) {
    add_finding(report_, {std::move(volume), 0, 0, std::move(what)});
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
  void check_children();

  const KeySpace& keys_;
  const Rows& rows_;
  CheckReport& report_;
  std::map<VolumeId, std::string> names_;
  std::set<VolumeId> trashed_;
  std::map<LayerId, VolumeId> tops_;
  std::map<LayerId, std::string> snapshots_;  // VOL@SNAP
  std::set<LayerId> jobs_;
  std::map<LayerId, LayerRecord> layers_;
  std::map<LayerId, size_t> children_counts_;
};

void GraphCheck::take_names() {
  for (const kv::KeyValue& row : rows('V')) {
    const std::string name(keys_.name_of(row.key));
    const auto record = NameRecord::decode(row.value);
    if (!record) {
      found(name, record.error().what);
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
      found("", id ? record.error().what : "a record of the trash with a damaged key");
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
      found("", fmt::format("a volume record (id {:016x}) without a name", id.value_or(0)));
      continue;
    }
    with_record.insert(VolumeId{*id});
    const auto record = VolumeRecord::decode(row.value);
    if (!record) {
      found(names_[VolumeId{*id}], record.error().what);
    } else if (record->is_trashed != trashed_.contains(VolumeId{*id})) {
      found(names_[VolumeId{*id}], record->is_trashed ? "its record says that it is in the trash"
                                                      : "its record does not say that it is in the trash");
    }
  }
  for (const auto& [id, name] : names_) {
    if (!with_record.contains(id)) found(name, "its volume record is missing");
  }
}

void GraphCheck::take_fences() {
  std::set<VolumeId> with_fence;
  for (const kv::KeyValue& row : rows('F')) {
    const auto id = keys_.id_of(row.key);
    if (!id || !names_.contains(VolumeId{*id})) {
      found("", fmt::format("a fence record (id {:016x}) without a volume", id.value_or(0)));
      continue;
    }
    with_fence.insert(VolumeId{*id});
    const auto record = FenceRecord::decode(row.value);
    if (!record) {
      found(names_[VolumeId{*id}], record.error().what);
    } else if (!tops_.emplace(record->top_layer, VolumeId{*id}).second) {
      found(names_[VolumeId{*id}],
            fmt::format("it writes the same layer as \"{}\"", name_of(tops_[record->top_layer])));
    }
  }
  for (const auto& [id, name] : names_) {
    if (!with_fence.contains(id)) found(name, "its fence record is missing");
  }
}

void GraphCheck::take_jobs() {
  for (const kv::KeyValue& row : rows('T')) {
    const auto record = JobRecord::decode(row.value);
    if (!record) {
      found("", record.error().what);
    } else {
      jobs_.insert(record->layer);
    }
  }
}

void GraphCheck::take_snapshots() {
  for (const kv::KeyValue& row : rows('N')) {
    const auto key = keys_.snapshot_of(row.key);
    if (!key || !names_.contains(key->volume)) {
      found("", "a snapshot record without a volume");
      continue;
    }
    const std::string name = names_[key->volume] + '@' + std::string(key->name);
    const auto record = SnapshotRecord::decode(row.value);
    if (!record) {
      found(name, record.error().what);
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
      found("", "a layer record with a damaged key");
      continue;
    }
    const auto record = LayerRecord::decode(row.value);
    if (record) {
      layers_[LayerId{*id}] = *record;
      continue;
    }
    const auto top = tops_.find(LayerId{*id});
    found(top == tops_.end() ? "" : name_of(top->second), record.error().what);
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
    const bool is_named = top != tops_.end() || snapshot != snapshots_.end();
    const bool has_job = jobs_.contains(id);
    if (is_named && record.state != LayerState::live) {
      found(user, fmt::format("its layer {:016x} is marked as removed", id.value));
    } else if (!is_named && record.state == LayerState::live) {
      found("", fmt::format("layer {:016x} belongs to no volume", id.value));
    } else if (record.state == LayerState::deleting && !has_job) {
      found("", fmt::format("layer {:016x} is to be removed, but no job does it", id.value));
    } else if (record.state == LayerState::unnamed && !has_job && children_counts_[id] < 2) {
      found("", fmt::format("layer {:016x} is to be merged, but no job does it", id.value));
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
  std::set<LayerId> seen;
  for (LayerId at = id; at.value != 0;) {
    if (!seen.insert(at).second) {
      found(user, fmt::format("the layers below layer {:016x} form a circle", id.value));
      return;
    }
    const auto next = layers_.find(at);
    if (next == layers_.end()) return;
    at = next->second.parent;
  }
}

void GraphCheck::check_children() {
  std::set<std::pair<LayerId, LayerId>> noted;
  for (const kv::KeyValue& row : rows('C')) {
    const auto key = keys_.child_of(row.key);
    const auto record = ChildRecord::decode(row.value);
    if (!key || !record) {
      found("", key ? record.error().what : "a child record with a damaged key");
      continue;
    }
    noted.insert({key->parent, key->child});
    const auto child = layers_.find(key->child);
    if (child == layers_.end() || child->second.parent != key->parent) {
      found("", fmt::format("layer {:016x} is noted as a child of layer {:016x}, and is not",
                            key->child.value, key->parent.value));
    }
  }
  for (const auto& [id, record] : layers_) {
    if (record.parent.value != 0 && !noted.contains({record.parent, id})) {
      found("", fmt::format("layer {:016x} is not noted as a child of layer {:016x}", id.value,
                            record.parent.value));
    }
  }
}

}  // namespace

Task<Result<Catalog::Graph>> Catalog::read_graph(kv::Transaction& transaction) {
  transaction.set_background();
  Graph rows;
  for (const char type : {'V', 'X', 'I', 'F', 'L', 'T', 'N', 'C'}) {
    std::string begin = keys_.type_begin(type);
    const std::string end = keys_.type_end(type);
    while (true) {  // one transaction, so one instant
      auto page = co_await transaction.get_range({begin, end}, {}, kv::Isolation::snapshot);
      if (!page) co_return propagate(page);
      if (page->rows.empty()) break;
      begin = key_after(page->rows.back().key);
      for (kv::KeyValue& row : page->rows) rows[type].push_back(std::move(row));
      if (!page->more) break;
    }
  }
  co_return rows;
}

Task<Result<void>> Catalog::check_graph(CheckReport& report) {
  auto body = [&](kv::Transaction& transaction) { return read_graph(transaction); };
  ASSIGN_OR_CO_RETURN(const Graph rows, co_await records_.transact<Graph>(body));
  GraphCheck(keys_, rows, report).check();
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
