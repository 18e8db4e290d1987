#include "control/service.h"

#include <fmt/core.h>

#include <utility>
#include <variant>
#include <vector>

namespace fdbnbd::control {

namespace {

// The progress of one volume as a part of the progress over several, each weighed by what it stores.
class PartProgress final : public volume::Progress {
 public:
  PartProgress(volume::Progress& whole, uint64_t before_bytes, uint64_t part_bytes, uint64_t total_bytes)
      : whole_(whole), before_bytes_(before_bytes), part_bytes_(part_bytes), total_bytes_(total_bytes) {}

  void on_progress(uint64_t done_bytes, uint64_t total_bytes) override {
    const double share =
        total_bytes == 0 ? 1.0 : static_cast<double>(done_bytes) / static_cast<double>(total_bytes);
    whole_.on_progress(before_bytes_ + static_cast<uint64_t>(static_cast<double>(part_bytes_) * share),
                       total_bytes_);
  }
  bool cancelled() const override { return whole_.cancelled(); }

 private:
  volume::Progress& whole_;
  const uint64_t before_bytes_;
  const uint64_t part_bytes_;
  const uint64_t total_bytes_;
};

}  // namespace

Task<Result<std::string>> Service::handle(Request request, volume::Progress& progress) {
  return std::visit([&](auto& one) { return carry_out(std::move(one), progress); }, request);
}

Task<Result<std::string>> Service::carry_out(HelloRequest /*request*/, volume::Progress& /*progress*/) {
  StatusReply status = source_.status();
  co_return hello_result(
      {.pid = status.pid, .version = std::move(status.version), .store = std::move(status.store)});
}

Task<Result<std::string>> Service::carry_out(CreateRequest request, volume::Progress& /*progress*/) {
  const volume::CreateOptions options{.size_bytes = request.size_bytes,
                                      .block_bytes = request.block_bytes,
                                      .compression = request.compression,
                                      .created = request.created,
                                      .quota_bytes = request.quota_bytes};
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.create(std::move(request.name), options));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(ListRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(auto volumes, co_await store_.list_volumes());
  std::erase_if(volumes, [&](const volume::VolumeInfo& volume) {
    return !volume::labels_match(volume.labels, request.labels);
  });
  co_return volumes_result(volumes);
}

Task<Result<std::string>> Service::carry_out(InfoRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume, co_await store_.info(std::move(request.name)));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(ResizeRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(
      const volume::VolumeInfo volume,
      co_await store_.resize(std::move(request.name), request.size_bytes, request.allow_shrink));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(RemoveRequest request, volume::Progress& /*progress*/) {
  const volume::RemoveOptions options{
      .with_snapshots = request.with_snapshots, .now = request.now, .id = request.id};
  ASSIGN_OR_CO_RETURN(const auto trashed, co_await store_.remove(std::move(request.name), options));
  co_return removed_result(trashed);
}

Task<Result<std::string>> Service::carry_out(TrashListRequest /*request*/, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const auto entries, co_await store_.list_trash());
  co_return trash_result(entries);
}

Task<Result<std::string>> Service::carry_out(TrashRestoreRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.restore(std::move(request.name), std::move(request.new_name)));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(TrashPurgeRequest request, volume::Progress& /*progress*/) {
  CO_RETURN_IF_ERROR(co_await store_.purge(std::move(request.name)));
  co_return done_result();
}

Task<Result<std::string>> Service::carry_out(LabelSetRequest request, volume::Progress& /*progress*/) {
  volume::LabelChange change;
  for (const std::string& label : request.labels) {
    const size_t equals = label.find('=');
    if (equals == std::string::npos)
      co_return fail(Errc::invalid, fmt::format("\"{}\" is no label: KEY=VALUE is needed", label));
    change.set[label.substr(0, equals)] = label.substr(equals + 1);
  }
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.change_labels(std::move(request.name), std::move(change)));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(LabelRemoveRequest request, volume::Progress& /*progress*/) {
  volume::LabelChange change;
  change.removed = std::move(request.labels);
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.change_labels(std::move(request.name), std::move(change)));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(QuotaSetRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.set_quota(std::move(request.name), request.quota_bytes));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(GroupCreateRequest request, volume::Progress& /*progress*/) {
  CO_RETURN_IF_ERROR(co_await store_.create_group(std::move(request.name), std::move(request.volumes)));
  co_return done_result();
}

Task<Result<std::string>> Service::carry_out(GroupRemoveRequest request, volume::Progress& /*progress*/) {
  CO_RETURN_IF_ERROR(co_await store_.remove_group(std::move(request.name)));
  co_return done_result();
}

Task<Result<std::string>> Service::carry_out(GroupAddRequest request, volume::Progress& /*progress*/) {
  volume::GroupChange change;
  change.added = std::move(request.volumes);
  CO_RETURN_IF_ERROR(co_await store_.change_group(std::move(request.name), std::move(change)));
  co_return done_result();
}

Task<Result<std::string>> Service::carry_out(GroupTakeOutRequest request, volume::Progress& /*progress*/) {
  volume::GroupChange change;
  change.removed = std::move(request.volumes);
  CO_RETURN_IF_ERROR(co_await store_.change_group(std::move(request.name), std::move(change)));
  co_return done_result();
}

Task<Result<std::string>> Service::carry_out(GroupListRequest /*request*/, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const auto groups, co_await store_.list_groups());
  co_return groups_result(groups);
}

Task<Result<std::string>> Service::carry_out(GroupSnapRequest request, volume::Progress& /*progress*/) {
  CO_RETURN_IF_ERROR(co_await store_.snapshot_group(std::move(request.name)));
  co_return done_result();
}

Task<Result<std::string>> Service::carry_out(GroupRollbackRequest request, volume::Progress& /*progress*/) {
  CO_RETURN_IF_ERROR(co_await store_.rollback_group(std::move(request.name)));
  co_return done_result();
}

Task<Result<std::string>> Service::carry_out(RenameRequest request, volume::Progress& /*progress*/) {
  CO_RETURN_IF_ERROR(co_await store_.rename(std::move(request.name), std::move(request.new_name)));
  co_return done_result();
}

Task<Result<std::string>> Service::carry_out(SnapRequest request, volume::Progress& /*progress*/) {
  CO_RETURN_IF_ERROR(co_await store_.snapshot(std::move(request.names), request.created));
  co_return done_result();
}

Task<Result<std::string>> Service::carry_out(RollbackRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.rollback(std::move(request.name), request.disconnect));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(CloneRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.clone(std::move(request.name), std::move(request.new_name)));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(FlattenRequest request, volume::Progress& progress) {
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.flatten(std::move(request.name), &progress));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(CopyRequest request, volume::Progress& progress) {
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.copy(std::move(request.name), std::move(request.new_name), &progress));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(DiffRequest request, volume::Progress& progress) {
  ASSIGN_OR_CO_RETURN(
      const volume::DiffPage page,
      co_await store_.diff(std::move(request.name), std::move(request.from), request.begin_bytes, &progress));
  co_return diff_result(page);
}

Task<Result<std::string>> Service::carry_out(ImportBeginRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.begin_import(std::move(request.import)));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(ImportFinishRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const volume::VolumeInfo volume,
                      co_await store_.finish_import(std::move(request.import)));
  co_return volume_result(volume);
}

Task<Result<std::string>> Service::carry_out(UsageRequest request, volume::Progress& progress) {
  std::vector<volume::VolumeUsage> usages;
  if (request.name) {
    ASSIGN_OR_CO_RETURN(volume::VolumeUsage usage,
                        co_await store_.usage(std::move(*request.name), &progress));
    usages.push_back(std::move(usage));
    co_return usage_result(usages);
  }
  ASSIGN_OR_CO_RETURN(const auto volumes, co_await store_.list_volumes());
  uint64_t total_bytes = 0;
  for (const auto& volume : volumes) total_bytes += volume.used_bytes;
  uint64_t before_bytes = 0;
  for (const auto& volume : volumes) {
    PartProgress part(progress, before_bytes, volume.used_bytes, total_bytes);
    auto usage = co_await store_.usage(volume.name, &part);
    before_bytes += volume.used_bytes;
    if (usage) {
      usages.push_back(std::move(*usage));
    } else if (usage.error().code != Errc::not_found) {  // removed meanwhile
      co_return propagate(usage);
    }
  }
  co_return usage_result(usages);
}

Task<Result<std::string>> Service::carry_out(CheckRequest request, volume::Progress& progress) {
  if (request.repair) {
    ASSIGN_OR_CO_RETURN(const volume::CheckReport report, co_await store_.repair(&progress));
    co_return check_result(report);
  }
  ASSIGN_OR_CO_RETURN(const volume::CheckReport report,
                      co_await store_.check(std::move(request.name), &progress));
  co_return check_result(report);
}

Task<Result<std::string>> Service::carry_out(LockListRequest /*request*/, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const auto locks, co_await store_.list_locks());
  co_return locks_result(locks);
}

Task<Result<std::string>> Service::carry_out(LockBreakRequest request, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const std::string holder, co_await store_.break_lock(std::move(request.name)));
  co_return lock_broken_result(holder);
}

Task<Result<std::string>> Service::carry_out(StatusRequest /*request*/, volume::Progress& /*progress*/) {
  ASSIGN_OR_CO_RETURN(const auto volumes, co_await store_.list_volumes());
  StatusReply status = source_.status();
  status.volumes_count = volumes.size();
  for (const auto& volume : volumes) status.volumes_open_count += volume.sessions_count > 0 ? 1 : 0;
  co_return status_result(status);
}

Task<Result<std::string>> Service::carry_out(NbdRequest /*request*/, volume::Progress& /*progress*/) {
  co_return fail(Errc::not_supported, "the verb \"nbd\" needs a connection");
}

}  // namespace fdbnbd::control
