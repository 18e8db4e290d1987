#include "control/messages.h"

#include <fmt/core.h>

#include <type_traits>
#include <utility>

#include "control/json.h"

namespace fdbnbd::control {

namespace {

std::string to_line(const Json& json) {
  return to_text(json) + "\n";
}

void put(Json& json, const CreateRequest& request) {
  json["name"] = request.name;
  json["size_bytes"] = request.size_bytes;
  json["block_size"] = request.block_bytes;
  json["compression"] = volume::compression_name(request.compression);
  if (request.created) json["created"] = format_time(*request.created);
  if (request.quota_bytes != 0) json["quota_bytes"] = request.quota_bytes;
}
void put(Json& json, const ListRequest& request) {
  if (!request.labels.empty()) json["labels"] = request.labels;
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
  if (request.now) json["now"] = true;
  if (request.id != 0) json["id"] = request.id;
}
void put(Json& json, const TrashRestoreRequest& request) {
  json["name"] = request.name;
  if (!request.new_name.empty()) json["new_name"] = request.new_name;
}
void put(Json& json, const TrashPurgeRequest& request) {
  if (request.name) json["name"] = *request.name;
}
void put(Json& json, const LabelSetRequest& request) {
  json["name"] = request.name;
  json["labels"] = request.labels;
}
void put(Json& json, const LabelRemoveRequest& request) {
  json["name"] = request.name;
  json["labels"] = request.labels;
}
void put(Json& json, const QuotaSetRequest& request) {
  json["name"] = request.name;
  json["quota_bytes"] = request.quota_bytes;
}
void put(Json& json, const GroupCreateRequest& request) {
  json["name"] = request.name;
  json["volumes"] = request.volumes;
}
void put(Json& json, const GroupAddRequest& request) {
  json["name"] = request.name;
  json["volumes"] = request.volumes;
}
void put(Json& json, const GroupTakeOutRequest& request) {
  json["name"] = request.name;
  json["volumes"] = request.volumes;
}
void put(Json& json, const GroupRemoveRequest& request) {
  json["name"] = request.name;
}
void put(Json& json, const GroupSnapRequest& request) {
  json["name"] = request.name;
}
void put(Json& json, const GroupRollbackRequest& request) {
  json["name"] = request.name;
}
void put(Json& json, const RenameRequest& request) {
  json["name"] = request.name;
  json["new_name"] = request.new_name;
}
void put(Json& json, const SnapRequest& request) {
  json["names"] = request.names;
  if (request.created) json["created"] = format_time(*request.created);
}
void put(Json& json, const RollbackRequest& request) {
  json["name"] = request.name;
  json["disconnect"] = request.disconnect;
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
void put(Json& json, const DiffRequest& request) {
  json["name"] = request.name;
  if (request.from) json["from"] = *request.from;
  json["begin_bytes"] = request.begin_bytes;
}
void put_point(Json& json, const char* key, const std::optional<volume::SnapshotRef>& point) {
  if (!point) return;
  json[key] = point->name;
  json[std::string(key) + "_id"] = point->id;
}
void put(Json& json, const volume::DiffImport& import) {
  json["name"] = import.volume;
  json["partial"] = import.partial;
  if (import.partial_id != 0) json["partial_id"] = import.partial_id;
  put_point(json, "from", import.from);
  put_point(json, "to", import.to);
  json["size_bytes"] = import.options.size_bytes;
  json["block_size"] = import.options.block_bytes;
  json["compression"] = volume::compression_name(import.options.compression);
}
void put(Json& json, const ImportBeginRequest& request) {
  put(json, request.import);
}
void put(Json& json, const ImportFinishRequest& request) {
  put(json, request.import);
}
void put(Json& json, const UsageRequest& request) {
  if (request.name) json["name"] = *request.name;
}
void put(Json& json, const CheckRequest& request) {
  if (request.name) json["name"] = *request.name;
  if (request.repair) json["repair"] = true;
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
  request.created = fields.take_optional<WallTime>("created");
  request.quota_bytes = fields.take_optional<uint64_t>("quota_bytes").value_or(0);
}
void take(Fields& fields, ListRequest& request) {
  request.labels =
      fields.take_optional<std::vector<std::string>>("labels").value_or(std::vector<std::string>());
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
  request.now = fields.take_optional<bool>("now").value_or(false);
  request.id = fields.take_optional<uint64_t>("id").value_or(0);
}
void take(Fields& fields, TrashRestoreRequest& request) {
  request.name = fields.take<std::string>("name");
  request.new_name = fields.take_optional<std::string>("new_name").value_or("");
}
void take(Fields& fields, TrashPurgeRequest& request) {
  request.name = fields.take_optional<std::string>("name");
}
void take(Fields& fields, LabelSetRequest& request) {
  request.name = fields.take<std::string>("name");
  request.labels = fields.take<std::vector<std::string>>("labels");
}
void take(Fields& fields, LabelRemoveRequest& request) {
  request.name = fields.take<std::string>("name");
  request.labels = fields.take<std::vector<std::string>>("labels");
}
void take(Fields& fields, QuotaSetRequest& request) {
  request.name = fields.take<std::string>("name");
  request.quota_bytes = fields.take<uint64_t>("quota_bytes");
}
void take(Fields& fields, GroupCreateRequest& request) {
  request.name = fields.take<std::string>("name");
  request.volumes = fields.take<std::vector<std::string>>("volumes");
}
void take(Fields& fields, GroupAddRequest& request) {
  request.name = fields.take<std::string>("name");
  request.volumes = fields.take<std::vector<std::string>>("volumes");
}
void take(Fields& fields, GroupTakeOutRequest& request) {
  request.name = fields.take<std::string>("name");
  request.volumes = fields.take<std::vector<std::string>>("volumes");
}
void take(Fields& fields, GroupRemoveRequest& request) {
  request.name = fields.take<std::string>("name");
}
void take(Fields& fields, GroupSnapRequest& request) {
  request.name = fields.take<std::string>("name");
}
void take(Fields& fields, GroupRollbackRequest& request) {
  request.name = fields.take<std::string>("name");
}
void take(Fields& fields, RenameRequest& request) {
  request.name = fields.take<std::string>("name");
  request.new_name = fields.take<std::string>("new_name");
}
void take(Fields& fields, SnapRequest& request) {
  request.names = fields.take<std::vector<std::string>>("names");
  request.created = fields.take_optional<WallTime>("created");
}
void take(Fields& fields, RollbackRequest& request) {
  request.name = fields.take<std::string>("name");
  request.disconnect = fields.take_optional<bool>("disconnect").value_or(false);
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
void take(Fields& fields, DiffRequest& request) {
  request.name = fields.take<std::string>("name");
  request.from = fields.take_optional<std::string>("from");
  request.begin_bytes = fields.take_optional<uint64_t>("begin_bytes").value_or(0);
}
std::optional<volume::SnapshotRef> take_point(Fields& fields, const char* key) {
  auto name = fields.take_optional<std::string>(key);
  if (!name) return std::nullopt;
  const std::string id_key = std::string(key) + "_id";
  return volume::SnapshotRef{.name = std::move(*name), .id = fields.take<uint64_t>(id_key.c_str())};
}
void take(Fields& fields, volume::DiffImport& import) {
  import.volume = fields.take<std::string>("name");
  import.partial = fields.take<std::string>("partial");
  import.partial_id = fields.take_optional<uint64_t>("partial_id").value_or(0);
  import.from = take_point(fields, "from");
  import.to = take_point(fields, "to");
  import.options.size_bytes = fields.take<uint64_t>("size_bytes");
  import.options.block_bytes = fields.take<uint32_t>("block_size");
  import.options.compression = fields.take<volume::Compression>("compression");
}
void take(Fields& fields, ImportBeginRequest& request) {
  take(fields, request.import);
}
void take(Fields& fields, ImportFinishRequest& request) {
  take(fields, request.import);
}
void take(Fields& fields, UsageRequest& request) {
  request.name = fields.take_optional<std::string>("name");
}
void take(Fields& fields, CheckRequest& request) {
  request.name = fields.take_optional<std::string>("name");
  request.repair = fields.take_optional<bool>("repair").value_or(false);
  if (request.name && request.repair) fields.refuse("\"repair\" is for the whole store");
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

}  // namespace

bool only_reads(const Request& request) {
  if (const auto* check = std::get_if<CheckRequest>(&request)) return !check->repair;
  return !std::holds_alternative<CreateRequest>(request) && !std::holds_alternative<ResizeRequest>(request) &&
         !std::holds_alternative<RemoveRequest>(request) &&
         !std::holds_alternative<TrashRestoreRequest>(request) &&
         !std::holds_alternative<TrashPurgeRequest>(request) &&
         !std::holds_alternative<LabelSetRequest>(request) &&
         !std::holds_alternative<LabelRemoveRequest>(request) &&
         !std::holds_alternative<QuotaSetRequest>(request) &&
         !std::holds_alternative<RenameRequest>(request) && !std::holds_alternative<SnapRequest>(request) &&
         !std::holds_alternative<RollbackRequest>(request) &&
         !std::holds_alternative<CloneRequest>(request) && !std::holds_alternative<FlattenRequest>(request) &&
         !std::holds_alternative<CopyRequest>(request) &&
         !std::holds_alternative<ImportBeginRequest>(request) &&
         !std::holds_alternative<ImportFinishRequest>(request) &&
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

}  // namespace fdbnbd::control
