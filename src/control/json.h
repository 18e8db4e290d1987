#pragma once

#include <fmt/core.h>

#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "control/time_text.h"
#include "volume/store.h"

// Reading and writing the JSON of the control socket; for the messages' own files.

namespace fdbnbd::control {

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
  void convert(const char* key, const Json& json, std::map<std::string, std::string>& value) {
    if (!json.is_object()) return refuse(fmt::format("\"{}\" has to be an object", key));
    for (const auto& [name, element] : json.items()) {
      if (!element.is_string()) return refuse(fmt::format("\"{}\" has to hold strings", key));
      value[name] = element.get<std::string>();
    }
  }
  void convert(const char* key, const Json& json, Json& value) {
    if (!json.is_array()) return refuse(fmt::format("\"{}\" has to be an array", key));
    value = json;
  }

  Json object_;
  std::string what_;
};

// An error with `code` where the text is no JSON object.
Result<Json> parse_object(std::string_view text, Errc code);

// Text of our own side. Bytes that are no UTF-8 (a path, a foreign error text) are shown as U+FFFD.
std::string to_text(const Json& json);

// A result with nothing but its schema, to be filled.
Json new_result();
// The fields of a result, its schema checked.
Result<Fields> result_fields(std::string_view result);

template <typename T>
Result<T> finished(Fields& fields, T value) {
  RETURN_IF_ERROR(fields.finish(Errc::protocol, false));
  return value;
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

}  // namespace fdbnbd::control
