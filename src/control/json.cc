#include "control/json.h"

#include "control/messages.h"

namespace fdbnbd::control {

Result<Json> parse_object(std::string_view text, Errc code) {
  Json json = Json::parse(text, nullptr, false);
  if (json.is_discarded()) return fail(code, "the message is not JSON");
  if (!json.is_object()) return fail(code, "the message is not a JSON object");
  return json;
}

std::string to_text(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

Json new_result() {
  Json json;
  json["schema"] = kSchema;
  return json;
}

Result<Fields> result_fields(std::string_view result) {
  ASSIGN_OR_RETURN(Json json, parse_object(result, Errc::protocol));
  Fields fields(std::move(json));
  if (fields.take<uint64_t>("schema") != kSchema) fields.refuse("the result has another schema");
  return fields;
}

}  // namespace fdbnbd::control
