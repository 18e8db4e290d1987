#include "control/messages.h"

#include <fmt/core.h>

#include <nlohmann/json.hpp>
#include <type_traits>
#include <utility>

#include "control/time_text.h"

namespace fdbnbd::control {

namespace {

// Keeps the order in which fields were added: that is the order in which people read them.
using Json = nlohmann::ordered_json;

// The fields of an object, each taken once; what is left in the end is unknown.
class Fields {
 public:
  explicit Fields(Json object) : object_(std::move(object)) {}

  // A failure to read is kept, and the value read is empty; see finish().
  template <typename T>
  T take(const char* key) {
    T value{};
    const auto found = object_.find(key);
    if (found == object_.end()) {
      refuse(fmt::format("\"{}\" is missing", key));
    } else {
      convert(key, *found, value);
      object_.erase(found);
    }
    return value;
  }

  template <typename T>
  std::optional<T> take_optional(const char* key) {
    if (!object_.contains(key)) return std::nullopt;
    return take<T>(key);
  }

  void refuse(std::string what) {
    if (what_.empty()) what_ = std::move(what);
  }

  // The first failure so far; also fields that nobody took where `all_taken`.
  Result<void> finish(Errc code, bool all_taken) {
    if (all_taken && !object_.empty()) refuse(fmt::format("unknown field \"{}\"", object_.begin().key()));
    if (!what_.empty()) return fail(code, what_);
    return {};
  }

 private:
  void convert(const char* key, const Json& json, std::string& value) {
    if (!json.is_string()) return refuse(fmt::format("\"{}\" has to be a string", key));
    value = json.get_ref<const std::string&>();
  }
  void convert(const char* key, const Json& json, bool& value) {
    if (!json.is_boolean()) return refuse(fmt::format("\"{}\" has to be true or false", key));
    value = json.get<bool>();
  }
  void convert(const char* key, const Json& json, uint64_t& value) {
    if (!json.is_number_unsigned())
      return refuse(fmt::format("\"{}\" has to be a whole number from 0 up", key));
    value = json.get<uint64_t>();
  }
  void convert(const char* key, const Json& json, int64_t& value) {
    if (!json.is_number_integer()) return refuse(fmt::format("\"{}\" has to be a whole number", key));
    value = json.get<int64_t>();
  }
  void convert(const char* key, const Json& json, uint32_t& value) {
    uint64_t wide = 0;
    convert(key, json, wide);
    if (wide > UINT32_MAX) return refuse(fmt::format("\"{}\" is too large", key));
    value = static_cast<uint32_t>(wide);
  }
  void convert(const char* key, const Json& json, volume::Compression& value) {
    std::string name;
    convert(key, json, name);
    auto compression = volume::parse_compression(name);
    if (!compression) return refuse(std::move(compression.error().what));
    value = *compression;
  }
  void convert(const char* key, const Json& json, WallTime& value) {
    std::string text;
    convert(key, json, text);
    auto time = parse_time(text);
    if (!time) return refuse(std::move(time.error().what));
    value = *time;
  }
  void convert(const char* key, const Json& json, std::vector<std::string>& value) {
    if (!json.is_array()) return refuse(fmt::format("\"{}\" has to be an array", key));
    for (const Json& element : json) {
      if (!element.is_string()) return refuse(fmt::format("\"{}\" has to hold strings", key));
      value.push_back(element.get<std::string>());
    }
  }
  void convert(const char* key, const Json& json, Json& value) {
    if (!json.is_array()) return refuse(fmt::format("\"{}\" has to be an array", key));
    value = json;
  }

  Json object_;
  std::string what_;
};

Result<Json> parse_object(std::string_view text, Errc code) {
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return fail(code, "the message is not JSON");
  if (!json.is_object()) return fail(code, "the message is not a JSON object");
  return json;
}

// Text of our own side. Bytes that are no UTF-8 (a path, a foreign error text) are shown as U+FFFD.
std::string to_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string to_line(const Json& json) {
  return to_text(json) + "\n";
}

void put(Json& json, const CreateRequest& request) {
  json["name"] = request.name;
  json["size_bytes"] = request.size_bytes;
  json["block_size"] = request.block_bytes;
  json["compression"] = volume::compression_name(request.compression);
}
void put(Json& json, const InfoRequest& request) {
  json["name"] = request.name;
}
void put(Json& json, const ResizeRequest& request) {
  json["name"] = request.name;
  json["size_bytes"] = request.size_bytes;
  json["allow_shrink"] = request.allow_shrink;
}
void put(Json& json, const RemoveRequest& request) {
  json["name"] = request.name;
  json["with_snapshots"] = request.with_snapshots;
}
void put(Json& json, const RenameRequest& request) {
  json["name"] = request.name;
  json["new_name"] = request.new_name;
}
void put(Json& json, const SnapRequest& request) {
  json["names"] = request.names;
}
void put(Json& json, const RollbackRequest& request) {
  json["name"] = request.name;
}
void put(Json& json, const CloneRequest& request) {
  json["name"] = request.name;
  json["new_name"] = request.new_name;
}
void put(Json& json, const FlattenRequest& request) {
  json["name"] = request.name;
}
void put(Json& json, const CopyRequest& request) {
  json["name"] = request.name;
  json["new_name"] = request.new_name;
}
void put(Json& json, const UsageRequest& request) {
  if (request.name) json["name"] = *request.name;
}
void put(Json& json, const CheckRequest& request) {
  if (request.name) json["name"] = *request.name;
}
void put(Json& json, const LockBreakRequest& request) {
  json["name"] = request.name;
}

void take(Fields& fields, CreateRequest& request) {
  request.name = fields.take<std::string>("name");
  request.size_bytes = fields.take<uint64_t>("size_bytes");
  request.block_bytes =
      fields.take_optional<uint32_t>("block_size").value_or(volume::CreateOptions{}.block_bytes);
  request.compression =
      fields.take_optional<volume::Compression>("compression").value_or(volume::CreateOptions{}.compression);
}
void take(Fields& fields, InfoRequest& request) {
  request.name = fields.take<std::string>("name");
}
void take(Fields& fields, ResizeRequest& request) {
  request.name = fields.take<std::string>("name");
  request.size_bytes = fields.take<uint64_t>("size_bytes");
  request.allow_shrink = fields.take_optional<bool>("allow_shrink").value_or(false);
}
void take(Fields& fields, RemoveRequest& request) {
  request.name = fields.take<std::string>("name");
  request.with_snapshots = fields.take_optional<bool>("with_snapshots").value_or(false);
}
void take(Fields& fields, RenameRequest& request) {
  request.name = fields.take<std::string>("name");
  request.new_name = fields.take<std::string>("new_name");
}
void take(Fields& fields, SnapRequest& request) {
  request.names = fields.take<std::vector<std::string>>("names");
}
void take(Fields& fields, RollbackRequest& request) {
  request.name = fields.take<std::string>("name");
}
void take(Fields& fields, CloneRequest& request) {
  request.name = fields.take<std::string>("name");
  request.new_name = fields.take<std::string>("new_name");
}
void take(Fields& fields, FlattenRequest& request) {
  request.name = fields.take<std::string>("name");
}
void take(Fields& fields, CopyRequest& request) {
  request.name = fields.take<std::string>("name");
  request.new_name = fields.take<std::string>("new_name");
}
void take(Fields& fields, UsageRequest& request) {
  request.name = fields.take_optional<std::string>("name");
}
void take(Fields& fields, CheckRequest& request) {
  request.name = fields.take_optional<std::string>("name");
}
void take(Fields& fields, LockBreakRequest& request) {
  request.name = fields.take<std::string>("name");
}

// Tries the verbs from the Index-th on.
template <size_t Index = 0>
Result<Request> decode_verb(std::string_view verb, Fields& fields) {
  if constexpr (Index == std::variant_size_v<Request>) {
    return fail(Errc::invalid, fmt::format("unknown verb \"{}\"", verb));
  } else {
    using Candidate = std::variant_alternative_t<Index, Request>;
    if (verb != Candidate::kVerb) return decode_verb<Index + 1>(verb, fields);
    Candidate request;
    if constexpr (!std::is_empty_v<Candidate>) take(fields, request);
    if (auto done = fields.finish(Errc::invalid, true); !done) {
      return fail(Errc::invalid, fmt::format("verb \"{}\": {}", verb, done.error().what));
    }
    return request;
  }
}

Errc errc_of(std::string_view name) {
  for (int i = 0; i <= static_cast<int>(Errc::newer_format); ++i) {
    if (errc_name(static_cast<Errc>(i)) == name) return static_cast<Errc>(i);
  }
  return Errc::io;
}

Json new_result() {
  Json json;
  json["schema"] = kSchema;
  return json;
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
  json["sessions"] = volume.sessions_count;
  Json& snapshots = json["snapshots"] = Json::array();
  for (const auto& snapshot : volume.snapshots) {
    Json& element = snapshots.emplace_back();
    element["name"] = snapshot.name;
    element["size_bytes"] = snapshot.size_bytes;
    element["created"] = format_time(snapshot.created);
  }
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
          .sessions_count = fields.take<uint32_t>("sessions"),
          .snapshots = take_snapshots(fields)};
}

volume::VolumeUsage take_usage(Fields& fields) {
  return {.name = fields.take<std::string>("name"),
          .size_bytes = fields.take<uint64_t>("size_bytes"),
          .used_bytes = fields.take<uint64_t>("used_bytes"),
          .stored_bytes = fields.take<uint64_t>("stored_bytes")};
}

volume::CheckFinding take_finding(Fields& fields) {
  return {.volume = fields.take<std::string>("volume"),
          .offset_bytes = fields.take<uint64_t>("offset_bytes"),
          .length_bytes = fields.take<uint64_t>("length_bytes"),
          .what = fields.take<std::string>("what")};
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

// The elements of an array of objects.
template <typename T>
Result<std::vector<T>> take_each(Fields& fields, const char* key, T (*take_one)(Fields&)) {
  const Json array = fields.take<Json>(key);
  std::vector<T> list;
  for (const Json& element : array) {
    if (!element.is_object()) {
      return fail(Errc::protocol, fmt::format("\"{}\" holds something that is not an object", key));
    }
    Fields inner(element);
    list.push_back(take_one(inner));
    RETURN_IF_ERROR(inner.finish(Errc::protocol, false));
  }
  RETURN_IF_ERROR(fields.finish(Errc::protocol, false));
  return list;
}

Result<Fields> result_fields(std::string_view result) {
  ASSIGN_OR_RETURN(Json json, parse_object(result, Errc::protocol));
  Fields fields(std::move(json));
  if (fields.take<uint64_t>("schema") != kSchema) fields.refuse("the result has another schema");
  return fields;
}

template <typename T>
Result<T> finished(Fields& fields, T value) {
  RETURN_IF_ERROR(fields.finish(Errc::protocol, false));
  return value;
}

}  // namespace

bool only_reads(const Request& request) {
  return !std::holds_alternative<CreateRequest>(request) && !std::holds_alternative<ResizeRequest>(request) &&
         !std::holds_alternative<RemoveRequest>(request) && !std::holds_alternative<RenameRequest>(request) &&
         !std::holds_alternative<SnapRequest>(request) && !std::holds_alternative<RollbackRequest>(request) &&
         !std::holds_alternative<CloneRequest>(request) && !std::holds_alternative<FlattenRequest>(request) &&
         !std::holds_alternative<CopyRequest>(request) &&
         !std::holds_alternative<LockBreakRequest>(request) && !std::holds_alternative<NbdRequest>(request);
}

Result<std::string> encode_request(const Request& request) {
  Json json;
  std::visit(
      [&](const auto& one) {
        json["verb"] = std::decay_t<decltype(one)>::kVerb;
        if constexpr (!std::is_empty_v<std::decay_t<decltype(one)>>) put(json, one);
      },
      request);
  try {
    return json.dump() + "\n";
  } catch (const Json::type_error&) {
    return fail(Errc::invalid, "a volume's name has to be UTF-8");
  }
}

Result<Request> decode_request(std::string_view line) {
  ASSIGN_OR_RETURN(Json json, parse_object(line, Errc::invalid));
  Fields fields(std::move(json));
  const auto verb = fields.take<std::string>("verb");
  RETURN_IF_ERROR(fields.finish(Errc::invalid, false));
  return decode_verb(verb, fields);
}

std::string encode_result(std::string_view result) {
  return fmt::format("{{\"result\":{}}}\n", result);
}

std::string encode_error(const Error& error) {
  Json json;
  json["error"]["code"] = errc_name(error.code);
  json["error"]["message"] = error.what;
  return to_line(json);
}

std::string encode_progress(uint64_t done_bytes, uint64_t total_bytes) {
  return fmt::format("{{\"progress\":{{\"done_bytes\":{},\"total_bytes\":{}}}}}\n", done_bytes, total_bytes);
}

Result<ServerMessage> decode_server_message(std::string_view line) {
  ASSIGN_OR_RETURN(const Json json, parse_object(line, Errc::protocol));
  const auto body = json.size() == 1 ? json.begin() : json.end();
  if (body == json.end() || !body->is_object()) return fail(Errc::protocol, "the answer has an unknown form");
  Fields fields(*body);
  if (body.key() == "result") return ResultText{to_text(*body)};
  if (body.key() == "progress") {
    const ProgressReport progress{.done_bytes = fields.take<uint64_t>("done_bytes"),
                                  .total_bytes = fields.take<uint64_t>("total_bytes")};
    return finished<ServerMessage>(fields, progress);
  }
  if (body.key() == "error") {
    const auto code = fields.take<std::string>("code");
    Error error{.code = errc_of(code), .what = fields.take<std::string>("message")};
    return finished<ServerMessage>(fields, std::move(error));
  }
  return fail(Errc::protocol, "the answer has an unknown form");
}

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

std::string usage_result(const std::vector<volume::VolumeUsage>& usages) {
  Json json = new_result();
  Json& list = json["volumes"] = Json::array();
  for (const auto& usage : usages) {
    Json& element = list.emplace_back();
    element["name"] = usage.name;
    element["size_bytes"] = usage.size_bytes;
    element["used_bytes"] = usage.used_bytes;
    element["stored_bytes"] = usage.stored_bytes;
  }
  return to_text(json);
}

std::string check_result(const volume::CheckReport& report) {
  Json json = new_result();
  json["volumes_count"] = report.volumes_count;
  json["blocks_count"] = report.blocks_count;
  json["findings_count"] = report.findings_count;
  Json& list = json["findings"] = Json::array();
  for (const auto& finding : report.findings) {
    Json& element = list.emplace_back();
    element["volume"] = finding.volume;
    element["offset_bytes"] = finding.offset_bytes;
    element["length_bytes"] = finding.length_bytes;
    element["what"] = finding.what;
  }
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

Result<std::vector<volume::VolumeUsage>> read_usage(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  return take_each(fields, "volumes", take_usage);
}

Result<volume::CheckReport> read_check(std::string_view result) {
  ASSIGN_OR_RETURN(Fields fields, result_fields(result));
  volume::CheckReport report{.volumes_count = fields.take<uint64_t>("volumes_count"),
                             .blocks_count = fields.take<uint64_t>("blocks_count"),
                             .findings = {},
                             .findings_count = fields.take<uint64_t>("findings_count")};
  ASSIGN_OR_RETURN(report.findings, take_each(fields, "findings", take_finding));
  return report;
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
