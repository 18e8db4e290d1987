#include <utility>

#include "control/json.h"
#include "control/messages.h"

// The results of the verbs.

namespace fdbnbd::control {

namespace {

void put_snapshots(Json& json, const std::vector<volume::SnapshotInfo>& snapshots) {
  Json& list = json["snapshots"] = Json::array();
  for (const auto& snapshot : snapshots) {
    Json& element = list.emplace_back();
    element["name"] = snapshot.name;
    element["id"] = snapshot.id;
    element["size_bytes"] = snapshot.size_bytes;
    element["created"] = format_time(snapshot.created);
  }
}

void put_volume(Json& json, const volume::VolumeInfo& volume) {
  json["name"] = volume.name;
  json["id"] = volume.id;
  json["size_bytes"] = volume.size_bytes;
  json["used_bytes"] = volume.used_bytes;
  json["block_size"] = volume.block_bytes;
  json["compression"] = volume::compression_name(volume.compression);
  json["created"] = format_time(volume.created);
  json["read_only"] = volume.read_only;
  json["quota_bytes"] = volume.quota_bytes;
  json["labels"] = volume.labels.empty() ? Json::object() : Json(volume.labels);
  json["sessions"] = volume.sessions_count;
  put_snapshots(json, volume.snapshots);
}

void put_trashed(Json& json, const volume::TrashEntry& entry) {
  json["name"] = entry.name;
  json["id"] = entry.id;
  json["size_bytes"] = entry.size_bytes;
  json["used_bytes"] = entry.used_bytes;
  json["snapshots_count"] = entry.snapshots_count;
  json["trashed"] = format_time(entry.trashed);
  json["expires"] = format_time(entry.expires);
}

volume::TrashEntry take_trashed(Fields& fields) {
  return {.name = fields.take<std::string>("name"),
          .id = fields.take<uint64_t>("id"),
          .size_bytes = fields.take<uint64_t>("size_bytes"),
          .used_bytes = fields.take<uint64_t>("used_bytes"),
          .snapshots_count = fields.take<uint64_t>("snapshots_count"),
          .trashed = fields.take<WallTime>("trashed"),
          .expires = fields.take<WallTime>("expires")};
}

std::vector<volume::SnapshotInfo> take_snapshots(Fields& fields) {
  std::vector<volume::SnapshotInfo> snapshots;
  for (const Json& element : fields.take<Json>("snapshots")) {
    if (!element.is_object()) {
      fields.refuse("\"snapshots\" holds something that is not an object");
      break;
    }
    Fields inner(element);
    snapshots.push_back({.name = inner.take<std::string>("name"),
                         .id = inner.take<uint64_t>("id"),
                         .size_bytes = inner.take<uint64_t>("size_bytes"),
                         .created = inner.take<WallTime>("created")});
    if (auto done = inner.finish(Errc::protocol, false); !done) fields.refuse(std::move(done.error().what));
  }
  return snapshots;
}

volume::VolumeInfo take_volume(Fields& fields) {
  return {.name = fields.take<std::string>("name"),
          .id = fields.take<uint64_t>("id"),
          .size_bytes = fields.take<uint64_t>("size_bytes"),
          .used_bytes = fields.take<uint64_t>("used_bytes"),
          .block_bytes = fields.take<uint32_t>("block_size"),
          .compression = fields.take<volume::Compression>("compression"),
          .created = fields.take<WallTime>("created"),
          .read_only = fields.take<bool>("read_only"),
          .quota_bytes = fields.take<uint64_t>("quota_bytes"),
          .labels = fields.take<volume::Labels>("labels"),
          .sessions_count = fields.take<uint32_t>("sessions"),
          .snapshots = take_snapshots(fields)};
}

void put_space(Json& json, const volume::SpaceUsage& space) {
  json["used_bytes"] = space.used_bytes;
  json["stored_bytes"] = space.stored_bytes;
  json["unique_bytes"] = space.unique_bytes;
  json["shared_bytes"] = space.shared_bytes;
}

volume::SpaceUsage take_space(Fields& fields) {
  return {.used_bytes = fields.take<uint64_t>("used_bytes"),
          .stored_bytes = fields.take<uint64_t>("stored_bytes"),
          .unique_bytes = fields.take<uint64_t>("unique_bytes"),
          .shared_bytes = fields.take<uint64_t>("shared_bytes")};
}

volume::DiffRange take_range(Fields& fields) {
  volume::DiffRange range{.offset_bytes = fields.take<uint64_t>("offset_bytes"),
                          .length_bytes = fields.take<uint64_t>("length_bytes"),
                          .kind = volume::DiffKind::data};
  const auto kind = fields.take<std::string>("kind");
  if (kind == volume::diff_kind_name(volume::DiffKind::zero)) {
    range.kind = volume::DiffKind::zero;
  } else if (kind != volume::diff_kind_name(volume::DiffKind::data)) {
    fields.refuse("\"kind\" is not known");
  }
  return range;
}

volume::VolumeUsage take_usage(Fields& fields) {
  volume::VolumeUsage usage{.name = fields.take<std::string>("name"),
                            .size_bytes = fields.take<uint64_t>("size_bytes"),
                            .space = take_space(fields),
                            .snapshots = {}};
  for (const Json& element : fields.take<Json>("snapshots")) {
    if (!element.is_object()) {
      fields.refuse("\"snapshots\" holds something that is not an object");
      break;
    }
    Fields inner(element);
    usage.snapshots.push_back({.name = inner.take<std::string>("name"), .space = take_space(inner)});
    if (auto done = inner.finish(Errc::protocol, false); !done) fields.refuse(std::move(done.error().what));
  }
  return usage;
}

volume::GroupInfo take_group(Fields& fields) {
  return {.name = fields.take<std::string>("name"),
          .members = fields.take<std::vector<std::string>>("members"),
          .snapshots = take_snapshots(fields)};
}

volume::CheckFinding take_finding(Fields& fields) {
  return {.volume = fields.take<std::string>("volume"),
          .offset_bytes = fields.take<uint64_t>("offset_bytes"),
          .length_bytes = fields.take<uint64_t>("length_bytes"),
          .what = fields.take<std::string>("what"),
          .is_mended = fields.take_optional<bool>("mended").value_or(false)};
}

volume::LockInfo take_lock(Fields& fields) {
  volume::LockInfo lock{.volume = fields.take<std::string>("volume"),
                        .holder = fields.take<std::string>("holder"),
                        .epoch = fields.take<uint64_t>("epoch"),
                        .state = {}};
  const auto state = fields.take<std::string>("state");
  using State = volume::LockInfo::State;
  for (const State known : {State::ours, State::alive, State::silent}) {
    if (state == volume::lock_state_name(known)) lock.state = known;
  }
  return lock;
}

}  // namespace

std::string hello_result(const HelloReply& reply) {
  Json json = new_result();
  json["pid"] = reply.pid;
  json["version"] = reply.version;
  json["store"] = reply.store;
  return to_text(json);
}

std::string done_result() {
  return to_text(new_result());
}

std::string volume_result(const volume::VolumeInfo& volume) {
  Json json = new_result();
  put_volume(json, volume);
  return to_text(json);
}

std::string volumes_result(const std::vector<volume::VolumeInfo>& volumes) {
  Json json = new_result();
  Json& list = json["volumes"] = Json::array();
  for (const auto& volume : volumes) put_volume(list.emplace_back(), volume);
  return to_text(json);
}

std::string diff_result(const volume::DiffPage& page) {
  Json json = new_result();
  json["from_size_bytes"] = page.from_size_bytes;
  json["size_bytes"] = page.to_size_bytes;
  json["block_size"] = page.block_bytes;
  Json& list = json["ranges"] = Json::array();
  for (const auto& range : page.ranges) {
    Json& element = list.emplace_back();
    element["offset_bytes"] = range.offset_bytes;
    element["length_bytes"] = range.length_bytes;
    element["kind"] = volume::diff_kind_name(range.kind);
  }
  json["end_bytes"] = page.end_bytes;
  return to_text(json);
}

std::string usage_result(const std::vector<volume::VolumeUsage>& usages) {
  Json json = new_result();
  Json& list = json["volumes"] = Json::array();
  for (const auto& usage : usages) {
    Json& element = list.emplace_back();
    element["name"] = usage.name;
    element["size_bytes"] = usage.size_bytes;
    put_space(element, usage.space);
    Json& snapshots = element["snapshots"] = Json::array();
    for (const auto& snapshot : usage.snapshots) {
      Json& one = snapshots.emplace_back();
      one["name"] = snapshot.name;
      put_space(one, snapshot.space);
    }
  }
  return to_text(json);
}

std::string check_result(const volume::CheckReport& report) {
  Json json = new_result();
  json["volumes_count"] = report.volumes_count;
  json["blocks_count"] = report.blocks_count;
  json["findings_count"] = report.findings_count;
  json["mended_count"] = report.mended_count;
  Json& list = json["findings"] = Json::array();
  for (const auto& finding : report.findings) {
    Json& element = list.emplace_back();
    element["volume"] = finding.volume;
    element["offset_bytes"] = finding.offset_bytes;
    element["length_bytes"] = finding.length_bytes;
    element["what"] = finding.what;
    element["mended"] = finding.is_mended;
  }
  return to_text(json);
}

std::string groups_result(const std::vector<volume::GroupInfo>& groups) {
  Json json = new_result();
  Json& list = json["groups"] = Json::array();
  for (const auto& group : groups) {
    Json& element = list.emplace_back();
    element["name"] = group.name;
    element["members"] = group.members;
    put_snapshots(element, group.snapshots);
  }
  return to_text(json);
}

std::string removed_result(const std::optional<volume::TrashEntry>& trashed) {
  Json json = new_result();
  Json& list = json["trashed"] = Json::array();
  if (trashed) put_trashed(list.emplace_back(), *trashed);
  return to_text(json);
}

std::string trash_result(const std::vector<volume::TrashEntry>& entries) {
  Json json = new_result();
  Json& list = json["volumes"] = Json::array();
  for (const auto& entry : entries) put_trashed(list.emplace_back(), entry);
  return to_text(json);
}

std::string locks_result(const std::vector<volume::LockInfo>& locks) {
  Json json = new_result();
  Json& list = json["locks"] = Json::array();
  for (const auto& lock : locks) {
    Json& element = list.emplace_back();
    element["volume"] = lock.volume;
    element["holder"] = lock.holder;
    element["epoch"] = lock.epoch;
    element["state"] = volume::lock_state_name(lock.state);
  }
  return to_text(json);
}

std::string lock_broken_result(const std::string& holder) {
  Json json = new_result();
  json["holder"] = holder;
  return to_text(json);
}

std::string status_result(const StatusReply& reply) {
  Json json = new_result();
  json["pid"] = reply.pid;
  json["version"] = reply.version;
  json["store"] = reply.store;
  json["engine"] = reply.engine;
  json["started"] = format_time(reply.started);
  json["uptime_s"] = reply.uptime_s;
  json["listen"] = reply.listen;
  json["control"] = reply.control;
  json["volumes"] = reply.volumes_count;
  json["volumes_open"] = reply.volumes_open_count;
  json["sessions"] = reply.sessions_count;
  json["requests_in_flight"] = reply.requests_in_flight_count;
  json["bytes_in_flight"] = reply.bytes_in_flight;
  json["store_bytes"] = reply.store_bytes;
  json["memory_bound_bytes"] = reply.memory_bound_bytes;
  return to_text(json);
}

Result<HelloReply> read_hello(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  HelloReply reply{.pid = fields.take<int64_t>("pid"),
                   .version = fields.take<std::string>("version"),
                   .store = fields.take<std::string>("store")};
  return finished(fields, std::move(reply));
}

Result<volume::VolumeInfo> read_volume(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  volume::VolumeInfo volume = take_volume(fields);
  return finished(fields, std::move(volume));
}

Result<std::vector<volume::VolumeInfo>> read_volumes(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  return take_each(fields, "volumes", take_volume);
}

Result<volume::DiffPage> read_diff(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  volume::DiffPage page{.from_size_bytes = fields.take<uint64_t>("from_size_bytes"),
                        .to_size_bytes = fields.take<uint64_t>("size_bytes"),
                        .block_bytes = fields.take<uint32_t>("block_size"),
                        .ranges = {},
                        .end_bytes = fields.take<uint64_t>("end_bytes")};
  ASSIGN_OR_RETURN(page.ranges, take_each(fields, "ranges", take_range));
  return page;
}

Result<std::vector<volume::VolumeUsage>> read_usage(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  return take_each(fields, "volumes", take_usage);
}

Result<volume::CheckReport> read_check(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  volume::CheckReport report{.volumes_count = fields.take<uint64_t>("volumes_count"),
                             .blocks_count = fields.take<uint64_t>("blocks_count"),
                             .findings = {},
                             .findings_count = fields.take<uint64_t>("findings_count"),
                             .mended_count = fields.take_optional<uint64_t>("mended_count").value_or(0)};
  ASSIGN_OR_RETURN(report.findings, take_each(fields, "findings", take_finding));
  return report;
}

Result<std::vector<volume::GroupInfo>> read_groups(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  return take_each(fields, "groups", take_group);
}

Result<std::optional<volume::TrashEntry>> read_removed(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  ASSIGN_OR_RETURN(const auto entries, take_each(fields, "trashed", take_trashed));
  return entries.empty() ? std::optional<volume::TrashEntry>() : entries.front();
}

Result<std::vector<volume::TrashEntry>> read_trash(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  return take_each(fields, "volumes", take_trashed);
}

Result<std::vector<volume::LockInfo>> read_locks(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  return take_each(fields, "locks", take_lock);
}

Result<std::string> read_lock_broken(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  auto holder = fields.take<std::string>("holder");
  return finished(fields, std::move(holder));
}

Result<StatusReply> read_status(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  StatusReply reply{.pid = fields.take<int64_t>("pid"),
                    .version = fields.take<std::string>("version"),
                    .store = fields.take<std::string>("store"),
                    .engine = fields.take<std::string>("engine"),
                    .started = fields.take<WallTime>("started"),
                    .uptime_s = fields.take<uint64_t>("uptime_s"),
                    .listen = {},
                    .control = fields.take<std::string>("control"),
                    .volumes_count = fields.take<uint64_t>("volumes"),
                    .volumes_open_count = fields.take<uint64_t>("volumes_open"),
                    .sessions_count = fields.take<uint64_t>("sessions"),
                    .requests_in_flight_count = fields.take<uint64_t>("requests_in_flight"),
                    .bytes_in_flight = fields.take<uint64_t>("bytes_in_flight"),
                    .store_bytes = fields.take<uint64_t>("store_bytes"),
                    .memory_bound_bytes = fields.take<uint64_t>("memory_bound_bytes")};
  for (const Json& address : fields.take<Json>("listen")) {
    if (!address.is_string()) return fail(Errc::protocol, "\"listen\" holds something that is not a string");
    reply.listen.push_back(address.get<std::string>());
  }
  return finished(fields, std::move(reply));
}

}  // namespace fdbnbd::control
