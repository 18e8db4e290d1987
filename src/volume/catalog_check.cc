#include <fmt/core.h>

#include <map>
#include <set>
#include <utility>

#include "volume/catalog.h"

// `check` and `du` over one volume or the store.

namespace fdbnbd::volume {

// Carries progress from a volume's thread to the home thread, and the wish to stop back.
class Catalog::ProgressRelay final : public Progress {
 public:
  ProgressRelay(Executor& home, Progress* target) : home_(home), state_(std::make_shared<State>()) {
    state_->target = target;
  }
  // On the home thread; what is still under way finds nobody.
  ~ProgressRelay() { state_->target = nullptr; }
  ProgressRelay(const ProgressRelay&) = delete;
  ProgressRelay& operator=(const ProgressRelay&) = delete;

  void on_progress(uint64_t done_bytes, uint64_t total_bytes) override {
    post(home_, [state = state_, done_bytes, total_bytes] {
      if (state->target == nullptr) return;
      state->target->on_progress(done_bytes, total_bytes);
      state->cancelled.store(state->target->cancelled(), std::memory_order_relaxed);
    });
  }
  bool cancelled() const override { return state_->cancelled.load(std::memory_order_relaxed); }

 private:
  struct State {
    Progress* target = nullptr;  // the home thread's
    std::atomic<bool> cancelled{false};
  };

  Executor& home_;
  std::shared_ptr<State> state_;
};

Task<Result<VolumeUsage>> Catalog::usage(std::string name, Progress* progress) {
  ASSIGN_OR_CO_RETURN(const Hold held, co_await hold(name));
  ProgressRelay relay(home_, progress);
  co_await go_to(held.executor());
  auto stored_bytes = co_await held.volume().measure_stored_bytes(&relay);
  co_await go_to(home_);
  if (!stored_bytes) co_return propagate(stored_bytes);
  VolumeUsage usage;
  usage.name = std::move(name);
  usage.size_bytes = held.volume().size_bytes();
  usage.used_bytes = held.volume().used_bytes();
  usage.stored_bytes = *stored_bytes;
  co_return usage;
}

Task<Result<CheckReport>> Catalog::check(std::optional<std::string> name, Progress* progress) {
  CheckReport report;
  if (name) {
    CO_RETURN_IF_ERROR(co_await check_volume(*name, report, progress));
    co_return report;
  }
  CO_RETURN_IF_ERROR(co_await check_graph(report));
  ASSIGN_OR_CO_RETURN(const auto names, co_await read_all(keys_.type_begin('V'), keys_.type_end('V')));
  for (const kv::KeyValue& row : names) {
    const std::string volume_name(keys_.name_of(row.key));
    const Result<void> checked = co_await check_volume(volume_name, report, progress);
    if (!checked && checked.error().code != Errc::not_found) co_return tl::unexpected(checked.error());
  }
  co_return report;
}

// Damage is a finding; that the check itself cannot go on is a failure.
Task<Result<void>> Catalog::check_volume(const std::string& name, CheckReport& report, Progress* progress) {
  auto held = co_await hold(name);
  if (!held) {
    const Errc code = held.error().code;
    if (code != Errc::corruption && code != Errc::newer_format) co_return propagate(held);
    add_finding(report, {name, 0, 0, held.error().what});
    co_return Result<void>{};
  }
  ProgressRelay relay(home_, progress);
  co_await go_to(held->executor());
  const Result<void> checked = co_await held->volume().check(report, &relay);
  co_await go_to(home_);
  co_return checked;
}

Task<Result<Catalog::Graph>> Catalog::read_graph(kv::Transaction& transaction) {
  transaction.set_background();
  Graph rows;
  for (const char type : {'V', 'I', 'F', 'L', 'T'}) {
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

// Names, volumes, fences, layers and jobs must point at each other.
Task<Result<void>> Catalog::check_graph(CheckReport& report) {
  auto body = [&](kv::Transaction& transaction) { return read_graph(transaction); };
  ASSIGN_OR_CO_RETURN(Graph rows, co_await transact<Graph>(body));
  const auto found = [&](std::string volume, std::string what) {
    add_finding(report, {std::move(volume), 0, 0, std::move(what)});
  };
  std::map<uint64_t, std::string> name_of_id;
  for (const kv::KeyValue& row : rows['V']) {
    const std::string name(keys_.name_of(row.key));
    const auto record = NameRecord::decode(row.value);
    if (!record) {
      found(name, record.error().what);
    } else if (!name_of_id.emplace(record->volume.value, name).second) {
      found(name, fmt::format("it is the same volume as \"{}\"", name_of_id[record->volume.value]));
    }
  }
  std::set<uint64_t> volumes_with_record;
  for (const kv::KeyValue& row : rows['I']) {
    const auto id = keys_.id_of(row.key);
    if (!id || !name_of_id.contains(*id)) {
      found("", fmt::format("a volume record (id {:016x}) without a name", id.value_or(0)));
    } else {
      volumes_with_record.insert(*id);
      const auto record = VolumeRecord::decode(row.value);
      if (!record) found(name_of_id[*id], record.error().what);
    }
  }
  std::map<uint64_t, uint64_t> volume_of_layer;
  std::set<uint64_t> volumes_with_fence;
  for (const kv::KeyValue& row : rows['F']) {
    const auto id = keys_.id_of(row.key);
    if (!id || !name_of_id.contains(*id)) {
      found("", fmt::format("a fence record (id {:016x}) without a volume", id.value_or(0)));
      continue;
    }
    volumes_with_fence.insert(*id);
    const auto record = FenceRecord::decode(row.value);
    if (!record) {
      found(name_of_id[*id], record.error().what);
    } else {
      volume_of_layer[record->top_layer.value] = *id;
    }
  }
  for (const auto& [id, name] : name_of_id) {
    if (!volumes_with_record.contains(id)) found(name, "its volume record is missing");
    if (!volumes_with_fence.contains(id)) found(name, "its fence record is missing");
  }
  std::set<uint64_t> jobs_layers;
  for (const kv::KeyValue& row : rows['T']) {
    const auto record = JobRecord::decode(row.value);
    if (!record) {
      found("", record.error().what);
    } else {
      jobs_layers.insert(record->layer.value);
    }
  }
  std::set<uint64_t> layers;
  for (const kv::KeyValue& row : rows['L']) {
    const auto id = keys_.id_of(row.key);
    if (!id) {
      found("", "a layer record with a damaged key");
      continue;
    }
    layers.insert(*id);
    const auto record = LayerRecord::decode(row.value);
    const auto owner = volume_of_layer.find(*id);
    if (!record) {
      found(owner == volume_of_layer.end() ? "" : name_of_id[owner->second], record.error().what);
    } else if (record->state == LayerState::live && owner == volume_of_layer.end()) {
      found("", fmt::format("layer {:016x} belongs to no volume", *id));
    } else if (record->state == LayerState::deleting && !jobs_layers.contains(*id)) {
      found("", fmt::format("layer {:016x} is to be removed, but no job does it", *id));
    }
  }
  for (const auto& [layer, id] : volume_of_layer) {
    if (!layers.contains(layer)) found(name_of_id[id], "its layer record is missing");
  }
  co_return Result<void>{};
}

}  // namespace fdbnbd::volume
