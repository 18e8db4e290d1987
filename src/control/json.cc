#include "control/json.h"

#include <algorithm>
#include <functional>
#include <vector>

#include "base/limits.h"
#include "control/messages.h"

namespace fdbnbd::control {

namespace {

// The fields of an object are looked through one by one for each that is added, so many would take seconds.
class FieldsLimit {
 public:
  // What the parser calls: false for what is not to be kept. `depth` is that of the object, or one more at
  // its keys.
  bool operator()(int depth, Json::parse_event_t event, Json& /*value*/) {
    const auto index = static_cast<size_t>(depth);
    if (event == Json::parse_event_t::object_start) {
      counts_.resize(std::max(counts_.size(), index + 1));
      counts_[index] = 0;
    } else if (event == Json::parse_event_t::key && ++counts_[index - 1] > limits::kMaxJsonFields) {
      is_exceeded_ = true;
    }
    return !is_exceeded_;
  }
  bool is_exceeded() const { return is_exceeded_; }

 private:
  std::vector<size_t> counts_;  // of the fields of the objects that are open, by their depth
  bool is_exceeded_ = false;
};

}  // namespace

Result<Json> parse_object(std::string_view text, Errc code) {
  FieldsLimit limit;
  Json json = Json::parse(text, std::ref(limit), false);
  if (limit.is_exceeded())
    return fail(code,
                fmt::format("an object of the message has more than {} fields", limits::kMaxJsonFields));
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
